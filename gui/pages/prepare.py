"""Training data: subjects with their labels become a dataset."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nicegui import run, ui

from gui import parts, words
from gui.desk import Desk
from gui.pages.training import PIXEL_MM, dataset_subjects
from gui.patient import without_uid
from gui.places import plain_name, readable
from seg_core.errors import LlsError, UsageError
from seg_core.scan import inspect_scan

_AS_BUNDLED = 0
_SIZES = {
    _AS_BUNDLED: f"bundled network's ({PIXEL_MM} mm, small people magnified)",
    512: "512 × 512",
    400: "400 × 400",
    256: "256 × 256",
}
_LABELLED = {"auto": "as the names say", "both": "both legs", "right": "right leg", "left": "left leg"}


def register(desk: Desk) -> None:
    """Add the page."""

    @ui.page("/prepare", title="Training data · lls")
    def prepare_page() -> None:
        about = "Scans with their labels become a dataset that networks are trained on."
        with parts.frame(desk, "/prepare", "Training data", about), parts.box("columns"):
            with parts.box("stack"):
                PrepareForm(desk)
            with parts.box("stack"):
                with parts.card("Datasets"):
                    _datasets(desk)
                with parts.card("Queue"):
                    parts.job_list(desk, lambda: desk.store.jobs("prepare")[:6], "Nothing was prepared yet.")


def _datasets(desk: Desk) -> None:
    found = desk.datasets()
    if not found:
        parts.empty("dataset", "No dataset yet.")
    for path, name in found.items():
        with parts.box("line nowrap"):
            parts.text(name, "grow").style("font-weight: 600")
            parts.text(words.plural(len(dataset_subjects(Path(path))), "subject"), "muted small")
            parts.button(
                "Train", lambda p=path: ui.navigate.to(f"/train?data={quote(p)}"), kind="flat"
            ).props("dense")


@dataclass
class Subject:
    """A row: what the user has of one subject."""

    name: str = ""
    scan: str = ""
    labels: str = ""
    series: str | None = None
    side: str = "auto"
    hip_slice: int | None = None
    by_hand: bool = False
    problems: list[str] = field(default_factory=list)
    checked: bool = False
    own: dict[str, str] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """Return a row of the table that `lls prepare` reads."""
        row: dict[str, Any] = {"subject": self.name, "scan": self.scan}
        row |= {"side": self.side} if self.side != "auto" else {}  # which would go before the form's own
        row |= {"labels": self.labels} if self.labels else {}
        row |= {"series": self.series} if self.series else {}
        row |= {"hip_slice": self.hip_slice} if self.hip_slice is not None else {}
        return row | self.own

    def as_kept(self) -> dict[str, Any]:
        """Return what makes the row again on another day."""
        return {name: value for name, value in asdict(self).items() if name not in ("problems", "checked")}


def subject_from_folder(folder: Path) -> Subject:
    """Return the row of a folder as `lls prepare` understands it.

    Raises
    ------
    LlsError
        If it holds no scan or no labels.
    """
    from trainers.subjects import read_subjects

    (found,) = read_subjects([folder]).values()
    if isinstance(found, LlsError):
        raise found
    own = {name: str(path) for name, path in found.structures.items()}
    own |= {"region": str(found.region)} if found.region else {}
    labels = str(found.label_map) if found.label_map else ""
    return Subject(plain_name(found.name), str(found.scan), labels, own=own)


def read_table(desk: Desk, path: str) -> tuple[str, dict[int, str]]:
    """Return where a class table is, and the names in it by value; nothing where no path is given.

    Raises
    ------
    LlsError
        If it is not there, may not be seen, or is no class table.
    """
    from trainers.subjects import read_classes

    if not path:
        return "", {}
    file = desk.places.find(path)
    if file.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"{file.name} is no class table", "a .csv or .json with values and names")
    return str(file), read_classes(str(file))


def check_subject(desk: Desk, subject: Subject, classes: Mapping[int, str]) -> list[str]:
    """Return what is wrong with a row, before anything runs; empty where nothing is.

    ``classes`` names the values of a label map that has no table of its own.
    """
    from trainers.subjects import read_subjects, structure_names

    problems = []
    if subject.name != plain_name(subject.name):
        problems.append("the name may hold letters, digits, dots, dashes and underscores")
    for path in (subject.scan, subject.labels, *subject.own.values()):
        if path and not desk.places.allows(Path(path)) and not Path(path).is_relative_to(desk.store.root):
            problems.append(f"{path} lies outside the folders that this page may see")
    if problems:
        return problems
    with tempfile.TemporaryDirectory(prefix="lls-") as temporary:
        table = Path(temporary) / "subjects.json"
        table.write_text(json.dumps({"subjects": [subject.as_row()]}), encoding="utf-8")
        try:
            (found,) = read_subjects([table]).values()
            if isinstance(found, LlsError):
                raise found
            if not structure_names(found, classes):
                file = Path(subject.labels).name
                raise UsageError(f"{file} gives its values no names: choose a class table in Options")
            inspection = inspect_scan(found.scan, found.series)
            if inspection.problem is not None:
                raise inspection.problem
        except LlsError as error:
            return [error.found.splitlines()[0]]
        except Exception as error:  # a damaged file must not end the page
            return [f"cannot be read: {error}"]
    return []


def _settings_of(dataset: str) -> tuple[int, float | None, int, str]:
    """Return a dataset's image size, or millimetres a pixel, tolerance and side; of none: the usual ones."""
    from trainers.dataset import open_dataset

    if not dataset:
        return _AS_BUNDLED, None, 50, "auto"
    found = open_dataset(Path(dataset))
    if found.grid.kind == "size":
        return found.grid.size[0], None, found.tolerance, found.masks.side
    pixel_mm = found.grid.spacing_mm[0]
    as_bundled = pixel_mm == PIXEL_MM and bool(found.usual_mm)
    return _AS_BUNDLED, None if as_bundled else pixel_mm, found.tolerance, found.masks.side


class PrepareForm:
    """Rows, settings, and the checks before anything runs."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.kept = desk.store.setting("subjects", [])
        self.subjects = [Subject(**row) for row in self.kept]
        with parts.card("1  Subjects", "A scan each, with a PLY or mask a bone, or one label map."):
            self.rows = parts.box("stack")
            with parts.box("line"):
                parts.button("Add a subject's folder", self.add_folder, "create_new_folder")
                parts.button("Add a row by hand", lambda: self.add(Subject(by_hand=True)), "add", "flat")
        with parts.card("2  Settings"):
            with parts.box("pair"):
                datasets = {"": "a new dataset"} | desk.datasets()
                self.dataset = ui.select(datasets, label="Add to", value="", on_change=self.adopt)
                self.dataset.props("outlined dense")
                self.name = ui.input("Name of the dataset", value="dataset").props("outlined dense")
                self.name.bind_visibility_from(self.dataset, "value", lambda value: not value)
                self.size = ui.select(_SIZES, label="Image size", value=_AS_BUNDLED).props("outlined dense")
                self.side = ui.select(_LABELLED, label="What was labelled", value="auto")
                self.side.props("outlined dense")
            with ui.expansion("Options", icon="tune").classes("field"), parts.box("pair"):
                self.hip = ui.number("Slice where the hip begins", min=0, precision=0)
                self.hip.props(
                    'outlined dense clearable hint="Empty: the first labelled slice of each subject"'
                )
                self.tolerance = ui.number("Slices kept beyond it", value=50, min=0, precision=0)
                self.tolerance.props("outlined dense")
                self.pixel = ui.number("Millimetres a pixel, instead of an image size", min=0.1)
                self.pixel.props('outlined dense clearable hint="Empty: the image size above"')
                self.table = ""
                self.classes = parts.path_field(
                    desk, "Class table", lambda path: setattr(self, "table", str(path))
                )
                self.classes.props('hint="CSV or JSON: values and names, for label maps without a .json"')
                self.classes.on_value_change(lambda e: setattr(self, "table", (e.value or "").strip()))
            with parts.box("line"):
                self.start = parts.button("Check and prepare", self.submit, "play_arrow", "main").classes(
                    "big"
                )
        self.show()

    async def add_folder(self) -> None:
        """Add the row of a folder that the user chooses."""
        folder = await parts.browse(self.desk, want_folder=True)
        if folder is None:
            return
        try:
            self.add(await run.io_bound(subject_from_folder, folder))
        except LlsError as error:
            parts.complain(error)

    def add(self, subject: Subject) -> None:
        """Add a row."""
        self.subjects.append(subject)
        self.remember()
        self.show()

    def remember(self) -> None:
        """Keep the rows until they are prepared, beside those that results have sent meanwhile."""
        sent = [row for row in self.desk.store.setting("subjects", []) if row not in self.kept]
        self.kept = [subject.as_kept() for subject in self.subjects]
        self.desk.store.set("subjects", self.kept + sent)

    def adopt(self) -> None:
        """Take the settings of the dataset that is added to; with others all of it would be prepared anew."""
        try:
            size, pixel_mm, tolerance, side = _settings_of(self.dataset.value)
        except LlsError as error:
            parts.complain(error)
            self.dataset.set_value("")
            return
        self.size.set_options({size: f"{size} × {size}"} | _SIZES, value=size)
        self.pixel.set_value(pixel_mm)
        self.tolerance.set_value(tolerance)
        self.side.set_value(side)
        for setting in (self.size, self.pixel, self.tolerance):
            setting.set_enabled(not self.dataset.value)

    def show(self) -> None:
        """Show the rows with what their checks found."""
        self.rows.clear()
        with self.rows:
            if not self.subjects:
                parts.empty(
                    "group_add", "No subject yet. A folder holds a scan beside masks, meshes or labels."
                )
            for subject in self.subjects:
                self._row(subject)

    def _row(self, subject: Subject) -> None:
        def keep(field: str, value: str | None) -> None:
            setattr(subject, field, (value or "").strip())

        def remove() -> None:
            self.subjects.remove(subject)
            self.remember()
            self.show()

        with parts.box("job"):
            with parts.box("line nowrap"):
                name = ui.input("Subject", value=subject.name, on_change=lambda e: keep("name", e.value))
                name.props("outlined dense").style("width: 11rem").on("blur", self.remember)
                with parts.box("grow line"):
                    if subject.own:
                        parts.text(", ".join(words.bone_name(bone) for bone in subject.own), "soft small")
                    elif subject.labels:
                        parts.text(Path(subject.labels).name, "soft small")
                if subject.checked and not subject.problems:
                    parts.chip("in order", "good", "check")
                parts.button("", remove, "delete_outline", "flat").props('dense aria-label="Remove"')
            if self.desk.reveal and not subject.by_hand:
                parts.text(subject.scan, "mono soft")
            if subject.by_hand:
                with parts.box("pair"):
                    for field, label in (
                        ("scan", "Scan"),
                        ("labels", "Labels: folder or map"),
                    ):
                        entry = parts.path_field(self.desk, label, lambda path, f=field: keep(f, str(path)))
                        entry.set_value(readable(getattr(subject, field)))
                        entry.on_value_change(lambda e, f=field: keep(f, e.value))
                        entry.on("blur", self.remember)
            for problem in subject.problems:
                if not (subject.by_hand or self.desk.reveal):
                    problem = without_uid(problem.replace(subject.scan, "the scan"), subject.series)
                parts.chip(words.sentence(problem), "bad", "error_outline").style("white-space: normal")

    async def submit(self) -> None:
        """Check all rows; put the job in the queue if they are in order."""
        if not self.subjects:
            ui.notify("Add a subject first.", type="warning")
            return
        try:
            self.table, classes = read_table(self.desk, self.table)
        except LlsError as error:
            parts.complain(error)
            return
        self.start.set_enabled(False)
        self.remember()
        for subject in self.subjects:
            subject.problems = await run.io_bound(check_subject, self.desk, subject, classes)
            subject.checked = True
        names = [subject.name.casefold() for subject in self.subjects]
        for subject in self.subjects:
            if names.count(subject.name.casefold()) > 1:
                subject.problems.append("two subjects have this name")
        self.show()
        if any(subject.problems for subject in self.subjects):
            self.start.set_enabled(True)
        else:  # it stays off: a second click would ask for the same again
            self._send()

    def _send(self) -> None:
        wanted = plain_name(self.name.value or "dataset")
        folder = Path(self.dataset.value or self.desk.store.free_name("datasets", wanted))
        size, pixel_mm = self.size.value or None, self.pixel.value or None
        if self.dataset.value:  # it keeps its own
            size = pixel_mm = like = None
        else:
            like = None if size or pixel_mm else "default"
        request = {
            "subjects": [subject.as_row() for subject in self.subjects],
            "dataset": str(folder),
            "size": None if pixel_mm else size,
            "pixel_mm": pixel_mm,
            "like": like,
            "labelled_side": self.side.value,
            "classes": self.table or None,
            "hip_slice": None if self.hip.value is None else int(self.hip.value),
            "tolerance": int(self.tolerance.value if self.tolerance.value is not None else 50),
        }
        job = self.desk.worker.submit("prepare", folder.name, request)
        self.subjects = []
        self.remember()
        ui.navigate.to(f"/job/{job.id}")
