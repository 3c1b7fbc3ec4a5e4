"""The colours of bones: the same in every picture, page, surface and label table.

They were sought so that bones and sides keep apart for the colour-blind too, which a test measures.
"""

import colorsys
from collections.abc import Mapping
from itertools import count

from seg_core.views import group_labels

Colour = tuple[int, int, int]

_BONES: Mapping[str, Colour] = {
    "tibia": (139, 157, 252),
    "femur": (255, 207, 58),
    "fibula": (109, 213, 164),
    "pelvis": (236, 65, 142),
}
# Of all others: hues in large steps that come nowhere near one before for long, in turn lighter and darker.
_HUE, _STEP, _LIGHTNESS, _SATURATION = 0.71, 0.2764, (0.75, 0.62, 0.5, 0.4), 0.75


def bone_colours(names: Mapping[int, str]) -> dict[int, Colour]:
    """Return an sRGB colour a label: the bone's on the right and where no side is known, paler on the left.

    Parameters
    ----------
    names : mapping of int to str
        Label value -> name, e.g. ``{1: "right_tibia", 5: "left_tibia"}``; structures that are not bones
        of the leg take further ones, dozens that differ.
    """
    colours = {}
    more = count()
    for bone, values in group_labels(names).items():
        base = _BONES.get(bone) or _other(next(more))
        for value in values:
            colours[value] = mix(base, (255, 255, 255), 0.45) if names[value].startswith("left_") else base
    return colours


def _other(number: int) -> Colour:
    lightness = _LIGHTNESS[number % len(_LIGHTNESS)]
    r, g, b = colorsys.hls_to_rgb((_HUE + number * _STEP) % 1, lightness, _SATURATION)
    return round(255 * r), round(255 * g), round(255 * b)


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """Return a colour with a share (0 to 1) of another."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(colour, other, strict=True))
    return r, g, b
