"""A 3D network over a volume: overlapping patches weighed by a Gaussian, in memory bounded by the patch.

Patches and weights are those of nnU-Net 2 (``nnunetv2/inference/sliding_window_prediction.py``), without
mirroring.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Protocol

import numpy as np
import numpy.typing as npt

from seg_core.ahead import made_ahead
from seg_core.errors import UsageError
from seg_core.kernel import kernel

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]
Triple = tuple[int, int, int]
Infer = Callable[[Float32Array], Float32Array]
"""A patch (slices, rows, columns) -> its logits (classes, slices, rows, columns)."""
Linear = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]
Slab = tuple[int, Float32Array]
"""First slice, and logits (classes, n, rows, columns) of n slices from there on."""


class Slices(Protocol):
    """Prepared slices: an array float32 (slices, rows, columns), or what makes them when they are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Slices, rows, columns."""
        ...

    def __getitem__(self, part: slice, /) -> Float32Array:
        """Return slices of a range without steps, within the shape."""
        ...


@dataclass(frozen=True)
class Tiling:
    """How patches cover a volume.

    Parameters
    ----------
    patch : tuple of int
        Slices, rows, columns that the network sees at once.
    overlap : float
        Share of a patch that the next one covers again, at least; 0 to below 1.

    Raises
    ------
    UsageError
        If a number makes no sense.
    """

    patch: Triple
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if len(self.patch) != 3 or min(self.patch) < 1 or not 0 <= self.overlap < 1:
            raise UsageError(
                f"patches of {self.patch} that overlap by {self.overlap}",
                "three positive numbers, 0 to below 1",
            )


def tile_starts(length: int, patch: int, overlap: float) -> list[int]:
    """Return where patches begin along an axis: evenly spread, the last one ends with the axis.

    An axis shorter than a patch has one, at 0; none begins where another does.
    """
    room = max(length - patch, 0)
    steps = ceil(room / max(patch * (1 - overlap), 1))
    return [round(room / steps * n) for n in range(steps + 1)] if steps else [0]


def tile_weights(length: int) -> npt.NDArray[np.float64]:
    """Return a patch's weights along an axis (length,): a Gaussian of an eighth of it, 1 in the middle."""
    return np.exp(-0.5 * ((np.arange(length) - length // 2) / (length / 8)) ** 2)


def sliding_logits(volume: Slices, tiling: Tiling, infer: Infer) -> Iterator[Slab]:
    """Give a network's logits of a volume, from its first slice to its last.

    Parameters
    ----------
    volume : Slices, (slices, rows, columns)
        Prepared. An axis shorter than the patch is padded with 0 on both sides. Each slice is read once, in
        order, by another thread that stays one patch ahead. Left alone.
    tiling : Tiling
        How patches cover it.
    infer : callable
        The network.

    Yields
    ------
    first : int
        Slice with which a slab begins.
    logits : ndarray of float32, (classes, n, rows, columns)
        Means of all patches that cover a voxel, weighed by `tile_weights` along each axis. One patch's slices
        are held at a time, and those that the next one has besides.

    Raises
    ------
    UsageError
        If the volume has not three axes with at least one voxel each, or the network gives another shape.
    """
    if len(volume.shape) != 3 or min(volume.shape) < 1:
        raise UsageError(f"a volume of {volume.shape}", "(slices, rows, columns)")
    padded = _Padded(volume, tiling.patch)
    before = padded.before
    rows, columns = (slice(b, b + n) for b, n in zip(before[1:], volume.shape[1:], strict=True))
    for first, logits in _slabs(padded, tiling, infer):
        start = max(first, before[0])
        stop = min(first + logits.shape[1], before[0] + volume.shape[0])
        if start < stop:
            yield start - before[0], logits[:, start - first : stop - first, rows, columns]


class _Padded:
    """Slices that are nowhere smaller than the patch."""

    def __init__(self, volume: Slices, patch: Triple) -> None:
        missing = [max(p - n, 0) for n, p in zip(volume.shape, patch, strict=True)]
        self.volume, self.before = volume, [m // 2 for m in missing]
        self.after = [m - b for m, b in zip(missing, self.before, strict=True)]
        self.shape = tuple(n + m for n, m in zip(volume.shape, missing, strict=True))

    def read(self, start: int, stop: int) -> Float32Array:
        first = self.before[0]
        low, high = max(start - first, 0), min(stop - first, self.volume.shape[0])
        slices = self.volume[low:high]
        if slices.dtype != np.float32:
            raise UsageError(f"a volume of {slices.dtype}", "float32")
        ends = (low + first - start, stop - first - high)
        return np.pad(slices, [ends, *zip(self.before[1:], self.after[1:], strict=True)])


def _slabs(volume: _Padded, tiling: Tiling, infer: Infer) -> Iterator[Slab]:
    pairs = list(zip(volume.shape, tiling.patch, strict=True))
    starts = [tile_starts(n, p, tiling.overlap) for n, p in pairs]
    lines = [tile_weights(p) for p in tiling.patch]
    # Patches and weights are products of axes, and so is the sum of the weights over a voxel.
    sums = [_covered(n, s, line) for (n, _), s, line in zip(pairs, starts, lines, strict=True)]
    weights = _product(lines)
    depth, total = tiling.patch[0], np.zeros((0, 0, 0, 0), np.float32)
    begin, block = 0, np.zeros((0, *volume.shape[1:]), np.float32)
    reads = made_ahead(lambda part: volume.read(*part), pairwise([0, *(n + depth for n in starts[0])]))
    afters = [*starts[0][1:], volume.shape[0]]
    for first, after, fresh in zip(starts[0], afters, reads, strict=True):
        begin, block = first, np.concatenate([block[first - begin :], fresh])
        for row in starts[1]:
            for column in starts[2]:
                place = slice(row, row + tiling.patch[1]), slice(column, column + tiling.patch[2])
                logits = _checked(infer(block[:, *place]), tiling.patch)
                if not total.size:
                    total = np.zeros((len(logits), depth, *volume.shape[1:]), np.float32)
                total[:, :, *place] += logits * weights
        done = after - first
        yield first, total[:, :done] / _product([sums[0][first:after], *sums[1:]])
        total[:, : depth - done] = total[:, done:].copy()
        total[:, depth - done :] = 0


def _covered(length: int, starts: list[int], line: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total = np.zeros(length)
    for start in starts:
        total[start : start + len(line)] += line
    return total


def _product(lines: list[npt.NDArray[np.float64]]) -> Float32Array:
    a, b, c = lines
    return (a[:, None, None] * b[:, None] * c).astype(np.float32)


def _checked(logits: Float32Array, patch: Triple) -> Float32Array:
    if logits.ndim != 4 or logits.shape[1:] != patch:
        raise UsageError(f"logits {logits.shape} of a patch", f"(classes, *{patch})")
    return logits


def upsampled_labels(
    slabs: Iterable[Slab],
    source: Triple,
    target: Triple,
    temperature: float = 1.0,
    nearest: int | None = None,
) -> Iterator[tuple[int, Uint8Array, Uint8Array]]:
    """Give the classes of a finer or coarser grid over the same volume, slice by slice.

    The outer edges of the two grids coincide. Logits are interpolated linearly along all three axes, then the
    greatest one is taken; no array of all classes on the finer grid is made.

    Parameters
    ----------
    slabs : iterable
        As `sliding_logits` gives them.
    source, target : tuple of int
        Slices, rows, columns of the two grids.
    temperature : float
        The network's: logits are divided by it where their probability is computed.
    nearest : int, optional
        Axis along which the nearest logits are taken as they are.

    Yields
    ------
    number : int
        Of a slice of ``target``, in order.
    labels, confidence : ndarray of uint8, (rows, columns)
        Greatest class, and 255 times its probability.
    """
    (low, high, weight), rows, columns = (
        _nearest(s, t) if axis == nearest else _linear(s, t)
        for axis, (s, t) in enumerate(zip(source, target, strict=True))
    )
    number, last = 0, None
    for first, slab in slabs:
        logits = slab if last is None else np.concatenate([last, slab], axis=1)
        begin = first if last is None else first - 1
        while number < target[0] and high[number] < first + slab.shape[1]:
            pair = logits[:, low[number] - begin], logits[:, high[number] - begin]
            labels, confidence = np.empty((2, *target[1:]), np.uint8)
            _greatest(*pair, weight[number], rows, columns, temperature, labels, confidence)
            yield number, labels, confidence
            number += 1
        last = slab[:, -1:].copy()


def _linear(source: int, target: int) -> Linear:
    """Return for each target pixel (target,) the two source pixels around it and the weight of the second."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, source - 1), place - low


def _nearest(source: int, target: int) -> Linear:
    place = ((np.arange(target) + 0.5) * source / target).astype(np.int64)
    return place, place, np.zeros(target)


@kernel
def _greatest(below, above, weight, rows, columns, temperature, labels, confidence):  # type: ignore[no-untyped-def]
    (row_low, row_high, row_weight), (column_low, column_high, column_weight) = rows, columns
    classes = below.shape[0]
    values = np.empty(classes, np.float64)
    for r in range(labels.shape[0]):
        top, bottom, v = row_low[r], row_high[r], row_weight[r]
        for c in range(labels.shape[1]):
            left, right, u = column_low[c], column_high[c], column_weight[c]
            best = 0
            for k in range(classes):
                value = 0.0
                for row, share in ((top, 1 - v), (bottom, v)):
                    a = below[k, row, left] * (1 - u) + below[k, row, right] * u
                    b = above[k, row, left] * (1 - u) + above[k, row, right] * u
                    value += share * (a * (1 - weight) + b * weight)
                values[k] = value
                if value > values[best]:
                    best = k
            total = 0.0
            for k in range(classes):
                total += np.exp((values[k] - values[best]) / temperature)
            labels[r, c] = best
            confidence[r, c] = np.uint8(np.rint(255 / total))
