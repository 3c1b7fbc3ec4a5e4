"""Hip bones that a network has joined: the midline between them, from themselves alone."""

import numpy as np

from seg_core.geometry import FloatArray

LEVEL_MM = 5.0
GAP_MM = 35.0  # the wings, and the sitting bones, lie further apart; parts of one hip bone do not, sideways
BALANCE = 0.5  # the lesser half of a level in proportion to the greater
HEIGHT_MM = 20.0  # in all, of levels that are parted so
SLOPE_OVER_MM = 60.0
MAX_SLOPE = 0.5


def midline_of_hips(points_mm: FloatArray, voxel_mm: float) -> FloatArray | None:
    """Return the plane between two hip bones that are one component.

    Above the sacrum and below the symphysis the two are apart even when joined there: levels with a wide gap
    and about as much bone on either side of it tell where the middle is.

    Parameters
    ----------
    points_mm : ndarray, (n, 3)
        The component's voxels, RAS+ mm; n may be 0.
    voxel_mm : float
        The longest edge of a voxel, so that every level has its voxels.

    Returns
    -------
    ndarray, (4,), or None
        (n, d) with n.x + d > 0 on the right; None where this is one hip bone, or too little of two.
    """
    level_mm = max(LEVEL_MM, voxel_mm)
    levels = np.floor(points_mm[:, 2] / level_mm).astype(np.int64)
    halves = [
        pair
        for level in np.unique(levels)
        if (pair := _halves(points_mm[levels == level], voxel_mm)) is not None
    ]
    if len(halves) * level_mm < HEIGHT_MM:
        return None
    right, left = np.array(halves).transpose(1, 0, 2)
    middles = (right + left) / 2
    up = np.array([0.0, 0.0, 1.0])
    if np.ptp(middles[:, 2]) >= SLOPE_OVER_MM:  # a body that leans to one side
        slope = np.polyfit(middles[:, 2], middles[:, 0], 1)[0]
        up[0] = np.clip(slope, -MAX_SLOPE, MAX_SLOPE)
    up /= np.linalg.norm(up)
    across = np.mean(right - left, axis=0)
    normal = across - (across @ up) * up
    normal /= np.linalg.norm(normal)
    return np.append(normal, -normal @ np.median(middles, axis=0))


def _halves(points: FloatArray, voxel_mm: float) -> tuple[FloatArray, FloatArray] | None:
    """Return the centroids (3,) of what lies right and left of a level's widest gap; None without one."""
    x = np.sort(points[:, 0])
    gaps = np.diff(x)
    if gaps.size == 0 or gaps.max() < GAP_MM + voxel_mm:
        return None
    widest = int(np.argmax(gaps))
    left, right = widest + 1, x.size - widest - 1
    if min(left, right) < BALANCE * max(left, right):
        return None
    middle = (x[widest] + x[widest + 1]) / 2
    return points[points[:, 0] > middle].mean(axis=0), points[points[:, 0] < middle].mean(axis=0)
