"""Prepared slices in a folder, memory-mapped, that may grow while a training reads it.

::

    images.npy   (slices, rows, columns) uint8 (0..255 = 0..1), float16, or uint32: what the pixels are made
                 of (`trainers.materials`), to be drawn as another scanner would see it each time
    labels.npy   (slices, rows, columns) uint8
    index.json   which slices belong to which subject; written last, so what it names is complete
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from seg_core.errors import ModelError, OutputError, UsageError
from seg_core.output import output_error
from trainers.config import IGNORED, Around

FORMAT_VERSION = 1
STEP = 4
"""Rows and columns from one pixel to the next that is looked at, where a look is enough."""
AIR, AIR_MATERIAL = 0.1, 0
"""What is taken for air: a prepared intensity up to this; a pixel that is mostly this material."""

Place = tuple[slice, slice]
"""Rows and columns of a slice."""


@dataclass(frozen=True)
class Subject:
    """A run of slices of one scan, in order.

    Parameters
    ----------
    name : str
        Whose they are; unique in a cache.
    start, stop : int
        First slice, and one past the last.
    spacing_mm : tuple of float
        Distance of rows, columns and slices in mm.
    extra : dict
        Free JSON: how the scan was made.
    size : float
        How large the person seems, of a usual one (`seg_core.apparent_size`): what a network is told of
        distances is divided by this.
    """

    name: str
    start: int
    stop: int
    spacing_mm: tuple[float, float, float]
    extra: dict[str, Any] = field(default_factory=dict)
    size: float = 1.0


@dataclass(frozen=True)
class CacheIndex:
    """What a cache holds.

    Parameters
    ----------
    shape : tuple of int
        (rows, columns) of every slice.
    classes : tuple of str
        Names of the values 1, 2, ...
    image_dtype : {"uint8", "float16", "uint32"}
        How intensities in [0, 1] are stored; uint32: mixtures of materials.
    meta : dict
        Free JSON about all subjects, e.g. how slices were prepared.
    subjects : tuple of Subject
        In the order of their slices.
    """

    shape: tuple[int, int]
    classes: tuple[str, ...]
    image_dtype: str = "uint8"
    meta: dict[str, Any] = field(default_factory=dict)
    subjects: tuple[Subject, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) != 2 or any(n < 32 or n % 16 for n in self.shape):
            raise UsageError(f"slices of {self.shape} pixels", "rows and columns that are multiples of 16")
        if self.image_dtype not in ("uint8", "float16", "uint32"):
            raise UsageError(f"images of type {self.image_dtype!r}", "uint8, float16 or uint32")

    @property
    def slices(self) -> int:
        """Number of slices."""
        return self.subjects[-1].stop if self.subjects else 0

    def to_json(self) -> str:
        """Return the index as JSON."""
        return json.dumps({"format_version": FORMAT_VERSION} | asdict(self), indent=1, allow_nan=False)


def read_index(folder: Path) -> CacheIndex:
    """Read a cache's index.

    Raises
    ------
    ModelError
        If there is none, or it cannot be read.
    """
    try:
        raw = json.loads((Path(folder) / "index.json").read_text(encoding="utf-8"))
        if raw.pop("format_version") != FORMAT_VERSION:
            raise ModelError(f"{folder}: a cache of another format", "make the cache again")
        subjects = tuple(Subject(**s | {"spacing_mm": tuple(s["spacing_mm"])}) for s in raw.pop("subjects"))
        shape, classes = tuple(raw.pop("shape")), tuple(raw.pop("classes"))
        return CacheIndex(shape, classes, subjects=subjects, **raw)
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} holds no cache of slices: {error}",
            "images.npy, labels.npy and index.json",
            "name a dataset that `lls prepare` made",
        ) from error


class SliceCache:
    """The slices that a folder holds at the moment of opening, or those of some of its subjects.

    Parameters
    ----------
    folder : Path
        Of a `SliceCacheWriter`, which may still be appending: open again to see more.
    subjects : sequence of str, optional
        Names of the only subjects that are seen, in the order in which they are stored; all by default.

    Attributes
    ----------
    index : CacheIndex
        Of what is seen: its slices are counted from 0 without gaps.
    first, last : ndarray of int64, (slices,)
        First and last slice of the subject that a slice belongs to.

    Raises
    ------
    ModelError
        If there is no cache, or it cannot be read.
    UsageError
        If the cache has no subject of a name, or no subject is wanted.
    """

    def __init__(self, folder: Path, subjects: Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        stored = read_index(self.folder)
        shape = (stored.slices, *stored.shape)
        self._images = _open(self.folder / "images.npy", stored.image_dtype, shape)
        self._labels = _open(self.folder / "labels.npy", "uint8", shape)
        wanted = stored.subjects if subjects is None else _chosen(stored, subjects)
        self._rows = np.array([row for s in wanted for row in range(s.start, s.stop)], dtype=np.int64)
        lengths = np.array([s.stop - s.start for s in wanted], dtype=np.int64)
        stops = np.cumsum(lengths)
        seen = zip(wanted, (stops - lengths).tolist(), stops.tolist(), strict=True)
        self.index = replace(stored, subjects=tuple(replace(s, start=a, stop=b) for s, a, b in seen))
        self.first = np.repeat(stops - lengths, lengths)
        self.last = np.repeat(stops - 1, lengths)
        self._shown: npt.NDArray[np.bool_] | None = None
        self._slice_mm = np.repeat([s.spacing_mm[2] for s in wanted], lengths)
        self._size = np.repeat([s.size for s in wanted], lengths)

    def __len__(self) -> int:
        return self.index.slices

    def has_labels(self) -> bool:
        """Whether a pixel of any slice is labelled; reads no further than the first one."""
        planes = (self._labels[row] for row in self._rows)
        return any(bool(((plane > 0) & (plane != IGNORED)).any()) for plane in planes)

    def batch(
        self,
        slices: npt.NDArray[np.int64],
        around: Around | None = None,
        seeds: npt.NDArray[np.int64] | None = None,
        places: Sequence[Place] | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Copy some slices.

        Parameters
        ----------
        slices : ndarray of int64, (n,)
            Which.
        around : Around, optional
            What fills the channels; the slice alone by default.
        seeds : ndarray of int64, (n, any), optional
            Of materials' looks; by default the slices' own numbers, so that each looks the same every time.
        places : sequence of (slice, slice), optional
            Rows and columns of each slice, of one size; all of it by default.

        Returns
        -------
        images : ndarray of float32, (n, channels, rows, columns)
            In [0, 1].
        labels : ndarray of uint8, (n, rows, columns)
        """
        around = around or Around()
        offsets = np.arange(around.channels) - around.channels // 2
        wanted = slices[:, None] + offsets * self._strides(around.mm)[slices, None]
        wanted = np.clip(wanted, self.first[slices, None], self.last[slices, None])
        where = [(slice(None), slice(None))] * len(slices) if places is None else places
        labels = np.stack([self._labels[self._rows[n], *at] for n, at in zip(slices, where, strict=True)])
        rows = [self._rows[channels] for channels in wanted]
        stored = np.stack(
            [[self._images[row, *at] for row in some] for some, at in zip(rows, where, strict=True)]
        )
        return _decoded(stored, slices if seeds is None else seeds), labels

    def block(
        self, start: int, stop: int, place: Place = (slice(None), slice(None)), seed: Sequence[int] = (0,)
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Copy slices of one subject that follow one another.

        Parameters
        ----------
        start, stop : int
            First slice and one past the last.
        place : (slice, slice)
            Rows and columns.
        seed : sequence of int
            Of the materials' look, which these slices share.

        Returns
        -------
        images : ndarray of float32, (slices, rows, columns)
            In [0, 1].
        labels : ndarray of uint8, (slices, rows, columns)
        """
        first = int(self._rows[start])
        rows = slice(first, first + stop - start)
        images = _decoded(self._images[rows, *place][None], np.array([seed], np.int64))[0]
        return images, np.array(self._labels[rows, *place])

    def tissue(self, number: int, step: int) -> npt.NDArray[np.bool_]:
        """Return where a slice is no air, of every ``step``-th row and column."""
        stored = self._images[self._rows[number], ::step, ::step]
        if stored.dtype == np.uint32:
            return np.asarray(stored & 255 != AIR_MATERIAL)
        return np.asarray(stored > AIR * (255 if stored.dtype == np.uint8 else 1))

    def labels(self, number: int, step: int) -> npt.NDArray[np.uint8]:
        """Return the labels of every ``step``-th row and column of a slice."""
        return np.asarray(self._labels[self._rows[number], ::step, ::step])

    def shown(self) -> npt.NDArray[np.bool_]:
        """Return which classes each slice shows on every ``STEP``-th row and column (slices, classes)."""
        values = np.arange(1, len(self.index.classes) + 1)
        if self._shown is None:
            there = [np.bincount(self.labels(n, STEP).ravel(), minlength=256) for n in range(len(self))]
            self._shown = np.stack(there)[:, values] > 0
        return self._shown

    def _strides(self, mm: float) -> npt.NDArray[np.int64]:
        """Return `seg_core.prepare.slice_stride` of every slice."""
        return np.maximum(1, np.rint(mm * self._size / self._slice_mm)).astype(np.int64)


def _decoded(stored: npt.NDArray[Any], seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return images (n, channels, rows, columns) as they are stored as float32 in [0, 1]."""
    if stored.dtype == np.uint32:
        from trainers.contrast import paint

        return paint(np.asarray(stored), seeds)
    images = stored.astype(np.float32)
    if stored.dtype == np.uint8:
        images *= np.float32(1 / 255)
    return images


def _chosen(index: CacheIndex, names: Sequence[str]) -> list[Subject]:
    """Return the subjects of these names, in stored order."""
    unknown = set(names) - {s.name for s in index.subjects}
    if unknown or not names:
        raise UsageError(
            f"no slices of {', '.join(sorted(unknown)) or 'any subject'} in the cache",
            f"some of {', '.join(s.name for s in index.subjects) or 'none'}",
        )
    return [s for s in index.subjects if s.name in names]


def _open(path: Path, dtype: str, shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """Map the first slices of an array; the file may already hold more than the index names."""
    if shape[0] == 0:
        return np.zeros(shape, dtype)
    try:
        return np.memmap(path, dtype=dtype, mode="r", offset=_header_bytes(dtype, shape), shape=shape)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: {error}", f"{shape[0]} slices of {shape[1:]}", "make the cache again"
        ) from error


def _header(dtype: str, shape: tuple[int, int, int]) -> bytes:
    """Header of a .npy file; NumPy pads it so that a growing first axis does not change its length."""
    from io import BytesIO

    stream = BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _header_bytes(dtype: str, shape: tuple[int, int, int]) -> int:
    return len(_header(dtype, shape))


class SliceCacheWriter:
    """Appends subjects to a cache; opens an existing one where it ended.

    Parameters
    ----------
    folder : Path
        Made if it is not there. What an interrupted writer left beyond the index is cut off.
    index : CacheIndex
        Shape, classes, type and meta; without subjects.

    Raises
    ------
    OutputError
        If the folder holds a cache of another shape, type or classes, of slices that were prepared otherwise,
        or cannot be written.
    """

    def __init__(self, folder: Path, index: CacheIndex) -> None:
        self.folder = Path(folder)
        if (self.folder / "index.json").exists():
            existing = read_index(self.folder)
            pairs = [(i.shape, i.classes, i.image_dtype) for i in (existing, index)]
            specs = [i.meta.get("spec") for i in (existing, index)]
            if pairs[0] != pairs[1] or (None not in specs and specs[0] != specs[1]):
                raise OutputError(f"{self.folder} holds another kind of cache", fix="name a new folder")
            index = existing
        self.index = index
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files = {
                name: self._start(self.folder / f"{name}.npy", dtype)
                for name, dtype in (("images", index.image_dtype), ("labels", "uint8"))
            }
            self._publish(index)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        with self._writing():
            for file in self._files.values():
                file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise output_error(error, self.folder) from error

    def append(
        self,
        name: str,
        images: npt.NDArray[Any],
        labels: npt.NDArray[np.uint8],
        spacing_mm: tuple[float, float, float],
        extra: dict[str, Any] | None = None,
        size: float = 1.0,
    ) -> None:
        """Add a subject's slices.

        Parameters
        ----------
        name : str
            Whose; not yet in the cache.
        images : ndarray, (slices, rows, columns)
            Floats in [0, 1], or already of the cache's type.
        labels : ndarray of uint8, (slices, rows, columns)
            0 background, 1... the classes; ``IGNORED`` where nobody knows.
        spacing_mm : tuple of float
            Distance of rows, columns and slices.
        extra : dict, optional
            Free JSON.
        size : float
            See `Subject`.

        Raises
        ------
        UsageError
            If the name is taken, or the arrays do not fit the cache.
        OutputError
            If they cannot be written, e.g. on a full disk; earlier subjects stay.
        """
        self._check(name, images, labels)
        start = self.index.slices
        stop = start + len(images)
        subject = Subject(name, start, stop, spacing_mm, extra or {}, size)
        with self._writing():
            self._write("images", encode(images, self.index.image_dtype), stop)
            self._write("labels", np.ascontiguousarray(labels), stop)
            self._publish(CacheIndex(**vars(self.index) | {"subjects": (*self.index.subjects, subject)}))

    def _check(self, name: str, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        if any(s.name == name for s in self.index.subjects):
            raise UsageError(f"a second subject {name!r} in {self.folder}", "one of each name")
        if images.shape != labels.shape or images.shape[1:] != self.index.shape or len(images) == 0:
            raise UsageError(
                f"images of {images.shape} and labels of {labels.shape}",
                f"(slices, *{self.index.shape}) both",
            )
        highest = labels.max(initial=0, where=labels != IGNORED)
        if labels.dtype != np.uint8 or highest > len(self.index.classes):
            raise UsageError(
                f"labels of type {labels.dtype} up to {highest}",
                f"uint8 up to {len(self.index.classes)}, or {IGNORED}",
            )

    def _start(self, path: Path, dtype: str) -> Any:
        """Open an array's file at the end of what the index names, which truncates the rest."""
        shape = (self.index.slices, *self.index.shape)
        file = path.open("r+b" if path.exists() else "w+b")
        header = _header(dtype, shape)
        file.write(header)
        file.truncate(len(header) + int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return file

    def _write(self, name: str, array: npt.NDArray[Any], stop: int) -> None:
        file = self._files[name]
        file.seek(0, os.SEEK_END)
        file.write(array.tobytes())
        file.seek(0)
        file.write(_header(array.dtype.name, (stop, *self.index.shape)))
        file.flush()

    def _publish(self, index: CacheIndex) -> None:
        temporary = self.folder / "index.json.part"
        temporary.write_text(index.to_json(), encoding="utf-8")
        temporary.replace(self.folder / "index.json")
        self.index = index


def encode(images: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Store intensities in [0, 1] as uint8 (rounded, 255 = 1) or float16; the stored type passes through."""
    if images.dtype == np.dtype(dtype):
        return np.ascontiguousarray(images)
    if dtype == "uint32":
        raise UsageError(f"images of {images.dtype}", "mixtures of materials, uint32")
    if dtype == "uint8":
        images = np.rint(np.clip(images, 0, 1) * 255)
    return np.asarray(np.clip(images, 0, 255 if dtype == "uint8" else 1), dtype)
