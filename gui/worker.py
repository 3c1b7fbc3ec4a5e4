"""Runs the jobs of a store, one at a time in each lane, as processes of their own.

A job is `python -m cli ...`: what the page does, a terminal does. It says how far it is through a pipe, so
that it ends by itself when the page is killed. A page that was killed finds its running jobs cut short.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gui import requests
from gui.progress import Progress
from gui.store import Job, Kind, Store

LANES: dict[str, tuple[Kind, ...]] = {
    "scans": ("segment",),
    "data": ("prepare", "export", "evaluate"),
    "training": ("train",),  # which may take days
}
LOG, RESULT = "log.txt", "result.json"
_PATIENCE = 30.0  # seconds between asking a process to end and ending it
_PAUSE = 5.0  # seconds until a store that could not be written is tried again
_CODE_ROOT = Path(__file__).resolve().parents[1]
_logger = logging.getLogger(__name__)


@dataclass
class Running:
    """A job on its way."""

    job: Job
    progress: Progress
    process: asyncio.subprocess.Process | None = None
    cancelled: bool = False
    closing: bool = False
    errors: list[str] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Worker:
    """The queue.

    Parameters
    ----------
    store : Store
        Jobs that wait there are run; those that were running are cut short.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.running: dict[int, Running] = {}
        self._wake = {lane: asyncio.Event() for lane in LANES}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    def start(self) -> None:
        """Begin, in the running event loop."""
        for job in self.store.cut_short():
            self._tidy(job)
        self._tasks = [asyncio.create_task(self._lane(lane)) for lane in LANES]

    async def stop(self) -> None:
        """End what runs; it is cut short."""
        self._closing = True
        self._wake_up()
        for running in list(self.running.values()):
            running.closing = True
            await self._end(running)
        await asyncio.gather(*self._tasks)

    def submit(self, kind: Kind, title: str, request: dict[str, Any], parent: int | None = None) -> Job:
        """Put a job in the queue."""
        job = self.store.add(kind, title, request, parent)
        self._wake_up()
        return job

    def again(self, job: Job) -> Job:
        """Ask for the same once more; a training goes on where it was, as the same job."""
        if job.kind != "train":
            return self.submit(job.kind, job.title, dict(job.request), job.parent)
        now = self.store.get(job.id)
        if now is not None and now.is_over:  # else another tab was sooner
            self.store.change(job, state="queued", message="", exit_code=None, started=None, ended=None)
            self._wake_up()
        return job

    async def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or end it and wait until that is so; nothing of a result stays."""
        if running := self.running.get(job.id):
            running.cancelled = True
            await self._end(running)
            await running.over.wait()
        elif (now := self.store.get(job.id)) is not None and now.state == "queued":
            self.store.change(job, state="cancelled", ended=time.time())

    def _wake_up(self) -> None:
        for event in self._wake.values():
            event.set()

    async def _lane(self, lane: str) -> None:
        while not self._closing:
            self._wake[lane].clear()
            try:
                await self._next(lane)
            except Exception:  # the store cannot be written, as on a full disk: what waits is tried again
                _logger.exception("the queue of %s could not go on", lane)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake[lane].wait(), _PAUSE)

    async def _next(self, lane: str) -> None:
        """Run the job that has waited longest, or wait for one."""
        waiting = [j for j in self.store.jobs() if j.state == "queued" and j.kind in LANES[lane]]
        if not waiting:
            await self._wake[lane].wait()
            return
        try:
            await self._run(waiting[-1])
        except Exception as error:  # what goes wrong with one job must not end the queue
            _logger.exception("job %d", waiting[-1].id)
            self.store.change(waiting[-1], state="failed", ended=time.time(), message=_told(error))

    async def _run(self, job: Job) -> None:
        job = self.store.change(job, state="running", started=time.time())
        running = self.running[job.id] = Running(job, Progress(job.kind))
        try:
            await self._work(running)
        finally:
            del self.running[job.id]
            running.over.set()

    async def _work(self, running: Running) -> None:
        job = running.job
        made_here = job.kind == "prepare" and not Path(job.request["dataset"]).exists()
        try:
            code = await self._process(running)
        except Exception as error:  # it cannot be started, or not be listened to
            running.errors.append(_told(error))
            code = 1
        state, message = _outcome(running, code)
        self.store.change(job, state=state, ended=time.time(), exit_code=code, message=message)
        if state != "done":
            self._tidy(job)
            if made_here and state == "cancelled":
                shutil.rmtree(job.request["dataset"], ignore_errors=True)
        elif job.kind == "train":
            self.export(job)

    def export(self, training: Job) -> Job:
        """Make the best network of a training one that scans can be segmented with."""
        model = self.store.free_name("models", training.title, ".onnx")
        request = {"run": training.request["run"], "model": str(model), "name": model.stem}
        return self.submit("export", model.stem, request, parent=training.id)

    async def _process(self, running: Running) -> int:
        folder = self.store.folder(running.job)
        temporary = folder / "tmp"  # of zips that are unpacked; removed whatever happens
        temporary.mkdir(parents=True, exist_ok=True)
        places = {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
        arguments = requests.arguments(running.job, folder)
        try:
            with (folder / RESULT).open("wb") as result, (folder / LOG).open("a", encoding="utf-8") as log:
                running.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "cli", *arguments,
                    stdin=asyncio.subprocess.DEVNULL, stdout=result, stderr=asyncio.subprocess.PIPE,
                    cwd=_CODE_ROOT, env=os.environ | places | {"PYTHONIOENCODING": "utf-8"},
                    start_new_session=True, limit=2**20,
                )  # fmt: skip
                _yield_the_processor_to_the_page(running.process.pid)
                if running.cancelled or running.closing:
                    running.process.terminate()
                await _listen(running, log)
                return await running.process.wait()
        finally:
            await self._end(running)  # where it could not be listened to it still runs
            shutil.rmtree(temporary, ignore_errors=True)

    async def _end(self, running: Running) -> None:
        """Ask a process to end, then end it."""
        process = running.process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _PATIENCE)
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _tidy(self, job: Job) -> None:
        """Remove what a job that did not end well has made, but not its log, and no training."""
        folder = self.store.folder(job)
        for name in (requests.RESULT, "tmp"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for partial in folder.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)


async def _listen(running: Running, log: Any) -> None:
    """Take progress from standard error, and keep the rest."""
    assert running.process is not None
    assert running.process.stderr is not None
    async for line in running.process.stderr:
        text = line.decode("utf-8", "replace").rstrip()
        if running.progress.feed(text) or not text:
            continue
        log.write(text + "\n")
        log.flush()
        running.errors = [*running.errors, text][-40:]


def _outcome(running: Running, code: int) -> tuple[str, str]:
    """Return state and message."""
    if running.cancelled:
        return "cancelled", "stopped; it can go on where it was" if running.job.kind == "train" else ""
    if running.closing:
        return "cut short", "lls gui was ended while this ran"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return "cut short", f"its process was ended from outside ({name}); it may have run out of memory"
    if code in (0, 8):
        return "done", ""
    return "failed", _error_text(running.errors) or f"lls ended with exit code {code}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _error_text(lines: list[str]) -> str:
    """Return what stands behind the last ``error:``."""
    for number in range(len(lines) - 1, -1, -1):
        for mark in ("error: ", "unexpected error: "):
            if lines[number].lower().startswith(mark):
                return "\n".join([lines[number][len(mark) :], *lines[number + 1 :]])
    return "\n".join(lines[-3:])


def _yield_the_processor_to_the_page(process: int) -> None:
    if hasattr(os, "setpriority"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process, 5)
