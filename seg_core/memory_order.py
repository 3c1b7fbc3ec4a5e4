"""Walk through arrays in the order in which they lie in memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

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
