"""The outer edge of a bone's cortex around a point in a slice, as a closed path of least cost.

Cortex is dark in every look that the real scans have, and what lies around it is bright. Along each of
``RAYS`` rays from the point the image is read every ``STEP_MM``, by splines, smoothed over ``SMOOTH_MM``;
a rise from dark to bright on the way out is an edge. Of all closed paths, a radius a ray, that one is taken
which has the least sum of

- minus the rise over ``EDGE_MM``, as a share of the brightness around the bone and levelled off from
  ``STRONG`` on, so that a strong edge farther out is not worth much more than the bone's own,
- ``BEYOND`` times every rise that the path leaves ``EDGE_MM`` and more behind it, so that it stops at the
  cortex and does not go on to a fascia, and
- ``BEND`` times each step in radius from ray to ray.

It is found exactly, by dynamic programming from every first radius in turn. A point that was set by hand on
the edge (anchor) holds the path at that ray within ``ANCHOR_MM``. Where the rise at the path is below
``FAINT`` the edge is in doubt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates

Array = npt.NDArray[np.float64]
Point = tuple[float, float]

RAYS, STEP_MM = 72, 0.25
SMOOTH_MM, EDGE_MM, STRONG = 0.6, 1.5, 0.3
BEYOND, BEND, STEPS = 0.35, 0.03, 12
ANCHOR_MM, FAINT = 0.5, 0.2
REACH_MM = {"tibia": (5.0, 34.0), "femur": (8.0, 36.0), "fibula": (2.5, 14.0)}


@dataclass(frozen=True, eq=False)
class Outline:
    """A closed outline; ray by ray, counter-clockwise in (i, j).

    Parameters
    ----------
    points : ndarray of float64, (RAYS, 2)
        Voxel coordinates i, j.
    doubtful : ndarray of bool, (RAYS,)
        Where no edge is seen.
    """

    points: Array
    doubtful: npt.NDArray[np.bool_]


def find_outline(
    image: Array, seed: Point, bone: str, pixel_mm: float, anchors: Sequence[Point] = ()
) -> Outline:
    """Find the outer edge of the cortex around a point inside a bone.

    Parameters
    ----------
    image : ndarray of float64, (i, j)
        A slice.
    seed : tuple of float
        Voxel coordinates i, j inside the bone, from which all of its edge can be seen.
    bone : str
        One of ``REACH_MM``.
    pixel_mm : float
        Distance of pixels.
    anchors : sequence of tuple of float
        Voxel coordinates on the edge.
    """
    low, high = REACH_MM[bone]
    radii = np.arange(low, high, STEP_MM)
    angles = 2 * np.pi * np.arange(RAYS) / RAYS
    along = np.stack([np.cos(angles), np.sin(angles)])
    smooth = gaussian_filter(image, SMOOTH_MM / pixel_mm)

    def read(shift_mm: float) -> Array:
        """Read at all radii, shifted outwards, (rays, radii)."""
        places = np.asarray(seed)[:, None, None] + along[:, :, None] * (radii + shift_mm) / pixel_mm
        return np.asarray(map_coordinates(smooth, places, order=3, mode="nearest"))

    bright = np.percentile(read(0), 80)
    rise = (read(EDGE_MM / 2) - read(-EDGE_MM / 2)) / bright
    up = np.clip(rise, 0, None)
    inner = read(-EDGE_MM) / bright
    left_behind = np.cumsum(np.clip(np.diff(inner, prepend=inner[:, :1]), 0, None), axis=1)
    cost = -up / (up + STRONG) + BEYOND * left_behind
    for i, j in anchors:
        offset = (np.array([i, j]) - seed) * pixel_mm
        ray = round(np.arctan2(offset[1], offset[0]) / (2 * np.pi) * RAYS) % RAYS
        cost[ray, np.abs(radii - np.hypot(*offset)) > ANCHOR_MM] = np.inf
    path = closed_path(cost, STEPS, BEND)
    points = np.asarray(seed) + (along * radii[path] / pixel_mm).T
    return Outline(points, rise[np.arange(RAYS), path] < FAINT)


def closed_path(cost: Array, steps: int, bend: float) -> npt.NDArray[np.int64]:
    """Return the closed path of least cost, an index a row.

    Parameters
    ----------
    cost : ndarray of float64, (rows, places)
        Not negative infinity or NaN.
    steps : int
        The most by which neighbouring rows may differ; the last row is the first one's neighbour.
    bend : float
        Cost of each step.

    Returns
    -------
    ndarray of int64, (rows,)
    """
    rows, places = cost.shape
    moves = np.arange(-steps, steps + 1)
    # best[first, place]: the least cost of a path that began at `first` and is now at `place`.
    best = np.full((places, places), np.inf)
    np.fill_diagonal(best, cost[0])
    came = np.zeros((rows, places, places), np.int16)
    for row in range(1, rows):
        padded = np.pad(best, ((0, 0), (steps, steps)), constant_values=np.inf)
        options = np.stack([padded[:, steps + m : steps + m + places] + bend * abs(m) for m in moves])
        choice = options.argmin(axis=0)
        came[row] = moves[choice]
        best = np.take_along_axis(options, choice[None], axis=0)[0] + cost[row]
    gap = np.abs(np.subtract.outer(np.arange(places), np.arange(places)))
    closed = np.where(gap <= steps, best + bend * gap, np.inf)
    first, place = np.unravel_index(int(closed.argmin()), closed.shape)
    path = np.empty(rows, np.int64)
    for row in range(rows - 1, -1, -1):
        path[row] = place
        place = place + came[row, first, place]
    return path
