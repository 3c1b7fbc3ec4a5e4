"""Subjects -> a dataset: in parallel, resumable, one bad subject stopping no other."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seg_core.apparent_size import apparent_size, shafts_mm
from seg_core.errors import LlsError, OutputError, ScanError, UsageError
from seg_core.files import files_below
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import SIDES
from seg_core.limb_range import range_from_hip
from seg_core.model_spec import Grid, ModelSpec, Normalisation
from seg_core.nifti import read_labels, write_label_table, write_labels, write_volume
from seg_core.output import output_error
from seg_core.prepare import SlicePlan, plan_slices
from seg_core.scan import Scan, read_scan
from seg_core.slice_inference import LOOKED_AT
from seg_core.statistics import split_name
from trainers.config import IGNORED
from trainers.dataset import (
    FILES,
    INDEX,
    Dataset,
    DatasetSubject,
    class_table,
    is_dataset,
    open_dataset,
    write_index,
)
from trainers.masks import OVERLAP_RULES, Labelled, MaskOptions, keep_region, label_subject
from trainers.midline import find_midline, ignore_beyond, labelled_half
from trainers.quality import Quality, examine, write_page
from trainers.slices import Progress, write_slices
from trainers.subjects import NAME_THEM, Classes, SubjectInput, choose_classes, lone_letters, structure_names

VERSION = 3
"""Of this preparation: another one makes every subject anew."""
_FACTS = ("modality", "image_type", "plane", "echo", "type", "n_series", "ignored_files")
_STEPS = 5  # a subject's: hashed, read, labelled, examined, written
_LEAST_MM, _MOST_MM = 0.05, 20.0  # of a pixel: what lies beyond is a slip, and no computer's memory holds it
_MOST_PIXELS = 4096  # rows or columns of a slice


@dataclass(frozen=True)
class PrepareConfig:
    """How to prepare.

    Parameters
    ----------
    grid : Grid
        The network's pixels.
    normalisation : Normalisation
        Intensity to [0, 1].
    masks : MaskOptions
        How labels are put together.
    other_side : {"ignore", "crop"}
        What becomes of the side that nobody labelled; cropping needs a grid in millimetres.
    hip_slice : int, optional
        Stored slice where the hip begins; by default the first labelled one of each subject.
    tolerance : int
        Slices kept beyond it, towards the head; -1 keeps all.
    classes : mapping of int to str, optional
        As `trainers.subjects.read_classes` gives it; by default all structures that there are.
    usual_mm : mapping of str to float
        Smaller people are magnified, see `seg_core.model_spec.ModelSpec`; only what is learned counts.
    """

    grid: Grid = field(default_factory=Grid)
    normalisation: Normalisation = field(default_factory=lambda: Normalisation("percentile", 1.0, 99.5))
    masks: MaskOptions = field(default_factory=MaskOptions)
    other_side: Literal["ignore", "crop"] = "ignore"
    hip_slice: int | None = None
    tolerance: int = 50
    classes: Mapping[int, str] | None = None
    usual_mm: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.other_side == "crop" and self.grid.kind == "size":
            raise UsageError(
                "cropping with slices of a fixed size",
                "a grid in millimetres: a cropped slice would be stretched as no scan is later",
                "give --pixel-mm instead of --size, or --other-side ignore",
            )
        if self.tolerance < -1:
            raise UsageError(f"a tolerance of {self.tolerance} slices", "0 or more")
        _check_grid(self.grid)


def _check_grid(grid: Grid) -> None:
    """Refuse pixels that no scan can be given."""
    rows, columns = grid.size
    whole = not rows % grid.multiple and not columns % grid.multiple
    if grid.kind == "size" and not (whole and min(grid.size) > 0 and max(grid.size) <= _MOST_PIXELS):
        raise UsageError(
            f"slices of {rows} x {columns} pixels",
            f"multiples of {grid.multiple}, {_MOST_PIXELS} at most",
            "give --size 256, 400 or 512, or --pixel-mm",
        )
    if grid.kind != "size" and not all(_LEAST_MM <= mm <= _MOST_MM for mm in grid.spacing_mm):
        raise UsageError(
            f"pixels of {' x '.join(f'{mm:g}' for mm in grid.spacing_mm)} mm",
            f"{_LEAST_MM:g} to {_MOST_MM:g} mm",
            "give --pixel-mm such a distance, as 1.875",
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a subject.

    Parameters
    ----------
    name : str
    status : {"made", "kept", "failed"}
        ``kept``: nothing had changed.
    subject : DatasetSubject or None
        Its record.
    error : Exception or None
        Why it failed.
    """

    name: str
    status: Literal["made", "kept", "failed"]
    subject: DatasetSubject | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class Prepared:
    """What came out.

    Parameters
    ----------
    dataset : Dataset
        With all good subjects, earlier ones too.
    outcomes : tuple of Outcome
        Of the subjects that were given, in their order.
    slices : int
        In the cache; 0 where no subject is good.
    """

    dataset: Dataset
    outcomes: tuple[Outcome, ...]
    slices: int


def prepare(
    inputs: Mapping[str, SubjectInput | LlsError],
    folder: Path,
    config: PrepareConfig,
    jobs: int = 1,
    progress: Progress = lambda step, done, total: None,
) -> Prepared:
    """Prepare subjects, adding to a dataset that is there; what has not changed is left alone.

    Parameters
    ----------
    inputs : mapping
        As `trainers.subjects.read_subjects` gives it.
    folder : Path
        Of the dataset; made where it is missing.
    config : PrepareConfig
        How.
    jobs : int
        Subjects at a time; each needs about three times the memory of its scan.
    progress : callable
        ``progress(step, done, total)``.

    Raises
    ------
    UsageError
        If the classes make no sense, or are others than those of earlier subjects that are not given again,
        or these would have too many pixels.
    OutputError
        If the folder holds something else, or cannot be written.
    """
    old = _earlier(folder)
    checked = {name: _named(found, config) for name, found in inputs.items()}
    bad = {n: Outcome(n, "failed", error=e) for n, e in checked.items() if isinstance(e, LlsError)}
    good = {name: found for name, found in checked.items() if isinstance(found, SubjectInput)}
    if not good:
        return Prepared(old, tuple(bad.values()), 0)
    classes = _classes(good, old, config)
    # With other classes nothing earlier stays, and an interruption shall not leave both.
    records = {s.name: s for s in old.subjects} if classes.names == old.classes else {}
    order = list(dict.fromkeys([*records, *inputs]))
    dataset = Dataset(
        folder,
        classes.names,
        classes.sided,
        config.grid,
        config.normalisation,
        config.tolerance,
        masks=config.masks,
        other_side=config.other_side,
        usual_mm={name: mm for name, mm in config.usual_mm.items() if name in classes.names},
    )
    job = _Job(folder, config, classes, _Steps(progress, _STEPS * len(good)))
    for name, known in records.items():  # before the index says that they have such pixels
        records[name] = job.measured(known)
        job.plan(known.geometry, records[name].shafts_mm)
    outcomes: dict[str, Outcome] = {}
    with _kept_if_filled(folder):
        write_index(replace(dataset, subjects=tuple(records.values())))
        for outcome in _run(job, good, dict(records), jobs):
            outcomes[outcome.name] = outcome
            if outcome.subject is not None:
                records[outcome.name] = outcome.subject
                write_index(replace(dataset, subjects=tuple(records[n] for n in order if n in records)))
    dataset = replace(dataset, subjects=tuple(records[n] for n in order if n in records))
    slices = write_slices(dataset, progress).slices if dataset.subjects else 0
    return Prepared(dataset, tuple((outcomes | bad)[name] for name in inputs), slices)


@contextmanager
def _kept_if_filled(folder: Path) -> Iterator[None]:
    """Make the folder; an index without subjects does not stay alone.

    Beside subjects that an interruption has left it stays, for without it the folder would be refused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error
    try:
        yield
    finally:
        alone = [entry.name for entry in folder.iterdir()] == [INDEX]
        if alone and not open_dataset(folder).subjects:
            (folder / INDEX).unlink()
            with suppress(OSError):
                folder.rmdir()


def _earlier(folder: Path) -> Dataset:
    """Return the dataset that is there, or one without subjects."""
    if is_dataset(folder):
        return open_dataset(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} holds something else", "a dataset, or a new folder", "choose another")
    return Dataset(folder, (), False, Grid(), Normalisation())


def _named(subject: SubjectInput | LlsError, config: PrepareConfig) -> SubjectInput | LlsError:
    """Return a subject whose label map has names, or what is wrong with it."""
    if isinstance(subject, LlsError):
        return subject
    try:
        if not structure_names(subject, config.classes or {}):
            raise UsageError(
                f"no names of the values in {subject.name}'s labels", "a table of names", NAME_THEM
            )
    except LlsError as error:
        return error
    return subject


def _classes(good: Mapping[str, SubjectInput], old: Dataset, config: PrepareConfig) -> Classes:
    """Decide the classes; earlier subjects that are not given again keep theirs."""
    left = [subject.name for subject in old.subjects if subject.name not in good]
    classes = choose_classes(list(good.values()), config.classes, old.classes if left else ())
    if left and config.classes is None and set(classes.names) <= set(old.classes):
        return Classes(old.classes, old.sided)
    if not left:
        return classes
    if classes.names != old.classes:
        raise UsageError(
            f"classes {', '.join(classes.names)}",
            f"those of the subjects that {old.folder} has already: {', '.join(old.classes)}",
            f"give {', '.join(left)} again too, or name a new folder",
        )
    return replace(classes, sided=old.sided or classes.sided)


def _run(
    job: "_Job", good: Mapping[str, SubjectInput], old: Mapping[str, DatasetSubject], jobs: int
) -> Iterator[Outcome]:
    """Give the outcomes as they come; on an interruption what has not begun is left."""
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        running = {pool.submit(job.run, subject, old.get(name)): name for name, subject in good.items()}
        try:
            for done in as_completed(running):
                name, error = running[done], done.exception()
                if error is None:
                    yield done.result()
                elif isinstance(error, Exception):
                    yield Outcome(name, "failed", old.get(name), error)
                else:
                    raise error
        finally:
            pool.shutdown(cancel_futures=True)


class _Steps:
    """Counts the steps of all subjects together."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done, self._lock = progress, total, 0, threading.Lock()

    def __call__(self, steps: int = 1) -> None:
        with self._lock:
            self._done += steps
            self._progress("subjects", self._done, self._total)


@dataclass(frozen=True)
class _Job:
    """What is the same for all subjects."""

    folder: Path
    config: PrepareConfig
    classes: Classes
    step: _Steps

    def run(self, subject: SubjectInput, old: DatasetSubject | None) -> Outcome:
        """Prepare a subject, unless nothing has changed since."""
        key = self.key(subject)
        self.step()
        hip = self.config.hip_slice if subject.hip_slice is None else subject.hip_slice
        if old is not None and old.key == key and self._is_whole(old):
            self._check(old.geometry, hip, old.shafts_mm)
            self.step(_STEPS - 1)
            kept = replace(old, hip_slice=hip, overlap_rule=self.config.masks.overlap)  # the key holds it
            return Outcome(subject.name, "kept", kept)
        return Outcome(subject.name, "made", self.make(subject, key, hip))

    def measured(self, known: DatasetSubject) -> DatasetSubject:
        """Measure what an earlier version did not."""
        if known.shafts_mm is not None:
            return known
        mask = read_labels(self.folder / known.name / "mask.nii.gz", known.labels)
        return replace(known, shafts_mm=self._shafts(mask))

    def _check(self, geometry: Geometry, hip: int | None, shafts: Mapping[str, float] | None) -> None:
        """Refuse a grid or a hip slice that a scan cannot have, before its slices are cut for all."""
        plan = self.plan(geometry, shafts)
        if hip is not None and self.config.tolerance >= 0:
            range_from_hip(plan, self._spec.orientation, hip, self.config.tolerance)

    def plan(self, geometry: Geometry, shafts: Mapping[str, float] | None) -> SlicePlan:
        """Return how a scan becomes slices; refuse more pixels than can be learned from."""
        plan = plan_slices(geometry, self._spec.magnified(apparent_size(shafts or {}, self.config.usual_mm)))
        if max(plan.grid) > _MOST_PIXELS:
            raise UsageError(
                f"slices of {plan.grid[0]} x {plan.grid[1]} pixels",
                f"{_MOST_PIXELS} at most",
                "give a greater --pixel-mm",
            )
        return plan

    @property
    def _spec(self) -> ModelSpec:
        return ModelSpec("dataset", self.classes.names, grid=self.config.grid)

    def key(self, subject: SubjectInput) -> str:
        """Return a hash of all that goes into scan and mask; where the files are does not count."""
        facts = {
            "version": VERSION,
            "files": [(role, hash_of(path)) for role, path in subject.files],
            "series": subject.series,
            "side": subject.side,
            "classes": asdict(self.classes),
            "masks": asdict(self.config.masks),
            "other_side": self.config.other_side,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _is_whole(self, old: DatasetSubject) -> bool:
        return all((self.folder / old.name / file).is_file() for file in FILES)

    def make(self, subject: SubjectInput, key: str, hip: int | None) -> DatasetSubject:
        """Read, label, examine and write a subject."""
        scan = read_scan(subject.scan, subject.series)
        self.step()
        self._check(scan.volume.geometry, hip, None)
        labelled = label_subject(subject, scan.volume.geometry, self.classes, self.config.masks)
        notes = [*scan.warnings, *labelled.notes, *_of_one_side(labelled), *self._lone_letters(subject)]
        if subject.region is not None:
            keep_region(labelled.labels.array, read_labels(subject.region, {}), scan.volume.geometry)
        auto = (subject.side or self.config.masks.side) == "auto"
        if labelled.side == "both" and auto:
            labelled = replace(labelled, side=self._seen_side(scan.volume, labelled, notes))
        volume, labels, words = self._one_side(scan.volume, labelled, notes, auto)
        self.step()
        quality = examine(volume, labels, self._missing(labels))
        quality = replace(quality, notes=(*notes, *quality.notes))
        rule, overlaps = self.config.masks.overlap, labelled.overlaps
        words += [f"{pair}: {n} voxels in both ({OVERLAP_RULES[rule]})" for pair, n in overlaps.items()]
        self.step()
        facts = {"overlaps": overlaps, "overlap_rule": rule, "side": labelled.side, "words": words}
        shafts = self._shafts(labels)
        self.plan(volume.geometry, shafts)
        sha256 = _write(self.folder / subject.name, (volume, labels), quality, facts)
        self.step()
        return DatasetSubject(
            name=subject.name,
            key=key,
            shape=volume.geometry.shape,
            affine=tuple(map(tuple, volume.geometry.affine.tolist())),
            scan=_facts(scan),
            labels=labels.labels,
            side=labelled.side,
            overlaps=overlaps,
            ignored=int(np.count_nonzero(labels.array == IGNORED)),
            odd=quality.notes,
            hip_slice=hip,
            sha256=sha256,
            overlap_rule=rule,
            shafts_mm=shafts,
        )

    def _shafts(self, labels: LabelMap) -> dict[str, float]:
        """Measure the shafts in slices as few as the runner's first ones, of those that are labelled."""
        plan = plan_slices(labels.geometry, self._spec)
        stack = plan.oriented(labels.array)
        shown = np.flatnonzero(((stack > 0) & (stack != IGNORED)).any(axis=(1, 2)))
        few = shown[np.linspace(0, len(shown) - 1, min(LOOKED_AT, len(shown))).round().astype(np.int64)]
        classes = class_table(len(self.classes.names))[stack[few]]
        return shafts_mm(classes, plan.pixel_mm2, self.classes.names)

    def _lone_letters(self, subject: SubjectInput) -> list[str]:
        """Name the structures whose letter may be a side that nobody was told of."""
        found = lone_letters(structure_names(subject, self.classes.values))
        return [
            f"{name} is a class of its own, without a side: call it {meant} if that is meant"
            for name, meant in found.items()
            if name in self.classes.names
        ]

    def _seen_side(self, volume: Volume, labelled: Labelled, notes: list[str]) -> str:
        """Return the one side on which all labels lie, though their names do not say it, or both."""
        for side in ("right", "left"):
            if find_midline(volume, labelled.labels, side).kind == "midline":
                notes.append(
                    f"only the {side} leg seems to be labelled: the other side is ignored; where that is "
                    "wrong, --labelled-side both teaches it as background"
                )
                return side
        return "both"

    def _one_side(
        self, volume: Volume, labelled: Labelled, notes: list[str], auto: bool
    ) -> tuple[Volume, LabelMap, list[str]]:
        """Ignore the side that nobody labelled; what is odd about it comes into the notes.

        That one leg is seen is odd where somebody said that another is there, not in a scan of a knee.
        """
        labels, side = labelled.labels, labelled.side
        if side == "both":
            return volume, labels, []
        midline, words = find_midline(volume, labels, side), []
        if midline.kind == "doubtful":
            notes.append(f"the {side} side is doubtful: {midline.detail}")
        elif midline.kind == "one leg" and not auto and not (labels.array == IGNORED).any():  # by a region
            notes.append(
                f"labelled on the {side}, but {midline.detail}; another leg that is there, dim, is taught as "
                "background: give a region of what was labelled"
            )
        else:
            words = [f"labelled on the {side}: {midline.detail}"]
        ignore_beyond(labels, volume, midline, side)
        if self.config.other_side == "crop":
            volume, labels = labelled_half(volume, labels, midline, side)
        return volume, labels, words

    def _missing(self, labels: LabelMap) -> list[str]:
        present = {split_name(name)[0] for name in labels.labels.values()}
        return [name for name in self.classes.names if name not in present]


def _of_one_side(labelled: Labelled) -> list[str]:
    """Name the structures of which only one side is labelled where others have both."""
    names = [split_name(name) for name in labelled.labels.labels.values()]
    sides = {name: {side for other, side in names if other == name} for name, _ in names}
    if labelled.side != "both" or not set(SIDES) <= set().union(*sides.values()):
        return []
    return [
        f"{name} is labelled on the {side} alone, but taught on both sides: give --labelled-side, or a region"
        for name, (side, *other) in sides.items()
        if not other and side in SIDES
    ]


def _facts(scan: Scan) -> dict[str, Any]:
    """Return how a scan was read, without words that somebody typed at the scanner."""
    return {"kind": scan.kind} | {key: scan.series[key] for key in _FACTS if key in scan.series}


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files below a folder with their places in it."""
    if path.is_dir():
        files = sorted(file for file in files_below(path) if file.is_file())
        listed = [(file.relative_to(path).as_posix(), hash_of(file)) for file in files]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ScanError(f"{path} cannot be read: {error.strerror or error}") from error


def _write(
    folder: Path, labelled: tuple[Volume, LabelMap], quality: Quality, facts: dict[str, Any]
) -> dict[str, str]:
    """Write a subject's files, all or none; return the SHA-256 of those that training reads."""
    volume, labels = labelled
    with _published(folder) as made:
        write_volume(made / "scan.nii.gz", volume)
        write_labels(made / "mask.nii.gz", labels)
        write_label_table(made / "mask.json", labels.labels)
        page = [folder.name, "labels before training", *facts["words"]]
        write_page(made / "quality.png", volume, labels, quality, page)
        numbers = json.dumps(quality.as_json() | facts, indent=1) + "\n"
        (made / "quality.json").write_text(numbers, encoding="utf-8")
        return {file: hash_of(made / file) for file in FILES}


@contextmanager
def _published(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of another when the block ends without an error."""
    made, aside = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    try:
        for left in (made, aside):  # by an interrupted run
            shutil.rmtree(left, ignore_errors=True)
        made.mkdir()
        yield made
        if folder.exists():
            folder.rename(aside)
        made.rename(folder)
    except OSError as error:
        raise output_error(error, folder) from error
    finally:
        for left in (made, aside):
            shutil.rmtree(left, ignore_errors=True)
