"""Intensities to [0, 1]: which values become 0 and 1, and the scaling."""

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from seg_core.errors import ModelError, ScanError
from seg_core.memory_order import Array, slabs
from seg_core.model_spec import Normalisation

_DIGIT_BITS = 16


def intensity_window(array: Array, normalisation: Normalisation) -> tuple[float, float]:
    """Return the intensities that become 0 and 1.

    Parameters
    ----------
    array : ndarray, (i, j, k) or any other shape and memory order
        The whole scan: real numbers of any type; not copied.
    normalisation : Normalisation
        ``divide``: 0 and ``high``. ``minmax``: the extremes. ``percentile``: the percentiles ``low`` and
        ``high`` (0 to 100) of all voxels, linear between neighbours (NumPy's default); where the two coincide
        although the scan is not constant (nearly all air), the extremes.

    Returns
    -------
    tuple of float
        (low, high) with low < high. Exact, so it depends neither on the memory order nor on the machine.

    Raises
    ------
    ScanError
        If the scan is empty, complex, constant, or holds NaN or infinity.
    ModelError
        If the normalisation makes no sense.
    """
    _check(normalisation)
    if array.size == 0 or array.dtype.kind not in "buif":
        raise ScanError(f"a scan of {array.dtype} with {array.size} voxels", "at least one real number")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ScanError("a scan with NaN or infinite intensities", "finite numbers", "repair the scan")
    if low == high:
        raise ScanError(
            f"a constant scan: every intensity is {low:g}", fix="check that this is the right series"
        )
    if normalisation.kind == "divide":
        return 0.0, float(normalisation.high)
    if normalisation.kind == "percentile":
        window = percentiles(array, (normalisation.low, normalisation.high))
        if window[0] < window[1]:
            return window[0], window[1]
    return low, high


def _check(normalisation: Normalisation) -> None:
    low, high = normalisation.low, normalisation.high
    right = {
        "divide": 0 < high < math.inf,
        "minmax": True,
        "percentile": 0 <= low < high <= 100,
    }
    if not right.get(normalisation.kind, False):
        raise ModelError(f"an impossible intensity normalisation: {normalisation}")


def scale(array: Array, low: float, high: float) -> npt.NDArray[np.float32]:
    """Return (array - low) / (high - low), clipped to [0, 1].

    Parameters
    ----------
    array : ndarray, any shape and memory order
        Real numbers; may be empty. NaN stays NaN.
    low, high : float
        What becomes 0 and 1, low < high.

    Returns
    -------
    ndarray of float32, of the same shape and memory order
        Computed in double precision, rounded once.

    Raises
    ------
    ScanError
        If not low < high.
    """
    if not low < high:
        raise ScanError(f"an intensity window from {low:g} to {high:g}", "low < high")
    values = np.ascontiguousarray(array.ravel(order="K"), dtype=array.dtype.newbyteorder("="))
    result = np.empty_like(array, dtype=np.float32, order="K", subok=False)
    # Both ravel in the order of the memory; a result in a new array is a view of it there.
    _scale(values, float(low), float(high), result.ravel(order="K"))
    return result


@numba.njit(cache=True, nogil=True)
def _scale(values, low, high, result):  # type: ignore[no-untyped-def]
    width = high - low
    for index in range(values.size):
        value = (np.float64(values[index]) - low) / width
        result[index] = np.float32(min(max(value, 0.0), 1.0)) if value == value else np.float32(np.nan)


def percentiles(array: Array, percents: Sequence[float]) -> list[float]:
    """Return exact percentiles in bounded memory, as ``numpy.percentile`` (method "linear") does.

    Parameters
    ----------
    array : ndarray, any shape and memory order, not empty
        Real, finite numbers.
    percents : sequence of float
        0 to 100.

    Returns
    -------
    list of float
        One for each of ``percents``.
    """
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    places = [(array.size - 1) * (percent / 100) for percent in percents]
    below = [math.floor(place) for place in places]
    above = [min(rank + 1, array.size - 1) for rank in below]
    values = _order_statistics(array, below + above)
    pairs = zip(values[: len(places)], values[len(places) :], places, below, strict=True)
    return [_between(a, b, place - rank) for a, b, place, rank in pairs]


def _between(low: float, high: float, part: float) -> float:
    # Counted from the nearer end, as NumPy does, so that the result is monotonic in `part`.
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


def _order_statistics(array: Array, ranks: Sequence[int]) -> list[float]:
    """Return the values of the given ranks (0 is the smallest) by radix selection.

    Every number is read as an unsigned key of the same order; a pass counts the next 16 bits of the keys that
    begin like the one sought. So 8 and 16 bits take one pass, float32 two, and memory is a few histograms.
    """
    dtype = array.dtype.newbyteorder("=")
    bits = 8 * dtype.itemsize
    left = np.array(ranks, np.int64)
    prefix = np.zeros(len(ranks), np.uint64)
    shift = bits
    while shift > 0:
        step = min(_DIGIT_BITS, shift)
        shift -= step
        distinct, which = np.unique(prefix, return_inverse=True)
        counts = np.zeros((distinct.size, 1 << step), np.int64)
        for (part,) in slabs(array):
            keys = np.ascontiguousarray(part, dtype).view(f"u{dtype.itemsize}")
            _count_digits(keys, _KINDS[dtype.kind], distinct, np.array([bits, shift, step]), counts)
        for index, row in enumerate(which):
            total = np.cumsum(counts[row])
            digit = int(np.searchsorted(total, left[index], side="right"))
            left[index] -= total[digit] - counts[row, digit]
            prefix[index] = (int(prefix[index]) << step) | digit
    return [_value_of(int(key), dtype) for key in prefix]


_KINDS = {"u": 0, "i": 1, "f": 2}


@numba.njit(cache=True, nogil=True)
def _count_digits(keys, kind, prefixes, sizes, counts):  # type: ignore[no-untyped-def]
    bits, shift, step = np.uint64(sizes[0]), np.uint64(sizes[1]), np.uint64(sizes[2])
    top = np.uint64(1) << (bits - np.uint64(1))
    everything = (top - np.uint64(1)) | top
    mask = (np.uint64(1) << step) - np.uint64(1)
    for index in range(keys.size):
        key = np.uint64(keys[index])
        if kind == 2 and key & top:
            key ^= everything  # negative floats sort backwards
        elif kind != 0:
            key ^= top
        head = key >> shift
        # The first pass has no prefix, and shifting by all 64 bits is undefined.
        begin = head >> step if shift + step < bits else np.uint64(0)
        for row in range(prefixes.size):
            if begin == prefixes[row]:
                counts[row, head & mask] += 1
                break


def _value_of(key: int, dtype: np.dtype[Any]) -> float:
    top = 1 << (8 * dtype.itemsize - 1)
    if dtype.kind == "i" or (dtype.kind == "f" and key & top):
        key ^= top
    elif dtype.kind == "f":
        key ^= 2 * top - 1
    return float(np.array([key], f"u{dtype.itemsize}").view(dtype)[0])
