"""What lies inside bones: compact bone, marrow, growth plates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from trainers.anatomy import Anatomy
from trainers.soft_tissue import Body, Tissue

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Place = tuple[float, Array, Array]
"""Height of a plane, and the places of its columns and rows, RAS mm."""

_SHAFTS: dict[str, tuple[float, float, tuple[float, ...]]] = {
    "femur": (6.0, 1.4, (0.075, 0.90)),
    "tibia": (5.0, 1.3, (0.05, 0.935)),
    "fibula": (2.6, 1.1, (0.06, 0.94)),
    "pelvis": (1.5, 1.5, ()),
}
_RED_FOR_LIFE = ("pelvis", "sacrum", "L1", "L2", "L3", "L4", "L5", "T11", "T12")
END_MM = 1.3
"""Compact bone at the ends of bones, adult."""
_SHELLS, _EARLIER_SHELLS = (0.55, 1.6), (0.75, 1.25)
"""Thickness of a person's compact bone, of the mean one's; the earlier range is frozen scans'."""
_FIBULA_SHELL = (0.8, 1.5)
"""The same of the fibula's beside the person's other bones: some have a dot of marrow in it, and no more."""
_HEAD_MM, _NECK_MM, _SOCKET_MM = 26.0, 8.0, 32.0
"""Of the hip's centre: reach of the femur's head, depth of its growth plate, reach of the socket's; adult."""


@dataclass(frozen=True)
class Owner:
    """The bone behind a structure number."""

    name: str
    low: float
    high: float
    shaft_mm: float  # thickness of the cortex at mid-shaft, adult
    end_mm: float
    plates: tuple[float, ...]  # growth plates, as shares of the length from below

    @classmethod
    def of(cls, name: str, heights_mm: Array) -> "Owner":
        """Return the owner of a name whose points have these heights."""
        shaft = _SHAFTS.get(name.split("_")[-1], (1.5, 1.2, ()))
        return cls(name, float(heights_mm.min()), float(heights_mm.max()), *shaft)


class BoneTissue:
    """What lies inside one person's bones.

    Parameters
    ----------
    anatomy : Anatomy
    body : Body
        With ``joints``, ends are compact bone, hips have their growth plates, and marrow is red where it is
        in life: in trunk and hip for ever, in the shafts of the young.
    age_years : float
        Growth plates are open below 15; the marrow of the young is red.
    owners : list of Owner
        Of the numbers 1, 2, ...
    """

    def __init__(self, anatomy: Anatomy, body: Body, age_years: float, owners: list[Owner]) -> None:
        self.owners, self.joints = owners, body.joints
        self.landmarks: Mapping[str, Array] = anatomy.landmarks
        self.young = float(np.clip((16 - age_years) / 9, 0, 1))
        self.open_plates = age_years < 15
        femur = anatomy.bones.get("right_femur") or anatomy.bones.get("left_femur")
        extent = np.ptp(femur.vertices_mm[:, 2]) if femur is not None else 430.0
        self.scale = float(extent) / 440.0
        rng = np.random.default_rng([body.seed, 4])
        self.thickness = float(rng.uniform(*(_SHELLS if body.joints else _EARLIER_SHELLS)))
        self.plate_mm = float(rng.uniform(1.6, 3.2)) * self.scale
        self.waves = rng.uniform(0, 2 * np.pi, 2)
        self.roundness = float(rng.uniform(0, 1)) if body.joints else 0.0
        self.shells = {"fibula": float(rng.uniform(*_FIBULA_SHELL))} if body.joints else {}

    def fill(self, structures: npt.NDArray[np.uint8], ends: Mask, place: Place) -> npt.NDArray[np.uint8]:
        """Return the tissue inside the bones of a plane (rows, columns); 0 outside.

        ``ends``: where a bone begins or ends just above or below the plane.
        """
        z, xs, ys = place
        out = np.zeros(structures.shape, np.uint8)
        box = box_of(structures)
        inside, tissue = structures[box], out[box]
        if inside.size == 0:
            return out
        pixel_mm = abs(float(xs[1] - xs[0]))
        depth = (distance_transform_edt(inside > 0) - 0.5) * pixel_mm
        depth[ends[box]] = 0
        xs, ys = xs[box[1]], ys[box[0], None]
        wave = np.sin(xs / 9 + self.waves[0]) + np.sin(ys / 8 + self.waves[1])
        for value in np.flatnonzero(np.bincount(inside.ravel()))[1:]:
            owner, mask = self.owners[value - 1], inside == value
            self._fill_one(owner, mask, (z, depth, wave, pixel_mm), tissue)
            side = owner.name.split("_")[0]
            if self.joints and owner.name.endswith(("femur", "pelvis")):
                self._fill_hip(owner, mask, (self.landmarks[f"{side}_hip"], z, xs, ys, wave), tissue)
        return out

    def _fill_one(
        self,
        owner: Owner,
        mask: Mask,
        place: tuple[float, Array, Array, float],
        tissue: npt.NDArray[np.uint8],
    ) -> None:
        z, depth, wave, pixel_mm = place
        share = (z - owner.low) / max(owner.high - owner.low, 1e-6)
        middle = np.clip(1.25 * np.sin(np.pi * np.clip(share, 0, 1)) - 0.25, 0, 1) ** 0.8
        thickness = self.scale * self.thickness * self.shells.get(owner.name.split("_")[-1], 1.0)
        cortex = (owner.end_mm + (owner.shaft_mm - owner.end_mm) * middle) * thickness
        tissue[mask] = Tissue.RED_MARROW if self._red(owner, share, float(middle)) else Tissue.MARROW
        canal = mask & (depth >= cortex)
        if self.roundness and owner.plates:
            canal = _rounded(canal, depth, self.roundness * float(middle), pixel_mm)
        tissue[mask & ~canal] = Tissue.CORTEX
        for plate in self._plates(owner):
            height = owner.low + plate * (owner.high - owner.low)
            near = np.abs(z - height + 1.5 * self.scale * wave) < self.plate_mm / 2
            tissue[mask & near] = Tissue.CARTILAGE

    def _red(self, owner: Owner, share: float, middle: float) -> bool:
        young = self.young * (1 - 0.8 * middle) > 0.45
        if not self.joints:
            return young or not owner.plates
        plates = owner.plates[:1] if owner.name.endswith("femur") else owner.plates  # its head: `_fill_hip`
        grown = any((share < plate) == (plate < 0.5) for plate in plates)
        return owner.name.endswith(_RED_FOR_LIFE) or (bool(plates) and young and not grown)

    def _plates(self, owner: Owner) -> tuple[float, ...]:
        if not self.open_plates:
            return ()
        return owner.plates[:1] if self.joints and owner.name.endswith("femur") else owner.plates

    def _fill_hip(
        self,
        owner: Owner,
        mask: Mask,
        place: tuple[Array, float, Array, Array, Array],
        tissue: npt.NDArray[np.uint8],
    ) -> None:
        """Make the head of the femur yellow above its oblique growth plate, and cut the socket by its own."""
        hip, z, xs, ys, wave = place
        across = (hip[0] - xs) * (1 if owner.name.startswith("right") else -1)  # towards the midline
        away = np.sqrt((xs - hip[0]) ** 2 + (ys - hip[1]) ** 2 + (z - hip[2]) ** 2)
        wave = self.scale * wave
        if owner.name.endswith("femur"):
            head = mask & (away < _HEAD_MM * self.scale)
            beyond = 0.5 * across + 0.87 * (z - hip[2]) + _NECK_MM * self.scale + wave
            tissue[head & (beyond > 0) & (tissue == Tissue.RED_MARROW)] = Tissue.MARROW
            plate = head & (np.abs(beyond) < self.plate_mm / 2)
        else:
            level = np.abs(z - hip[2] + wave) < self.plate_mm / 2
            upright = (np.abs(ys - hip[1] + wave) < self.plate_mm / 2) & (z < hip[2])
            plate = mask & (away < _SOCKET_MM * self.scale) & (level | upright)
        if self.open_plates:
            tissue[plate] = Tissue.CARTILAGE


def _rounded(canal: Mask, depth: Array, roundness: float, pixel_mm: float) -> Mask:
    """Take corners from a canal (rows, columns): a shaft is thickest at its edges, as at the shin.

    What discs reach that stay within it is left, their radius ``roundness`` of the largest one's.
    """
    box, rounded = box_of(canal), np.zeros_like(canal)
    inside, levels = canal[box], depth[box]
    if inside.any():
        radius = roundness * float(np.ptp(levels[inside]))
        core = inside & (levels >= min(levels[inside].min() + radius, levels[inside].max()))
        rounded[box] = inside & (distance_transform_edt(~core) * pixel_mm <= radius)
    return rounded


def box_of(mask: npt.NDArray[np.uint8]) -> tuple[slice, slice]:
    """Return rows and columns that hold every set pixel, and one around; empty where there is none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return slice(0, 0), slice(0, 0)
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)
