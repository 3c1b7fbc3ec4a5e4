"""What all pages share: the store, the worker, the folders that may be seen."""

import asyncio
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gui.patient import without_uid
from gui.places import Places, Uploads
from gui.store import Job, Store, paths_in
from gui.worker import Worker


@dataclass(frozen=True)
class Desk:
    """What all pages share."""

    store: Store
    worker: Worker
    places: Places
    uploads: Uploads

    @property
    def reveal(self) -> bool:
        """Whether the user asked for patients' names and the places of scans."""
        return bool(self.store.setting("reveal", False))

    def models(self) -> dict[str, str]:
        """Return path -> name of the networks that scans can be segmented with, the bundled one first."""
        files = sorted((self.store.root / "models").glob("*.onnx"))
        return {"default": "bundled with lls"} | {str(file): file.stem for file in files}

    def datasets(self) -> dict[str, str]:
        """Return path -> name of the datasets that the page prepared."""
        found = sorted((self.store.root / "datasets").glob("*/dataset.json"))
        return {str(file.parent): file.parent.name for file in found}

    async def delete(self, job: Job) -> None:
        """Remove a job with what it made, and the dropped files, runs and datasets that it alone spoke of.

        It, and what looks at its result, is ended before.
        """
        await self.worker.cancel(job)
        for child in self.store.jobs(parent=job.id):
            await self.worker.cancel(child)
        if job.kind == "export" and not self._is_needed(job):
            Path(job.request["model"]).unlink(missing_ok=True)
        kept = "uploads", "runs", "datasets"
        before = self._unspoken(*kept)  # what was dropped just now: no job speaks of it yet
        self.store.remove(job)
        await asyncio.to_thread(_remove, self._unspoken(*kept) - before)

    def _is_needed(self, export: Job) -> bool:
        """Whether another job made the same network too, or waits for it."""
        others = [other for other in self.store.jobs() if other.id != export.id]
        named = [other for other in others if other.request.get("model") == export.request["model"]]
        return any(other.kind == "export" or not other.is_over for other in named)

    def sweep(self) -> None:
        """Remove dropped files that no job speaks of, before anybody can drop more.

        Runs and datasets stay: they go with the job that made them, and not because a list of jobs was lost.
        """
        _remove(self._unspoken("uploads"))

    def _unspoken(self, *names: str) -> set[Path]:
        asked = [dict(job.request) for job in self.store.jobs()] + self.store.setting("subjects", [])
        spoken = [Path(text) for text in paths_in(asked)]
        folders = (self.store.root / name for name in names)
        paths = (path for folder in folders for path in folder.iterdir())
        return {path for path in paths if not any(said.is_relative_to(path) for said in spoken)}

    def shown(self, job: Job, text: str) -> str:
        """Return what a page may show of what a job said: UIDs and where scans lie only if the user asked."""
        if self.reveal:
            return text
        for asked in (job.request, *job.request.get("subjects", ())):
            text = without_uid(text, asked.get("series"))
        for path in sorted(paths_in(dict(job.request)), key=len, reverse=True):
            if not Path(path).is_relative_to(self.store.root):
                logged = path.encode("utf-8", "backslashreplace").decode()  # what is no UTF-8
                text = text.replace(path, "…").replace(logged, "…")
        return text


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
