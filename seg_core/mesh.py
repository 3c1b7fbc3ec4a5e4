"""Label to surface: closed, lightly smoothed, with the label's own volume, in patient millimetres."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from skimage.measure import marching_cubes

from seg_core.geometry import LabelMap
from seg_core.moments import Box, label_moments
from seg_core.ply import Mesh

# Taubin's pass band 0.1 as in his paper: features of a few voxels stay, the voxels' stairs go.
_ROUNDS, _SHRINK, _INFLATE = 10, 0.5, -0.526


def surface(labelmap: LabelMap, value: int, box: Box | None = None, smooth: bool = True) -> Mesh:
    """Return the closed surface of a label.

    Marching cubes (skimage, Lorensen's) at 0.5 between the voxel centres of the label's box, padded by one
    background voxel, so that the surface is closed also where the scan cuts the bone. Then Taubin's
    smoothing, and a shift of all vertices along their normals by the small distance (a fraction of a voxel)
    that gives the surface the volume of the label's voxels.

    Parameters
    ----------
    labelmap : LabelMap
        Labels and where they lie.
    value : int
        The label.
    box : tuple of slice, optional
        A box that contains the label, if known; else it is searched for.
    smooth : bool, default: True
        Whether to smooth and to restore the volume.

    Returns
    -------
    Mesh
        Vertices in RAS+ mm, faces wound so that normals point outwards; no vertex, no face if empty.

    References
    ----------
    G. Taubin, A signal processing approach to fair surface design, SIGGRAPH 1995.
    """
    if box is None:
        moments = label_moments(labelmap.array).get(value)
        box = None if moments is None else moments.box
    mask = None if box is None else labelmap.array[box] == value
    if box is None or mask is None or not mask.any():
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int32))
    index, faces = _closed_surface(mask)
    vertices = labelmap.geometry.to_world(index + [side.start for side in box])
    if np.linalg.det(labelmap.geometry.affine[:3, :3]) < 0:  # the grid is left-handed
        faces = faces[:, ::-1]
    if smooth:
        volume = float(mask.sum()) * labelmap.geometry.voxel_volume
        limit = min(labelmap.geometry.voxel_sizes) / 2
        vertices = _with_volume(_taubin(vertices, faces), faces, volume, limit)
    return Mesh(vertices, np.ascontiguousarray(faces))


def _closed_surface(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    # Lorensen's table: on masks, Lewiner's can let four faces meet in an edge.
    padded = np.pad(mask, 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(padded, 0.5, gradient_direction="ascent", method="lorensen")
    return vertices.astype(np.float64) - 1, faces.astype(np.int32)


def _taubin(vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Alternate a shrinking and an inflating step towards the mean of the neighbours."""
    mean = _neighbour_mean(faces, len(vertices))
    for _ in range(_ROUNDS):
        for step in (_SHRINK, _INFLATE):
            vertices = vertices + step * (mean @ vertices - vertices)
    return vertices


def _neighbour_mean(faces: npt.NDArray[np.int32], count: int) -> Any:
    rows, columns = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    ones = np.ones(2 * len(rows))
    pairs = (np.concatenate([rows, columns]), np.concatenate([columns, rows]))
    graph = sparse.csr_array((ones, pairs), shape=(count, count))
    graph.data[:] = 1.0
    return sparse.diags_array(1 / graph.sum(axis=1)) @ graph


def _with_volume(
    vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int32], volume: float, limit: float
) -> npt.NDArray[np.float64]:
    """Move along the normals until the volume (mm3) is right, each time by at most ``limit`` mm."""
    for _ in range(2):
        cross = _cross(vertices, faces)
        area = float(np.linalg.norm(cross, axis=1).sum()) / 2
        normals = np.zeros_like(vertices)
        for corner in faces.T:
            for axis in range(3):
                normals[:, axis] += np.bincount(corner, weights=cross[:, axis], minlength=len(vertices))
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
        missing = volume - _volume(vertices, cross, faces)
        vertices = vertices + normals * np.clip(missing / area, -limit, limit)
    return vertices


def _volume(vertices: npt.NDArray[np.float64], cross: npt.NDArray[np.float64], faces: Any) -> float:
    """Volume by the divergence theorem, from a point amid the vertices so that no digits are lost."""
    return float(np.einsum("ij,ij->", vertices[faces[:, 0]] - vertices.mean(axis=0), cross)) / 6


def _cross(vertices: npt.NDArray[np.float64], faces: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)
