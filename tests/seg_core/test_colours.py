"""Bones and sides are told apart by everybody: distances of colours, also without one kind of cone."""

import itertools

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from seg_core.colours import bone_colours
from seg_core.labels import BONES, sided_labels

# G. M. Machado, M. M. Oliveira and L. A. F. Fernandes, IEEE TVCG 15(6), 2009: severity 1, on linear RGB.
SEEN = {
    "all cones": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "no red": (0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998),
    "no green": (0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881),
    "no blue": (1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039),
}


def seen(colour, matrix):
    """CIELAB of an sRGB colour as it is seen."""
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.reshape(matrix, (3, 3)) @ linear, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("eyes", SEEN)
def test_bones_and_sides_keep_apart(eyes):
    names = sided_labels(BONES)
    colours = {value: seen(colour, SEEN[eyes]) for value, colour in bone_colours(names).items()}
    assert len(colours) == 8
    for a, b in itertools.combinations(names, 2):
        same_bone = names[a].split("_")[1] == names[b].split("_")[1]
        assert deltaE_ciede2000(colours[a], colours[b]) > (8 if same_bone else 11), (names[a], names[b])


def test_a_bone_without_a_side_has_the_right_ones_colour():
    assert bone_colours({3: "femur"})[3] == bone_colours({2: "right_femur"})[2]
