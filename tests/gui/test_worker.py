import asyncio
import json
import os
import signal
import sqlite3
import sys

import pytest

pytest.importorskip("nicegui", reason="the extra gui is not installed")

from gui.desk import Desk
from gui.places import Places, Uploads
from gui.progress import Progress
from gui.store import Store
from gui.worker import LOG, Worker
from seg_core.nifti import write_volume

ENDS = 600  # seconds after which a test gives up; nothing is measured


@pytest.fixture
def scan(tmp_path, legs):
    path = tmp_path / "leg.nii.gz"
    write_volume(path, legs[0])
    return path


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "store")
    yield found
    found.close()


async def until(condition):
    async with asyncio.timeout(ENDS):
        while not condition():
            await asyncio.sleep(0.02)


def drive(store, script):
    """Run a script with a worker in an event loop."""

    async def main():
        worker = Worker(store)
        worker.start()
        try:
            await script(worker)
        finally:
            await worker.stop()

    asyncio.run(main())


def request(scan, model, **more):
    return {"scan": str(scan), "name": "leg", "model": str(model), "device": "cpu"} | more


def test_jobs_run_one_after_the_other_and_say_what_became_of_them(store, scan, tiny_model, tmp_path):
    seen = set()

    async def script(worker):
        good = worker.submit("segment", "leg", request(scan, tiny_model))
        bad = worker.submit("segment", "bad", request(tmp_path / "no.nii", tiny_model))
        waiting = worker.submit("segment", "later", request(scan, tiny_model))
        await worker.cancel(waiting)

        def over():
            seen.add(tuple(worker.running))
            return store.get(bad.id).is_over

        await until(over)
        assert store.get(good.id).state == "done"
        assert (store.folder(good) / "result" / "leg_dseg.nii.gz").is_file()
        assert store.get(bad.id).state == "failed"
        assert store.get(bad.id).exit_code == 3
        assert "not there" in store.get(bad.id).message
        assert "what to do" in store.get(bad.id).message
        assert store.get(waiting.id).state == "cancelled"
        assert not (store.folder(bad) / "result").exists()

    drive(store, script)
    assert max(map(len, seen)) == 1


def test_a_training_goes_on_as_the_same_job_and_all_else_is_asked_for_anew(store):
    worker = Worker(store)
    training, leg = store.add("train", "mine", {"run": "/r"}), store.add("segment", "leg", {"scan": "/a"})
    for job in (training, leg):
        store.change(job, state="cancelled", ended=2.0, message="stopped")
    assert worker.again(store.get(training.id)).id == training.id
    on = store.get(training.id)
    assert (on.state, on.ended, on.message, on.request) == ("queued", None, "", training.request)
    store.change(training, state="running")
    worker.again(training)  # in a tab that has not seen it
    assert store.get(training.id).state == "running"
    again = worker.again(leg)
    assert (again.id, again.state, again.request) == (3, "queued", leg.request)
    assert store.get(leg.id).state == "cancelled"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_cancelled_killed_and_closed_jobs_leave_nothing_and_can_run_again(store, scan, tiny_model):
    def is_working(worker, job):
        running = worker.running.get(job.id)
        return running is not None and running.progress.doing == "segmenting"

    def left(job):
        return sorted(path.name for path in store.folder(job).iterdir())

    async def script(worker):
        slow = request(scan, "default")
        cancelled = worker.submit("segment", "cancelled", slow)
        await until(lambda: is_working(worker, cancelled))
        await worker.cancel(cancelled)
        await until(lambda: store.get(cancelled.id).is_over)
        assert store.get(cancelled.id).state == "cancelled"
        assert left(cancelled) == [LOG, "result.json"]

        killed = worker.submit("segment", "killed", slow)
        await until(lambda: is_working(worker, killed))
        os.kill(worker.running[killed.id].process.pid, signal.SIGKILL)
        await until(lambda: store.get(killed.id).is_over)
        assert store.get(killed.id).state == "cut short"
        assert "SIGKILL" in store.get(killed.id).message
        assert left(killed) == [LOG, "result.json"]

        store.change(killed, request=json.dumps(request(scan, tiny_model)))
        again = worker.again(store.get(killed.id))
        await until(lambda: store.get(again.id).is_over)
        assert store.get(again.id).state == "done"

        closed = worker.submit("segment", "closed", slow)
        await until(lambda: is_working(worker, closed))
        await worker.stop()
        await until(lambda: store.get(closed.id).is_over)
        assert store.get(closed.id).state == "cut short"

    drive(store, script)
    assert not list(store.root.rglob("*.partial"))
    assert not list(store.root.rglob("tmp"))


def test_a_process_that_cannot_be_listened_to_is_ended(store, scan, monkeypatch):
    processes = []

    async def script(worker):
        def damaged(progress, line):
            processes.extend(running.process for running in worker.running.values())
            raise KeyError("done")

        monkeypatch.setattr(Progress, "feed", damaged)
        job = worker.submit("segment", "leg", request(scan, "default"))
        await until(lambda: store.get(job.id).is_over)
        assert store.get(job.id).state == "failed"
        assert "KeyError" in store.get(job.id).message

    drive(store, script)
    assert [process.returncode is None for process in processes] == [False]


def test_a_job_is_deleted_with_what_looks_at_its_result_and_the_queue_goes_on(store, scan, monkeypatch):
    slow = ["segment", str(scan), "-o", "{}/result", "--device=cpu", "--progress=json"]
    monkeypatch.setattr("gui.requests.arguments", lambda job, folder: [part.format(folder) for part in slow])

    async def script(worker):
        desk = Desk(store, worker, Places([scan.parent]), Uploads(store.root / "uploads"))
        result = store.add("segment", "leg", {})
        store.change(result, state="done")
        child, _ = (worker.submit("evaluate", name, {}, parent=result.id) for name in "ab")
        await until(lambda: child.id in worker.running and worker.running[child.id].process is not None)
        process = worker.running[child.id].process
        await desk.delete(result)
        assert process.returncode is not None
        assert store.jobs() == []
        assert not store.folder(child).exists()
        slow[1] = "/not/there.nii"
        later = worker.submit("evaluate", "later", {})
        await until(lambda: store.get(later.id).is_over)
        assert store.get(later.id).state == "failed"

    drive(store, script)


def test_a_store_that_cannot_be_written_does_not_end_the_queue(store, monkeypatch):
    change, full = store.change, {"once": ["running"], "twice": ["running", "failed"]}

    def changed(job, **fields):
        if full[job.title][:1] == [fields["state"]]:
            raise sqlite3.OperationalError(f"{full[job.title].pop(0)}: database or disk is full")
        return change(job, **fields)

    monkeypatch.setattr(store, "change", changed)
    monkeypatch.setattr("gui.worker._PAUSE", 0.01)

    async def script(worker):
        once, twice = (worker.submit("segment", name, request("/not/there.nii", "default")) for name in full)
        await until(lambda: store.get(twice.id).is_over)
        assert "disk is full" in store.get(once.id).message  # it is said
        assert "not there" in store.get(twice.id).message  # it was tried again

    drive(store, script)
    assert full == {"once": [], "twice": []}
