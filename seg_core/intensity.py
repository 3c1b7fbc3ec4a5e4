"""Intensities to [0, 1], or to mean 0 and deviation 1: which values become 0 and 1, and the scaling."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import ModelError, ScanError
from seg_core.kernel import kernel
from seg_core.memory_order import Array, slabs
from seg_core.model_spec import Normalisation
from seg_core.threads import in_parts

_DIGIT_BITS = 16
_CHUNK = 1 << 20
_SHARE = 1 << 22  # voxels for which another thread, with counts of its own, pays

Window = tuple[float, float] | tuple[float, float, float, float]
"""Intensities that become 0 and 1; and, where it is not to these, those to which they are clipped before."""


def normalised_input(array: Array, normalisation: Normalisation) -> tuple[Array, Window]:
    """Return a scan as `scale` takes it, and the window for it.

    Parameters and errors as in `intensity_window`.

    Returns
    -------
    array : ndarray
        The array itself; for ``zscore_nonzero`` a copy in float32, in which what stays 0 holds the mean.
    window : Window
        See `intensity_window`.
    """
    if normalisation.kind != "zscore_nonzero":
        return array, intensity_window(array, normalisation)
    _check_intensities(array)
    outside = _zeros_at_the_border(array)
    window = _zscore(array[~outside])
    filled = array.astype(np.float32, order="K")
    filled[outside] = window[0]
    return filled, window


def _zeros_at_the_border(array: Array) -> npt.NDArray[np.bool_]:
    """Return the zeros that reach the border over faces; those inside a body stay with it."""
    from scipy import ndimage

    found, count = ndimage.label(array == 0)
    reaching = np.zeros(count + 1, bool)
    for axis in range(array.ndim):
        for end in (0, -1):
            reaching[np.unique(found.take(end, axis=axis))] = True
    reaching[0] = False
    outside: npt.NDArray[np.bool_] = reaching[found]
    return outside


def _zscore(array: Array) -> Window:
    """Return mean, mean + standard deviation, and no clipping, for an array that is not empty."""
    flat = [np.ravel(part) for (part,) in slabs(array)]
    chunks = [part[n : n + _CHUNK] for part in flat for n in range(0, part.size, _CHUNK)]
    mean = sum(float(chunk.sum(dtype=np.float64)) for chunk in chunks) / array.size
    squares = sum(float(np.square(np.subtract(c, mean, dtype=np.float64)).sum()) for c in chunks)
    deviation = math.sqrt(squares / array.size)
    return mean, mean + max(deviation, 1e-8), -math.inf, math.inf


def nonzero_box(array: Array) -> tuple[slice, ...]:
    """Return the smallest box that holds all voxels but 0; all of an array that holds nothing else."""
    there = array != 0
    if not there.any():
        return tuple(slice(0, n) for n in array.shape)
    axes = range(array.ndim)
    lines = [np.flatnonzero(there.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


def intensity_window(array: Array, normalisation: Normalisation) -> Window:
    """Return the intensities that become 0 and 1.

    Parameters
    ----------
    array : ndarray, (i, j, k) or any other shape and memory order
        The whole scan: real numbers of any type; not copied.
    normalisation : Normalisation
        ``divide``: 0 and ``high``. ``minmax``: the extremes. ``percentile``: the percentiles ``low`` and
        ``high`` (0 to 100) of all voxels, linear between neighbours (NumPy's default); where the two coincide
        although the scan is not constant (nearly all air), the extremes. ``zscore``: mean, and mean and
        standard deviation together; ``fixed`` the same as given. ``zscore_nonzero`` is what
        `normalised_input` is for.

    Returns
    -------
    tuple of float
        (low, high) with low < high. Exact, so it depends neither on the memory order nor on the machine;
        a mean is in double precision. For ``zscore`` and ``fixed`` also where intensities are clipped.

    Raises
    ------
    ScanError
        If the scan is empty, complex, constant, or holds NaN or infinity.
    ModelError
        If the normalisation makes no sense.
    """
    _check(normalisation)
    low, high = _check_intensities(array)
    if normalisation.kind == "zscore":
        return _zscore(array[nonzero_box(array)])
    if normalisation.kind == "fixed":
        mean = normalisation.mean
        return mean, mean + normalisation.sd, normalisation.low, normalisation.high
    if normalisation.kind == "divide":
        return 0.0, float(normalisation.high)
    if normalisation.kind == "percentile":
        window = percentiles(array, (normalisation.low, normalisation.high))
        if window[0] < window[1]:
            return window[0], window[1]
    return low, high


def _check_intensities(array: Array) -> tuple[float, float]:
    """Return the extremes of a scan that may be segmented."""
    if array.size == 0 or array.dtype.kind not in "buif":
        raise ScanError(f"a scan of {array.dtype} with {array.size} voxels", "at least one real number")
    if array.dtype.kind == "f" and array.itemsize not in (4, 8):
        raise ScanError(f"a scan of {array.dtype}", "float32 or float64", "convert it with astype")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ScanError("a scan with NaN or infinite intensities", "finite numbers", "repair the scan")
    if low == high:
        raise ScanError(
            f"a constant scan: every intensity is {low:g}", fix="check that this is the right series"
        )
    return low, high


def _check(normalisation: Normalisation) -> None:
    low, high = normalisation.low, normalisation.high
    right = {
        "divide": 0 < high < math.inf,
        "minmax": True,
        "percentile": 0 <= low < high <= 100,
        "zscore": True,
        "fixed": low < high and 0 < normalisation.sd < math.inf and math.isfinite(normalisation.mean),
    }
    if not right.get(normalisation.kind, False):
        raise ModelError(f"an impossible intensity normalisation: {normalisation}")


def scale(
    array: Array, low: float, high: float, least: float | None = None, most: float | None = None
) -> npt.NDArray[np.float32]:
    """Return (array - low) / (high - low), by default clipped to [0, 1].

    Parameters
    ----------
    array : ndarray, any shape and memory order
        Real numbers; may be empty. NaN stays NaN.
    low, high : float
        What becomes 0 and 1, low < high.
    least, most : float, optional
        To what intensities are clipped before; ``low`` and ``high`` by default.

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
    bounds = [0.0 if least is None else (least - low) / (high - low)]
    bounds.append(1.0 if most is None else (most - low) / (high - low))
    _scale(values, (float(low), float(high)), (bounds[0], bounds[1]), result.ravel(order="K"))
    return result


@kernel
def _scale(values, window, bounds, result):  # type: ignore[no-untyped-def]
    (low, high), (least, most) = window, bounds
    width = high - low
    for index in range(values.size):
        value = (np.float64(values[index]) - low) / width
        result[index] = np.float32(min(max(value, least), most)) if value == value else np.float32(np.nan)


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
            _add_digits(keys, _KINDS[dtype.kind], distinct, np.array([bits, shift, step]), counts)
        for index, row in enumerate(which):
            total = np.cumsum(counts[row])
            digit = int(np.searchsorted(total, left[index], side="right"))
            left[index] -= total[digit] - counts[row, digit]
            prefix[index] = (int(prefix[index]) << step) | digit
    return [_value_of(int(key), dtype) for key in prefix]


_KINDS = {"u": 0, "i": 1, "f": 2}


def _add_digits(keys: Array, kind: int, prefixes: Array, sizes: Array, counts: Array) -> None:
    """Add how often each digit follows each prefix (prefixes, digits) to the counts."""

    def count(start: int, stop: int) -> Array:
        found = np.zeros_like(counts) if start else counts
        _count_digits(keys[start:stop], kind, prefixes, sizes, found)
        return found

    for found in in_parts(count, keys.size, _SHARE)[1:]:
        counts += found


@kernel
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
