"""How far apart the surfaces of two label maps lie: HD95 and mean surface distance of every class.

Conventions, after Maier-Hein, Reinke et al., "Metrics reloaded" (Nature Methods 2024):

- The surface of a class is its border voxels: those with one of their 6 neighbours outside the class. Beyond
  the edge of the array is outside, as in MedPy and MONAI: a bone that the scan cuts has a surface there.
- Distances go from voxel centre to nearest voxel centre, exact, in mm.
- HD95 is the greater of the two directed 95th percentiles, which are interpolated linearly.
- The mean is the average symmetric surface distance (ASSD): over the border voxels of both maps together.
- A class that is empty in either map has no distance: NaN.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seg_core.errors import GeometryError, UsageError
from seg_core.geometry import FloatArray
from seg_core.kernel import kernel
from seg_core.memory_order import memory_axes

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances between two surfaces; both arrays (n_labels,), for the values 1 to n_labels.

    Parameters
    ----------
    hd95_mm : ndarray of float64
        95th percentile of the Hausdorff distance; NaN where one of the two is empty.
    assd_mm : ndarray of float64
        Average symmetric surface distance; NaN where one of the two is empty.
    """

    hd95_mm: FloatArray
    assd_mm: FloatArray


def surface_distances(
    predicted: Labels, truth: Labels, n_labels: int, voxel_sizes_mm: tuple[float, float, float]
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two label maps on one grid.

    Memory grows with the number of border voxels alone (about 100 bytes each), not with the volume, wherever
    they lie: nothing is copied, and a stray voxel far off costs no more than one nearby.

    Parameters
    ----------
    predicted, truth : ndarray of uint8, (i, j, k)
        Label values, in any memory order. May be empty. Values above ``n_labels`` are left out.
    n_labels : int
        Highest label value that is measured, 1 to 255.
    voxel_sizes_mm : tuple of float
        Distances of neighbouring voxels along i, j, k, which are orthogonal.

    Returns
    -------
    SurfaceDistances

    Raises
    ------
    GeometryError
        If the arrays are not three-dimensional and of the same shape.
    UsageError
        If they are not uint8, or the other arguments are impossible.
    """
    if predicted.shape != truth.shape or predicted.ndim != 3:
        raise GeometryError(f"arrays of shape {predicted.shape} and {truth.shape}", "equal shapes (i, j, k)")
    sizes = np.asarray(voxel_sizes_mm, dtype=np.float64)
    if not 0 < n_labels < 256 or sizes.shape != (3,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise UsageError(f"{n_labels} labels and voxels of {voxel_sizes_mm} mm", "1 to 255, three lengths")
    if predicted.dtype != np.uint8 or truth.dtype != np.uint8:
        raise UsageError(f"labels of {predicted.dtype} and {truth.dtype}", "uint8")
    distances = np.full((2, n_labels), np.nan)
    pairs = zip(_borders(predicted, n_labels), _borders(truth, n_labels), strict=True)
    for label, (p, t) in enumerate(pairs):
        if len(p) and len(t):
            distances[:, label] = _distances(p * sizes, t * sizes)
    return SurfaceDistances(*distances)


def _distances(p: FloatArray, t: FloatArray) -> tuple[float, float]:
    """Return HD95 and ASSD of two sets of points (n, 3) in mm."""
    from scipy.spatial import KDTree

    # Points of a grid have many equal coordinates: splitting boxes in the middle is quicker than at medians.
    trees = [KDTree(points, compact_nodes=False, balanced_tree=False) for points in (p, t)]
    to_t, to_p = np.asarray(trees[1].query(p)[0]), np.asarray(trees[0].query(t)[0])
    hd95 = max(np.percentile(to_t, 95), np.percentile(to_p, 95))
    return float(hd95), float((to_t.sum() + to_p.sum()) / (len(p) + len(t)))


def _borders(labels: Labels, n_labels: int) -> list[npt.NDArray[np.int32]]:
    """Return the indices (n, 3) of the border voxels of the values 1 to ``n_labels``."""
    axes = memory_axes(labels)
    ordered = labels.transpose(axes)
    starts = np.zeros(257, np.int64)
    _walk(ordered, starts, np.empty((0, 3), np.int32))
    np.cumsum(starts, out=starts)
    points = np.empty((starts[-1], 3), np.int32)
    ends = starts.copy()
    _walk(ordered, ends, points)
    points = points[:, np.argsort(axes)]
    return [points[starts[label] : starts[label + 1]] for label in range(1, n_labels + 1)]


@kernel
def _walk(labels, places, points):  # type: ignore[no-untyped-def]
    """Without points count the border voxels of value v in places[v + 1]; else fill from places[v] on."""
    n0, n1, n2 = labels.shape
    counting = len(points) == 0
    for a in range(n0):
        for b in range(n1):
            for c in range(n2):
                v = labels[a, b, c]
                if v == 0:
                    continue
                inside = 0 < a < n0 - 1 and 0 < b < n1 - 1 and 0 < c < n2 - 1
                if (
                    inside
                    and labels[a - 1, b, c] == v
                    and labels[a + 1, b, c] == v
                    and labels[a, b - 1, c] == v
                    and labels[a, b + 1, c] == v
                    and labels[a, b, c - 1] == v
                    and labels[a, b, c + 1] == v
                ):
                    continue
                if counting:
                    places[np.int64(v) + 1] += 1
                    continue
                place = places[v]
                points[place, 0], points[place, 1], points[place, 2] = a, b, c
                places[v] += 1
