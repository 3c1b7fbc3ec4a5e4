"""Results: everything that was asked for, the newest first."""

import time
from collections.abc import Sequence

from nicegui import ui

from gui import parts, words
from gui.desk import Desk
from gui.store import Job


def register(desk: Desk) -> None:
    """Add the page."""

    @ui.page("/results", title="Results · lls")
    def results_page() -> None:
        about = (
            f"Kept in {desk.store.root} until you delete them."
            if desk.reveal
            else "Kept until you delete them."
        )
        with parts.frame(desk, "/results", "Results", about), parts.card():
            _list(desk)


def _list(desk: Desk) -> None:
    def build(jobs: Sequence[Job]) -> None:
        if not jobs:
            parts.empty("inbox", "Nothing yet. Segment a scan, and its result appears here.")
            return
        header = ["Name", "What", "State", "Asked for", "Took"]
        parts.table(header, [_row(job) for job in jobs], left=5)

    parts.watch(desk, lambda: [job for job in desk.store.jobs() if job.kind != "evaluate"], build)


def _row(job: Job) -> list[parts.Cell]:
    return [
        lambda: ui.link(job.title, f"/job/{job.id}").style("font-weight: 600"),
        words.KINDS[job.kind],
        lambda: parts.state_chip(job),
        time.strftime("%d %b %Y, %H:%M", time.localtime(job.created)),
        took(job),
    ]


def took(job: Job) -> str:
    """Return how long a job took; a dash where it has not ended."""
    if job.started is None or job.ended is None:
        return "–"
    minutes, seconds = divmod(round(job.ended - job.started), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
