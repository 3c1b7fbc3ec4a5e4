"""The viewer as one element of a page."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nicegui import app, background_tasks, run, ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from gui.patient import without_uid
from gui.viewer.case import Case
from gui.viewer.opened import OpenedCase, OpenedCases, open_case
from gui.viewer.routes import CLOSED
from seg_core.errors import LlsError

_STATIC = Path(__file__).parent.parent / "static" / "viewer"


class Viewer(Element, component="viewer.js", esm={"lls-viewer": str(_STATIC)}):
    """The component: what the browser asks for goes to the opened case, what became of it comes back."""

    def __init__(
        self,
        cases: OpenedCases,
        key: str,
        facts: dict[str, Any],
        editable: bool = False,
        on_saved: Callable[[Path], None] | None = None,
    ) -> None:
        super().__init__()
        self._cases, self._key, self._on_saved = cases, key, on_saved
        self._props["facts"] = facts
        self._props["base"] = f"/viewer/{key}"
        self._props["editable"] = editable
        self._turn = asyncio.Lock()
        self.on("edit", self._edit)

    async def _edit(self, event: GenericEventArguments) -> None:
        kind = event.args.get("kind")
        async with self._turn:  # one after the other, in the order in which they came
            opened = self._cases.get(self._key)
            if opened is None:
                self.run_method("edited", _CLOSED)
                return
            if opened.corrections is None:
                return
            try:
                text = await self._do(kind, event.args, opened, opened.corrections)
            except LlsError as error:
                text = f"{error.found}: {error.fix}" if error.fix else error.found
            status = _status(opened, text)
            if kind in ("fill", "save"):  # a pass over the whole volume: not after each stroke
                status["scores"] = await run.io_bound(opened.scores)
            self.run_method("edited", status)

    async def _do(
        self, kind: str, message: dict[str, Any], opened: OpenedCase, corrections: Path
    ) -> str | None:
        if kind == "save":
            path = await run.io_bound(opened.save, corrections)
            if path is None:  # the server is being stopped
                return None
            if self._on_saved is not None:
                self._on_saved(path)
            return f"saved as {path.name}"
        return await run.io_bound(opened.edit, message)


_CLOSED = {
    "can_undo": False,
    "can_redo": False,
    "unsaved": False,
    "changed_at": {},
    "version": -1,
    "message": CLOSED,
}


def _status(opened: OpenedCase, message: str | None) -> dict[str, Any]:
    painting = opened.painting
    return {
        "can_undo": painting.can_undo,
        "can_redo": painting.can_redo,
        "unsaved": painting.unsaved,
        "changed_at": dict(painting.changed_at),
        "version": painting.version,
        "message": message,
    }


def _leave(cases: OpenedCases, key: str) -> None:
    """Close a case in a thread, since what was not saved is written then."""
    background_tasks.create(run.io_bound(cases.leave, key), name="recover corrections")


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
            async with cases.turn:
                if client.is_deleted:  # while it waited
                    return
                opened = await run.io_bound(open_case, case)
                facts = None if opened is None else await run.io_bound(opened.facts)
        except (LlsError, OSError, MemoryError) as error:
            box.clear()
            with box:
                # Where the scan lies may name the patient.
                text = without_uid(str(error).replace(str(case.scan), case.name), case.series)
                text = text or "not enough memory"
                ui.label(text).style("margin: auto; white-space: pre-line").props("role=alert")
            return
        if opened is None or facts is None or client.is_deleted:  # nobody waits for it any more
            return
        opened.corrections = corrections
        key = cases.add(opened)
        client.on_delete(lambda: _leave(cases, key))
        box.clear()
        with box:
            Viewer(cases, key, facts, corrections is not None, on_saved)

    with box, ui.column().style("margin: auto; align-items: center"):
        ui.spinner(size="lg")
        ui.label(f"Reading {case.name} …")
    background_tasks.create(build(), name=f"viewer of {case.name}")
    return box
