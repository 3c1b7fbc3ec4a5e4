"""Bones as strands: where each connected component lies, level by level from foot to head, in patient mm."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seg_core.components import Components, IntArray
from seg_core.geometry import FloatArray, Geometry
from seg_core.kernel import kernel

LEVEL_MM = 5.0


@dataclass(frozen=True, eq=False)
class Strands:
    """Volumes and centroids of some components in slabs of equal height (z, towards the head).

    Parameters
    ----------
    counts : ndarray of float64, (n, levels)
        Voxels of each component in each level, from the lowest to the highest.
    points : ndarray of float64, (n, levels, 3)
        Their centroids in RAS+ mm; NaN where there is no voxel.
    """

    counts: FloatArray
    points: FloatArray

    def own(self, index: int) -> FloatArray:
        """Return the centroids (m, 3) of the levels in which a component is, from the foot upwards."""
        points: FloatArray = self.points[index][self.counts[index] > 0]
        return points

    def shared(self, a: int, b: int) -> FloatArray:
        """Return a's centroid minus b's (m, 3) in the levels that both reach; none if these are too few.

        Two parts of one bone that lie one above the other share few levels: less than 3 in 10 of the shorter
        strand's count as none.
        """
        here, there = self.counts[a] > 0, self.counts[b] > 0
        both = here & there
        if both.sum() < max(1.0, 0.3 * min(here.sum(), there.sum())):
            return np.empty((0, 3))
        difference: FloatArray = self.points[a][both] - self.points[b][both]
        return difference

    def distance(self, a: int, b: int) -> float:
        """Return the median horizontal distance in shared levels, else the least in space, in mm."""
        difference = self.shared(a, b)
        if len(difference):
            return float(np.median(np.hypot(difference[:, 0], difference[:, 1])))
        return least_distance(self.own(a), self.own(b))


def least_distance(points: FloatArray, others: FloatArray) -> float:
    """Return the least distance in mm between two sets of points (n, 3), (m, 3); infinite if one is empty."""
    if len(points) == 0 or len(others) == 0:
        return float("inf")
    return float(np.linalg.norm(points[:, None] - others[None], axis=2).min())


def trace_strands(components: Components, geometry: Geometry, which: IntArray) -> Strands:
    """Measure components level by level.

    Parameters
    ----------
    components : Components
        Of a label map (i, j, k) on the geometry.
    geometry : Geometry
        Any orientation, oblique too.
    which : ndarray of int64, (n,)
        The components to measure.

    Returns
    -------
    Strands
        In the order of ``which``. A level is 5 mm high, or as high as the voxel is long where that is more.
    """
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(geometry.shape) - 1)
    heights = geometry.to_world(corners)[:, 2]
    level = max(LEVEL_MM, *geometry.voxel_sizes)
    # A little lower, so that slices at multiples of the height do not fall to either side by rounding.
    lowest = float(heights.min()) - 0.01 * level
    n_levels = int((float(heights.max()) - lowest) / level) + 2
    slots = np.full(components.sizes.size, -1, np.int64)
    slots[which] = np.arange(which.size)
    sums = np.zeros((which.size, n_levels, 4))
    runs = components.runs
    _trace(runs.shape[1], runs.arrays, view_affine(components, geometry), slots, (lowest, level), sums)
    counts = sums[:, :, 0]
    with np.errstate(invalid="ignore"):
        points = sums[:, :, 1:] / counts[:, :, None]
    return Strands(counts, points)


def view_affine(components: Components, geometry: Geometry) -> FloatArray:
    """Return the affine (3, 4) of the indices in which the runs count: (slice, row, column) to RAS+ mm."""
    columns = [*components.runs.axes, 3]
    return np.ascontiguousarray(geometry.affine[:3, columns])


def count_right(components: Components, geometry: Geometry, plane: FloatArray) -> IntArray:
    """Return how many voxels of each component have n.x + d > 0 in RAS+ mm, for a plane (n, d) (4,)."""
    counts = np.zeros(components.sizes.size, np.int64)
    runs = components.runs
    _count_right(runs.shape[1], runs.arrays, _view_plane(components, geometry, plane), counts)
    return counts


def cut(
    components: Components,
    geometry: Geometry,
    plane: FloatArray,
    left_values: npt.NDArray[np.uint8],
    array: npt.NDArray[np.uint8],
) -> None:
    """Write a component's left value, where that is not 0, into the array on the plane's negative side."""
    runs = components.runs
    view_plane = _view_plane(components, geometry, plane)
    _cut(runs.view(array), runs.arrays, view_plane, left_values)


def _view_plane(components: Components, geometry: Geometry, plane: FloatArray) -> FloatArray:
    affine = view_affine(components, geometry)
    turned: FloatArray = plane[:3] @ affine
    turned[3] += plane[3]
    return turned


@kernel
def _trace(rows, runs, affine, slots, levels, sums):  # type: ignore[no-untyped-def]
    offsets, starts, ends, component = runs
    lowest, height = levels
    for line in range(offsets.size - 1):
        s, r = line // rows, line % rows
        for run in range(offsets[line], offsets[line + 1]):
            slot = slots[component[run]]
            if slot < 0:
                continue
            for c in range(starts[run], ends[run]):
                x = affine[0, 0] * s + affine[0, 1] * r + affine[0, 2] * c + affine[0, 3]
                y = affine[1, 0] * s + affine[1, 1] * r + affine[1, 2] * c + affine[1, 3]
                z = affine[2, 0] * s + affine[2, 1] * r + affine[2, 2] * c + affine[2, 3]
                level = int((z - lowest) / height)
                sums[slot, level, 0] += 1
                sums[slot, level, 1] += x
                sums[slot, level, 2] += y
                sums[slot, level, 3] += z


@kernel
def _count_right(rows, runs, plane, counts):  # type: ignore[no-untyped-def]
    offsets, starts, ends, component = runs
    for line in range(offsets.size - 1):
        begin = plane[0] * (line // rows) + plane[1] * (line % rows) + plane[3]
        for run in range(offsets[line], offsets[line + 1]):
            for c in range(starts[run], ends[run]):
                counts[component[run]] += begin + plane[2] * c > 0


@kernel
def _cut(view, runs, plane, left_values):  # type: ignore[no-untyped-def]
    offsets, starts, ends, component = runs
    rows = view.shape[1]
    for line in range(offsets.size - 1):
        s, r = line // rows, line % rows
        begin = plane[0] * s + plane[1] * r + plane[3]
        for run in range(offsets[line], offsets[line + 1]):
            value = left_values[component[run]]
            if value == 0:
                continue
            for c in range(starts[run], ends[run]):
                if begin + plane[2] * c <= 0:
                    view[s, r, c] = value
