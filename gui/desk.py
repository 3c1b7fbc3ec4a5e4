"""What all pages share: the store, the worker, the folders that may be seen."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from gui.places import Places, Uploads
from gui.store import Job, Store
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

    def delete(self, job: Job) -> None:
        """Remove a job with what it made, and dropped files, runs and datasets that no job speaks of then."""
        if job.kind == "export":
            Path(job.request["model"]).unlink(missing_ok=True)
        self.store.remove(job)
        self.sweep()

    def sweep(self) -> None:
        """Remove dropped files, runs and datasets that no job speaks of."""
        spoken = json.dumps(
            [dict(job.request) for job in self.store.jobs()] + self.store.setting("subjects", [])
        )
        for folder in ("uploads", "runs", "datasets"):
            for path in (self.store.root / folder).iterdir():
                if json.dumps(str(path))[1:-1] not in spoken:
                    shutil.rmtree(path, ignore_errors=True)

    def free_name(self, folder: str, wanted: str, end: str = "") -> Path:
        """Return a path in a folder of the store that nothing has yet."""
        number, path = 2, self.store.root / folder / f"{wanted}{end}"
        while path.exists():
            number, path = number + 1, self.store.root / folder / f"{wanted}-{number}{end}"
        return path
