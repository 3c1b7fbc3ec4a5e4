import numpy as np
import pytest
from scipy import ndimage

from seg_core.geometry import Geometry, LabelMap
from seg_core.one_piece import drop_beside

MM = (1.0, 2.0, 5.0)
NAMES = {1: "right_tibia", 2: "right_fibula", 3: "left_tibia", 4: "left_fibula"}


def legs(*boxes, shape=(80, 40, 30), axis=2):
    """Boxes of (value, first and last + 1 along i, j, k), in an array whose axis along the body is any."""
    array = np.zeros(shape, np.uint8)
    for value, *ends in boxes:
        array[tuple(slice(*pair) for pair in ends)] = value
    order = np.roll(np.arange(3), axis - 2)
    sizes = np.array(MM)[order]
    return LabelMap(
        np.ascontiguousarray(array.transpose(order)),
        Geometry(array.transpose(order).shape, np.diag([*sizes, 1])),
        NAMES,
    )


SHAFT = (2, (10, 20), (10, 15), (0, 30))
STRAY = (2, (40, 45), (10, 13), (5, 10))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_fibula_beside_the_first_goes(axis, overwrite):
    labels = legs(SHAFT, STRAY, (4, (60, 70), (10, 15), (0, 30)), axis=axis)
    before = labels.array.copy()
    cleaned, removed = drop_beside(labels, axis, 2, overwrite)
    expected = legs(SHAFT, (4, (60, 70), (10, 15), (0, 30)), axis=axis)
    assert np.array_equal(cleaned.array, expected.array)
    assert removed.components.tolist() == [0, 0, 1]
    assert removed.voxels.tolist() == [0, 0, 75]
    assert not removed.filled.any()
    assert np.array_equal(labels.array, before) != overwrite


@pytest.mark.parametrize(
    "piece",
    [
        (2, (40, 45), (10, 13), (22, 28)),  # in line with the shaft, which ends at 20
        (2, (24, 29), (10, 13), (5, 10)),  # 4 mm beside it
        (2, (40, 50), (10, 15), (0, 11)),  # more than half as large
        (4, (40, 45), (10, 13), (5, 10)),  # another side's
        (1, (40, 45), (10, 13), (5, 10)),  # another bone's
        (2, (40, 45), (10, 13), (18, 23)),  # two of its five slices beside the shaft
    ],
)
def test_what_may_be_bone_stays(piece):
    labels = legs((2, (10, 20), (10, 15), (0, 20)), piece)
    cleaned, removed = drop_beside(labels, 2, 2)
    assert np.array_equal(cleaned.array, labels.array)
    assert not removed.components.any()


def test_a_piece_is_judged_by_its_own_slices():
    slanted = legs()
    for k in range(30):  # a bone that moves sideways by 2 mm a slice, in whose box a stray piece lies
        slanted.array[2 * k : 2 * k + 10, 10:15, k] = 2
    slanted.array[60:65, 10:13, 2:6] = 2
    cleaned, removed = drop_beside(slanted, 2, 2)
    assert removed.components[2] == 1
    assert ndimage.label(cleaned.array)[1] == 1


def test_bones_that_a_scan_cuts_in_two_stay():
    labels = legs((1, (10, 20), (10, 15), (0, 5)), (1, (30, 34), (10, 13), (0, 5)))  # condyles of a tibia
    cleaned, removed = drop_beside(labels, 2, 2)
    assert np.array_equal(cleaned.array, labels.array)
    assert not removed.components.any()


def test_an_empty_scan_stays_empty():
    cleaned, removed = drop_beside(legs(), 2, 2)
    assert not cleaned.array.any()
    assert not removed.components.any()


def dropped_slowly(array):
    """The same rule from sets of voxels, for one value and millimetres ``MM``."""
    pieces, count = ndimage.label(array, np.ones((3, 3, 3)))
    found = sorted((np.argwhere(pieces == n) for n in range(1, count + 1)), key=len, reverse=True)
    kept, gone, reach = found[:1], np.zeros_like(array), np.array([5, 3, 0])
    for piece in found[1:]:
        slices = np.unique(piece[:, 2])
        low, high = piece.min(0) - reach, piece.max(0) + reach
        beside = any(np.isin(slices, np.arange(k[:, 2].min(), k[:, 2].max() + 1)).mean() >= 0.5 for k in kept)
        near = any(((k >= low) & (k <= high)).all(axis=1).any() for k in kept)
        if len(piece) <= 0.5 * len(kept[0]) and beside and not near:
            gone[tuple(piece.T)] = 1
        else:
            kept.append(piece)
    return gone, len({len(piece) for piece in found}) == count


def test_it_is_the_slow_rule():
    rng, compared, removed = np.random.default_rng(0), 0, 0
    for _ in range(60):
        labels = legs(shape=(40, 30, 20))
        for _ in range(6):
            i, j, k = (int(rng.integers(0, n - 4)) for n in labels.array.shape)
            labels.array[i : i + int(rng.integers(1, 7)), j : j + 2, k : k + int(rng.integers(1, 9))] = 2
        gone, told_apart = dropped_slowly(labels.array)
        if told_apart:  # else who is larger is a matter of order
            cleaned, _ = drop_beside(labels, 2, 2)
            assert np.array_equal((labels.array > 0) & (cleaned.array == 0), gone > 0)
            compared, removed = compared + 1, removed + gone.any()
    assert compared > 15
    assert removed > 5
