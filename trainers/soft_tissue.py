"""Soft tissue around posed bones: skin, fat, muscles with their fascia, vessels, a simple trunk.

Nothing here is labelled; it is what a network must learn to tell from bone. Each limb is a stack of
superposed outlines along the line hip, knee, ankle; its muscles are the cells of an additively weighted
Voronoi diagram in coordinates relative to that outline, so that they follow the limb's form.
Frame: RAS+ mm. Sizes are those of an adult, scaled by the length of the limb.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from seg_core.kernel import kernel
from trainers.anatomy import Anatomy

Array = npt.NDArray[np.float64]


class Tissue(IntEnum):
    """What a point of the phantom is made of."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    FASCIA = 4
    VESSEL = 5
    CORTEX = 6
    MARROW = 7
    RED_MARROW = 8
    CARTILAGE = 9
    FLUID = 10
    ORGAN = 11
    TENDON = 12


@dataclass(frozen=True)
class Body:
    """How one person's soft tissue differs from another's.

    Parameters
    ----------
    seed : int
        Of the muscles' places, outlines and waviness.
    fat_mm : float
        Subcutaneous fat at mid-thigh on an adult's scale.
    girth : float
        Factor on the radii of limbs and trunk.
    skin_mm : float
        Thickness of the skin.
    fascia : float
        Width of the gap between muscles, relative to the limb's radius.
    bulk : float
        Size of the muscles; below 1 the fat between them grows.
    bare_shin : float
        How far the calf's flesh lies behind and beside the tibia: 0 all around it, as in `lls phantom`; 1 so
        that nothing but skin and a little fat is on its inner face, as in most people.
    joints : bool
        Whether joints hold cartilage, fluid and menisci, bones end in compact bone, and bowel keeps away from
        them; without, as in `lls phantom`, muscle and bowel fill what lies between bones.
    flesh : float
        Factor on the radii of limbs where they are mostly muscle; at ankles and knees a third of it counts.
    """

    seed: int = 0
    fat_mm: float = 9.0
    girth: float = 1.0
    skin_mm: float = 1.8
    fascia: float = 0.035
    bulk: float = 1.0
    bare_shin: float = 0.0
    joints: bool = False
    flesh: float = 1.0


def draw_body(rng: np.random.Generator) -> Body:
    """Draw a person."""
    return Body(
        seed=int(rng.integers(2**31)),
        fat_mm=float(rng.gamma(5.0, 1.9) + 2.5),
        girth=float(rng.uniform(0.88, 1.12)),
        skin_mm=float(rng.uniform(1.2, 2.4)),
        fascia=float(rng.uniform(0.018, 0.055)),
        bulk=float(rng.uniform(0.85, 1.15)),
    )


# Along the limb: 0 hip, 1 knee, 2 ankle. Radii (lateral, anterior) and the flesh's offset from the line
# through the joints (lateral, anterior), in adult mm; share of fat; size of the muscles.
_ALONG = np.array(
    [-0.32, -0.2, -0.1, 0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0, 1.1, 1.3, 1.5, 1.7, 1.85, 2.0, 2.07, 2.14]
)
_RADIUS_X = np.array([5, 45, 75, 86, 89, 84, 76, 66, 59, 55, 53, 56, 51, 41, 35, 32, 30, 4])
_RADIUS_Y = np.array([5, 50, 80, 90, 91, 86, 78, 69, 62, 60, 56, 59, 53, 43, 37, 37, 42, 4])
_OFFSET_X = np.array([20, 22, 22, 20, 14, 14, 16, 12, 6, 0, 2, 5, 4, 2, 1, 0, 0, 0])
_OFFSET_Y = np.array([-22, -22, -18, -12, -2, 4, 7, 5, 0, -4, -8, -17, -15, -10, -7, -5, -4, -4])
_FAT = np.array([1.6, 1.6, 1.6, 1.5, 1.4, 1.2, 1.0, 0.9, 0.8, 0.6, 0.55, 0.6, 0.6, 0.5, 0.4, 0.4, 0.4, 0.4])
_MUSCLE = np.array([1, 1, 1, 1, 1, 1, 1, 0.9, 0.62, 0.34, 0.5, 0.95, 0.95, 0.75, 0.5, 0.32, 0.2, 0.1])

# Muscles: angle in degrees (0 lateral, 90 anterior, 180 medial), distance and size relative to the outline.
_THIGH = np.array(
    [
        (90, 0.72, 0.14), (20, 0.60, 0.30), (70, 0.25, 0.24), (150, 0.55, 0.22), (150, 0.90, 0.02),
        (195, 0.86, 0.04), (185, 0.50, 0.14), (215, 0.45, 0.22), (235, 0.72, 0.13), (258, 0.75, 0.12),
        (285, 0.70, 0.16), (315, 0.42, 0.10),
    ]
)  # fmt: skip
_CALF = np.array(
    [
        (60, 0.62, 0.14), (30, 0.66, 0.10), (355, 0.75, 0.12), (350, 0.12, 0.12), (210, 0.42, 0.08),
        (325, 0.36, 0.12), (250, 0.50, 0.22), (292, 0.50, 0.22), (228, 0.82, 0.18), (312, 0.82, 0.16),
        (180, 0.35, 0.05), (120, 0.80, -0.05),
    ]
)  # fmt: skip
# Vessels: angle, distance, radius in adult mm, at hip, mid-thigh, knee, mid-calf, ankle.
_VESSELS_ALONG = np.array([0.0, 0.5, 1.0, 1.3, 2.0])
_VESSELS = np.array(
    [
        [(110, 0.62, 5.0), (170, 0.42, 4.2), (262, 0.30, 3.8), (270, 0.22, 2.2), (235, 0.60, 1.5)],
        [(122, 0.60, 5.5), (176, 0.48, 4.8), (270, 0.36, 4.4), (285, 0.28, 2.4), (245, 0.62, 1.6)],
        [(140, 0.93, 2.2), (185, 0.93, 2.0), (200, 0.93, 1.8), (165, 0.95, 1.8), (140, 0.93, 1.5)],
        [(275, 0.20, 2.0), (280, 0.30, 2.6), (285, 0.48, 2.6), (10, 0.30, 1.6), (30, 0.55, 1.2)],
    ]
)
# Where along the limb the shin may be bare, and how far the flesh then lies aside and behind, in adult mm.
_SHIN_ALONG, _SHIN = np.array([1.02, 1.2, 1.75, 1.95]), np.array([0, 1, 1, 0])
_SHIN_X, _SHIN_Y = 9, -20
_TRUNK_ALONG = np.array([-0.29, -0.17, -0.06, 0.05, 0.2, 0.35, 0.5, 0.8, 1.2])
_TRUNK_X = np.array([28, 100, 156, 166, 158, 142, 134, 138, 146])
_TRUNK_Y = np.array([26, 62, 88, 102, 103, 94, 90, 96, 104])
_TRUNK_FAT = np.array([1.4, 1.5, 1.6, 1.7, 1.6, 1.5, 1.3, 1.2, 1.1])

# Between bowel and bones lie muscles; at the hips, up to that place along the trunk, bowel lies between them.
_BOWEL_MM, _PELVIS_MM, _HIPS = 10, 52, 0.12

_HARMONICS = 4
_ANGLES = np.linspace(-np.pi, np.pi, 256, endpoint=False)
_NOISE_MM = 22.0


@dataclass(frozen=True)
class _Limb:
    """A leg's joints (3, RAS mm) from the hip down, and which way is lateral (+1 right, -1 left)."""

    hip: Array
    knee: Array
    ankle: Array
    lateral: float
    scale: float
    muscles: Array  # (2, 12, 3): thigh and calf: angle in rad, distance, size
    harmonics: Array  # (2, _HARMONICS, 2): amplitude and phase, at hip and ankle


@dataclass(frozen=True)
class SoftTissue:
    """One person's soft tissue, to be asked slice by slice.

    Parameters
    ----------
    body : Body
        The person.
    limbs : tuple
        The legs that are there.
    noise : ndarray, (2, z, y, x)
        Smooth waves that bend muscles and vary the fat; spaced by 22 mm, periodic.
    trunk_muscles : ndarray, (n, 3)
        Place across and forwards, and size, relative to the trunk's outline.
    """

    body: Body
    limbs: tuple[_Limb, ...]
    noise: npt.NDArray[np.float32]
    trunk_muscles: Array

    def tissue(
        self,
        z: float,
        xs: Array,
        ys: Array,
        outside_mm: npt.NDArray[np.float32],
        arm_mm: npt.NDArray[np.float32],
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Fill a plane with soft tissue, as if bones were not there.

        Parameters
        ----------
        z : float
            Height of the plane, RAS mm.
        xs, ys : ndarray, (columns,), (rows,)
            RAS mm of the pixels' centres.
        outside_mm : ndarray of float32, (rows, columns)
            Distance to the nearest bone of leg, trunk or foot in the plane, mm.
        arm_mm : ndarray of float32, (rows, columns)
            Distance to the nearest bone of arm or hand.

        Returns
        -------
        tissue, muscle : ndarray of uint8, (rows, columns)
            ``Tissue`` values, and a number for each muscle or organ (for its shade).
        """
        rows = [_limb_row(limb, self.body, z) for limb in self.limbs]
        rows = [row for row in rows if row is not None]
        outlines = np.array([row[0] for row in rows]).reshape(len(rows), 8)
        walls = np.array([row[1] for row in rows]).reshape(len(rows), len(_ANGLES))
        muscles = np.array([row[2] for row in rows]).reshape(len(rows), len(_THIGH), 3)
        vessels = np.array([row[3] for row in rows]).reshape(len(rows), len(_VESSELS), 3)
        noise = _noise_plane(self.noise, z)
        return _fill_plane(
            xs, ys, outside_mm, arm_mm, outlines, walls, muscles, vessels,
            self._trunk_row(z), self.trunk_muscles, noise,
            np.array([self.body.skin_mm, self.body.fascia, _NOISE_MM, self._scale(), *self._bowel_room()]),
        )  # fmt: skip

    def box(self, z: float) -> tuple[float, float, float, float] | None:
        """Return what limbs and trunk may fill of a plane: x from, to, y from, to, RAS mm."""
        rows = [_limb_row(limb, self.body, z) for limb in self.limbs]
        parts = [row[0][:4] for row in rows if row is not None]
        trunk = self._trunk_row(z)
        parts += [trunk[:4]] if trunk[2] > 0 else []
        if not parts:
            return None
        x, y, rx, ry = np.array(parts).T
        reach_x, reach_y = 1.4 * rx + 15, 1.4 * ry + 15  # outlines wave, and limbs merge with a bulge
        return (
            float((x - reach_x).min()), float((x + reach_x).max()),
            float((y - reach_y).min()), float((y + reach_y).max()),
        )  # fmt: skip

    def _bowel_room(self) -> tuple[float, float]:
        """Return how far bowel stays from bones, and from the middle at the hips, mm."""
        if not self.body.joints:
            return -np.inf, np.inf
        return _BOWEL_MM * self._scale(), _PELVIS_MM * self._scale()

    def _scale(self) -> float:
        return float(np.mean([limb.scale for limb in self.limbs])) if self.limbs else 1.0

    def _trunk_row(self, z: float) -> Array:
        """Return centre x, y, radii x, y, fat in mm and height along the trunk; zeros where there is none."""
        hips = [limb.hip for limb in self.limbs]
        if not hips:
            return np.zeros(6)
        scale, middle = self._scale(), np.mean(hips, axis=0)
        if len(hips) == 1:  # a single leg: the midline lies a hip's half distance to the medial side
            middle = middle - np.array([self.limbs[0].lateral * 85 * scale, 0, 0])
        along = (z - middle[2]) / (430 * scale)
        if along < _TRUNK_ALONG[0]:
            return np.zeros(6)
        girth = scale * self.body.girth
        return np.array(
            [
                middle[0],
                middle[1] - 8 * scale,
                np.interp(along, _TRUNK_ALONG, _TRUNK_X) * girth,
                np.interp(along, _TRUNK_ALONG, _TRUNK_Y) * girth,
                np.interp(along, _TRUNK_ALONG, _TRUNK_FAT) * self.body.fat_mm * scale,
                along,
            ]
        )


def make_soft_tissue(anatomy: Anatomy, body: Body) -> SoftTissue:
    """Dress the legs of which there is a femur or a tibia, and the trunk."""
    rng = np.random.default_rng([body.seed, 1])
    muscles = np.stack([_jitter(table, rng, body.bulk) for table in (_THIGH, _CALF)])
    harmonics = np.stack([_draw_harmonics(rng), _draw_harmonics(rng)])
    limbs = []
    for side, lateral in (("right", 1.0), ("left", -1.0)):
        if not {f"{side}_femur", f"{side}_tibia"} & set(anatomy.bones):
            continue
        hip, knee, ankle = (anatomy.landmarks[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle"))
        scale = float(np.linalg.norm(hip - knee) + np.linalg.norm(knee - ankle)) / 800.0
        limbs.append(_Limb(hip, knee, ankle, lateral, scale, muscles, harmonics * rng.uniform(0.8, 1.2)))
    noise = rng.standard_normal((2, 64, 32, 32)).astype(np.float32)
    trunk = _cartesian(
        np.column_stack(
            [rng.uniform(0, 2 * np.pi, 18), np.sqrt(rng.uniform(0.02, 0.9, 18)), rng.uniform(-0.05, 0.08, 18)]
        )
    )
    return SoftTissue(body, tuple(limbs), noise, trunk)


def _jitter(table: Array, rng: np.random.Generator, bulk: float) -> Array:
    out = table.astype(np.float64).copy()
    out[:, 0] = np.radians(out[:, 0] + rng.normal(0, 6, len(out)))
    out[:, 1] = np.clip(out[:, 1] + rng.normal(0, 0.05, len(out)), 0.05, 0.95)
    out[:, 2] = (out[:, 2] + rng.normal(0, 0.03, len(out))) * bulk
    return out


def _draw_harmonics(rng: np.random.Generator) -> Array:
    order = np.arange(2, 2 + _HARMONICS)
    return np.column_stack(
        [rng.normal(0, 0.05, _HARMONICS) / (order - 1), rng.uniform(0, 2 * np.pi, _HARMONICS)]
    )


def _position_along(limb: _Limb, z: float) -> tuple[float, Array]:
    """Return the place along the limb (0 hip, 1 knee, 2 ankle) and the x, y of the line there."""
    if z >= limb.knee[2]:
        upper, lower, base = limb.hip, limb.knee, 0.0
    else:
        upper, lower, base = limb.knee, limb.ankle, 1.0
    share = (upper[2] - z) / max(upper[2] - lower[2], 1e-6)
    point = upper + np.clip(share, 0, 1.2) * (lower - upper)
    return base + share, point[:2]


def _limb_row(limb: _Limb, body: Body, z: float) -> tuple[Array, Array, Array, Array] | None:
    """Outline (cx, cy, rx, ry, fat, muscle size, lateral, scale), wall, muscles and vessels at a height."""
    along, (x, y) = _position_along(limb, z)
    if not _ALONG[0] < along < _ALONG[-1]:
        return None
    muscle = np.interp(along, _ALONG, _MUSCLE)
    size = limb.scale * body.girth * (1 + (body.flesh - 1) * muscle)
    shin = np.interp(along, _SHIN_ALONG, _SHIN) * body.bare_shin
    outline = np.array(
        [
            x + limb.lateral * (np.interp(along, _ALONG, _OFFSET_X) + shin * _SHIN_X) * size,
            y + (np.interp(along, _ALONG, _OFFSET_Y) + shin * _SHIN_Y) * size,
            np.interp(along, _ALONG, _RADIUS_X) * size,
            np.interp(along, _ALONG, _RADIUS_Y) * size,
            np.interp(along, _ALONG, _FAT) * body.fat_mm * limb.scale,
            muscle * body.bulk,
            limb.lateral,
            limb.scale,
        ]
    )
    blend = np.clip((along - 0.85) / 0.3, 0, 1)
    down = np.clip(along / 2, 0, 1)
    harmonics = (1 - down) * limb.harmonics[0] + down * limb.harmonics[1]
    orders = np.arange(2, 2 + _HARMONICS)[:, None]
    waves = harmonics[:, :1] * np.cos(orders * _ANGLES + harmonics[:, 1:])
    wall = 1 + waves.sum(0)
    thigh, calf = _cartesian(limb.muscles[0]), _cartesian(limb.muscles[1])
    muscles = (1 - blend) * thigh + blend * calf
    knots = [np.interp(along, _VESSELS_ALONG, column) for column in _vessel_columns()]
    vessels = np.array(knots).reshape(-1, 3)
    vessels[:, 2] *= limb.scale
    return outline, wall, muscles, vessels


def _cartesian(muscles: Array) -> Array:
    angle, distance, size = muscles.T
    return np.column_stack([distance * np.cos(angle), distance * np.sin(angle), size])


def _vessel_columns() -> Array:
    angle = np.radians(_VESSELS[..., 0])
    table = np.stack(
        [_VESSELS[..., 1] * np.cos(angle), _VESSELS[..., 1] * np.sin(angle), _VESSELS[..., 2]], -1
    )
    return np.moveaxis(table, 1, -1).reshape(-1, len(_VESSELS_ALONG))


def _noise_plane(noise: npt.NDArray[np.float32], z: float) -> npt.NDArray[np.float32]:
    """Interpolate the waves at a height: (2, y, x)."""
    place = (z / _NOISE_MM) % noise.shape[1]
    low, share = int(place), place - int(place)
    plane = (1 - share) * noise[:, low] + share * noise[:, (low + 1) % noise.shape[1]]
    return np.ascontiguousarray(plane, dtype=np.float32)


@kernel
def _wave(noise, u, v):
    """Bilinear sample of a periodic lattice (rows, columns) at u, v."""
    rows, columns = noise.shape
    iv, iu = int(np.floor(v)), int(np.floor(u))
    fv, fu = v - iv, u - iu
    # Smoothstep, so that the lattice's lines do not show.
    fv, fu = fv * fv * (3 - 2 * fv), fu * fu * (3 - 2 * fu)
    r0, r1, c0, c1 = iv % rows, (iv + 1) % rows, iu % columns, (iu + 1) % columns
    top = (1 - fu) * noise[r0, c0] + fu * noise[r0, c1]
    return (1 - fv) * top + fv * ((1 - fu) * noise[r1, c0] + fu * noise[r1, c1])


@kernel
def _smooth_max(a, b, width):
    """Maximum with a rounded corner, so that limbs merge without a crease."""
    share = max(width - abs(a - b), 0.0) / width
    return max(a, b) + share * share * width * 0.25


@kernel
def _cell(u, v, muscles, gap):
    """Return the nearest muscle, its distance, and whether the point lies in the gap between two."""
    best, second, index = 1e9, 1e9, 0
    for m in range(muscles.shape[0]):
        d = np.hypot(u - muscles[m, 0], v - muscles[m, 1]) - muscles[m, 2]
        if d < best:
            best, second, index = d, best, m
        elif d < second:
            second = d
    return index, best, second - best < gap


@kernel
def _legs(x, y, outlines, walls, apart, width):
    """Depth in the legs, the leg's number, and the place in its own coordinates (1 is its outline)."""
    depth, best, second, part, pu, pv = -1e9, -1e9, -1e9, -1, 0.0, 0.0
    for limb in range(outlines.shape[0]):
        o = outlines[limb]
        u = (x - o[0]) / o[2] * o[6]
        v = (y - o[1]) / o[3]
        if u * u + v * v > 2.6:
            continue
        bin_ = int((np.arctan2(v, u) + np.pi) * (walls.shape[1] / (2 * np.pi))) % walls.shape[1]
        wall = walls[limb, bin_]
        d = (wall - np.hypot(u, v)) * 0.5 * (o[2] + o[3])
        depth = _smooth_max(depth, d, width)
        if d > best:
            best, second, part, pu, pv = d, best, limb, u / wall, v / wall
        elif d > second:
            second = d
    if apart:  # below the crotch legs touch, skin to skin, and do not merge
        depth = min(best, 0.5 * (best - second))
    return depth, part, pu, pv


@kernel
def _fill_plane(xs, ys, outside, arm, outlines, walls, muscles, vessels, trunk, trunk_muscles, noise, sizes):
    skin, noise_mm, scale = sizes[0], sizes[2], sizes[3]
    rows, columns = ys.size, xs.size
    tissue = np.zeros((rows, columns), np.uint8)
    shade = np.zeros((rows, columns), np.uint8)
    for r in range(rows):
        for c in range(columns):
            x, y = xs[c], ys[r]
            depth, part, pu, pv = _legs(x, y, outlines, walls, trunk[2] == 0, 14.0 * scale)
            fat = outlines[part, 4] if part >= 0 else 0.0
            if trunk[2] > 0:
                u, v = (x - trunk[0]) / trunk[2], (y - trunk[1]) / trunk[3]
                rho = 0.5 * (np.hypot(u, v) + np.sqrt(np.hypot(u * u, v * v)))  # between ellipse and box
                d = (1 - rho) * 0.5 * (trunk[2] + trunk[3])
                if d > depth and trunk[5] > -0.02:
                    part, pu, pv, fat = -2, u, v, trunk[4]
                depth = _smooth_max(depth, d, 24.0 * scale)
            if depth < -15 * scale and min(outside[r, c], arm[r, c]) > 20 * scale:
                continue
            w0 = _wave(noise[0], x / noise_mm, y / noise_mm)
            w1 = _wave(noise[1], x / noise_mm + 0.5, y / noise_mm + 0.5)
            # Skin and a little fat lie over every bone, however near the surface.
            depth = _smooth_max(depth, 5.5 * scale + 1.2 * w0 - outside[r, c], 6.0 * scale)
            arm_depth = 11.0 * scale + 1.5 * w0 - arm[r, c]
            if arm_depth > depth:
                depth, fat, part = arm_depth, 3.0 * scale, -3
            if depth <= 0:
                continue
            fat *= max(0.35, 1 + 0.22 * w1 - (0.35 * pv if part != -3 else 0.0))
            if depth < skin:
                tissue[r, c] = 1
            elif part == -1 or depth < skin + fat:
                tissue[r, c] = 2
            elif part == -3:
                tissue[r, c], shade[r, c] = 3, 60
            elif part == -2:
                free = outside[r, c] + 3 * w1 > sizes[4]
                free &= trunk[5] > _HIPS or abs(x - trunk[0]) + 6 * w0 < sizes[5]
                tissue[r, c], shade[r, c] = _in_trunk(pu, pv, w0, w1, trunk, trunk_muscles, sizes, free)
            else:
                tissue[r, c], shade[r, c] = _in_limb(
                    pu, pv, w0, w1, outlines[part], muscles[part], vessels[part], sizes
                )
    return tissue, shade


@kernel
def _in_limb(u, v, w0, w1, outline, muscles, vessels, sizes):
    """Vessel, muscle, the gap between two, or the fat that remains around small ones."""
    for k in range(vessels.shape[0]):
        if np.hypot((u - vessels[k, 0]) * outline[2], (v - vessels[k, 1]) * outline[3]) < vessels[k, 2]:
            return 5, 0
    index, distance, between = _cell(u + 0.05 * w0, v + 0.05 * w1, muscles, sizes[1])
    if distance > 0.42 * outline[5] - 0.05:
        return 2, 0
    return (4 if between else 3), index + 1


@kernel
def _in_trunk(u, v, w0, w1, trunk, muscles, sizes, free):
    """Cavity with loops of bowel in front of the spine, where it is free; muscles around."""
    cavity = np.hypot(u / 0.66, (v - 0.16) / 0.66)
    height = trunk[5] * 9
    if cavity < 1.0 and free:
        cu, cv = u + 0.12 * w0 + 0.25 * np.sin(height), v + 0.12 * w1 + 0.25 * np.cos(1.7 * height)
        index, distance, between = _cell(0.8 * cv, 1.1 * cu, muscles, 0.03)
        return (2 if between or distance > 0.28 else 11), 30 + index
    index, distance, between = _cell(u + 0.06 * w0 + 0.1 * np.sin(height), v + 0.06 * w1, muscles, sizes[1])
    return (4 if between else 3), 14 + index % 14
