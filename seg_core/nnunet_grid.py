"""A scan on the grid of a network that nnU-Net trained, by nnU-Net's own rules, and its classes back.

The scan is cut to the smallest box that holds all voxels but 0 and resampled by cubic splines; along an axis
whose voxels are more than three times as long as others the nearest one is taken (nnU-Net 2,
``nnunetv2/preprocessing/resampling/default_resampling.py``).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.intensity import Window, scale
from seg_core.patches import patch_labels
from seg_core.prepare import SlicePlan, resampled
from seg_core.runner import Runner

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]
Box = tuple[slice, ...]
Millimetres = tuple[float, float, float]

ANISOTROPIC = 3.0
"""Longest to shortest side of a voxel, above which an axis is coarse."""
SAME = 1e-4
"""Distances that come out of an affine are equal to this share."""


def coarse_axis(found: Millimetres, wanted: Millimetres) -> int | None:
    """Return the axis along which the nearest voxel is taken, if there is one.

    Parameters
    ----------
    found, wanted : tuple of float
        Distances of voxels before and after; where both are anisotropic the first ones count.
    """
    for distances in (found, wanted):
        if max(distances) / min(distances) > ANISOTROPIC * (1 + SAME):
            longest = [axis for axis, mm in enumerate(distances) if mm > max(distances) * (1 - SAME)]
            return longest[0] if len(longest) == 1 else None
    return None


def resample_cubic(volume: Float32Array, shape: tuple[int, ...], coarse: int | None) -> Float32Array:
    """Resample a volume by cubic splines; the outer edges of the two grids coincide.

    Parameters
    ----------
    volume : ndarray of float32, (slices, rows, columns)
        At least one voxel along each axis. Left alone.
    shape : tuple of int
        Wanted, at least 1 along each axis.
    coarse : int, optional
        Axis along which the nearest voxel is taken instead.

    Returns
    -------
    ndarray of float32, of ``shape``
        No darker and no brighter than the volume; with a coarse axis, than the voxels across it.
    """
    from scipy import ndimage

    if volume.shape == shape:
        return volume
    across = tuple(axis for axis in range(3) if axis != coarse)
    factors = [shape[axis] / volume.shape[axis] if axis in across else 1.0 for axis in range(3)]
    cubic = ndimage.zoom(volume, factors, order=3, mode="nearest", grid_mode=True)
    cubic = np.clip(cubic, volume.min(across, keepdims=True), volume.max(across, keepdims=True))
    if coarse is None:
        return cubic
    place = (np.arange(shape[coarse]) + 0.5) * volume.shape[coarse] / shape[coarse]
    result: Float32Array = np.take(cubic, place.astype(np.int64), coarse)
    return result


def nnunet_labels(
    array: npt.NDArray[Any], box: Box, plan: SlicePlan, window: Window, runner: Runner
) -> Iterator[tuple[int, Uint8Array, Uint8Array]]:
    """Give the classes of a scan's slices, in order.

    Parameters
    ----------
    array : ndarray, (slices, rows, columns)
        As the network sees them. A copy of the box is held in float32, on the network's grid.
    box : tuple of slice
        What the network sees of it.
    plan, window, runner
        As for `seg_core.patches`.

    Yields
    ------
    number, labels, confidence
        As `seg_core.patches.patch_labels` gives them; both are 0 beyond the box.
    """
    depth, rows, columns = (part.stop - part.start for part in box)
    wanted = plan.depth_mm, *runner.spec.grid.spacing_mm
    axes = zip((depth, rows, columns), plan.spacing_mm, wanted, strict=True)
    shape = tuple(resampled(*axis) for axis in axes)
    stack = resample_cubic(scale(array[box], *window), shape, coarse_axis(plan.spacing_mm, wanted))
    found = patch_labels(stack, runner, (depth, rows, columns), coarse_axis(wanted, plan.spacing_mm))
    for number in range(len(array)):
        labels, confidence = np.zeros((2, *array.shape[1:]), np.uint8)
        if box[0].start <= number < box[0].stop:
            _, labels[box[1:]], confidence[box[1:]] = next(found)
        yield number, labels, confidence
