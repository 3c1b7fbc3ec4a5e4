"""Walk through arrays in the order in which they lie in memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.kernel import inner_kernel

Array = npt.NDArray[Any]


def memory_axes(array: Array) -> tuple[int, ...]:
    """Return the axes from slowest to fastest in memory, so that ``array.transpose(axes)`` reads forwards.

    Axes of equal stride (those of length 1) keep their order.
    """
    strides = [abs(stride) for stride in array.strides]
    return tuple(sorted(range(array.ndim), key=lambda axis: -strides[axis]))


def slabs(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Yield the same part of each array, flat and contiguous, in the first array's memory order.

    The parts are views of the whole where all arrays are contiguous in that order; otherwise slices along the
    slowest axis, copied where they must be, so that memory stays bounded by one slice.

    Parameters
    ----------
    *arrays : ndarray, all of one shape
        Nothing is yielded when they are empty.
    """
    axes = memory_axes(arrays[0])
    views = [array.transpose(axes) for array in arrays]
    if arrays[0].size == 0:
        return
    if arrays[0].ndim < 2 or all(view.flags.c_contiguous for view in views):
        yield tuple(np.ascontiguousarray(view).reshape(-1) for view in views)
        return
    for index in range(views[0].shape[0]):
        yield tuple(np.ascontiguousarray(view[index]).reshape(-1) for view in views)


def as_words(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return a C-contiguous array as a flat one of eight bytes at a time, without the few left over."""
    return array.reshape(-1)[: array.size // 8 * 8].view(np.uint64)


@inner_kernel
def end_of_run(pixels, words, at, stop):  # type: ignore[no-untyped-def]
    """Return where the value that begins at a place ends, at most ``stop``; most are long, and air.

    ``pixels``, ``words``: the same flat memory as bytes, and eight of them at a time.
    """
    value = pixels[at]
    repeated = np.uint64(0x0101010101010101) * np.uint64(value)
    while at < stop and at & 7 != 0:
        if pixels[at] != value:
            return at
        at += 1
    if at == stop:
        return at
    word, last = np.uint64(at >> 3), np.uint64(stop >> 3)  # unsigned: no test for an index below 0
    one, eight = np.uint64(1), np.uint64(8)
    while word + eight <= last:
        other = np.uint64(0)
        for n in range(8):
            other |= words[word + np.uint64(n)] ^ repeated
        if other != 0:
            break
        word += eight
    while word < last and words[word] == repeated:
        word += one
    at = np.int64(word) << 3
    while at < stop and pixels[at] == value:
        at += 1
    return at


def zeros_like(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return zeros of an array's shape and memory order.

    Unlike NumPy's own, which writes them, this takes memory only where something else is written.
    """
    axes = memory_axes(array)
    zeros = np.zeros([array.shape[axis] for axis in axes], dtype)
    return zeros.transpose(np.argsort(axes))
