"""Neighbouring bones: how far apart they are, and how to bring a cartilage gap between them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from seg_core.ply import Mesh

FloatArray = npt.NDArray[np.float64]
_FARTHEST_MM = 8.0


@dataclass(frozen=True, eq=False)
class SignedSurface:
    """Points of a closed surface with their outward normals, to ask for signed distances.

    Parameters
    ----------
    points : ndarray, (n, 3)
        Vertices and centres of faces, mm.
    normals : ndarray, (n, 3)
        Unit normals, outwards.
    tree : KDTree
        Over the points.
    """

    points: FloatArray
    normals: FloatArray
    tree: KDTree

    @classmethod
    def of(cls, mesh: Mesh) -> "SignedSurface":
        """Return the points of a closed mesh."""
        corners = mesh.vertices_mm[mesh.faces]
        flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        round_ = np.zeros_like(mesh.vertices_mm)
        for corner in range(3):
            np.add.at(round_, mesh.faces[:, corner], flat)
        points = np.concatenate([mesh.vertices_mm, corners.mean(axis=1)])
        normals = np.concatenate([round_, flat])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        return cls(points, normals, KDTree(points))

    def distance(self, points: FloatArray, reach: float = 15.0) -> tuple[FloatArray, FloatArray]:
        """Return signed distances (n,) in mm, positive outside, and the nearest normals (n, 3).

        Along the nearest point's normal, so good to a fraction of a millimetre near a smooth surface only.
        Points with no surface within ``reach`` (mm) are infinitely far, with a normal of zero.
        """
        away, nearest = self.tree.query(points, distance_upper_bound=reach)
        nearest = np.asarray(nearest)
        near = np.isfinite(away)
        distance, normals = np.full(len(points), np.inf), np.zeros((len(points), 3))
        normals[near] = self.normals[nearest[near]]
        distance[near] = np.einsum("ni,ni->n", points[near] - self.points[nearest[near]], normals[near])
        return distance, normals


def contact_shift(
    moving: FloatArray, fixed: SignedSurface, gap: tuple[float, float], stiff: FloatArray | None = None
) -> FloatArray:
    """Find the translation (3,) that leaves the least distance between two bones within ``gap``.

    Parameters
    ----------
    moving : ndarray, (n, 3)
        Points of the bone that is moved, mm.
    fixed : SignedSurface
        The bone that stays.
    gap : (float, float)
        Least distance in mm where they are too near, and above which they are brought together.
    stiff : ndarray, (3,), optional
        The only direction in which the bone moves (a unit vector towards the fixed bone); any if None.
    """
    shift = np.zeros(3)
    moving = moving[np.isfinite(fixed.tree.query(moving, distance_upper_bound=30.0)[0])]
    if not len(moving):
        return shift
    for _ in range(25):
        distance, normals = fixed.distance(moving + shift)
        near = distance < gap[0]
        if not near.any():
            if stiff is None or distance.min() <= gap[1]:
                break
            shift = shift + stiff * min(distance.min() - gap[0], 10.0) * 0.7
            continue
        n, missing = normals[near], gap[0] - distance[near]
        if stiff is not None:  # straight away: sideways it could slip past its neighbour
            shift = shift - stiff * 0.7 * missing.max()
            continue
        # Least squares, held back a little: the walls of a socket push against each other.
        shift = shift + np.linalg.solve(n.T @ n + 0.02 * len(n) * np.eye(3), n.T @ missing)
        shift *= min(1.0, _FARTHEST_MM / max(float(np.linalg.norm(shift)), 1e-9))  # not out of its socket
    return shift


def carve(mesh: Mesh, solid: SignedSurface, gap: float, depth: float = 12.0) -> Mesh:
    """Push back the vertices of a mesh that lie in another bone, or nearer to it than ``gap`` (mm).

    Parameters
    ----------
    mesh : Mesh
        The mesh to change; its copy is returned.
    solid : SignedSurface
        The bone that stays.
    gap : float
        The distance in mm that vertices keep afterwards.
    depth : float
        Vertices deeper inside than this (mm) are left, since the nearest way out means nothing there.
    """
    vertices = mesh.vertices_mm.copy()
    for _ in range(3):
        distance, normals = solid.distance(vertices)
        near = (distance < gap) & (distance > -depth)
        if not near.any():
            break
        vertices[near] += normals[near] * (gap - distance[near])[:, None]
    return Mesh(vertices, mesh.faces)
