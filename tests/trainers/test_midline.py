import numpy as np
import pytest

from seg_core.geometry import Geometry, LabelMap, Volume
from trainers.config import IGNORED
from trainers.midline import find_midline, ignore_beyond, labelled_half

VALUES = {"right": (1, 4), "left": (5, 8)}


def of_side(labels, side):
    low, high = VALUES[side]
    keep = (labels.array >= low) & (labels.array <= high)
    names = {v: n for v, n in labels.labels.items() if low <= v <= high}
    return LabelMap(np.where(keep, labels.array, np.uint8(0)), labels.geometry, names)


def turned(volume, labels, axes, flips):
    """The same body, stored otherwise."""
    step = tuple(slice(None, None, -1 if f else 1) for f in flips)
    array, marks = volume.array.transpose(axes)[step], labels.array.transpose(axes)[step]
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, old in enumerate(axes):
        matrix[old, new] = -1 if flips[new] else 1
        matrix[old, 3] += volume.array.shape[old] - 1 if flips[new] else 0
    geometry = Geometry(array.shape, volume.geometry.affine @ matrix)
    return Volume(array, geometry), LabelMap(marks, geometry, labels.labels)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("axes", "flips"),
    [((0, 1, 2), (0, 0, 0)), ((0, 1, 2), (1, 0, 1)), ((2, 0, 1), (0, 1, 0)), ((1, 2, 0), (1, 1, 1))],
)
def test_the_other_leg_is_ignored_and_the_labelled_one_kept(legs, side, axes, flips):
    volume, truth = turned(*legs, axes, flips)
    labels = of_side(truth, side)
    before = labels.array.copy()
    midline = find_midline(volume, labels, side)
    assert midline.kind == "midline"
    count = ignore_beyond(labels, volume, midline, side)
    other = of_side(truth, "left" if side == "right" else "right").array > 0
    assert (labels.array[other] == IGNORED).all()
    assert np.array_equal(labels.array[before > 0], before[before > 0])
    assert count == np.count_nonzero(labels.array == IGNORED)
    tissue = (volume.array > 0) & ~other & (before == 0)
    x = np.moveaxis(volume.geometry.to_world(np.moveaxis(np.indices(volume.array.shape), 0, -1)), -1, 0)[0]
    near = tissue & ((x > 45) if side == "right" else (x < 15))  # the labelled leg's own flesh
    assert (labels.array[near] == 0).all()


def test_a_body_that_lies_askew(legs):
    volume, truth = legs
    image, marks = np.zeros_like(volume.array), np.zeros_like(truth.array)
    for k in range(image.shape[2]):  # shifted sideways from slice to slice: 8 pixels in all
        shift = k // 5
        image[shift:, :, k], marks[shift:, :, k] = (
            a[: 64 - shift, :, k] for a in (volume.array, truth.array)
        )
    volume, truth = Volume(image, volume.geometry), LabelMap(marks, truth.geometry, truth.labels)
    labels = of_side(truth, "right")
    midline = find_midline(volume, labels, "right")
    assert midline.columns[-5] - midline.columns[5] > 4
    ignore_beyond(labels, volume, midline, "right")
    assert (labels.array[of_side(truth, "left").array > 0] == IGNORED).mean() > 0.99


def test_one_leg_alone_has_no_other_side(legs):
    volume, truth = legs
    labels = of_side(truth, "right")
    image = volume.array.copy()
    image[32:] = 0  # columns grow to the left
    volume = Volume(image, volume.geometry)
    midline = find_midline(volume, labels, "right")
    assert midline.kind == "one leg"
    assert ignore_beyond(labels, volume, midline, "right") == 0
    assert labelled_half(volume, labels, midline, "right")[0] is volume


def test_labels_on_the_body_s_other_side_are_doubtful(legs):
    volume, truth = legs
    midline = find_midline(volume, of_side(truth, "left"), "right")
    assert midline.kind == "doubtful"
    assert "other side" in midline.detail


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("flip", [0, 1])
def test_the_half_that_is_kept_lies_where_it_lay(legs, side, flip):
    volume, truth = turned(*legs, (0, 1, 2), (flip, 0, 0))
    labels = of_side(truth, side)
    half, kept = labelled_half(volume, labels, find_midline(volume, labels, side), side)
    assert half.array.shape[0] < 40
    assert np.count_nonzero(kept.array) == np.count_nonzero(labels.array)
    where = half.geometry.to_world(np.argwhere(kept.array))
    assert np.allclose(where, volume.geometry.to_world(np.argwhere(labels.array)))


@pytest.mark.parametrize("side", ["right", "left"])
def test_air_far_from_the_body_is_known_to_be_background(legs, side):
    volume, truth = legs
    wide = ((40, 40), (40, 40), (0, 0))
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.to_world((-40, -40, 0))
    noise = np.random.default_rng(0).rayleigh(0.01 * volume.array.max(), (144, 144, volume.array.shape[2]))
    image = np.maximum(np.pad(volume.array, wide), noise)
    geometry = Geometry(image.shape, affine)
    volume, truth = Volume(image, geometry), LabelMap(np.pad(truth.array, wide), geometry, truth.labels)
    labels = of_side(truth, side)
    ignore_beyond(labels, volume, find_midline(volume, labels, side), side)
    other = of_side(truth, "left" if side == "right" else "right").array > 0
    assert (labels.array[other] == IGNORED).all()
    corner = -1 if side == "right" else 0  # columns grow to the left
    assert (labels.array[corner] == 0).all()
    assert (labels.array[:, [0, -1]] == 0).all()
