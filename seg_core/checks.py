"""Intensities that no network can make anything of."""

from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import ScanError


def refuse_values(array: npt.NDArray[Any], name: str) -> None:
    """Refuse an image with numbers that are not finite, or with one value only.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        Intensities; looked at a slice at a time.
    name : str
        What the error calls the image.

    Raises
    ------
    ScanError
        Naming how many values are NaN or infinite, or the one value.
    """
    if array.dtype.kind == "f":
        slices = (array[..., k] for k in range(array.shape[-1]))
        bad = sum(plane.size - int(np.isfinite(plane).sum()) for plane in slices)
        if bad:
            raise ScanError(
                f"{name}: {bad} of {array.size} values are NaN or infinite",
                "finite intensities",
                "export the scan again, or replace these values",
            )
    low, high = array.min(), array.max()
    if low == high:
        raise ScanError(
            f"{name}: every voxel has the value {low:g}",
            "an image with contrast",
            "look at it, and export the scan again",
        )
