"""What a training and a dataset look like: live curves, and quality pages."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nicegui import ui

from gui import parts, words
from gui.desk import Desk
from gui.progress import in_words
from gui.store import Job
from gui.worker import LOG
from seg_core.colours import bone_colours
from seg_core.errors import LlsError
from seg_core.labels import BONES
from seg_core.model_spec import Grid, ModelSpec, Normalisation

PIXEL_MM = 0.9375
"""Of the bundled network, as a test holds: what is prepared so can go on from it."""
_BUNDLED = ModelSpec(
    "default", BONES, grid=Grid("spacing", spacing_mm=(PIXEL_MM, PIXEL_MM), multiple=64),
    normalisation=Normalisation("percentile", 1, 99.5), usual_mm={"tibia": 22.2, "femur": 25.7},
)  # fmt: skip
_LOSSES = {"train_loss": ("learned from", "#2f7de1"), "validation_loss": ("held back", "#d9822b")}


def other_than_bundled(dataset: Path) -> list[str]:
    """Say where a dataset was prepared otherwise than the slices that the bundled network knows."""
    from trainers.dataset import open_dataset
    from trainers.model_file import other_preparation

    found = open_dataset(dataset)
    own = {name: getattr(found, name) for name in ("grid", "normalisation", "usual_mm")}
    return other_preparation(_BUNDLED, replace(_BUNDLED, **own))


class TrainingView:
    """A training: how far it is, its curves, what can be done with it."""

    def __init__(self, desk: Desk, job: Job) -> None:
        self.desk, self.job, self.run = desk, job, Path(job.request["run"])
        self.epochs = -1
        with parts.card():
            self.doing = ui.label("").style("font-weight: 600; font-size: 1.05rem")
            self.bar = ui.linear_progress(0, show_value=False).props('aria-label="Progress"')
            self.detail = ui.label("").classes("soft num").props("role=status")
            with parts.box("line") as self.actions:
                parts.button("Use the best network so far", lambda: _export(desk, job), "ios_share", "main")
                parts.text("It then stands among the networks of Segment.", "muted small")
            self.actions.set_visibility(False)  # until there is one
        with parts.box("pair"):
            with parts.card("Loss", "What is learned from, and what was held back. Lower is better."):
                self.loss = ui.echart(_options("loss")).style("height: 18rem; width: 100%")
            with parts.card("Agreement with the labels (DSC)", "On what was held back. 1 is the same."):
                self.dsc = ui.echart(_options("DSC")).style("height: 18rem; width: 100%")
        parts.watch(desk, lambda: desk.store.jobs("export", parent=job.id), lambda jobs: _exports(desk, jobs))
        self.log = _log(desk, job)
        self.timer = ui.timer(1.0, self.refresh)

    def refresh(self) -> None:
        """Show what is new."""
        now = self.desk.store.get(self.job.id)
        if now is None or now.state != self.job.state:
            self.timer.cancel()
            ui.navigate.reload()
            return
        self._progress(now)
        self.actions.set_visibility((self.run / "best.ckpt").is_file())
        rows = read_log(self.run / "log.csv")
        if len(rows) != self.epochs:
            self.epochs = len(rows)
            _draw(self.loss, self.dsc, rows)
        self.log()

    def _progress(self, now: Job) -> None:
        running = self.desk.worker.running.get(now.id)
        self.bar.set_visibility(running is not None)
        if running is None:
            self.doing.set_text(_best(self.run) if now.is_over else "Waiting for its turn")
            self.detail.set_text(now.message.split("\n")[0])
            return
        progress = running.progress
        self.bar.set_value(round(progress.fraction, 4))
        self.doing.set_text("Training" if progress.detail else "Preparing the network")
        told = (progress.detail, in_words(progress.seconds_left))
        self.detail.set_text(" · ".join(part for part in told if part))


def _export(desk: Desk, job: Job) -> None:
    if all(one.is_over for one in desk.store.jobs("export", parent=job.id)):  # else it was clicked twice
        desk.worker.export(job)


def _exports(desk: Desk, jobs: Sequence[Job]) -> None:
    """Show the networks that were made of a training."""
    if not jobs:
        return
    with parts.card("Networks made of it"):
        for one in jobs:
            if one.state == "done":
                with parts.box("line"):
                    parts.chip("ready", "good", "check")
                    ui.label(Path(one.request["model"]).stem).style("font-weight: 600")
                    target = f"/?model={quote(one.request['model'])}"
                    parts.button("Segment with it", lambda t=target: ui.navigate.to(t), "play_arrow")
            else:
                parts.JobLine(desk, one)


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the epochs of a training's log; none where there is no log."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError):  # it is being written
        return []


def _best(run: Path) -> str:
    rows = read_log(run / "log.csv")
    if not rows:
        return "No epoch was finished"
    if math.isnan(rows[-1]["dsc"]):
        return f"Nothing was validated; epoch {rows[-1]['epoch']:.0f} is kept"
    best = max(rows, key=lambda row: row["dsc"])
    return f"Best: DSC {best['dsc']:.3f} in epoch {best['epoch']:.0f} of {rows[-1]['epoch']:.0f}"


def _options(name: str) -> dict[str, Any]:
    axis = {
        "axisLine": {"lineStyle": {"color": "#8f9baa"}},
        "splitLine": {"lineStyle": {"color": "#8f9baa33"}},
    }
    return {
        "animation": False,
        "grid": {"left": 52, "right": 16, "top": 40, "bottom": 42},
        "legend": {"top": 4, "textStyle": {"color": "#8f9baa"}},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "category", "name": "epoch", "nameLocation": "middle", "nameGap": 26} | axis,
        "yAxis": {"type": "value", "scale": True} | ({"max": 1} if name == "DSC" else {}) | axis,
        "series": [],
    }  # fmt: skip


def _draw(loss: ui.echart, dsc: ui.echart, rows: list[dict[str, float]]) -> None:
    loss.options["series"] = [
        _series(name, colour, [row[key] for row in rows]) for key, (name, colour) in _LOSSES.items()
    ]
    names = [key for key in (rows[0] if rows else {}) if key.startswith("dsc_")]
    colours = bone_colours(dict(enumerate((name.removeprefix("dsc_") for name in names), 1)))
    lines = [_series("mean", "#8f9baa", [row["dsc"] for row in rows], width=3)]
    for place, key in enumerate(names, 1):
        red, green, blue = colours[place]
        points = [row[key] for row in rows]
        lines.append(_series(key.removeprefix("dsc_"), f"rgb({red},{green},{blue})", points))
    dsc.options["series"] = lines
    for chart in (loss, dsc):
        chart.options["xAxis"]["data"] = [f"{row['epoch']:.0f}" for row in rows]
    loss.update()
    dsc.update()


def _series(name: str, colour: str, points: list[float], width: int = 2) -> dict[str, Any]:
    """Return a line; what is not a number, because nothing was validated, is left open."""
    return {
        "name": name,
        "type": "line",
        "data": [None if math.isnan(point) else point for point in points],
        "showSymbol": len(points) < 30,
        "lineStyle": {"color": colour, "width": width},
        "itemStyle": {"color": colour},
    }


def _log(desk: Desk, job: Job) -> Any:
    path = desk.store.folder(job) / LOG
    with ui.expansion("Log", icon="notes").classes("field"):
        label = ui.label("").classes("log mono")

    def refresh() -> None:
        label.set_text(path.read_text(encoding="utf-8")[-20000:] if path.is_file() else "Nothing was said.")

    return refresh


def show_dataset(desk: Desk, folder: Path) -> None:
    """Show what a dataset holds, and the quality page of each subject."""
    from trainers.dataset import open_dataset

    try:
        dataset = open_dataset(folder)
    except LlsError as error:
        parts.banner("bad", "The dataset cannot be read", [words.sentence(error.found)])
        return
    size = words.times(dataset.grid.size) if dataset.grid.kind == "size" else f"{dataset.grid.spacing_mm} mm"
    with parts.card(folder.name):
        subjects = words.plural(len(dataset.subjects), "subject")
        parts.text(f"{subjects} · slices of {size} · {', '.join(dataset.classes)}", "soft")
        with parts.box("line"):
            target = f"/train?data={quote(str(folder))}"
            parts.button("Train on it", lambda: ui.navigate.to(target), "insights", "main")
    for subject in dataset.subjects:
        with parts.card(subject.name):
            with parts.box("line"):
                parts.chip(f"{words.plural(len(subject.labels), 'label')}, {subject.side}")
                if subject.odd:
                    parts.chip(f"{len(subject.odd)} to look at", "look", "visibility")
                else:
                    parts.chip("nothing odd", "good", "check")
            if subject.odd:
                with ui.element("ul").style("margin: 0; padding-left: 1.1rem"):
                    for note in subject.odd:
                        with ui.element("li"):
                            ui.label(words.sentence(note))
            parts.picture(f"/dataset/{folder.name}/{quote(subject.name)}/quality.png", "Quality page")


def dataset_subjects(folder: Path) -> list[str]:
    """Return the names of a dataset's subjects; none where it cannot be read."""
    try:
        raw = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return [str(subject["name"]) for subject in raw["subjects"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
