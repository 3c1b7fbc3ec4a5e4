"""The viewer as one element of a page."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nicegui import app, background_tasks, run, ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from gui.viewer.case import Case
from gui.viewer.opened import OpenedCase, OpenedCases, open_case
from seg_core.errors import LlsError

_STATIC = Path(__file__).parent.parent / "static" / "viewer"


class Viewer(Element, component="viewer.js", esm={"lls-viewer": str(_STATIC)}):
    """The component: what the browser asks for goes to the opened case, what became of it comes back."""

    def __init__(
        self,
        key: str,
        opened: OpenedCase,
        facts: dict[str, Any],
        on_saved: Callable[[Path], None] | None = None,
        corrections: Path | None = None,
    ) -> None:
        super().__init__()
        self._opened = opened
        self._on_saved, self._corrections = on_saved, corrections
        self._props["facts"] = facts
        self._props["base"] = f"/viewer/{key}"
        self._props["editable"] = corrections is not None
        self._turn = asyncio.Lock()
        self.on("edit", self._edit)

    async def _edit(self, event: GenericEventArguments) -> None:
        if self._corrections is None:
            return
        kind = event.args.get("kind")
        async with self._turn:  # one after the other, in the order in which they came
            try:
                text = await self._do(kind, event.args, self._corrections)
            except LlsError as error:
                text = f"{error.found}: {error.fix}" if error.fix else error.found
            status = self._status(text)
            if kind in ("fill", "save"):  # a pass over the whole volume: not after each stroke
                status["scores"] = await run.io_bound(self._opened.scores)
            self.run_method("edited", status)

    async def _do(self, kind: str, message: dict[str, Any], corrections: Path) -> str | None:
        if kind == "save":
            path = await run.io_bound(self._opened.save, corrections)
            if path is None:  # the server is being stopped
                return None
            if self._on_saved is not None:
                self._on_saved(path)
            return f"saved as {path.name}"
        return await run.io_bound(self._opened.edit, message)

    def _status(self, message: str | None) -> dict[str, Any]:
        painting = self._opened.painting
        return {
            "can_undo": painting.can_undo,
            "can_redo": painting.can_redo,
            "unsaved": painting.unsaved,
            "changed_at": dict(painting.changed_at),
            "version": painting.version,
            "message": message,
        }


def _leave(opened: OpenedCase, corrections: Path | None) -> None:
    """Keep what was corrected and not saved, since a laptop that sleeps closes its pages too."""
    if corrections is not None and opened.painting.unsaved:
        background_tasks.create(run.io_bound(opened.recover, corrections), name="recover corrections")


def show(
    case: Case, on_saved: Callable[[Path], None] | None = None, corrections: Path | None = None
) -> ui.element:
    """Build the viewer of a case in the current container; it reads the case while the page is already there.

    Parameters
    ----------
    case : Case
        What to show. What cannot be read is said in the viewer's place.
    on_saved : callable, optional
        Is told the path of each new label map.
    corrections : Path, optional
        Folder that takes corrected label maps; without it there is no painting. What is not saved when the
        page goes is kept there as ``recovered``.

    Returns
    -------
    nicegui.ui.element
        Fills its container; give that a height.
    """
    cases: OpenedCases = app.state.viewer_cases
    ui.add_css(_STATIC / "viewer.css")
    client = ui.context.client
    box = ui.element("div").style("width: 100%; height: 100%; display: flex")

    async def build() -> None:
        try:
            opened = await run.io_bound(open_case, case)
            facts = None if opened is None else await run.io_bound(opened.facts)
        except (LlsError, OSError, MemoryError) as error:
            box.clear()
            with box:
                # Where the scan lies may name the patient.
                text = str(error).replace(str(case.scan), case.name) or "not enough memory"
                ui.label(text).style("margin: auto; white-space: pre-line").props("role=alert")
            return
        if opened is None or facts is None or client.is_deleted:  # nobody waits for it any more
            return
        key = cases.add(opened)
        client.on_delete(lambda: _leave(opened, corrections))
        client.on_delete(lambda: cases.close(key))
        box.clear()
        with box:
            Viewer(key, opened, facts, on_saved, corrections)

    with box, ui.column().style("margin: auto; align-items: center"):
        ui.spinner(size="lg")
        ui.label(f"Reading {case.name} …")
    background_tasks.create(build(), name=f"viewer of {case.name}")
    return box
