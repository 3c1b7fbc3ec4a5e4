"""Segment: choose a scan, see what is in it, run the network."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nicegui import run, ui
from PIL import Image

from gui import parts, words
from gui.desk import Desk
from gui.patient import patient_facts
from gui.places import plain_name
from gui.store import Job
from seg_core.scan import Inspection, inspect_scan, middle_slices
from seg_core.views import display_window, grey

Thumbnails = Mapping[int, Image.Image]
_DEVICES = {
    "auto": "choose by itself",
    "cpu": "processor",
    "cuda": "NVIDIA graphics card",
    "openvino": "OpenVINO",
}
_REFUSED = "This cannot be taken as a scan"
_SIDES = {"both": "both legs", "right": "right leg only", "left": "left leg only"}


def register(desk: Desk) -> None:
    """Add the page."""

    @ui.page("/", title="Segment · lls")
    def segment_page(model: str = "") -> None:
        about = (
            "Finds tibia, femur, fibula and pelvis in an MRI of the legs. Everything stays on this computer."
        )
        with parts.frame(desk, "/", "Segment a scan", about), parts.box("columns"):
            with parts.box("stack"):
                SegmentForm(desk, model)
            with parts.card("Queue", "Goes on when this tab is closed."):
                parts.job_list(desk, lambda: _recent(desk), "No scan yet. What you run appears here.")


def _recent(desk: Desk) -> list[Job]:
    """Return what runs or waits, and the last that ended."""
    jobs = desk.store.jobs("segment")
    return [job for job in jobs if not job.is_over] + [job for job in jobs if job.is_over][:6]


class SegmentForm:
    """What is asked of the user, one thing after the other."""

    def __init__(self, desk: Desk, model: str) -> None:
        self.desk = desk
        self.path: Path | None = None
        self.series: int | None = None
        self.is_dicom = True
        self.model = model if model in desk.models() else "default"
        if model and model != self.model:
            parts.banner("look", "That network is no longer there", ["The one bundled with lls is chosen."])
        with parts.card("1  Choose the scan"):
            hint = "DICOM folder, zip, .nii or .nii.gz"
            parts.DropZone(desk, self.dropped, "Drop a scan here", hint)
            parts.path_field(desk, "or its path on this computer", self.open)
        self.found = parts.box("stack")

    async def dropped(self, drop: str) -> None:
        """Take what was dropped."""
        await self.open(self.desk.uploads.scan(drop))

    async def open(self, path: Path) -> None:
        """Look into a scan and show what is there."""
        self.path = path
        self.found.clear()
        with self.found, parts.card(), parts.box("line"):
            ui.spinner(size="1.6rem")
            parts.text("Looking into the scan", "soft")
        try:
            inspection = await run.io_bound(inspect_scan, path)
            thumbnails = await run.io_bound(_thumbnails, path)
            patient = await run.io_bound(patient_facts, path) if self.desk.reveal else {}
        except Exception as error:  # a damaged file must not end the page
            self._replace(path, lambda e=error: parts.banner("bad", _REFUSED, words.error_sentences(e)))
            return
        self._replace(path, lambda: self._show(inspection, thumbnails, patient))

    def _replace(self, path: Path, build: Callable[[], object]) -> None:
        """Show what was found in a path, unless another has been opened meanwhile."""
        if path == self.path:
            self.found.clear()
            with self.found:
                build()

    def _show(self, inspection: Inspection, thumbnails: Thumbnails, patient: Mapping[str, str]) -> None:
        self.series, self.is_dicom = inspection.taken, inspection.kind == "dicom"
        self.names = _series_names(inspection.entries)
        several = len(inspection.entries) > 1
        self.problem: ui.element | None = None
        with parts.card("2  What is in it", self._about(inspection)):
            if patient:
                parts.facts(list(patient.items()))
            if inspection.problem is not None:
                headline = "Choose a series" if several else "This series cannot be taken"
                reason = words.sentence(inspection.reason.splitlines()[0])
                self.problem = parts.banner("look", headline, [reason])
            with parts.box("stack tight").props('role=radiogroup aria-label="Series"'):
                self._choices(inspection, thumbnails)
        with parts.card("3  Run"):
            self._options(inspection)
            self.volume = ui.number("Which of its volumes", value=1, min=1, precision=0)
            self.volume.props("outlined dense").set_visibility(False)
            with parts.box("line"):
                self.start = parts.button("Segment", self.submit, "play_arrow", "main").classes("big")
                self.start.set_enabled(self.series is not None)

    def _about(self, inspection: Inspection) -> str:
        ignored = words.plural(inspection.ignored, "file") + " without an image passed over"
        count = f"{len(inspection.entries)} series" if inspection.kind == "dicom" else "a NIfTI image"
        return " · ".join([count] + [ignored] * bool(inspection.ignored))

    def _choices(self, inspection: Inspection, thumbnails: Thumbnails) -> None:
        buttons: dict[int, ui.element] = {}

        def choose(number: int) -> None:
            self.series = number
            for other, element in buttons.items():
                element.props(f'aria-checked="{str(other == number).lower()}"')
            self.start.set_enabled(True)
            if self.problem is not None:  # one is chosen
                self.problem.set_visibility(False)
            self._ask_for_volume(int(entries[number].get("volumes", 1)))
            self.hip.set_label(_hip_label(entries[number]))

        entries = {entry["number"]: entry for entry in inspection.entries}
        for entry in inspection.entries:
            number = entry["number"]
            why = inspection.reason if number == inspection.taken and len(inspection.entries) > 1 else ""
            buttons[number] = _choice(entry, thumbnails.get(number), why, lambda n=number: choose(n))
            buttons[number].props(f'aria-checked="{str(number == self.series).lower()}"')

    def _ask_for_volume(self, volumes: int) -> None:
        """Ask for one of a series' volumes, where it holds several."""
        self.volume.set_visibility(volumes > 1)
        self.volume.set_value(1)
        self.volume.max = volumes

    def _options(self, inspection: Inspection) -> None:
        entry = next((e for e in inspection.entries if e["number"] == inspection.taken), None)
        name = "scan" if inspection.kind == "dicom" else _stem(self.path)
        with parts.box("pair"):
            self.name = ui.input("Name of the result", value=name).props("outlined dense").classes("field")
            self.network = ui.select(self.desk.models(), label="Network", value=self.model)
            self.network.props("outlined dense").classes("field")
        with ui.expansion("Options", icon="tune").classes("field"), parts.box("stack"):
            with parts.box("pair"):
                self.side = ui.select(_SIDES, label="Legs", value="both").props("outlined dense")
                self.device = ui.select(_DEVICES, label="Runs on", value="auto").props("outlined dense")
                self.hip = ui.number(_hip_label(entry or {}), min=0, precision=0)
                self.hip.props('outlined dense hint="Empty: found in the scan" clearable')
                self.tolerance = ui.number("Slices beyond it", value=50, min=0, precision=0)
                self.tolerance.props("outlined dense")
            self.clean = ui.switch("Remove small pieces and fill holes", value=True)
            self.html = ui.switch("Also write a report in one file, for any browser", value=True)
            self.confidence = ui.switch("Also write the network's confidence as an image")

    def _series(self) -> str | None:
        if not self.is_dicom or self.series is None:
            return None
        name = self.names[self.series]
        return f"{name}:{int(self.volume.value or 1)}" if self.volume.visible else name

    def submit(self) -> None:
        """Put the job in the queue."""
        name = plain_name(self.name.value or "scan")
        request = {
            "scan": str(self.path),
            "name": name,
            "series": self._series(),
            "model": self.network.value,
            "side": self.side.value,
            "device": self.device.value,
            "hip_slice": None if self.hip.value is None else int(self.hip.value),
            "hip_tolerance": int(self.tolerance.value or 0),
            "no_denoise": not self.clean.value,
            "confidence": self.confidence.value,
            "html": self.html.value,
        }
        job = self.desk.worker.submit("segment", name, request)
        self.found.clear()
        with self.found:
            parts.banner("good", f"“{name}” is in the queue", ["Choose the next scan meanwhile."])
            ui.link("Open it", f"/job/{job.id}")


def _choice(
    entry: Mapping[str, Any], image: Image.Image | None, why: str, do: Callable[[], object]
) -> ui.element:
    """Show a series as something to choose."""
    outer = ui.element("button").classes("choice").props("type=button role=radio").on("click", do)
    if entry.get("problem") and entry.get("volumes", 1) < 2:
        outer.props("disabled")
    with outer:
        if image is None:
            with parts.box("thumb nothumb"):
                ui.icon("image_not_supported")
        else:
            ui.image(image).classes("thumb").props('fit=contain alt="The middle slice"')
        with parts.box("stack tight grow"):
            name = entry.get("description") or ("Without a name" if "plane" in entry else "NIfTI image")
            parts.text(name).style("font-weight: 600")
            parts.text(" · ".join(_details(entry)), "small soft")
            if entry.get("problem"):
                parts.text(words.sentence(entry["problem"]), "small").style("color: var(--look)")
            elif why:
                parts.text(f"Suggested: {why}", "small muted")
    return outer


def _details(entry: Mapping[str, Any]) -> list[str]:
    shape, spacing = entry.get("shape"), entry.get("spacing_mm")
    found = [entry.get("plane") or "", f"{words.times(shape)} voxels" if shape else ""]
    found.append(f"{words.times(spacing)} mm" if spacing else "")
    found.append("\\".join(entry.get("image_type", ())))
    return [part for part in found if part]


def _series_names(entries: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return number -> what a series is asked for by: its UID, since numbers shift when another arrives.

    Where several have one UID it is the number.
    """
    uids = [entry.get("uid") for entry in entries]
    alone = {uid for uid in uids if uid and uids.count(uid) == 1}
    return {e["number"]: e["uid"] if e.get("uid") in alone else str(e["number"]) for e in entries}


def _hip_label(entry: Mapping[str, Any]) -> str:
    """Return what is asked for, with the slices that there are of a series that can be read."""
    axes = [n for n, letter in enumerate(entry.get("orientation", "")) if letter in "SI"]
    return "Slice where the hip begins" + "".join(f" (0 to {entry['shape'][n] - 1})" for n in axes)


def _stem(path: Path | None) -> str:
    name = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE) if path else ""
    return plain_name(name) if name else "scan"


def _thumbnails(path: Path) -> Thumbnails:
    return {number: thumbnail(image) for number, image in middle_slices(path).items()}


def thumbnail(image: npt.NDArray[Any], size: int = 160) -> Image.Image:
    """Return a small picture of a slice (row, column), its window that of nearly all tissue."""
    values = grey(image, display_window(image[:, :, None]))
    picture = Image.fromarray((255 * np.sqrt(values)).astype(np.uint8))
    picture.thumbnail((size, size))
    return picture.convert("RGB")
