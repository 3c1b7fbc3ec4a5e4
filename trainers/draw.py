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
from trainers.mr import Look, Painter
from trainers.soft_tissue import Body, SoftTissue, Tissue, make_soft_tissue

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
    structures, owners = _structures(anatomy, fine)
    tissue = make_soft_tissue(anatomy, drawing.body)
    bones = _Bones(anatomy, drawing, owners)

    def one(k: int) -> None:
        planes = range(k * drawing.planes, (k + 1) * drawing.planes)
        take(k, [_plane(structures[p], p, fine, bones, tissue) for p in planes])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(geometry.shape[2])))


@dataclass(frozen=True)
class _Owner:
    """The bone behind a structure number."""

    name: str
    low: float
    high: float
    shaft_mm: float  # thickness of the cortex at mid-shaft, adult
    end_mm: float
    plates: tuple[float, ...]  # growth plates, as shares of the length from below


_SHAFTS: dict[str, tuple[float, float, tuple[float, ...]]] = {
    "femur": (6.0, 1.4, (0.075, 0.90)),
    "tibia": (5.0, 1.3, (0.05, 0.935)),
    "fibula": (2.6, 1.1, (0.06, 0.94)),
    "pelvis": (1.5, 1.5, ()),
}


class _Bones:
    """What lies inside the bones: cortex, marrow, growth plates."""

    def __init__(self, anatomy: Anatomy, drawing: Drawing, owners: list[_Owner]) -> None:
        self.owners = owners
        self.young = float(np.clip((16 - drawing.age_years) / 9, 0, 1))
        self.open_plates = drawing.age_years < 15
        femur = anatomy.bones.get("right_femur") or anatomy.bones.get("left_femur")
        extent = np.ptp(femur.vertices_mm[:, 2]) if femur is not None else 430.0
        self.scale = float(extent) / 440.0
        rng = np.random.default_rng([drawing.body.seed, 4])
        self.thickness = float(rng.uniform(0.75, 1.25))
        self.plate_mm = float(rng.uniform(1.6, 3.2)) * self.scale
        self.waves = rng.uniform(0, 2 * np.pi, 2)

    def fill(
        self,
        structures: npt.NDArray[np.uint8],
        z: float,
        xs: npt.NDArray[np.float64],
        ys: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.uint8]:
        """Tissue inside the bones of a plane (rows, columns); 0 outside."""
        out = np.zeros(structures.shape, np.uint8)
        box = _box(structures)
        inside, tissue = structures[box], out[box]
        if inside.size == 0:
            return out
        depth = (distance_transform_edt(inside > 0) - 0.5) * abs(xs[1] - xs[0])
        wave = np.sin(xs[box[1]] / 9 + self.waves[0]) + np.sin(ys[box[0], None] / 8 + self.waves[1])
        for value in np.flatnonzero(np.bincount(inside.ravel()))[1:]:
            self._fill_one(self.owners[value - 1], inside == value, (z, depth, wave), tissue)
        return out

    def _fill_one(
        self,
        owner: _Owner,
        mask: npt.NDArray[np.bool_],
        place: tuple[float, Array, Array],
        tissue: npt.NDArray[np.uint8],
    ) -> None:
        z, depth, wave = place
        share = (z - owner.low) / max(owner.high - owner.low, 1e-6)
        middle = np.clip(1.25 * np.sin(np.pi * np.clip(share, 0, 1)) - 0.25, 0, 1) ** 0.8
        cortex = (owner.end_mm + (owner.shaft_mm - owner.end_mm) * middle) * self.scale * self.thickness
        red = self.young * (1 - 0.8 * middle) > 0.45
        tissue[mask] = Tissue.RED_MARROW if red or not owner.plates else Tissue.MARROW
        tissue[mask & (depth < cortex)] = Tissue.CORTEX
        for plate in owner.plates if self.open_plates else ():
            height = owner.low + plate * (owner.high - owner.low)
            near = np.abs(z - height + 1.5 * self.scale * wave) < self.plate_mm / 2
            tissue[mask & near] = Tissue.CARTILAGE


def _plane(
    structures: npt.NDArray[np.uint8], p: int, fine: Geometry, bones: _Bones, tissue: SoftTissue
) -> Plane:
    """Return tissue and shade of one plane."""
    columns, rows, _ = fine.shape
    origin, step = fine.affine[:3, 3], np.diag(fine.affine)[:3]
    xs, ys = origin[0] + step[0] * np.arange(columns), origin[1] + step[1] * np.arange(rows)
    z = float(origin[2] + step[2] * p)
    made, shades = np.zeros((2, rows, columns), np.uint8)
    box = _body_box(tissue.box(z), _box(structures), xs, ys)
    xs, ys, structures = xs[box[1]], ys[box[0]], np.ascontiguousarray(structures[box])
    if structures.size == 0:
        return made, shades
    arms = np.array([False] + [_is_arm(owner.name) for owner in bones.owners])
    outside = _distance_to(structures * ~arms[structures], abs(step[0]))
    arm = _distance_to(structures * arms[structures], abs(step[0]))
    soft, shade = tissue.tissue(z, xs, ys, outside, arm)
    inside = bones.fill(structures, z, xs, ys)
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


def _is_arm(name: str) -> bool:
    return any(word in name for word in ("hand", "radius", "ulna", "humerus"))


def _distance_to(mask: npt.NDArray[np.uint8], pixel_mm: float) -> npt.NDArray[np.float32]:
    """Distance to the nearest set pixel in mm, from every second row and column; far where there is none."""
    small = mask[::2, ::2] != 0
    if not small.any():
        return np.full(mask.shape, _FAR_MM, np.float32)
    distance = distance_transform_edt(~small).astype(np.float32) * np.float32(2 * pixel_mm)
    full = np.repeat(np.repeat(distance, 2, axis=0), 2, axis=1)
    return np.ascontiguousarray(full[: mask.shape[0], : mask.shape[1]])


def _box(mask: npt.NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns that hold every set pixel, and one around; empty where there is none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return slice(0, 0), slice(0, 0)
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _structures(anatomy: Anatomy, fine: Geometry) -> tuple[npt.NDArray[np.uint8], list[_Owner]]:
    """Give every bone, labelled or not, a number on the fine grid (plane, row, column), and who that is."""
    out = np.zeros(fine.shape[::-1], np.uint8)
    owners = []
    for name, mesh in [*anatomy.others.items(), *anatomy.bones.items()]:
        shaft, end, plates = _SHAFTS.get(name.split("_")[-1], (1.5, 1.2, ()))
        z = mesh.vertices_mm[:, 2]
        owners.append(_Owner(name, float(z.min()), float(z.max()), shaft, end, plates))
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
