"""Correct a label map: strokes in planes, fill between slices, undo and redo, a new file at the end."""

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from seg_core.errors import UsageError
from seg_core.geometry import LabelMap
from seg_core.planes import PLANES, Plane, Planes

Mask = npt.NDArray[np.bool_]
HISTORY_BYTES = 256 << 20
"""What undo may hold; the oldest edits are forgotten beyond it."""
_MOST_POINTS, _WIDEST_MM = 20_000, 200.0


@dataclass(frozen=True)
class Stroke:
    """A line drawn with a round brush in one plane.

    Parameters
    ----------
    plane : {"axial", "coronal", "sagittal"}
        Where it was drawn.
    level : int
        Which plane, see :class:`seg_core.planes.Planes`.
    points : sequence of (column, row)
        In pixels of the plane, whole numbers at the centres.
    radius_mm : float
        Of the brush. The pixel below each point is always painted.
    value : int
        The bone.
    erase : bool
        Whether the bone is taken away instead; others stay.
    over : bool
        Whether other bones are painted over; else only the background is.
    """

    plane: Plane
    level: int
    points: Sequence[tuple[float, float]]
    radius_mm: float
    value: int
    erase: bool = False
    over: bool = False

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> "Stroke":
        """Check what a browser sent; what is not a stroke raises a UsageError."""
        try:
            points = [(float(column), float(row)) for column, row in message["points"]]
            stroke = cls(
                message["plane"],
                int(message["level"]),
                points,
                float(message["radius_mm"]),
                int(message["value"]),
                bool(message.get("erase", False)),
                bool(message.get("over", False)),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"a stroke that cannot be read: {error}", "plane, level, points, ...") from error
        if stroke.plane not in PLANES:
            raise UsageError(f"a stroke in plane {stroke.plane!r}", f"one of {', '.join(PLANES)}")
        if not 0 < len(points) <= _MOST_POINTS or not np.isfinite(points).all():
            raise UsageError(f"a stroke of {len(points)} points", f"1 to {_MOST_POINTS} finite ones")
        if not 0 <= stroke.radius_mm <= _WIDEST_MM:
            raise UsageError(f"a brush of {stroke.radius_mm:g} mm", f"0 to {_WIDEST_MM:g} mm")
        return stroke


@dataclass(frozen=True, eq=False)
class _Patch:
    """What changed in one plane: the pixels, their labels before and after."""

    plane: Plane
    level: int
    where: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
    before: npt.NDArray[np.uint8]
    after: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Edit:
    """One step of undo; the plane and bone of a stroke are what fill between slices goes by."""

    number: int
    patches: tuple[_Patch, ...]
    stroke: tuple[Plane, int, int] | None = None

    @property
    def bytes(self) -> int:
        return sum(10 * len(patch.before) + 200 for patch in self.patches)


@dataclass(eq=False)
class Painting:
    """A label map that is being corrected; the one that it began with is left alone.

    Parameters
    ----------
    original : LabelMap
        Labels on any grid, in any memory order.

    Attributes
    ----------
    array : ndarray of uint8, (i, j, k)
        The labels as they are now, on the same grid.
    version : int
        Grows with every change, undo and redo.
    changed_at : dict of int to int
        Label -> the version at which voxels last became or ceased to be it.
    """

    original: LabelMap
    array: npt.NDArray[np.uint8] = field(init=False)
    version: int = field(default=0, init=False)
    changed_at: dict[int, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.array = self.original.array.copy(order="K")
        self._planes = Planes(self.original.geometry)
        self._done: deque[_Edit] = deque()
        self._undone: list[_Edit] = []
        self._count = 0
        self._saved = 0
        self._floor = 0  # the number of the newest edit that undo has forgotten

    @property
    def labelmap(self) -> LabelMap:
        """The labels as they are now; a view, which further strokes change."""
        return LabelMap(self.array, self.original.geometry, self.original.labels)

    @property
    def can_undo(self) -> bool:
        """Whether there is something to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether something was taken back and nothing drawn since."""
        return bool(self._undone)

    @property
    def unsaved(self) -> bool:
        """Whether the labels are others than at the beginning or the last :meth:`mark_saved`."""
        return self._state != self._saved

    def mark_saved(self) -> None:
        """Say that the labels as they are now have been written."""
        self._saved = self._state

    def apply(self, stroke: Stroke) -> int:
        """Paint or erase; return how many voxels changed.

        Raises
        ------
        UsageError
            If the scan has no such plane or the label map no such bone.
        """
        self._check_value(stroke.value)
        pixels = self._planes.cut(self.array, stroke.plane, stroke.level)
        mask = brush(pixels.shape, stroke.points, stroke.radius_mm, self._planes.pixel_mm(stroke.plane))
        allowed = pixels == stroke.value if stroke.erase else (pixels == 0) | stroke.over
        new = np.where(mask & allowed, 0 if stroke.erase else stroke.value, pixels)
        patch = _difference(stroke.plane, stroke.level, pixels, new.astype(np.uint8))
        return self._do([patch], (stroke.plane, stroke.level, stroke.value))

    def painted_levels(self, plane: Plane, value: int) -> list[int]:
        """Return the planes where strokes changed a bone, those of undone strokes not."""
        return sorted({e.stroke[1] for e in self._done if e.stroke and e.stroke[::2] == (plane, value)})

    def fill_between(self, plane: Plane, value: int, over: bool = False) -> int:
        """Draw a bone anew between the planes where strokes changed it; return how many voxels changed.

        Between two such planes the bone becomes :func:`between` of its shapes in them; the planes themselves
        stay. Where the bone is not in one of the two, nothing is done.

        Raises
        ------
        UsageError
            If there are no two planes with strokes and a plane between them.
        """
        self._check_value(value)
        levels = self.painted_levels(plane, value)
        gaps = [(a, b) for a, b in itertools.pairwise(levels) if b - a > 1]
        if not gaps:
            raise UsageError(
                f"{self.original.labels[value]} was painted on {len(levels)} {plane} slices, none between",
                "strokes on two slices that lie apart",
                "correct the bone on two slices, and fill what is between",
            )
        patches = []
        for first, last in gaps:
            a, b = (self._planes.cut(self.array, plane, n) == value for n in (first, last))
            if not (a.any() and b.any()):
                continue
            for level in range(first + 1, last):
                mask = between(a, b, (level - first) / (last - first), self._planes.pixel_mm(plane))
                pixels = self._planes.cut(self.array, plane, level)
                new = np.where(pixels == value, 0, pixels)
                new[mask & ((new == 0) | over)] = value
                patches.append(_difference(plane, level, pixels, new.astype(np.uint8)))
        return self._do(patches)

    def undo(self) -> bool:
        """Take the last edit back, bit for bit; False if there is none."""
        if not self._done:
            return False
        edit = self._done.pop()
        for patch in edit.patches:
            self._put(patch, patch.before)
        self._note(edit)
        self._undone.append(edit)
        return True

    def redo(self) -> bool:
        """Do again what was taken back; False if there is nothing."""
        if not self._undone:
            return False
        edit = self._undone.pop()
        self._write(edit)
        self._done.append(edit)
        return True

    @property
    def _state(self) -> int:
        return self._done[-1].number if self._done else self._floor

    def _check_value(self, value: int) -> None:
        if value not in self.original.labels:
            raise UsageError(f"label {value}", f"one of {sorted(self.original.labels)}")

    def _do(self, patches: Sequence[_Patch], stroke: tuple[Plane, int, int] | None = None) -> int:
        changed = tuple(patch for patch in patches if len(patch.before))
        if not changed:
            return 0
        self._count += 1
        edit = _Edit(self._count, changed, stroke)
        self._write(edit)
        self._done.append(edit)
        self._undone.clear()
        while len(self._done) > 1 and sum(e.bytes for e in self._done) > HISTORY_BYTES:
            self._floor = self._done.popleft().number
        return sum(len(patch.before) for patch in changed)

    def _write(self, edit: _Edit) -> None:
        for patch in edit.patches:
            self._put(patch, patch.after)
        self._note(edit)

    def _put(self, patch: _Patch, values: npt.NDArray[np.uint8]) -> None:
        self._planes.cut(self.array, patch.plane, patch.level)[patch.where] = values

    def _note(self, edit: _Edit) -> None:
        self.version += 1
        both = np.concatenate([part for patch in edit.patches for part in (patch.before, patch.after)])
        self.changed_at |= {int(value): self.version for value in np.unique(both) if value}


def brush(
    shape: tuple[int, ...],
    points: Sequence[tuple[float, float]],
    radius_mm: float,
    pixel_mm: tuple[float, float],
) -> Mask:
    """Return which pixels a round brush covers that is drawn along points.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    points : sequence of (column, row)
        In pixels, whole numbers at the centres; may lie outside.
    radius_mm : float
        A pixel is covered if its centre lies within this distance of the line.
    pixel_mm : tuple of float
        Millimetres a row and a column.

    Returns
    -------
    ndarray of bool, (row, column)
        With the pixel below each point, however thin the brush.
    """
    mask = np.zeros(shape, dtype=bool)
    line = np.array(points, dtype=np.float64)[:, ::-1]  # (row, column)
    mm = np.asarray(pixel_mm)
    ends = np.vstack([line, line[-1:]])  # a single point is a line too
    for a, b in itertools.pairwise(ends):
        low = np.clip(np.ceil(np.minimum(a, b) - radius_mm / mm), 0, shape).astype(int)
        high = np.clip(np.floor(np.maximum(a, b) + radius_mm / mm) + 1, low, shape).astype(int)
        rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
        y, x = (rows - a[0]) * mm[0], (columns - a[1]) * mm[1]
        dy, dx = (b - a) * mm
        length2 = dy * dy + dx * dx
        t = np.clip((y * dy + x * dx) / length2, 0, 1) if length2 > 0 else 0.0
        near = np.hypot(y - t * dy, x - t * dx) <= radius_mm + 1e-9
        mask[low[0] : high[0], low[1] : high[1]] |= near
    below = np.floor(line + 0.5).astype(np.int64)
    below = below[((below >= 0) & (below < shape)).all(axis=1)]
    mask[below[:, 0], below[:, 1]] = True
    return mask


def between(first: Mask, last: Mask, part: float, pixel_mm: tuple[float, float]) -> Mask:
    """Return the shape that lies between two shapes.

    Their signed distances, positive inside, are laid centre on centre and weighted (shape-based
    interpolation: S. P. Raya and J. K. Udupa, IEEE Transactions on Medical Imaging 9(1), 1990; the shift of
    centres keeps bones whole that run obliquely through the slices).

    Parameters
    ----------
    first, last : ndarray of bool, (row, column)
        The shapes; neither empty.
    part : float
        How far from the first to the last, 0 to 1.
    pixel_mm : tuple of float
        Millimetres a row and a column.
    """
    shapes = (first, last)
    centres = [np.argwhere(shape).mean(axis=0) for shape in shapes]
    centre = centres[0] * (1 - part) + centres[1] * part
    moved = [ndimage.shift(s, centre - c, order=0) for s, c in zip(shapes, centres, strict=True)]
    box = _box_around([*shapes, *moved])
    half = min(pixel_mm) / 2
    total = np.zeros([side.stop - side.start for side in box])
    for shape, own, weight in zip(shapes, centres, (1 - part, part), strict=True):
        inside, outside = shape[box], ~shape[box]
        distance = ndimage.distance_transform_edt
        # From centre to centre; the border lies half a pixel before.
        signed = distance(inside, pixel_mm) - distance(outside, pixel_mm) + half * (1.0 * outside - inside)
        total += weight * ndimage.shift(signed, centre - own, order=1, mode="nearest")
    result = np.zeros(first.shape, dtype=bool)
    result[box] = total > 0
    return result


def _box_around(masks: Sequence[Mask]) -> tuple[slice, slice]:
    """Return rows and columns of all the masks with a margin of two pixels."""
    union = np.logical_or.reduce(masks)
    sides = []
    for axis in (0, 1):
        hit = np.flatnonzero(union.any(axis=1 - axis))
        sides.append(slice(max(0, int(hit[0]) - 2), int(hit[-1]) + 3))
    return (
        slice(sides[0].start, min(sides[0].stop, union.shape[0])),
        slice(sides[1].start, min(sides[1].stop, union.shape[1])),
    )


def _difference(plane: Plane, level: int, old: npt.NDArray[np.uint8], new: npt.NDArray[np.uint8]) -> _Patch:
    rows, columns = (index.astype(np.int32) for index in np.nonzero(old != new))
    return _Patch(plane, level, (rows, columns), old[rows, columns], new[rows, columns])


def write_correction(labelmap: LabelMap, folder: Path, name: str, kind: str = "corrected") -> Path:
    """Write a corrected label map with its table under a name that is free; nothing is replaced.

    Parameters
    ----------
    labelmap : LabelMap
        Labels on the scan's grid.
    folder : Path
        Made where it is missing, but not the one above it: a result that was deleted does not come back.
    name : str
        What the file's name begins with: ``<name>_desc-corrected_dseg.nii.gz``, then ``corrected2`` ...
    kind : str
        Said in its place: ``corrected``, or ``recovered`` where nobody has pressed the button.

    Raises
    ------
    UsageError
        If the name leads elsewhere.
    OutputError
        If it cannot be written.
    """
    from seg_core.nifti import write_label_table, write_labels
    from seg_core.output import output_error

    if Path(name).name != name or "\\" in name:
        raise UsageError(f"the name {name!r}", "a plain file name")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(error, folder) from error
    number = 1
    while (path := folder / f"{name}_desc-{kind}{number if number > 1 else ''}_dseg.nii.gz").exists():
        number += 1
    write_label_table(path.with_name(path.name.replace(".nii.gz", ".json")), labelmap.labels)
    write_labels(path, labelmap)
    return path
