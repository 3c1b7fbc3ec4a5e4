"""What a notebook shows of a scan, of labels and of a result."""

import io
from html.parser import HTMLParser
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from seg_core.colours import bone_colours
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.runner import Runner
from seg_core.segment import segment


def picture(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_a_scan_shows_planes_that_keep_their_shape(legs):
    shown = picture(legs[0]._repr_png_())
    wide = [256 / 256, 256 / 1000, 256 / 1000]  # mm across over mm high
    assert shown.shape == (300, sum(round(300 * w) for w in wide) + 12, 3)
    assert shown.std() > 5


@pytest.mark.parametrize("order", list(permutations(range(3)))[::2])
def test_labels_show_their_colours_however_they_are_stored(legs, order):
    labels = legs[1]
    affine = labels.geometry.affine[:, [*order, 3]]
    stored = labels.array.transpose(order)
    turned = LabelMap(stored, Geometry(stored.shape, affine), labels.labels)
    shown = picture(turned._repr_png_())
    np.testing.assert_array_equal(shown, picture(labels._repr_png_()))
    colours = {tuple(colour) for colour in shown.reshape(-1, 3).tolist()}
    assert colours <= {(0, 0, 0), *bone_colours(labels.labels).values()}
    assert len(colours) > 3


def test_nothing_and_one_voxel_show_too(legs):
    labels = legs[1]
    empty = LabelMap(np.zeros_like(labels.array), labels.geometry, labels.labels)
    assert picture(empty._repr_png_()).max() == 0
    one = Volume(np.ones((1, 1, 1)), Geometry((1, 1, 1), np.eye(4)))
    assert picture(one._repr_png_()).shape == (300, 912, 3)


def test_a_result_shows_its_table(legs, tiny_model):
    found = segment(legs[0], Runner(tiny_model, "cpu"))
    texts = []
    parser = HTMLParser()
    parser.handle_data = texts.append
    parser.feed(found._repr_html_())
    for row in found.bones:
        assert f"{row.volume_cm3:.1f}" in texts
    assert texts.count("found") == 8
