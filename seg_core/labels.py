"""Label values and names: the bone's class on the right, shifted by the number of classes on the left."""

from collections.abc import Sequence

BONES = ("tibia", "femur", "fibula", "pelvis")
SIDES = ("right", "left")
IGNORED = 255
"""Where nobody knows what is true: such voxels count in no loss and in no score."""


def sided_labels(classes: Sequence[str]) -> dict[int, str]:
    """Return value -> name for both sides: right 1..n, left n+1..2n, e.g. ``{1: "right_tibia", ...}``."""
    return {
        s * len(classes) + c + 1: f"{side}_{name}"
        for s, side in enumerate(SIDES)
        for c, name in enumerate(classes)
    }


def plain_labels(classes: Sequence[str]) -> dict[int, str]:
    """Return value -> name where no side is known: 1..n, e.g. ``{1: "tibia", ...}``."""
    return {c + 1: name for c, name in enumerate(classes)}
