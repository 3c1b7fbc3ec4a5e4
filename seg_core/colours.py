"""The colours of bones: the same in every picture, page and surface."""

from collections.abc import Mapping

from seg_core.views import group_labels

Colour = tuple[int, int, int]

_BONES: Mapping[str, Colour] = {
    "tibia": (77, 171, 247),
    "femur": (255, 179, 64),
    "fibula": (105, 219, 124),
    "pelvis": (240, 101, 149),
}
_OTHERS: tuple[Colour, ...] = ((177, 151, 252), (59, 201, 219), (255, 212, 59), (255, 135, 135))


def bone_colours(names: Mapping[int, str]) -> dict[int, Colour]:
    """Return an sRGB colour a label: the bone's on the right and where no side is known, paler on the left.

    Parameters
    ----------
    names : mapping of int to str
        Label value -> name, e.g. ``{1: "right_tibia", 5: "left_tibia"}``; bones that are not of the leg take
        further colours in turn.
    """
    colours = {}
    more = iter(_OTHERS * (len(names) // len(_OTHERS) + 1))
    for bone, values in group_labels(names).items():
        base = _BONES.get(bone) or next(more)
        for value in values:
            colours[value] = mix(base, (255, 255, 255), 0.45) if names[value].startswith("left_") else base
    return colours


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """Return a colour with a share (0 to 1) of another."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(colour, other, strict=True))
    return r, g, b
