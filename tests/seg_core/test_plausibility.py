from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.geometry import Geometry, LabelMap
from seg_core.labels import plain_labels, sided_labels
from seg_core.plausibility import LIMITS, check_plausibility
from seg_core.statistics import bone_statistics

TABLE = {name: value for value, name in sided_labels(("tibia", "femur", "fibula", "pelvis")).items()}


def check(labels, confidence=None, seen=None):
    return check_plausibility(labels, bone_statistics(labels, confidence, seen=seen), seen)


def failed(labels, **more):
    return {found.check: found.detail for found in check(labels, **more) if not found.passed}


def changed(labels, array):
    return LabelMap(np.asfortranarray(array.astype(np.uint8)), labels.geometry, labels.labels)


def stretched(labels, factor, axis=2):
    affine = labels.geometry.affine.copy()
    affine[:3, axis] *= factor
    return LabelMap(labels.array, Geometry(labels.geometry.shape, affine), labels.labels)


def test_legs_are_plausible(legs):
    found = check(legs[1], np.ones(legs[1].array.shape))
    assert all(one.passed for one in found)
    names = {one.check for one in found}
    assert {"view", "right: order along the leg", "left tibia: one piece", "right femur: confidence"} <= names
    assert {"left tibia: length", "right fibula: volume", "right pelvis: stoutness"} <= names
    assert {"right tibia to femur: length", "femur: volume right and left"} <= names
    # 8 bones: piece, size of three kinds, confidence; 2 legs: order, 3 ratios, none missing;
    # 4 pairs: length, volume; view
    assert len(names) == len(found) == 8 * 5 + 2 * 5 + 4 * 2 + 1


def test_the_order_of_axes_changes_no_word(legs):
    labels = legs[1]
    broken = changed(
        labels, np.where(labels.array == TABLE["right_tibia"], TABLE["right_femur"], labels.array)
    )
    expected = check(broken)
    assert not all(one.passed for one in expected)
    for order, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        array = broken.array.transpose(order)
        affine = broken.geometry.affine.copy()
        affine[:, :3] = broken.geometry.affine[:, list(order)]
        for axis in np.flatnonzero(flips):
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
        turned = LabelMap(array.copy(order="F"), Geometry(array.shape, affine), labels.labels)
        assert check(turned) == expected, (order, flips)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_cut_is_judged_only_by_what_is_in_view(legs, data):
    labels = legs[1]
    box = []
    for count in labels.geometry.shape:
        first = data.draw(st.integers(0, count - 2))
        box.append((first, data.draw(st.integers(first + 2, count))))
    low, shape = (first for first, _ in box), tuple(stop - first for first, stop in box)
    geometry = labels.geometry.window(tuple(low), shape)
    array = np.asfortranarray(labels.array[tuple(slice(a, b) for a, b in box)])
    cut = LabelMap(array, geometry, labels.labels)
    rows = bone_statistics(cut)
    whole = any(row.status == "found" for row in rows)
    expected = set() if whole else {"view"} if array.any() else {"bones"}
    assert set(failed(cut)) == expected
    seen = tuple(slice(a, b) for a, b in box)
    blank = np.zeros_like(labels.array)
    blank[seen] = array
    within = LabelMap(blank, labels.geometry, labels.labels)
    assert set(failed(within, seen=seen)) == expected
    assert [row.status for row in bone_statistics(within, seen=seen)] == [row.status for row in rows]


def test_upside_down_is_said(legs):
    found = failed(stretched(legs[1], -1))
    assert set(found) == {"right: order along the leg", "left: order along the leg"}
    detail = found["left: order along the leg"]
    assert detail.startswith("the scan may be upside down: the left femur lies below the left tibia")
    assert "the left pelvis lies below the left femur" in detail


def test_an_upside_down_knee_alone_is_said(legs):
    labels = stretched(legs[1], -1)
    low, shape = (0, 0, 10), (64, 64, 10)
    knee = LabelMap(labels.array[:, :, 10:20], labels.geometry.window(low, shape), labels.labels)
    assert set(failed(knee)) == {"view", "right: order along the leg", "left: order along the leg"}


def test_part_of_a_thigh_that_is_called_shin_is_said(legs):
    array = legs[1].array.copy()
    thigh = array == TABLE["right_femur"]
    thigh[:, :, :24] = False
    thigh[:, :, 27:] = False
    array[thigh] = TABLE["right_tibia"]
    found = failed(changed(legs[1], array))
    assert {"right tibia: one piece", "right femur: one piece", "right: order along the leg"} <= set(found)
    assert found["right tibia: one piece"] == "the right tibia is in 2 pieces"
    assert "mixed up" in found["right: order along the leg"]
    assert not any(name.startswith("left") for name in found)


def test_a_speck_is_no_piece_and_no_end(legs):
    array = legs[1].array.copy()
    array[2, 2, 30] = TABLE["right_tibia"]
    found = failed(changed(legs[1], array))
    assert not {"right tibia: one piece", "right: order along the leg"} & set(found)


@pytest.mark.parametrize("bone", LIMITS)
def test_a_ball_is_no_bone(bone):
    ball = (np.sum((np.indices((60, 60, 60)) - 29.5) ** 2, axis=0) < 25**2).astype(np.uint8)
    limits = LIMITS[bone].length_mm
    plain = plain_labels((bone,))
    large, fitting, small = (
        LabelMap(ball, Geometry(ball.shape, np.diag([mm / 50, mm / 50, mm / 50, 1.0])), plain)
        for mm in (1.1 * limits[1], 1.1 * limits[0], 50)
    )
    assert set(failed(large)) == {f"{bone}: length", f"{bone}: volume"}
    assert set(failed(fitting)) in ({f"{bone}: volume"}, {f"{bone}: stoutness"})
    assert f"the {bone} measures 50 mm; in children and adults" in failed(small)[f"{bone}: length"]


def test_a_bone_too_stout_for_its_length_is_said(legs):
    labels = legs[1]
    assert failed(stretched(stretched(labels, 1.05, axis=0), 1.05, axis=1)) == {}
    found = failed(stretched(stretched(labels, 1.5, axis=0), 1.5, axis=1))
    assert set(found) == {f"{name.replace('_', ' ')}: stoutness" for name in TABLE}
    assert found["left femur: stoutness"] == (
        "the left femur has 1026 cm3 at a length of 375 mm; 105 to 849 cm3 go with that length"
    )


def test_a_giant_is_refused_even_where_it_is_cut(legs):
    geometry = legs[1].geometry.window((0, 0, 0), (64, 64, 25))
    part = LabelMap(legs[1].array[:, :, :25], geometry, legs[1].labels)
    found = failed(stretched(part, 3))
    assert "visible part of the right femur measures" in found["right femur: length"]
    assert "right femur: stoutness" not in found


def test_half_a_shin_is_not_long_enough_for_its_thigh(legs):
    array = legs[1].array.copy()
    lower = np.zeros(array.shape, bool)
    lower[:, :, :8] = True
    array[lower & np.isin(array, [TABLE["right_tibia"], TABLE["right_fibula"]])] = 0
    found = failed(changed(legs[1], array))
    assert {"right tibia to femur: length", "tibia: length right and left"} <= set(found)
    assert {"tibia: volume right and left", "fibula: volume right and left"} <= set(found)
    assert found["right tibia to femur: length"] == (
        "the length of the right tibia is 0.47 of the right femur's; 0.7 to 0.97 is usual"
    )


def test_a_network_in_doubt_is_said(legs):
    confidence = np.where(legs[1].array == TABLE["left_fibula"], 0.4, 0.9)
    found = failed(legs[1], confidence=confidence)
    assert found == {
        "left fibula: confidence": "the network's confidence in the left fibula is 0.40, of at least 0.6"
    }


def test_nothing_is_said_to_be_nothing_and_other_classes_are_not_judged():
    geometry = Geometry((8, 8, 8), np.eye(4))
    empty = LabelMap(np.zeros((8, 8, 8), np.uint8), geometry, plain_labels(("tibia",)))
    assert failed(empty) == {"bones": "no bone was found: this may be no scan of a leg"}
    muscle = np.zeros((8, 8, 8), np.uint8)
    muscle[2:4, 2:4, 2:4] = 1
    assert check(LabelMap(muscle, geometry, plain_labels(("soleus",)))) == []
