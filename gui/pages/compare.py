"""Judge: a result against a reference or another result, bone by bone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nicegui import ui

from gui import parts, requests, words
from gui.desk import Desk
from gui.places import readable
from gui.store import Job
from gui.worker import RESULT
from seg_core.colours import Colour, bone_colours


def show(desk: Desk, job: Job, labels: Path) -> None:
    """Build what compares the label map of a result with others."""
    others = _others(desk, job, labels)

    def against_other() -> None:
        if choice.value:
            against(desk, job, labels, Path(choice.value), others[choice.value])

    about = "DSC is how far two label maps agree, 1 being the same. Both must lie on the same scan."
    with parts.card("Compare", about), parts.box("pair"):
        with parts.box("line nowrap"):
            choice = ui.select(others, label="Another result of this page").props("outlined dense")
            choice.classes("grow").set_enabled(bool(others))
            parts.button("Compare", against_other, "compare").set_enabled(bool(others))
        parts.path_field(
            desk,
            "A reference: label map on this computer (NIfTI)",
            lambda path: against(desk, job, labels, path, path.name),
        )
    _comparisons(desk, job)


def against(desk: Desk, job: Job, labels: Path, other: Path, title: str) -> None:
    """Ask for the comparison of a result's label map with another."""
    request = {"prediction": str(labels), "truth": str(other)}
    desk.worker.submit("evaluate", readable(title), request, parent=job.id)


def _others(desk: Desk, job: Job, labels: Path) -> dict[str, str]:
    """Return path -> name of other label maps of the same scan: other runs, and corrections."""
    found = {}
    for other in desk.store.jobs("segment"):
        if other.state == "done" and other.request["scan"] == job.request["scan"]:
            folder, name = desk.store.folder(other), other.request["name"]
            files = [folder / requests.RESULT / f"{name}_dseg.nii.gz"]
            files += sorted((folder / requests.CORRECTIONS).glob("*.nii.gz"))
            for file in files:
                if file.is_file() and file != labels:
                    which = "" if file == files[0] else f", corrected ({file.name})"
                    found[str(file)] = f"{other.title}, run {other.id}{which}"
    return found


def _comparisons(desk: Desk, job: Job) -> None:
    def build(jobs: Sequence[Job]) -> None:
        for one in jobs:
            with parts.card(f"Against {one.title}"):
                if one.state == "done":
                    scores(desk.store.folder(one))
                    with parts.box("line"):
                        target = f"/difference/{one.id}"
                        parts.button("See the difference", lambda t=target: ui.navigate.to(t), "compare")
                else:
                    parts.JobLine(desk, one)

    parts.watch(desk, lambda: desk.store.jobs("evaluate", parent=job.id), build).style("margin-top: 1rem")


def scores(folder: Path) -> None:
    """Show the scores that `lls evaluate` wrote."""
    found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    header = ["Bone", "DSC", "Volume difference", "This result", "The other"]
    bones = found["pairs"][0]["bones"]
    if notes := found["pairs"][0].get("warnings"):  # results of earlier versions have none
        parts.banner("look", "Names were assumed", [words.sentence(text) for text in notes])
    colours = bone_colours({bone["label"]: bone["name"] for bone in bones})
    parts.table(header, [_row(bone, colours[bone["label"]]) for bone in bones])


def _row(bone: Mapping[str, Any], colour: Colour) -> list[parts.Cell]:
    dsc, error = bone["dsc"], bone["volume_error_cm3"]
    return [
        lambda: parts.bone_label(bone["name"], colour),
        "–" if dsc is None else f"{dsc:.3f}",
        "–" if error is None else f"{error:.1f} cm³",
        _volume(bone["predicted_cm3"]),
        _volume(bone["true_cm3"]),
    ]


def _volume(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} cm³"
