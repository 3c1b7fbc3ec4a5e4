"""Bones and soft tissue -> an MR scan and its true labels."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import BONES, sided_labels
from seg_core.ply import Mesh
from seg_core.voxelize import voxelize
from trainers.anatomy import Anatomy
from trainers.bone_tissue import END_MM, BoneTissue, Owner, box_of
from trainers.joints import draw_joints, is_arm, joint_tissue
from trainers.mr import Look, Painter
from trainers.soft_tissue import Body, SoftTissue, make_soft_tissue

_FAR_MM = 1e3
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """What is drawn of an anatomy.

    Parameters
    ----------
    body : Body
        Soft tissue.
    look : Look
        Scanner.
    age_years : float
        Growth plates are open below 15; the marrow of the young is red.
    planes : int
        Planes a slice that are averaged: partial volume across slices.
    """

    body: Body = field(default_factory=Body)
    look: Look = field(default_factory=Look)
    age_years: float = 10.0
    planes: int = 2


def scan_geometry(
    centre_mm: npt.ArrayLike, size: int, pixel_mm: float, slices: int, slice_mm: float
) -> Geometry:
    """Axial grid, columns to the left, rows to the back, slices upwards, around a centre (RAS mm)."""
    affine = np.diag([-pixel_mm, -pixel_mm, slice_mm, 1.0])
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.array([size, size, slices]) - 1) / 2)
    return Geometry((size, size, slices), affine)


def true_labels(anatomy: Anatomy, geometry: Geometry) -> LabelMap:
    """Label each voxel (i, j, k) whose centre lies in a bone; values as in the contract."""
    labels = sided_labels(BONES)
    out = np.zeros(geometry.shape[::-1], np.uint8).T
    for value, name in labels.items():
        if name in anatomy.bones:
            _paint(out, anatomy.bones[name], geometry, value)
    return LabelMap(out, geometry, labels)


def draw_scan(anatomy: Anatomy, geometry: Geometry, drawing: Drawing, threads: int = 2) -> Volume:
    """Draw an axial scan (as :func:`scan_geometry` gives) of an anatomy; int16 (i, j, k).

    The same arguments give the same array, whatever the number of threads.
    """
    painter = Painter(drawing.look, geometry.shape[::-1])
    out = np.empty(geometry.shape[::-1], np.int16)

    def one(k: int, planes: list[Plane]) -> None:
        signals = [painter.signal(*plane) for plane in planes]
        out[k] = painter.acquire(np.mean(signals, axis=0, dtype=np.float32), k)

    draw_tissue(anatomy, geometry, drawing, one, threads)
    return Volume(out.T, geometry)


Plane = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""``Tissue`` values and numbers of muscles or organs (for their shades), (rows, columns) both."""


def draw_tissue(
    anatomy: Anatomy,
    geometry: Geometry,
    drawing: Drawing,
    take: Callable[[int, list[Plane]], None],
    threads: int = 2,
) -> None:
    """Say of which tissue each slice of an axial scan is made.

    Parameters
    ----------
    anatomy, geometry, drawing
        As for :func:`draw_scan`.
    take : callable
        Is given each slice's number and its planes, in any order and from several threads.
    threads : int
        How many.
    """
    fine = _subdivide(geometry, drawing.planes)
    stack, owners = _Stack.of(anatomy, fine, drawing.body)
    tissue = make_soft_tissue(anatomy, drawing.body)
    bones = BoneTissue(anatomy, drawing.body, drawing.age_years, owners)

    def one(k: int) -> None:
        planes = range(k * drawing.planes, (k + 1) * drawing.planes)
        take(k, [_plane(p, stack, bones, tissue) for p in planes])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(geometry.shape[2])))


@dataclass(frozen=True)
class _Stack:
    """Planes of bones, and of what lies in joints, if that is drawn; (planes, rows, columns) both."""

    fine: Geometry
    structures: npt.NDArray[np.uint8]
    joints: npt.NDArray[np.uint8] | None
    end: int  # planes from a bone's end that are compact; 0: none

    @classmethod
    def of(cls, anatomy: Anatomy, fine: Geometry, body: Body) -> tuple["_Stack", list[Owner]]:
        """Paint the bones, and fill their joints."""
        structures, owners = _structures(anatomy, fine)
        if not body.joints:
            return cls(fine, structures, None, 0), owners
        columns, rows, plane_mm = (abs(float(mm)) for mm in np.diag(fine.affine)[:3])
        scale = BoneTissue(anatomy, body, 0, owners).scale
        drawn = draw_joints(np.random.default_rng([body.seed, 6]), scale)
        joints = joint_tissue(structures, [owner.name for owner in owners], (plane_mm, rows, columns), drawn)
        return cls(fine, structures, joints, max(round(END_MM * scale / plane_mm), 1)), owners

    def ends(self, p: int, box: tuple[slice, slice]) -> npt.NDArray[np.bool_]:
        """Say where in a plane's box what lies there begins or ends just above or below."""
        here = self.structures[p][box]
        near = self.structures[max(p - self.end, 0) : p + self.end + 1, *box]
        found: npt.NDArray[np.bool_] = (near != here).any(axis=0)
        return found


def _plane(p: int, stack: _Stack, bones: BoneTissue, tissue: SoftTissue) -> Plane:
    """Return tissue and shade of one plane."""
    structures = stack.structures[p]
    columns, rows, _ = stack.fine.shape
    origin, step = stack.fine.affine[:3, 3], np.diag(stack.fine.affine)[:3]
    xs, ys = origin[0] + step[0] * np.arange(columns), origin[1] + step[1] * np.arange(rows)
    z = float(origin[2] + step[2] * p)
    made, shades = np.zeros((2, rows, columns), np.uint8)
    box = _body_box(tissue.box(z), box_of(structures), xs, ys)
    xs, ys, structures = xs[box[1]], ys[box[0]], np.ascontiguousarray(structures[box])
    if structures.size == 0:
        return made, shades
    arms = np.array([False] + [is_arm(owner.name) for owner in bones.owners])
    outside = _distance_to(structures * ~arms[structures], abs(step[0]))
    arm = _distance_to(structures * arms[structures], abs(step[0]))
    soft, shade = tissue.tissue(z, xs, ys, outside, arm)
    inside = bones.fill(structures, stack.ends(p, box), (z, xs, ys))
    if stack.joints is not None:
        inside = np.where(inside > 0, inside, stack.joints[p][box])
    made[box] = np.where(inside > 0, inside, soft)
    shades[box] = np.where(inside > 0, 0, shade)
    return made, shades


def _body_box(
    flesh: tuple[float, float, float, float] | None, bones: tuple[slice, slice], xs: Array, ys: Array
) -> tuple[slice, slice]:
    """Rows and columns that hold soft tissue (x from, to, y from, to, mm) and bones with their skin."""
    pad = int(np.ceil(25 / abs(xs[1] - xs[0])))
    box = []
    for axis, places in ((1, ys), (0, xs)):
        found = bones[1 - axis]
        low, high = (found.start - pad, found.stop + pad) if found.stop else (len(places), 0)
        if flesh is not None:
            within = np.flatnonzero((places > flesh[2 * axis]) & (places < flesh[2 * axis + 1]))
            if len(within):
                low, high = min(low, within[0]), max(high, within[-1] + 1)
        box.append(slice(max(low, 0), max(min(high, len(places)), max(low, 0))))
    return box[0], box[1]


def _distance_to(mask: npt.NDArray[np.uint8], pixel_mm: float) -> npt.NDArray[np.float32]:
    """Distance to the nearest set pixel in mm, from every second row and column; far where there is none."""
    small = mask[::2, ::2] != 0
    if not small.any():
        return np.full(mask.shape, _FAR_MM, np.float32)
    distance = distance_transform_edt(~small).astype(np.float32) * np.float32(2 * pixel_mm)
    full = np.repeat(np.repeat(distance, 2, axis=0), 2, axis=1)
    return np.ascontiguousarray(full[: mask.shape[0], : mask.shape[1]])


def _structures(anatomy: Anatomy, fine: Geometry) -> tuple[npt.NDArray[np.uint8], list[Owner]]:
    """Give every bone, labelled or not, a number on the fine grid (plane, row, column), and who that is."""
    out = np.zeros(fine.shape[::-1], np.uint8)
    owners = []
    for name, mesh in [*anatomy.others.items(), *anatomy.bones.items()]:
        owners.append(Owner.of(name, mesh.vertices_mm[:, 2]))
        _paint(out.T, mesh, fine, len(owners))
    return out, owners


def _subdivide(geometry: Geometry, planes: int) -> Geometry:
    """Cut each slice into planes."""
    affine = geometry.affine.copy()
    affine[:3, 2] /= planes
    affine[:3, 3] -= affine[:3, 2] * (planes - 1) / 2
    i, j, k = geometry.shape
    return Geometry((i, j, k * planes), affine)


def _paint(out: npt.NDArray[np.uint8], mesh: Mesh, geometry: Geometry, value: int) -> None:
    """Write ``value`` into the voxels (i, j, k) whose centre lies in the mesh."""
    index = geometry.to_index(mesh.vertices_mm)
    low = np.clip(np.floor(index.min(0)).astype(int), 0, np.array(geometry.shape))
    high = np.clip(np.ceil(index.max(0)).astype(int) + 1, 0, np.array(geometry.shape))
    if (high <= low).any():
        return
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    start, shape = (int(low[0]), int(low[1]), int(low[2])), tuple(int(n) for n in high - low)
    out[box][voxelize(mesh, geometry.window(start, (shape[0], shape[1], shape[2]))) > 0] = value
