"""Bilinear resize, equal to Pillow's BILINEAR on images of mode "F".

Pillow's filter is a triangle that is two pixels of the coarser grid wide, so it averages when it shrinks
(Pillow 13, ``src/libImaging/Resample.c``). One axis is resized after the other, in an order that depends on
the sizes (Pillow before 13 always begins with the horizontal pass, which differs in the last bit where the
height shrinks by far more than the width). Each pass sums in double precision from left to right and rounds
to float32. All this is reproduced here to the last bit.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.kernel import kernel
from seg_core.threads import in_parts

Float32Array = npt.NDArray[np.float32]
Taps = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]


def resize_bilinear(slices: npt.NDArray[Any], shape: tuple[int, int]) -> Float32Array:
    """Resize a stack of slices with Pillow's bilinear filter.

    Pixels are areas: the outer edges of the two grids coincide, not the centres of the corner pixels.

    Parameters
    ----------
    slices : ndarray, (slice, row, column)
        Real numbers; other types than float32 are rounded to it first, as Pillow's mode "F" does.
        May hold no slices, but slices have at least one pixel. NaN spreads to the pixels that it touches.
    shape : tuple of int
        Wanted (rows, columns), each at least 1.

    Returns
    -------
    ndarray of float32, (slice, row, column)

    Raises
    ------
    UsageError
        If the array has not three axes, is complex, or a slice before or after has no pixels.

    Notes
    -----
    Slices are shared among the cores. Safe to call from several threads.
    """
    slices = np.asarray(slices)
    rows, columns = (int(n) for n in shape)
    if slices.ndim != 3 or slices.dtype.kind not in "buif":
        raise UsageError(f"{slices.dtype} of shape {slices.shape}", "real numbers (slice, row, column)")
    if min(rows, columns, *slices.shape[1:]) < 1:
        raise UsageError(f"resizing {slices.shape[1:]} to {(rows, columns)}", "at least one pixel each")
    across, down = _taps(slices.shape[2], columns), _taps(slices.shape[1], rows)
    result = np.empty((slices.shape[0], rows, columns), np.float32)

    def resize(start: int, stop: int) -> None:
        for source, target in zip(slices[start:stop], result[start:stop], strict=True):
            _resize_slice(np.ascontiguousarray(source, np.float32), target, across, down)

    in_parts(resize, len(slices), 4)
    return result


class SliceResampler:
    """The same filter from slice to slice: a stack of slices becomes one of another number.

    Parameters
    ----------
    slices_in, slices_out : int
        Number of slices before and after, each at least 1; the outer edges of the two stacks coincide.
    """

    def __init__(self, slices_in: int, slices_out: int) -> None:
        self._first, self._count, self._weights = _taps(slices_in, slices_out)

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first slice before, and one past the last, of which new ones are made; start < stop."""
        return int(self._first[start]), int((self._first + self._count)[start:stop].max())

    def resample(self, slices: Float32Array, start: int, stop: int) -> Float32Array:
        """Return new slices (stop - start, row, column) of those that are ``needed`` (n, row, column)."""
        part = slice(start, stop)
        result = np.empty((stop - start, *slices.shape[1:]), np.float32)
        source = np.ascontiguousarray(slices, np.float32).reshape(len(slices), -1)
        taps = self._first[part] - self._first[start], self._count[part], self._weights[part]
        _resize_columns(source, *taps, result.reshape(len(result), -1))
        return result


def _resize_slice(source: Float32Array, target: Float32Array, across: Taps, down: Taps) -> None:
    (rows, columns), (new_rows, new_columns) = source.shape, target.shape
    passes = [(_resize_rows, across, (rows, new_columns)), (_resize_columns, down, target.shape)]
    # Pillow's own condition: far fewer rows make the other pass cheaper.
    if rows > new_rows and rows - new_rows > 2 * (columns - new_columns):
        passes = [(_resize_columns, down, (new_rows, columns)), (_resize_rows, across, target.shape)]
    for resize, taps, shape in passes:
        # A pass that keeps the size is left out, as in Pillow: a weight of 0 times infinity would be NaN.
        if source.shape != shape:
            result = target if shape == target.shape else np.empty(shape, np.float32)
            resize(source, *taps, result)
            source = result
    if source is not target:
        target[...] = source


@lru_cache(16)
def _taps(size_in: int, size_out: int) -> Taps:
    """Return for each output pixel the first input pixel (m,), how many (m,) and their weights (m, taps)."""
    scale = size_in / size_out
    support = max(scale, 1.0)
    centre = (np.arange(size_out) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), size_in) - first
    tap = np.arange(int(count.max()))
    distance = np.abs(((tap + first[:, None]) - centre[:, None] + 0.5) * (1.0 / support))
    weights = np.where(tap < count[:, None], np.maximum(1.0 - distance, 0.0), 0.0)
    total = np.zeros(size_out)
    for column in weights.T:  # Pillow's order of addition, which np.sum does not keep
        total += column
    return first, count, weights / total[:, None]


def _resize_rows(source: Float32Array, first: Any, count: Any, weights: Any, target: Float32Array) -> None:
    columns = target.shape[1]
    inner = slice(1, columns - 1)
    if source.shape[1] == 2 * columns and columns > 2 and (count[inner] == 4).all():
        _halve_rows(source, weights[1], target)
        ends = np.array([0, columns - 1])
        _resize_some(source, (first, count, weights), ends, target)
    else:
        _resize_some(source, (first, count, weights), np.arange(columns), target)


@kernel
def _resize_some(source, taps, wanted, target):  # type: ignore[no-untyped-def]
    """Resize rows, giving the columns that are wanted."""
    first, count, weights = taps
    for row in range(source.shape[0]):
        for column in wanted:
            start = first[column]
            total = 0.0
            for tap in range(count[column]):
                total += source[row, start + tap] * weights[column, tap]
            target[row, column] = np.float32(total)


@kernel
def _halve_rows(source, weights, target):  # type: ignore[no-untyped-def]
    """Halve rows but for the first and last column: four taps of equal weights, two pixels further each."""
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for row in range(source.shape[0]):
        line, out = source[row, 1:], target[row, 1:]
        for n in range(target.shape[1] - 2):
            # beginning with 0.0, as Pillow: -0.0 becomes 0.0
            total = (
                0.0 + line[2 * n] * w0 + line[2 * n + 1] * w1 + line[2 * n + 2] * w2 + line[2 * n + 3] * w3
            )
            out[n] = np.float32(total)


@kernel
def _resize_columns(source, first, count, weights, target):  # type: ignore[no-untyped-def]
    total = np.empty(target.shape[1], np.float64)
    for row in range(target.shape[0]):
        start = first[row]
        if count[row] == 4:  # as the loop below, without storing in between
            w0, w1, w2, w3 = weights[row, 0], weights[row, 1], weights[row, 2], weights[row, 3]
            a, b, c, d = source[start], source[start + 1], source[start + 2], source[start + 3]
            for column in range(target.shape[1]):
                four = 0.0 + a[column] * w0 + b[column] * w1 + c[column] * w2 + d[column] * w3
                target[row, column] = np.float32(four)
            continue
        total[:] = 0.0
        for tap in range(count[row]):
            weight = weights[row, tap]
            line = source[start + tap]
            for column in range(target.shape[1]):
                total[column] += line[column] * weight
        for column in range(target.shape[1]):
            target[row, column] = np.float32(total[column])
