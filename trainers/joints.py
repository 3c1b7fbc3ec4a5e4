"""What lies between bones that meet: cartilage, and beyond it fluid, menisci or ligaments."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, find_objects

from trainers.soft_tissue import Tissue

Uint8Array = npt.NDArray[np.uint8]
Box = tuple[slice, ...]

_FILLING = {
    frozenset(("tibia", "femur")): (Tissue.CARTILAGE, Tissue.TENDON),  # menisci, cruciate ligaments
    frozenset(("tibia", "fibula")): (Tissue.TENDON, Tissue.TENDON),
}
"""What coats the bones of a joint, and what fills the gap between; of all others cartilage and fluid."""
_ARM = ("hand", "radius", "ulna", "humerus")


def is_arm(name: str) -> bool:
    """Whether a bone is one of arm or hand."""
    return name.endswith(_ARM)


@dataclass(frozen=True)
class Joints:
    """How one person's joints differ from another's.

    Parameters
    ----------
    layer_mm : float
        Thickness of the cartilage on a bone.
    reach_mm : float
        Where two bones are nearer to each other than that, they meet.
    """

    layer_mm: float
    reach_mm: float


def draw_joints(rng: np.random.Generator, scale: float) -> Joints:
    """Draw a person of a size, 1 being an adult's."""
    return Joints(float(rng.uniform(1.5, 4)) * scale, float(rng.uniform(6, 11)) * scale)


def joint_tissue(
    structures: Uint8Array, names: list[str], spacing_mm: tuple[float, float, float], joints: Joints
) -> Uint8Array:
    """Fill the gaps between bones.

    Parameters
    ----------
    structures : ndarray of uint8, (planes, rows, columns)
        Numbers of bones, 0 where there is none.
    names : list of str
        Who number 1, 2, ... are, each with its side before it (``right_tibia``). Bones of a side meet each
        other and those without one, and both hip bones meet.
    spacing_mm : tuple of float
        Distance of planes, rows and columns.
    joints : Joints
        The person's.

    Returns
    -------
    ndarray of uint8, (planes, rows, columns)
        ``Tissue`` values; 0 where there is no joint, and inside bones.
    """
    out = np.zeros(structures.shape, np.uint8)
    boxes = find_objects(structures, len(names))
    margin = [int(np.ceil(joints.reach_mm / mm)) for mm in spacing_mm]
    for pair in combinations(np.flatnonzero([box is not None for box in boxes]), 2):
        first, second = (names[bone] for bone in pair)
        if not _may_meet(first, second):
            continue
        box = _meeting(boxes[pair[0]], boxes[pair[1]], margin)
        stems = frozenset(name.split("_")[-1] for name in (first, second))
        filling = _FILLING.get(stems, (Tissue.CARTILAGE, Tissue.FLUID))
        bones = [structures[box] == number + 1 for number in pair]
        if all(bone.any() for bone in bones):
            first_mm, second_mm = (distance_transform_edt(~bone, sampling=spacing_mm) for bone in bones)
            gap = (structures[box] == 0) & (first_mm + second_mm < joints.reach_mm)
            coat = np.minimum(first_mm, second_mm) <= joints.layer_mm
            out[box][gap] = np.where(coat[gap], *filling)
    return out


def _may_meet(first: str, second: str) -> bool:
    sides = {name.split("_")[0] for name in (first, second)} & {"right", "left"}
    hips = first.endswith("pelvis") and second.endswith("pelvis")
    return is_arm(first) == is_arm(second) and (len(sides) < 2 or hips)


def _meeting(first: Box, second: Box, margin: list[int]) -> Box:
    """Return where two boxes, larger by a margin, overlap; and a margin around, so that distances hold."""
    overlap = [
        (max(a.start, b.start) - m, min(a.stop, b.stop) + m)
        for a, b, m in zip(first, second, margin, strict=True)
    ]
    if any(low >= high for low, high in overlap):
        return tuple(slice(0, 0) for _ in overlap)
    return tuple(slice(max(low - m, 0), high + m) for (low, high), m in zip(overlap, margin, strict=True))
