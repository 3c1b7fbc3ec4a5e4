"""Counts, boxes and moments of all labels in one pass over the volume."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import GeometryError
from seg_core.kernel import inner_kernel, kernel
from seg_core.memory_order import as_words, end_of_run

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Moments:
    """What one pass tells about a label.

    Parameters
    ----------
    voxels : int
        Number of voxels, at least 1.
    low, high : tuple of int
        Smallest and greatest index along i, j, k, both inside the label.
    mean : ndarray, (3,)
        Mean index.
    covariance : ndarray, (3, 3)
        Covariance of the indices (division by the number of voxels).
    confidence : float or None
        Mean of the confidence over the voxels, in the units of the array that was given.
    """

    voxels: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    confidence: float | None

    @property
    def box(self) -> Box:
        """Slices that cut the label out of its array."""
        i, j, k = (slice(a, b + 1) for a, b in zip(self.low, self.high, strict=True))
        return i, j, k


def label_moments(
    labels: npt.NDArray[np.uint8], confidence: npt.NDArray[Any] | None = None
) -> dict[int, Moments]:
    """Return the moments of every label that occurs; the background 0 is left out.

    Sums are exact integers, so the result does not depend on the order of the voxels.

    Parameters
    ----------
    labels : ndarray of uint8, (i, j, k)
        Label values. Fastest where ``labels.T`` is C-contiguous.
    confidence : ndarray, (i, j, k), optional
        A number a voxel, averaged over each label.

    Returns
    -------
    dict
        Value -> moments, in ascending order; empty for an empty label map.

    Raises
    ------
    GeometryError
        If the labels are not three-dimensional uint8 or the confidence has another shape.
    """
    if labels.ndim != 3 or labels.dtype != np.uint8:
        raise GeometryError(f"labels of {labels.ndim} dimensions and type {labels.dtype}", "3, uint8")
    if confidence is not None and confidence.shape != labels.shape:
        raise GeometryError(f"confidence of shape {confidence.shape}", f"that of the labels, {labels.shape}")
    kji = np.ascontiguousarray(labels.T)
    counts, bounds, sums, products = (np.zeros((256, n), np.int64) for n in (1, 6, 3, 6))
    bounds[:, :3] = 1 << 62
    _tally(kji.shape, (kji.reshape(-1), as_words(kji)), counts[:, 0], bounds, sums, products)
    totals = None if confidence is None else _totals(kji, confidence)
    return {
        int(value): _moments(
            int(counts[value, 0]), bounds[value], sums[value], products[value],
            None if totals is None else float(totals[value] / counts[value, 0]),
        )
        for value in range(1, 256)
        if counts[value, 0]
    }  # fmt: skip


def extent_along(labels: npt.NDArray[np.uint8], value: int, weights: npt.NDArray[np.float64]) -> float:
    """Return the extent of a label's voxels along a direction, from outer edge to outer edge.

    Parameters
    ----------
    labels : ndarray of uint8, (i, j, k)
        Label values; pass the label's box alone to be quick.
    value : int
        The label.
    weights : ndarray, (3,)
        How far along the direction one step of i, j, k leads, in mm: ``affine[:3, :3].T @ direction``.

    Returns
    -------
    float
        Millimetres; 0 if the label does not occur.
    """
    low, high = _extent(np.ascontiguousarray(labels.T), value, np.asarray(weights, dtype=np.float64))
    return 0.0 if high < low else float(high - low + np.abs(weights).sum())


def _moments(
    count: int,
    bounds: npt.NDArray[np.int64],
    sums: npt.NDArray[np.int64],
    products: npt.NDArray[np.int64],
    confidence: float | None,
) -> Moments:
    mean = sums / count
    upper = products / count
    second = upper[[[0, 1, 2], [1, 3, 4], [2, 4, 5]]]
    low = (int(bounds[0]), int(bounds[1]), int(bounds[2]))
    high = (int(bounds[3]), int(bounds[4]), int(bounds[5]))
    return Moments(count, low, high, mean, second - np.outer(mean, mean), confidence)


def _totals(kji: npt.NDArray[np.uint8], confidence: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Sum the confidence of each label, slice by slice so that no second volume is made."""
    totals = np.zeros(256)
    for k, plane in enumerate(kji):
        weights = confidence[:, :, k].T.ravel()
        totals += np.bincount(plane.ravel(), weights=weights, minlength=256)
    return totals


@kernel
def _tally(shape, memory, counts, bounds, sums, products):  # type: ignore[no-untyped-def]
    """Add up run by run. ``memory``: the voxels, flat, and eight of these at a time.

    A kernel that makes its arrays itself takes longer to compile.
    """
    slices, rows, columns = shape
    voxels, words = memory
    for line in range(slices * rows):
        k, j, first = line // rows, line % rows, line * columns
        at, stop = first, first + columns
        while at < stop:
            v, begin = voxels[at], at - first
            at = end_of_run(voxels, words, at, stop)
            if v == 0:
                continue
            end = at - first
            n = end - begin
            i = (begin + end - 1) * n // 2
            ii = _squares_below(end) - _squares_below(begin)
            counts[v] += n
            for axis, (low, high, total) in enumerate(((begin, end - 1, i), (j, j, j * n), (k, k, k * n))):
                sums[v, axis] += total
                bounds[v, axis] = min(bounds[v, axis], low)
                bounds[v, axis + 3] = max(bounds[v, axis + 3], high)
            for entry, total in enumerate((ii, i * j, i * k, j * j * n, j * k * n, k * k * n)):
                products[v, entry] += total


@inner_kernel
def _squares_below(n):  # type: ignore[no-untyped-def]
    return (n - 1) * n * (2 * n - 1) // 6


@kernel
def _extent(kji, value, weights):  # type: ignore[no-untyped-def]
    low, high = np.inf, -np.inf
    for k in range(kji.shape[0]):
        for j in range(kji.shape[1]):
            base = weights[2] * k + weights[1] * j
            for i in range(kji.shape[2]):
                if kji[k, j, i] == value:
                    low = min(low, base + weights[0] * i)
                    high = max(high, base + weights[0] * i)
    return low, high
