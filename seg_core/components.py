"""Connected components of a label map: voxels of one class that touch.

An image is coded as runs (stretches of one class along the axis that is fastest in memory), which are united
by union-find (Wu, Otoo and Suzuki 2009), so time and memory grow with the number of runs, not of voxels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.kernel import inner_kernel, kernel
from seg_core.memory_order import memory_axes

Labels = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# How far two runs may lie apart along the line and still touch: in the line beside (same slice), the line
# straight across (slice before), the lines diagonally across; -1: never.
_REACH = {
    (2, 4): (0, -1, -1),
    (2, 8): (1, -1, -1),
    (3, 6): (0, 0, -1),
    (3, 18): (1, 1, 0),
    (3, 26): (1, 1, 1),
}


@dataclass(frozen=True, eq=False)
class Runs:
    """Stretches of one class along the fastest axis, line by line.

    Parameters
    ----------
    axes : tuple of int
        The array's axes from slowest to fastest in memory.
    shape : tuple of int
        (slices, rows, columns): the array's shape in that order; one slice for a plane.
    offsets : ndarray of int64, (slices * rows + 1,)
        The runs of line ``l`` are ``offsets[l]`` to ``offsets[l + 1] - 1``.
    starts, ends : ndarray of int32, (runs,)
        First column, and the one after the last.
    component : ndarray of int32, (runs,)
        Index of the run's component.
    """

    axes: tuple[int, ...]
    shape: tuple[int, int, int]
    offsets: IntArray
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    component: npt.NDArray[np.int32]

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """Offsets, starts, ends and component, as the kernels take them."""
        return self.offsets, self.starts, self.ends, self.component

    def view(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array of the label map's shape as (slices, rows, columns), without a copy."""
        turned = array.transpose(self.axes)
        return turned if turned.ndim == 3 else turned[None]


@dataclass(frozen=True, eq=False)
class Components:
    """The components of a label map, sorted by class, then from large to small, then by position.

    Parameters
    ----------
    labels : ndarray of uint8, (n,)
        Class of each component.
    sizes : ndarray of int64, (n,)
        Number of voxels.
    boxes : ndarray of int64, (n, axes, 2)
        First index and the one after the last, along the array's own axes.
    centroids : ndarray of float64, (n, axes)
        Mean voxel index along the array's own axes.
    runs : Runs
        Where the voxels are.
    """

    labels: Labels
    sizes: IntArray
    boxes: IntArray
    centroids: npt.NDArray[np.float64]
    runs: Runs

    def remove(self, array: Labels, drop: BoolArray, overwrite: bool = False) -> Labels:
        """Return the label map without the marked components (n,); as `paint`."""
        return self.paint(array, np.where(drop, 0, self.labels).astype(np.uint8), overwrite)

    def paint(self, array: Labels, values: Labels, overwrite: bool = False) -> Labels:
        """Return the label map with a value a component, ``values`` (n,).

        A copy in the same memory order; with ``overwrite`` the array itself, changed: a long scan's labels
        need not lie in memory twice.
        """
        result = array if overwrite else array.copy(order="K")
        _paint(self.runs.view(result), self.runs.arrays, values)
        return result

    def mask(self, index: int) -> BoolArray:
        """Return one component as booleans in its own box, along the array's own axes."""
        runs, box = self.runs, self.boxes[index]
        result: BoolArray = np.zeros(box[:, 1] - box[:, 0], np.bool_)
        corner = [0] * (3 - len(box)) + [int(box[axis, 0]) for axis in runs.axes]
        _fill_mask(runs.view(result), runs.shape[1], runs.arrays, index, tuple(corner))
        return result


def find_components(array: Labels, connectivity: int = 26) -> Components:
    """Find the connected components of all classes at once.

    Parameters
    ----------
    array : ndarray of uint8, (i, j) or (i, j, k), any memory order
        Classes; 0 is background and has no components. May be empty. Not copied.
    connectivity : {4, 8} for a plane, {6, 18, 26} for a volume
        Number of neighbours of a voxel.

    Returns
    -------
    Components

    Raises
    ------
    UsageError
        If the array's type or number of axes, or the connectivity, is another.
    """
    reach = _REACH.get((array.ndim, connectivity))
    if array.dtype != np.uint8 or reach is None:
        raise UsageError(
            f"components of {array.dtype} with {array.ndim} axes, connectivity {connectivity}",
            "uint8, 2 axes with 4 or 8, 3 axes with 6, 18 or 26",
        )
    axes = memory_axes(array)
    view = array.transpose(axes) if array.ndim == 3 else array.transpose(axes)[None]
    offsets, starts, ends, classes = _encode(view)
    parent = np.arange(starts.size, dtype=np.int32)
    _unite(view.shape, offsets, starts, ends, classes, parent, reach)
    count = _number(parent)
    runs = Runs(axes, view.shape, offsets, starts, ends, parent)
    return _describe(runs, classes, count, array.ndim)


def _encode(view: Labels) -> tuple[IntArray, npt.NDArray[np.int32], npt.NDArray[np.int32], Labels]:
    """Return offsets, starts, ends and class of the runs of an array (slices, rows, columns)."""
    offsets = np.zeros(view.shape[0] * view.shape[1] + 1, np.int64)
    _count_runs(view, offsets)
    np.cumsum(offsets, out=offsets)
    starts, ends = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int32)
    classes = np.empty(offsets[-1], np.uint8)
    _fill_runs(view, offsets, starts, ends, classes)
    return offsets, starts, ends, classes


def _describe(runs: Runs, classes: Labels, count: int, ndim: int) -> Components:
    labels, sizes = np.zeros(count, np.uint8), np.zeros(count, np.int64)
    boxes, sums = np.zeros((count, 3, 2), np.int64), np.zeros((count, 3))
    boxes[:, :, 0] = np.iinfo(np.int64).max
    _measure(runs.shape[1], runs.arrays, classes, labels, (sizes, boxes, sums))
    own = np.argsort(runs.axes) + 3 - ndim  # back to the array's own axes
    boxes, centroids = boxes[:, own], sums[:, own] / sizes[:, None]
    order = np.lexsort((*boxes[:, ::-1, 0].T, -sizes, labels))
    rank = np.empty(count, np.int32)
    rank[order] = np.arange(count, dtype=np.int32)
    sorted_runs = Runs(runs.axes, runs.shape, runs.offsets, runs.starts, runs.ends, rank[runs.component])
    return Components(labels[order], sizes[order], boxes[order], centroids[order], sorted_runs)


@inner_kernel
def find_root(parent, node):  # type: ignore[no-untyped-def]
    """Return the root of a node; halves the path on the way."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@inner_kernel
def unite(parent, first, second):  # type: ignore[no-untyped-def]
    """Unite two sets; the smaller root stays, so that the result does not depend on the order."""
    first, second = find_root(parent, first), find_root(parent, second)
    if first < second:
        parent[second] = first
    else:
        parent[first] = second


@inner_kernel
def link_lines(starts, ends, classes, parent, lines, reach):  # type: ignore[no-untyped-def]
    """Unite the runs of two lines that touch and have the same class other than 0.

    ``lines``: first and last + 1 run of the one, and of the other line.
    """
    first, stop = lines[0], lines[1]
    for run in range(lines[2], lines[3]):
        while first < stop and ends[first] + reach <= starts[run]:
            first += 1
        other = first
        while other < stop and starts[other] < ends[run] + reach:
            if classes[other] == classes[run] and classes[run] != 0:
                unite(parent, other, run)
            other += 1


@kernel
def _count_runs(view, offsets):  # type: ignore[no-untyped-def]
    slices, rows, columns = view.shape
    for s in range(slices):
        for r in range(rows):
            count, last = 0, np.uint8(0)
            for c in range(columns):
                value = view[s, r, c]
                count += value != last and value != 0
                last = value
            offsets[s * rows + r + 1] = count


@kernel
def _fill_runs(view, offsets, starts, ends, classes):  # type: ignore[no-untyped-def]
    slices, rows, columns = view.shape
    for line in range(slices * rows):
        run = offsets[line]
        if run == offsets[line + 1]:
            continue
        s, r = line // rows, line % rows
        last = np.uint8(0)
        for c in range(columns):
            value = view[s, r, c]
            if value == last:
                continue
            if last != 0:
                ends[run] = c
                run += 1
            if value != 0:
                starts[run], classes[run] = c, value
            last = value
        if last != 0:
            ends[run] = columns


@kernel
def _unite(shape, offsets, starts, ends, classes, parent, reach):  # type: ignore[no-untyped-def]
    slices, rows, _ = shape
    beside, straight, diagonal = reach
    for s in range(slices):
        for r in range(rows):
            line = s * rows + r
            a, b = offsets[line], offsets[line + 1]
            if a == b:
                continue
            if r > 0:
                link_lines(starts, ends, classes, parent, (offsets[line - 1], a, a, b), beside)
            if s == 0:
                continue
            for step in range(-1, 2):
                far = diagonal if step != 0 else straight
                if far >= 0 and 0 <= r + step < rows:
                    other = line - rows + step
                    link_lines(starts, ends, classes, parent, (offsets[other], offsets[other + 1], a, b), far)


@kernel
def _number(parent):  # type: ignore[no-untyped-def]
    """Replace each run's parent by the number of its component, 0, 1, ...; return how many there are."""
    count = 0
    for run in range(parent.size):
        if parent[run] == run:
            parent[run] = count
            count += 1
        else:  # the parent comes earlier, and holds its number already
            parent[run] = parent[parent[run]]
    return count


@kernel
def _measure(rows, runs, classes, labels, result):  # type: ignore[no-untyped-def]
    offsets, starts, ends, component = runs
    sizes, boxes, sums = result
    for line in range(offsets.size - 1):
        place = (line // rows, line % rows)
        for run in range(offsets[line], offsets[line + 1]):
            c, start, end = component[run], np.int64(starts[run]), np.int64(ends[run])
            length = end - start
            labels[c] = classes[run]
            sizes[c] += length
            for axis in range(2):
                boxes[c, axis, 0] = min(boxes[c, axis, 0], place[axis])
                boxes[c, axis, 1] = max(boxes[c, axis, 1], place[axis] + 1)
                sums[c, axis] += place[axis] * length
            boxes[c, 2, 0] = min(boxes[c, 2, 0], start)
            boxes[c, 2, 1] = max(boxes[c, 2, 1], end)
            sums[c, 2] += 0.5 * (start + end - 1) * length


@kernel
def _paint(view, runs, values):  # type: ignore[no-untyped-def]
    offsets, starts, ends, component = runs
    rows = view.shape[1]
    for line in range(offsets.size - 1):
        for run in range(offsets[line], offsets[line + 1]):
            view[line // rows, line % rows, starts[run] : ends[run]] = values[component[run]]


@kernel
def _fill_mask(view, rows, runs, index, corner):  # type: ignore[no-untyped-def]
    offsets, starts, ends, component = runs
    s0, r0, c0 = corner
    for s in range(view.shape[0]):
        for r in range(view.shape[1]):
            line = (s + s0) * rows + r + r0
            for run in range(offsets[line], offsets[line + 1]):
                if component[run] == index:
                    view[s, r, starts[run] - c0 : ends[run] - c0] = True
