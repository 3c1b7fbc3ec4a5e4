"""Label to surface: closed, lightly smoothed, with the label's own volume, in patient millimetres."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from skimage.measure import marching_cubes

from seg_core.components import find_components
from seg_core.geometry import LabelMap
from seg_core.moments import Box, label_moments
from seg_core.ply import Mesh

# Taubin's pass band 0.1 as in his paper: features of a few voxels stay, the voxels' stairs go.
_ROUNDS, _SHRINK, _INFLATE = 10, 0.5, -0.526
_VANISHED = 1.5  # times that a piece was larger before smoothing; bones lose a tenth at most


def surface(labelmap: LabelMap, value: int, box: Box | None = None, smooth: bool = True) -> Mesh:
    """Return the closed surface of a label.

    Marching cubes (skimage, Lorensen's) at 0.5 between the voxel centres of the label's box, padded by one
    background voxel, so that the surface is closed also where the scan cuts the bone. Then Taubin's
    smoothing, and a shift of all vertices along their normals by the small distance (a fraction of a voxel)
    that gives each piece of the surface the volume of its voxels.

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
        pieces, voxels = _pieces(mask, index)
        limit = min(labelmap.geometry.voxel_sizes) / 2
        volumes = voxels.astype(np.float64) * labelmap.geometry.voxel_volume
        vertices = _with_volume(_taubin(vertices, faces), faces, pieces, volumes, limit)
    return Mesh(vertices, np.ascontiguousarray(faces))


def _closed_surface(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    # Lorensen's table: on masks, Lewiner's can let four faces meet in an edge.
    padded = np.zeros([n + 2 for n in mask.shape], np.float32)
    padded[1:-1, 1:-1, 1:-1] = mask
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


def _pieces(
    mask: npt.NDArray[np.bool_], index: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the piece (n,) of each vertex, and the voxels (pieces,) of each piece.

    A vertex lies midway between a voxel of its piece and one outside, which is in no piece.
    """
    voxels = find_components(mask.view(np.uint8)).sizes
    if len(voxels) == 1:  # nearly always: only several are looked for where they lie
        return np.zeros(len(index), np.intp), voxels
    found, _ = ndimage.label(np.pad(mask, 1), np.ones((3, 3, 3)))
    ends = (tuple(side(index + 1).astype(np.intp).T) for side in (np.floor, np.ceil))
    piece = np.maximum(*(found[end] for end in ends)) - 1
    return piece.astype(np.intp), np.bincount(found[found > 0] - 1)


def _with_volume(
    vertices: npt.NDArray[np.float64],
    faces: npt.NDArray[np.int32],
    pieces: npt.NDArray[np.intp],
    volumes: npt.NDArray[np.float64],
    limit: float,
) -> npt.NDArray[np.float64]:
    """Give each piece its volume (mm3): move along the normals, by at most ``limit`` mm a time.

    Each alone: smoothing takes more of a small one, and if a large one were given that, the centroid of all
    would lie elsewhere. One of a few voxels nearly vanishes, and is made larger as a whole first.
    """
    of_face = pieces[faces[:, 0]]
    growth = volumes / _sums(of_face, _spans(vertices, faces, _cross(vertices, faces)))
    if (lost := growth > _VANISHED).any():
        middles = np.column_stack([_sums(pieces, axis) for axis in vertices.T]) / _sums(pieces)[:, None]
        scale = np.where(lost, np.cbrt(growth), 1.0)[pieces, None]
        vertices = middles[pieces] + scale * (vertices - middles[pieces])
    for _ in range(2):
        cross = _cross(vertices, faces)
        area = _sums(of_face, np.linalg.norm(cross, axis=1)) / 2
        normals = np.zeros_like(vertices)
        for corner in faces.T:
            for axis in range(3):
                normals[:, axis] += np.bincount(corner, weights=cross[:, axis], minlength=len(vertices))
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
        step = np.clip((volumes - _sums(of_face, _spans(vertices, faces, cross))) / area, -limit, limit)
        vertices = vertices + normals * step[pieces, None]
    return vertices


def _spans(
    vertices: npt.NDArray[np.float64], faces: npt.NDArray[Any], cross: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return each face's share (faces,) of the volume, from a point amid all so that no digits are lost."""
    spans: npt.NDArray[np.float64] = np.einsum(
        "ij,ij->i", vertices[faces[:, 0]] - vertices.mean(axis=0), cross
    )
    return spans / 6


def _sums(
    which: npt.NDArray[np.intp], values: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Return the sum of the values of each piece, without values how many there are."""
    sums: npt.NDArray[np.float64] = np.bincount(which, weights=values).astype(np.float64)
    return sums


def _cross(vertices: npt.NDArray[np.float64], faces: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)
