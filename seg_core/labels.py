"""Label values and names: the bone's class on the right, shifted by the number of classes on the left."""

import re
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


_LETTERS = {"r": "right", "rt": "right", "l": "left", "lt": "left"}


def structure_name(text: str, letters: bool = False) -> str:
    """Return a structure's name as it is known here: ``Tibia right`` -> ``right_tibia``.

    With ``letters``, an R or L at either end is a side too: ``tibia_R`` -> ``right_tibia``.
    """
    words = [word for word in re.split(r"[\s_-]+", text.lower()) if word]
    if letters and len(words) > 1:
        ends = {0, len(words) - 1}
        words = [_LETTERS.get(word, word) if n in ends else word for n, word in enumerate(words)]
    sides = [word for word in words if word in SIDES]
    if len(sides) == 1 and len(words) > 1:
        words.remove(sides[0])
        words.insert(0, sides[0])
    return "_".join(words)
