"""Points of the skeleton that tell where joints, and with them muscles and skin, lie."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from seg_core.ply import Mesh

FloatArray = npt.NDArray[np.float64]

# Length of the femur over stature in adults of all populations: Feldesman et al., Am J Phys Anthropol 1990.
FEMUR_OF_STATURE = 0.2674


def side_sign(side: str) -> float:
    """Return +1 for ``"right"``, -1 for ``"left"``: the sign of x (RAS+) away from the midline."""
    return 1.0 if side == "right" else -1.0


def greatest_length(mesh: Mesh) -> float:
    """Return the extent of a mesh along its own long axis in mm, e.g. the length of a femur."""
    centred = mesh.vertices_mm - mesh.vertices_mm.mean(axis=0)
    along = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
    return float(np.ptp(along))


def bone_landmarks(bones: Mapping[str, Mesh]) -> dict[str, FloatArray]:
    """Find what the bones show.

    Parameters
    ----------
    bones : mapping of str to Mesh
        By name (``right_tibia`` ...), RAS+ mm, z up along the body. Any may be missing.

    Returns
    -------
    dict of str to ndarray, (3,)
        RAS+ mm: ``right_hip`` (centre of the femoral head), ``right_trochanter`` (its most lateral point),
        ``right_knee``, ``right_ankle``, ``right_asis``, ``right_ischium``, the same on the left; ``pubis``.
        Those whose bone is missing are left out.
    """
    found: dict[str, FloatArray] = {}
    for side in ("right", "left"):
        if (femur := bones.get(f"{side}_femur")) is not None:
            found[f"{side}_hip"] = femoral_head(femur, side)[0]
            found[f"{side}_trochanter"] = _trochanter(femur, side)
            found[f"{side}_knee"] = _end(femur, 0.0, 0.08)
        if (tibia := bones.get(f"{side}_tibia")) is not None:
            found.setdefault(f"{side}_knee", _end(tibia, 0.95, 1.0))
            found[f"{side}_ankle"] = _end(tibia, 0.0, 0.06)
        if (pelvis := bones.get(f"{side}_pelvis")) is not None:
            found |= {f"{side}_{name}": point for name, point in _pelvic_points(pelvis, side).items()}
    pubis = [found.pop(f"{side}_pubis") for side in ("right", "left") if f"{side}_pubis" in found]
    if pubis:
        found["pubis"] = np.mean(pubis, axis=0)
    return found


def femoral_head(femur: Mesh, side: str) -> tuple[FloatArray, float]:
    """Fit a sphere to the head of a femur.

    Returns
    -------
    centre : ndarray, (3,)
        RAS+ mm.
    radius : float
        In mm.
    """
    points = femur.vertices_mm
    length = float(np.ptp(points[:, 2]))
    upper = points[points[:, 2] > points[:, 2].max() - 0.15 * length]
    medial = upper[np.argmin(upper[:, 0] * side_sign(side))]
    near = upper[np.linalg.norm(upper - medial, axis=1) < 0.07 * length]
    for _ in range(15):
        centre, radius = fit_sphere(near)
        away = np.linalg.norm(upper - centre, axis=1)
        # Above and medial of the plane that the neck leaves through.
        outward = (upper - centre) @ np.array([side_sign(side), 0.0, -1.0]) / np.sqrt(2) < 0.5 * radius
        near = upper[(np.abs(away - radius) < 0.08 * radius) & outward]
        if len(near) < 10:
            break
    return centre, radius


def reflection(left: Mesh, right: Mesh) -> tuple[FloatArray, FloatArray]:
    """Find the reflection with rotation that carries the left hip bone onto the right one.

    Returns
    -------
    matrix : ndarray, (3, 3)
        Orthogonal, determinant -1.
    offset : ndarray, (3,)
        ``right = left @ matrix.T + offset`` in mm. Iterative closest points, each best by Kabsch's method.
    """
    p, q = left.vertices_mm[::3], right.vertices_mm
    tree = KDTree(q)
    matrix = np.diag([-1.0, 1.0, 1.0])
    offset = q.mean(axis=0) - matrix @ p.mean(axis=0)
    for _ in range(40):
        pairs = q[tree.query(p @ matrix.T + offset)[1]]
        p0, q0 = p.mean(axis=0), pairs.mean(axis=0)
        u, _, vt = np.linalg.svd((pairs - q0).T @ (p - p0))
        matrix = u @ np.diag([1.0, 1.0, -np.sign(np.linalg.det(u @ vt))]) @ vt
        offset = q0 - matrix @ p0
    return matrix, offset


def fit_sphere(points: FloatArray) -> tuple[FloatArray, float]:
    """Fit centre (3,) and radius to points (n, 3), mm: least squares of |p|^2 = 2 c.p + (r^2 - |c|^2)."""
    origin = points.mean(axis=0)
    p = points - origin
    system = np.column_stack([2 * p, np.ones(len(p))])
    solution = np.linalg.lstsq(system, (p * p).sum(axis=1), rcond=None)[0]
    centre = solution[:3]
    return centre + origin, float(np.sqrt(solution[3] + centre @ centre))


def _end(mesh: Mesh, low: float, high: float) -> FloatArray:
    """Return the middle of the bounding box of the points between two fractions of the height."""
    z = mesh.vertices_mm[:, 2]
    height = (z - z.min()) / np.ptp(z)
    part = mesh.vertices_mm[(height >= low) & (height <= high)]
    middle: FloatArray = (part.min(axis=0) + part.max(axis=0)) / 2
    return middle


def _trochanter(femur: Mesh, side: str) -> FloatArray:
    points = femur.vertices_mm
    upper = points[points[:, 2] > points[:, 2].max() - 0.25 * np.ptp(points[:, 2])]
    point: FloatArray = upper[np.argmax(upper[:, 0] * side_sign(side))].copy()
    return point


def _pelvic_points(pelvis: Mesh, side: str) -> dict[str, FloatArray]:
    points = pelvis.vertices_mm
    low, high = points.min(axis=0), points.max(axis=0)
    upper = points[points[:, 2] > low[2] + 0.55 * (high[2] - low[2])]
    lower = points[points[:, 2] < low[2] + 0.5 * (high[2] - low[2])]
    return {
        "asis": upper[np.argmax(upper[:, 1])].copy(),
        "crest": points[np.argmax(points[:, 2])].copy(),
        "ischium": points[np.argmin(points[:, 2])].copy(),
        "pubis": lower[np.argmin(lower[:, 0] * side_sign(side))].copy(),
    }
