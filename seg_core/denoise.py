"""The adaptive denoiser (report 4.7): small pieces go and holes close, slice by slice; then loose parts go.

A piece is judged by its own class in its own slice, so that the fibula is not judged by the tibia.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.components import IntArray, Labels, find_components, find_root, link_lines, unite
from seg_core.errors import UsageError
from seg_core.kernel import inner_kernel, kernel
from seg_core.memory_order import as_words, end_of_run
from seg_core.model_spec import Denoise

_OPEN = 256  # a hole that reaches the border of the slice or touches several classes


@dataclass(frozen=True, eq=False)
class Removed:
    """What the denoiser changed, for each class; index 0 (background) stays 0.

    Parameters
    ----------
    components : ndarray of int64, (n_classes + 1,)
        Number of pieces that became background.
    voxels : ndarray of int64, (n_classes + 1,)
        How many voxels they had.
    filled : ndarray of int64, (n_classes + 1,)
        Voxels of holes that became the class.
    """

    components: IntArray
    voxels: IntArray
    filled: IntArray

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(
            self.components + other.components, self.voxels + other.voxels, self.filled + other.filled
        )


def denoise_slices(labels: Labels, n_classes: int, params: Denoise) -> tuple[Labels, Removed]:
    """Remove small pieces from each slice and fill holes.

    A connected piece of a class with fewer pixels than ``max(fraction * pixels of that class in the slice,
    minimum_pixels)`` becomes background. Then holes, background that does not reach the border of the slice,
    become the class around them (the marrow in a ring of cortex). A hole that touches several classes is
    left: between femur and pelvis, or tibia and fibula, it is cartilage or muscle. Holes are connected by 4
    neighbours where pieces are by 8, and by 8 where pieces are by 4 (as in digital topology).

    Parameters
    ----------
    labels : ndarray of uint8, (slice, row, column), any memory order
        Classes 0 to ``n_classes``. May be empty. Slices do not influence each other.
    n_classes : int
        Number of classes without the background.
    params : Denoise
        ``volume_fraction`` is not used.

    Returns
    -------
    ndarray of uint8
        Cleaned copy, in the same memory order.
    Removed
        Counts over all slices.

    Raises
    ------
    UsageError
        If the array's type, number of axes or a value is another.
    """
    _check(labels, n_classes)
    cleaned = labels.copy(order="C")
    counts = np.zeros((3, n_classes + 1), np.int64)
    least = float(params.fraction), float(params.minimum_pixels)
    memory = cleaned, cleaned.reshape(-1), as_words(cleaned)
    room = _room(cleaned.shape, n_classes)
    highest = _denoise(memory, room, *least, int(params.connectivity == 8), params.fill_holes, counts)
    _check_values(highest, n_classes)
    if labels.flags.c_contiguous:
        return cleaned, Removed(*counts)
    result = np.empty_like(labels)
    result[...] = cleaned
    return result, Removed(*counts)


def denoise_volume(
    labels: Labels, n_classes: int, fraction: float, overwrite: bool = False
) -> tuple[Labels, Removed]:
    """Remove the components of a class that are far smaller than its largest one.

    The share is that of the class's largest component, not of all its voxels: networks know bones and not
    sides, so that the right and the left tibia are two large components of one class, and both stay.

    Parameters
    ----------
    labels : ndarray of uint8, (i, j, k), any memory order
        Classes 0 to ``n_classes``. May be empty.
    n_classes : int
        Number of classes without the background.
    fraction : float
        A component (26 neighbours) with less than this share of the largest one's voxels becomes background.
    overwrite : bool
        Whether to clean ``labels`` itself, which saves memory.

    Returns
    -------
    ndarray of uint8
        Cleaned copy, in the same memory order; or ``labels``.
    Removed
        Counts; nothing is filled.

    Raises
    ------
    UsageError
        If the array's type, number of axes or a value is another.
    """
    _check(labels, n_classes)
    components = find_components(labels, 26)
    _check_values(int(components.labels.max(initial=0)), n_classes)
    largest = np.zeros(n_classes + 1, np.int64)
    np.maximum.at(largest, components.labels, components.sizes)
    drop = components.sizes < fraction * largest[components.labels]
    classes, sizes = components.labels[drop], components.sizes[drop]
    counts = np.zeros((3, n_classes + 1), np.int64)
    np.add.at(counts[0], classes, 1)
    np.add.at(counts[1], classes, sizes)
    return components.remove(labels, drop, overwrite), Removed(*counts)


def _check(labels: npt.NDArray[np.uint8], n_classes: int) -> None:
    if labels.dtype != np.uint8 or labels.ndim != 3:
        raise UsageError(f"labels of {labels.dtype} with {labels.ndim} axes", "uint8 with 3 axes")
    if not 1 <= n_classes <= 255:
        raise UsageError(f"{n_classes} classes", "1 to 255")


def _check_values(highest: int, n_classes: int) -> None:
    if highest > n_classes:
        raise UsageError(f"label value {highest}", f"at most {n_classes}, the number of classes")


def _room(shape: tuple[int, ...], n_classes: int) -> tuple[npt.NDArray[Any], ...]:
    """Return arrays for a slice's runs: their offsets, starts, ends, classes, parents; and two to count in.

    There is room for a slice of nothing but runs of one pixel: what is not written takes no memory. A kernel
    that makes its arrays itself takes longer to compile.
    """
    pixels = shape[1] * shape[2]
    runs = [np.empty(pixels, dtype) for dtype in (np.int32, np.int32, np.uint8, np.int32, np.int32)]
    return np.zeros(shape[1] + 1, np.int64), *runs, np.empty(n_classes + 1, np.int64)


@kernel
def _denoise(memory, room, fraction, minimum, reach, fill, counts):  # type: ignore[no-untyped-def]
    """Clean the slices in place; return the highest value, beyond the classes' if one is (then stop).

    ``memory``: the slices, the same as flat pixels, and eight of these at a time.
    """
    stack, pixels, words = memory
    offsets, starts, ends, classes, parent, extra, total = room
    runs = (offsets, starts, ends, classes, parent)
    slices, rows, columns = stack.shape
    for s in range(slices):
        highest = _encode(pixels, words, s * rows * columns, columns, runs)
        if highest >= total.size:
            return highest
        if highest == 0:
            continue
        image = stack[s]
        if fraction > 0 or minimum > 0:
            _remove_small(image, runs, (extra, total), (fraction, minimum), reach, counts)
        if fill:
            _mark_holes(rows, runs, extra, 1 - reach)
            _fill_holes(image, runs, extra, counts)
    return 0


@inner_kernel
def _encode(pixels, words, first, columns, runs):  # type: ignore[no-untyped-def]
    """Cut each row of the slice that begins at ``first`` into runs of one value, background too.

    Returns the highest value.
    """
    offsets, starts, ends, classes, parent = runs
    run, highest = 0, 0
    for r in range(offsets.size - 1):
        row = first + r * columns
        stop = row + columns
        at = row
        while at < stop:
            value = pixels[at]
            if value > highest:
                highest = value
            starts[run], classes[run], parent[run] = at - row, value, run
            at = end_of_run(pixels, words, at, stop)
            ends[run] = at - row
            run += 1
        offsets[r + 1] = run
    return highest


@inner_kernel
def _remove_small(image, runs, room, least, reach, counts):  # type: ignore[no-untyped-def]
    """Unite the pieces, and make the small ones background, in the image and in the runs."""
    offsets, starts, ends, classes, parent = runs
    sizes, total = room
    rows = offsets.size - 1
    for value in range(total.size):
        total[value] = 0
    for r in range(1, rows):
        lines = (offsets[r - 1], offsets[r], offsets[r], offsets[r + 1])
        link_lines(starts, ends, classes, parent, lines, reach)
    for run in range(offsets[rows]):
        sizes[run] = 0
    for run in range(offsets[rows]):
        sizes[find_root(parent, run)] += ends[run] - starts[run]
        total[classes[run]] += ends[run] - starts[run]
    for r in range(rows):
        for run in range(offsets[r], offsets[r + 1]):
            value, root = classes[run], parent[run]
            # A root comes before its runs: its class may be 0 by now, its size is still the piece's.
            small = sizes[root] < least[0] * total[value] or sizes[root] < least[1]
            if value == 0 or not small:
                continue
            counts[0, value] += root == run
            counts[1, value] += ends[run] - starts[run]
            _paint(image, r, starts[run], ends[run], 0)
            classes[run] = 0
    for run in range(offsets[rows]):
        parent[run] = run


@inner_kernel
def _paint(image, row, start, end, value):  # type: ignore[no-untyped-def]
    for column in range(start, end):
        image[row, column] = value


@inner_kernel
def _mark_holes(rows, runs, around, reach):  # type: ignore[no-untyped-def]
    """Unite the background; ``around`` becomes the one class that a run of it touches, 0, or _OPEN.

    The first and last run of a row, and all of the first and last row, reach the border. They are open, and
    need neither a mark nor to be united: others that touch them become _OPEN.
    """
    offsets, starts, ends, classes, parent = runs
    for r in range(1, rows - 1):
        before, after = offsets[r - 1], offsets[r + 1]
        for run in range(offsets[r] + 1, offsets[r + 1] - 1):
            if classes[run] != 0:
                continue
            around[run] = 0
            # beside it lies background too where a piece was removed
            _meet(run, run - 1, run - 1 == offsets[r], classes, parent, around)
            _touch(around, run, classes[run + 1])
            if classes[run + 1] == 0 and run + 2 == offsets[r + 1]:
                around[run] = _OPEN
            while before < offsets[r] and ends[before] + reach <= starts[run]:
                before += 1
            other = before
            while other < offsets[r] and starts[other] < ends[run] + reach:
                edge = r == 1 or other == offsets[r - 1] or other + 1 == offsets[r]
                _meet(run, other, edge, classes, parent, around)
                other += 1
            while after < offsets[r + 2] and ends[after] + reach <= starts[run]:
                after += 1
            other = after
            while other < offsets[r + 2] and starts[other] < ends[run] + reach:
                edge = r == rows - 2 or other == offsets[r + 1] or other + 1 == offsets[r + 2]
                if classes[other] != 0 or edge:  # else it will meet this run in its own turn
                    _meet(run, other, edge, classes, parent, around)
                other += 1


@inner_kernel
def _meet(run, other, edge, classes, parent, around):  # type: ignore[no-untyped-def]
    """Note that a run of background touches another run, which may reach the border."""
    if classes[other] != 0:
        _touch(around, run, classes[other])
    elif edge or around[other] == _OPEN:
        around[run] = _OPEN
    else:
        unite(parent, other, run)


@inner_kernel
def _touch(around, run, value):  # type: ignore[no-untyped-def]
    if around[run] == 0:
        around[run] = value
    elif value != 0 and around[run] != value:
        around[run] = _OPEN


@inner_kernel
def _fill_holes(image, runs, around, counts):  # type: ignore[no-untyped-def]
    offsets, starts, ends, classes, parent = runs
    rows = image.shape[0]
    for r in range(1, rows - 1):
        for run in range(offsets[r] + 1, offsets[r + 1] - 1):
            if classes[run] == 0:
                _touch(around, find_root(parent, run), around[run])
    for r in range(1, rows - 1):
        for run in range(offsets[r] + 1, offsets[r + 1] - 1):
            if classes[run] != 0:
                continue
            value = around[find_root(parent, run)]
            if 0 < value < _OPEN:
                _paint(image, r, starts[run], ends[run], value)
                counts[2, value] += ends[run] - starts[run]
