"""Where voxels lie, and arrays that know it.

Arrays are indexed ``[i, j, k]`` as in NIfTI; ``affine @ (i, j, k, 1)`` is the centre of a voxel in RAS+
millimetres: x grows towards the patient's right, y towards the front, z towards the head.
The readers leave ``k`` (the slice) slowest in memory: ``array.T`` is C-contiguous ``[slice, row, column]``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import GeometryError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid of voxels in the patient.

    Parameters
    ----------
    shape : tuple of int
        Number of voxels along i, j, k; each at least 1.
    affine : array_like, (4, 4)
        Voxel index to RAS+ millimetres.

    Raises
    ------
    GeometryError
        If the shape is not three positive numbers, or the affine is not finite or singular.
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"a grid of shape {shape}", "three positive numbers of voxels")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError("an affine that is not a finite 4 x 4 matrix", fix="repair the scan's header")
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        volume = abs(np.linalg.det(affine[:3, :3]))
        if sizes.min() <= 0 or volume <= 1e-6 * float(np.prod(sizes)):
            raise GeometryError("a singular affine: the axes span no volume", fix="repair the scan's header")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @cached_property
    def voxel_sizes(self) -> tuple[float, float, float]:
        """Lengths of the voxel's edges along i, j, k in mm."""
        a, b, c = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(a), float(b), float(c)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @cached_property
    def orientation(self) -> str:
        """Direction in which i, j, k increase, to the nearest body axis: ``"RAS"``, ``"LPS"``, ..."""
        return orientation_of(self.affine)

    def to_world(self, index: npt.ArrayLike) -> FloatArray:
        """Voxel indices (..., 3) to RAS+ mm (..., 3)."""
        points = np.asarray(index, dtype=np.float64)
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, points_mm: npt.ArrayLike) -> FloatArray:
        """RAS+ mm (..., 3) to fractional voxel indices (..., 3)."""
        inverse = np.linalg.inv(self.affine).astype(np.float64, copy=False)
        points = np.asarray(points_mm, dtype=np.float64)
        return points @ inverse[:3, :3].T + inverse[:3, 3]

    def is_close(self, other: "Geometry", tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and every corner lies within the tolerance (mm)."""
        if self.shape != other.shape:
            return False
        corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(self.shape) - 1)
        return bool(np.abs(self.to_world(corners) - other.to_world(corners)).max() <= tolerance_mm)

    def window(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Geometry":
        """Return the grid of a box of voxels that begins at index ``start`` (which may lie outside)."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(start)
        return Geometry(shape, affine)


def orientation_of(affine: npt.ArrayLike) -> str:
    """Return the nearest body axis of each column of an affine (4, 4), e.g. ``"LPS"``.

    The assignment that maximises the sum of the cosines is taken, so each body axis appears once.
    """
    from itertools import permutations

    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    cosines = matrix / np.linalg.norm(matrix, axis=0)
    best = max(permutations(range(3)), key=lambda p: sum(abs(cosines[p[c], c]) for c in range(3)))
    return "".join("LPI"[row] if cosines[row, c] < 0 else "RAS"[row] for c, row in enumerate(best))


@dataclass(frozen=True, eq=False)
class Volume:
    """Intensities on a grid.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        Real numbers; never changed in place by lls.
    geometry : Geometry
        Where they lie; its shape equals the array's.
    """

    array: npt.NDArray[Any]
    geometry: Geometry

    def __post_init__(self) -> None:
        _check_shape(self.array, self.geometry)

    def _repr_png_(self) -> bytes:
        """Show the middle planes in a notebook."""
        from seg_core.notebook import volume_png

        return volume_png(self)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Classes on a grid.

    Parameters
    ----------
    array : ndarray of uint8, (i, j, k)
        Label values; 0 is background.
    geometry : Geometry
        Where they lie; its shape equals the array's.
    labels : mapping of int to str
        Name of each value that may occur, without the background: ``{1: "right_tibia", ...}``.
    """

    array: npt.NDArray[np.uint8]
    geometry: Geometry
    labels: Mapping[int, str]

    def __post_init__(self) -> None:
        _check_shape(self.array, self.geometry)
        if self.array.dtype != np.uint8:
            raise GeometryError(f"labels of type {self.array.dtype}", "uint8")

    def _repr_png_(self) -> bytes:
        """Show planes through the labels in a notebook."""
        from seg_core.notebook import labels_png

        return labels_png(self)


def _check_shape(array: npt.NDArray[Any], geometry: Geometry) -> None:
    if array.shape != geometry.shape:
        raise GeometryError(f"an array of shape {array.shape} on a grid of {geometry.shape}", "equal shapes")
