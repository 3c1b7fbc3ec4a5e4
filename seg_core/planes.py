"""Planes of the radiologist's page, as views of arrays in any stored orientation.

Everything is a view, so that what is written into a plane is written into the array itself. A *level* counts
planes towards the patient's left (sagittal), back (coronal) or head (axial); :meth:`Planes.stored` gives the
number of the same plane in the scan's own order, from 0.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.geometry import Geometry
from seg_core.views import lps_axes

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = get_args(Plane)
_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
_ACROSS = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}  # LPS axes of rows and columns


@dataclass(frozen=True, eq=False)
class Planes:
    """How planes lie in arrays on a grid.

    Parameters
    ----------
    geometry : Geometry
        The grid, in any orientation; planes follow its axes, the nearest body axis names them.
    """

    geometry: Geometry

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels towards left, back and head."""
        a, b, c = (self.geometry.shape[axis] for axis in lps_axes(self.geometry)[0])
        return a, b, c

    @property
    def sizes(self) -> tuple[float, float, float]:
        """Millimetres a voxel towards left, back and head."""
        a, b, c = (self.geometry.voxel_sizes[axis] for axis in lps_axes(self.geometry)[0])
        return a, b, c

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """Index along (left, back, head) to RAS+ mm, (4, 4)."""
        order, flips = lps_axes(self.geometry)
        step = np.zeros((4, 4))
        step[3, 3] = 1
        for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
            step[old, new] = -1 if flip else 1
            step[old, 3] = self.geometry.shape[old] - 1 if flip else 0
        return np.asarray(self.geometry.affine @ step)

    def count(self, plane: Plane) -> int:
        """Return how many such planes there are."""
        return self.shape[_AXIS[plane]]

    def pixel_mm(self, plane: Plane) -> tuple[float, float]:
        """Return millimetres a row and a column."""
        row, column = _ACROSS[plane]
        return self.sizes[row], self.sizes[column]

    def stored(self, plane: Plane, level: int) -> int:
        """Return the number of a plane in the scan's own order, from 0; the inverse is the same function."""
        flip = lps_axes(self.geometry)[1][_AXIS[plane]]
        return self.count(plane) - 1 - level if flip else level

    def cut(self, array: npt.NDArray[Any], plane: Plane, level: int) -> npt.NDArray[Any]:
        """Return a plane of an array (i, j, k) as a view (row, column).

        Columns grow towards the patient's left (sagittal: back), rows towards the back (else: the feet).

        Raises
        ------
        UsageError
            If there is no such plane.
        """
        if plane not in PLANES or not 0 <= level < self.count(plane):
            raise UsageError(
                f"plane {plane!r}, level {level!r}", f"one of the {self.shape} planes of the scan"
            )
        order, flips = lps_axes(self.geometry)
        lps = array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
        if plane == "axial":
            return lps[:, :, level].T
        return lps[:, level, ::-1].T if plane == "coronal" else lps[level, :, ::-1].T
