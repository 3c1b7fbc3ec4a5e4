"""Where the body is in each stretch of slices, so that a network need not look at air."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seg_core.kernel import kernel
from seg_core.memory_order import Array
from seg_core.prepare import SlicePlan
from seg_core.threads import in_parts

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
Span = tuple[int, int]
"""First index and one past the last."""

GROUP = 16
"""Slices that share a view, counted from the first slice of the scan."""
BLOCK_MM = 8.0
"""Edge of the blocks whose mean is compared with air: noise is averaged out, a child's ankle is not."""
AIR = 0.05
"""What is darker than this share of the way from the darkest to the brightest block is air."""
DARK, BRIGHT = 2.0, 99.5
"""Percentiles of all blocks that are taken for the darkest and the brightest."""


@dataclass(frozen=True)
class View:
    """What the network sees of a stretch of slices.

    Parameters
    ----------
    slices : tuple of int
        First slice and one past the last, as the network sees them.
    rows, columns : tuple of int
        Of the network's grid, in multiples of what it wants; nothing in air.
    """

    slices: Span
    rows: Span
    columns: Span

    @property
    def empty(self) -> bool:
        """Whether the slices show air alone."""
        return self.rows[0] == self.rows[1]


def find_views(
    array: Array, plan: SlicePlan, multiple: int, margins_mm: Sequence[float]
) -> Iterator[list[View]]:
    """Find the box around the body for each `GROUP` slices, with one margin after the other.

    The scan alone decides: neither memory nor batch. Means of small blocks are compared with those of air;
    noise that hides the difference, or ghosts, only make a box larger, up to the whole frame.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        The whole scan as it is stored; left alone.
    plan : SlicePlan
        Of this scan and network.
    multiple : int
        What the network's rows and columns must be divisible by. Boxes begin and end at multiples of it, so
        that the network's own coarser grids lie as they do in the whole frame.
    margins_mm : sequence of float
        How far the network sees beyond the body at least.

    Yields
    ------
    list of View
        In order, all slices among them.
    """
    blocks = (_block(plan.spacing_mm[1]), _block(plan.spacing_mm[2]))
    bodies = _bodies(_block_means(plan.oriented(array), blocks), plan)

    def box(body: BoolArray, axis: int, margin_mm: float) -> Span:
        marked = np.flatnonzero(body.any(axis=1 - axis))
        first, last = _reach((marked[0], marked[-1] + 1), blocks[axis], axis, plan, margin_mm)
        return _aligned(first, last, plan.grid[axis], multiple)

    for margin_mm in margins_mm:
        yield [
            View(slices, box(body, 0, margin_mm), box(body, 1, margin_mm))
            if body.any()
            else View(slices, (0, 0), (0, 0))
            for slices, body in bodies
        ]


def _bodies(means: FloatArray, plan: SlicePlan) -> list[tuple[Span, BoolArray]]:
    """Return each `GROUP` slices and the blocks (rows, columns) that show the body there; in air none."""
    dark, bright = np.percentile(means, (DARK, BRIGHT))
    reach = plan.channels // 2 * plan.stride
    bodies = []
    for start in range(0, plan.slices, GROUP):
        stop = min(start + GROUP, plan.slices)
        seen = means[max(start - reach, 0) : stop + reach].max(axis=0)
        level = min(float(seen.max()), float(bright))
        air = level - dark <= AIR * (bright - dark)
        bodies.append(((start, stop), (seen > dark + AIR * (level - dark)) & (not air)))
    return bodies


def _block(pixel_mm: float) -> int:
    return max(1, round(BLOCK_MM / pixel_mm))


def _reach(marked: Span, block: int, axis: int, plan: SlicePlan, margin_mm: float) -> tuple[float, float]:
    """Return where a span of blocks and the margin begin and end on one axis of the grid."""
    margin = margin_mm / plan.spacing_mm[1 + axis]
    scale = plan.grid[axis] / plan.frame[axis]
    first = (marked[0] * block + plan.before[axis] - margin) * scale
    last = (marked[1] * block + plan.before[axis] + margin) * scale
    return float(first), float(last)


def _aligned(first: float, last: float, grid: int, multiple: int) -> Span:
    """Return the least span of whole multiples that holds it, within the grid."""
    start = max(int(np.floor(first / multiple)), 0) * multiple
    return start, min(int(np.ceil(last / multiple)) * multiple, grid)


def _block_means(slices: Array, blocks: tuple[int, int]) -> FloatArray:
    """Return means (slices, rows, columns) over blocks; those at the end may be smaller."""
    count, rows, columns = slices.shape
    shape = -(-rows // blocks[0]), -(-columns // blocks[1])
    sums = np.zeros((count, *shape))
    native = slices if slices.dtype.isnative else slices.astype(slices.dtype.newbyteorder("="))

    def add(start: int, stop: int) -> None:
        _sum_blocks(native[start:stop], blocks, sums[start:stop])

    in_parts(add, count, 8)
    heights = np.diff(np.minimum(np.arange(shape[0] + 1) * blocks[0], rows))
    widths = np.diff(np.minimum(np.arange(shape[1] + 1) * blocks[1], columns))
    sums /= heights[:, None] * widths
    return sums


@kernel
def _sum_blocks(slices, blocks, sums):  # type: ignore[no-untyped-def]
    count, rows, columns = slices.shape
    for s in range(count):
        for r in range(rows):
            line = sums[s, r // blocks[0]]
            for b in range(line.size):
                total = line[b]
                for c in range(b * blocks[1], min((b + 1) * blocks[1], columns)):
                    total += slices[s, r, c]
                line[b] = total
