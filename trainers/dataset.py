"""A dataset: scans with their masks in a folder, and the slices that networks are trained on.

::

    dataset.json              classes, how slices are prepared, a record a subject
    cache/                    the slices of all subjects (see `trainers.cache`)
    <subject>/scan.nii.gz     as it was read
    <subject>/mask.nii.gz     labels on the scan's grid, names in mask.json; 255: nobody labelled this
    <subject>/quality.png     a page to look at; its numbers in quality.json
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seg_core.apparent_size import apparent_size
from seg_core.errors import ScanError, UsageError
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import plain_labels
from seg_core.model_spec import Grid, ModelSpec, Normalisation
from seg_core.nifti import read_labels, read_volume
from seg_core.output import write_whole
from trainers.config import IGNORED
from trainers.masks import MaskOptions, Overlap

SCHEMA = 1
INDEX = "dataset.json"
FILES = ("scan.nii.gz", "mask.nii.gz", "mask.json", "quality.png", "quality.json")


@dataclass(frozen=True)
class DatasetSubject:
    """A subject's record; nothing in it comes from the patient's headers.

    Parameters
    ----------
    name : str
        Also its folder's.
    key : str
        Hash of all that went into scan and mask.
    shape : tuple of int
        Of scan and mask (i, j, k).
    affine : tuple of tuple of float
        Voxel index to RAS+ mm, 4 x 4.
    scan : mapping
        How the scan was read.
    labels : mapping of int to str
        Names of the mask's values.
    side : {"right", "left", "both"}
        What was labelled.
    overlaps : mapping of str to int
        Voxels that two structures claimed.
    ignored : int
        Voxels that nobody labelled.
    odd : tuple of str
        What the quality page says.
    hip_slice : int or None
        Stored slice where the hip begins, if it was given.
    sha256 : mapping of str to str
        Of the subject's files.
    overlap_rule : {"background", "priority"} or None
        What these voxels became; None where an earlier version made the subject and did not say it.
    shafts_mm : mapping of str to float, or None
        How thick shafts are, see `seg_core.apparent_size`; None where an earlier version did not say it.
    """

    name: str
    key: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    scan: Mapping[str, Any]
    labels: Mapping[int, str]
    side: str
    overlaps: Mapping[str, int]
    ignored: int
    odd: tuple[str, ...]
    hip_slice: int | None
    sha256: Mapping[str, str]
    overlap_rule: Overlap | None = None
    shafts_mm: Mapping[str, float] | None = None

    @property
    def geometry(self) -> Geometry:
        """Where scan and mask lie."""
        return Geometry(self.shape, np.array(self.affine))


@dataclass(frozen=True)
class Dataset:
    """Labelled scans, prepared.

    Parameters
    ----------
    folder : Path
        Where they are.
    classes : tuple of str
        Names of the network's values 1, 2, ..., without sides.
    sided : bool
        Whether each is a pair, right and left.
    grid, normalisation
        How slices are prepared, as a model's description says it.
    tolerance : int
        Slices that are kept beyond the first labelled one, towards the head; -1 keeps all.
    subjects : tuple of DatasetSubject
    masks : MaskOptions
        How labels were put together last, and will be of subjects that are added.
    other_side : {"ignore", "crop"}
        What became of a side that nobody labelled, likewise.
    usual_mm : mapping of str to float
        Smaller people are magnified, see `seg_core.model_spec.ModelSpec`.
    """

    folder: Path
    classes: tuple[str, ...]
    sided: bool
    grid: Grid
    normalisation: Normalisation
    tolerance: int = 50
    subjects: tuple[DatasetSubject, ...] = field(default=())
    masks: MaskOptions = field(default_factory=MaskOptions)
    other_side: Literal["ignore", "crop"] = "ignore"
    usual_mm: Mapping[str, float] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """The folder of the slices."""
        return self.folder / "cache"

    @property
    def spec(self) -> ModelSpec:
        """What a network trained on this dataset must say of its input; one channel."""
        return ModelSpec(
            "dataset",
            self.classes,
            self.sided,
            channels=1,
            grid=self.grid,
            normalisation=self.normalisation,
            usual_mm=self.usual_mm,
        )

    def size(self, subject: DatasetSubject) -> float:
        """Return how large a subject seems, of a usual person; 1 where nobody is magnified."""
        return apparent_size(subject.shafts_mm or {}, self.usual_mm)

    def subject(self, name: str) -> DatasetSubject:
        """Return a subject's record.

        Raises
        ------
        UsageError
            If there is none of that name.
        """
        for subject in self.subjects:
            if subject.name == name:
                return subject
        names = ", ".join(s.name for s in self.subjects)
        raise UsageError(f"no subject {name} in {self.folder}", f"one of {names or 'none'}")

    def scan(self, name: str) -> Volume:
        """Read a subject's scan, intensities as they were."""
        return read_volume(self.folder / self.subject(name).name / "scan.nii.gz")

    def mask(self, name: str) -> LabelMap:
        """Read a subject's mask, sided where the sides are known; ``IGNORED`` where nobody labelled."""
        subject = self.subject(name)
        return read_labels(self.folder / name / "mask.nii.gz", subject.labels)

    def class_mask(self, name: str) -> LabelMap:
        """Read a subject's mask as the network's classes, right and left alike."""
        mask = self.mask(name)
        classes = class_table(len(self.classes))[mask.array]
        return LabelMap(classes, mask.geometry, plain_labels(self.classes))


def class_table(classes: int) -> npt.NDArray[np.uint8]:
    """Return value of a mask -> class (256,); 0 and ``IGNORED`` stay."""
    table = np.zeros(256, np.uint8)
    value = np.arange(1, 2 * classes + 1)
    table[value] = (value - 1) % classes + 1
    table[IGNORED] = IGNORED
    return table


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a dataset."""
    return (Path(folder) / INDEX).is_file()


def open_dataset(folder: Path) -> Dataset:
    """Read a dataset's index.

    Raises
    ------
    ScanError
        If the folder holds none, or one of another schema, or it cannot be read.
    """
    folder = Path(folder)
    try:
        raw = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if raw.pop("schema") != SCHEMA:
            raise ScanError(f"{folder}: a dataset of another schema", fix="prepare it again")
        grid, subjects = raw.pop("grid"), raw.pop("subjects")
        return Dataset(
            folder,
            tuple(raw.pop("classes")),
            grid=Grid(**grid | {name: tuple(grid[name]) for name in ("size", "spacing_mm")}),
            normalisation=Normalisation(**raw.pop("normalisation")),
            subjects=tuple(_subject(record) for record in subjects),
            masks=MaskOptions(**raw.pop("masks", {})),  # earlier versions did not say them
            **raw,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScanError(
            f"{folder} holds no dataset: {error}", f"a folder with {INDEX}", "make one with lls prepare"
        ) from error


def _subject(record: dict[str, Any]) -> DatasetSubject:
    return DatasetSubject(
        **record
        | {
            "shape": tuple(record["shape"]),
            "affine": tuple(map(tuple, record["affine"])),
            "labels": {int(value): name for value, name in record["labels"].items()},
            "odd": tuple(record["odd"]),
        }
    )


def write_index(dataset: Dataset) -> None:
    """Write ``dataset.json``, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    content = {"schema": SCHEMA} | {key: value for key, value in asdict(dataset).items() if key != "folder"}
    write_whole(dataset.folder / INDEX, json.dumps(content, indent=1, allow_nan=False) + "\n")
