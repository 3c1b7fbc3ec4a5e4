"""The pelvis' joints: where the socket is, room in it for the femur's head, and the symphysis."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from seg_core.ply import Mesh
from trainers.contact import SignedSurface
from trainers.landmarks import femoral_head, fit_sphere, reflection
from trainers.shape_model import ShapeModel

FloatArray = npt.NDArray[np.float64]


@lru_cache(maxsize=1)
def socket_vertices(model: ShapeModel) -> dict[str, npt.NDArray[np.int64]]:
    """Find the vertices of each hip bone's socket, ``right`` and ``left``; they are the same for all shapes.

    On the mean shape: those near the head of the left femur that look at its centre. The right hip bone, of
    which the model has no femur, is reflected onto the left one.
    """
    mean = model.meshes(np.zeros(model.scores.shape[0]))
    matrix, offset = reflection(mean["left_hip"], mean["right_hip"])
    right = mean["right_hip"]
    reflected = Mesh((right.vertices_mm - offset) @ matrix, right.faces[:, ::-1])
    centre, radius = femoral_head(mean["femur"], "left")
    found = {}
    for side, pelvis in (("right", reflected), ("left", mean["left_hip"])):
        normals = SignedSurface.of(pelvis).normals[: len(pelvis.vertices_mm)]
        inwards = centre - pelvis.vertices_mm
        away = np.linalg.norm(inwards, axis=1)
        facing = np.einsum("ni,ni->n", normals, inwards) > 0.8 * away
        found[side] = np.flatnonzero(facing & (away < radius + 7))
    return found


def socket_centre(pelvis: Mesh, socket: npt.NDArray[np.int64]) -> FloatArray:
    """Return the centre (3,) of the sphere through a socket's vertices, RAS+ mm."""
    return fit_sphere(pelvis.vertices_mm[socket])[0]


def make_room(pelvis: Mesh, femur: Mesh, side: str, gap: float, depth: float = 15.0) -> Mesh:
    """Widen a socket around the head of a femur.

    Distances from the head's centre are compressed so that the nearest becomes the head's radius and ``gap``
    (mm), and those ``depth`` (mm) further out stay: walls get thinner, but no surface crosses another.
    """
    centre, radius = femoral_head(femur, side)
    outwards = pelvis.vertices_mm - centre
    away = np.linalg.norm(outwards, axis=1)
    nearest, wanted, end = away.min(), radius + gap, radius + gap + depth
    if nearest >= wanted:
        return pelvis
    wider = np.where(away < end, end - (end - away) * depth / (end - nearest), away)
    return Mesh(centre + outwards * (wider / away)[:, None], pelvis.faces)


def part_symphysis(right: Mesh, left: Mesh, gap: float, depth: float = 15.0) -> tuple[Mesh, Mesh]:
    """Leave at least ``gap`` (mm) between the two hip bones, which meet in a sagittal plane only.

    What crosses that plane is compressed sideways over ``depth`` (mm), so no surface crosses another.

    Returns
    -------
    right, left : Mesh
        RAS+ mm.
    """
    plane = float(right.vertices_mm[:, 0].min() + left.vertices_mm[:, 0].max()) / 2
    parted = []
    for mesh, sign in ((right, 1.0), (left, -1.0)):
        vertices = mesh.vertices_mm.copy()
        x = (vertices[:, 0] - plane) * sign
        wanted, end = gap / 2, gap / 2 + depth
        if x.min() < wanted:
            x = np.where(x < end, end - (end - x) * depth / (end - x.min()), x)
        vertices[:, 0] = plane + sign * x
        parted.append(Mesh(vertices, mesh.faces))
    return parted[0], parted[1]
