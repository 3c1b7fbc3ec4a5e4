from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_core.apparent_size import SMALLEST, STEP, apparent_size, shafts_mm, surer
from seg_core.errors import ModelError
from seg_core.geometry import Geometry, Volume
from seg_core.model_spec import Grid, ModelSpec
from seg_core.runner import Runner
from seg_core.segment import SegmentOptions, segment

CLASSES = ("tibia", "femur", "fibula", "pelvis")
USUAL_MM = {"tibia": 20.0, "femur": 24.0}


def sections(thickness, value=1, pixel_mm=0.5, size=128):
    """Slices with a square of each thickness in mm, and one more beside it."""
    labels = np.zeros((len(thickness), size, size), np.uint8)
    for plane, mm in zip(labels, thickness, strict=True):
        edge = round(mm / pixel_mm)
        plane[4 : 4 + edge, 4 : 4 + edge] = plane[70 : 70 + edge, 70 : 70 + edge] = value
    return labels


def size_of(labels, usual_mm=USUAL_MM):
    return apparent_size(shafts_mm(labels, 0.25, CLASSES), usual_mm)


def test_shafts_of_a_usual_person_have_size_1():
    labels = sections([20.0, 20.0, 26.0, 28.0])  # the ends are thicker than the shaft
    assert size_of(labels) == 1.0


@given(st.floats(0.5, 1.3))
def test_size_is_the_thickness_as_a_share_of_the_usual_one(share):
    labels = sections([24.0 * share] * 3, value=2)
    found = size_of(labels)
    # Half a pixel at either edge of the square, and the rounding.
    assert abs(found - np.clip(share, SMALLEST, 1)) <= STEP / 2 + 0.25 / 24 + 1e-9
    assert found == pytest.approx(round(found / STEP) * STEP)


def test_bones_are_judged_together_and_each_slice_by_itself():
    tibia, femur = sections([14.0] * 3), sections([24.0] * 3, value=2)
    assert size_of(np.concatenate([tibia, femur])) == 0.85
    joined = np.concatenate([tibia, np.zeros_like(tibia[:1]), tibia])
    assert size_of(joined) == 0.7


def test_of_little_bone_nothing_is_concluded():
    none = np.zeros((0, 64, 64), np.uint8)
    assert size_of(none) == 1.0
    assert size_of(sections([10.0])) == 1.0  # two sections
    assert size_of(sections([6.0] * 5)) == 1.0  # 36 mm2
    assert size_of(sections([10.0] * 5, value=3)) == 1.0  # another bone
    assert size_of(sections([10.0] * 5), {}) == 1.0


@pytest.mark.parametrize(
    ("found", "sure", "expected"),
    [(100, 210, True), (100, 199, False), (85, 210, True), (75, 250, False), (0, 0, False)],
)
def test_a_network_is_surer_only_where_it_still_finds_the_bone(found, sure, expected):
    labels, magnified = np.zeros((2, 1, 10, 10), np.uint8)
    labels[:], magnified.reshape(-1)[:found] = 2, 1
    confidence = np.full_like(labels, 200)
    magnified_confidence = np.where(magnified > 0, sure, 255 - sure).astype(np.uint8)
    assert surer(magnified, magnified_confidence, labels, confidence) == expected


@pytest.mark.parametrize("usual_mm", [{"skull": 20.0}, {"tibia": 0.0}])
def test_a_description_names_classes_and_positive_millimetres(usual_mm):
    with pytest.raises(ModelError, match="shafts of"):
        ModelSpec("any", CLASSES, grid=Grid("spacing"), usual_mm=usual_mm)


@pytest.mark.parametrize("other", [{}, {"grid": Grid("spacing"), "patch": (8, 32, 32)}])
def test_only_slices_in_millimetres_are_magnified(other):
    with pytest.raises(ModelError, match="a network of slices on pixels in millimetres"):
        ModelSpec("any", CLASSES, usual_mm=USUAL_MM, **other)


def test_a_description_without_it_is_as_it_was():
    spec = ModelSpec("any", CLASSES, grid=Grid("spacing"))
    assert "usual_mm" not in spec.to_json()
    for some in (spec, replace(spec, usual_mm=USUAL_MM)):
        assert ModelSpec.from_json(some.to_json()) == some


def test_a_magnified_description_has_smaller_pixels_and_distances():
    spec = ModelSpec("any", CLASSES, grid=Grid("spacing", spacing_mm=(1.0, 2.0)), neighbour_mm=10.0)
    small = spec.magnified(0.6)
    assert small.grid.spacing_mm == pytest.approx((0.6, 1.2))
    assert small.neighbour_mm == pytest.approx(6.0)
    assert replace(small, grid=spec.grid, neighbour_mm=10.0) == spec


@pytest.fixture(scope="module")
def plain(make_spec):
    return make_spec(
        grid=Grid("spacing", spacing_mm=(4.0, 4.0), multiple=8), channel_fill="neighbours", neighbour_mm=10.0
    )


@pytest.mark.parametrize(
    "options",
    [
        SegmentOptions(confidence=True),
        SegmentOptions(confidence=True, whole_frame=True),
        SegmentOptions(confidence=True, hip_slice=140, hip_tolerance=10),
    ],
    ids=["views", "whole", "hip"],
)
@pytest.mark.parametrize(
    ("usual_mm", "sure", "magnified"), [(50.0, True, True), (50.0, False, False), (5.0, True, False)]
)
def test_small_people_are_seen_on_smaller_pixels_where_the_network_is_surer(
    make_legs, make_onnx, plain, monkeypatch, usual_mm, sure, magnified, options
):
    monkeypatch.setattr("seg_core.segment.surer", lambda *looks: sure)
    scan, _ = make_legs(shape=(128, 128, 200), spacing=(4.0, 4.0, 5.0))
    runner = Runner(make_onnx(replace(plain, usual_mm={"femur": usual_mm})), "cpu", threads=1)
    runner.batch = 3
    found = segment(scan, runner, options)
    assert (found.size < 1) == magnified
    expected = segment(scan, Runner(make_onnx(plain.magnified(found.size)), "cpu", threads=1), options)
    assert found.labels.array.any()
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert np.array_equal(found.confidence.array, expected.confidence.array)
    assert found.slices == expected.slices


def test_what_is_refused_is_tried_half_way(make_legs, make_onnx, plain, monkeypatch):
    scan, _ = make_legs(shape=(128, 128, 200), spacing=(4.0, 4.0, 5.0))
    runner = Runner(make_onnx(replace(plain, usual_mm={"femur": 50.0})), "cpu", threads=1)
    sizes = []
    for answers in ([True], [False, True], [False, False]):
        monkeypatch.setattr("seg_core.segment.surer", Mock(side_effect=answers))
        sizes.append(segment(scan, runner).size)
    assert sizes[0] < 0.9
    assert sizes[1:] == [(1 + sizes[0]) / 2, 1.0]


@pytest.mark.parametrize(("pixel_mm", "magnified"), [(2.0, True), (1.9, False)])
def test_scans_of_coarse_pixels_are_not_magnified(
    make_legs, make_onnx, plain, monkeypatch, pixel_mm, magnified
):
    monkeypatch.setattr("seg_core.segment.surer", lambda *looks: True)
    scan, _ = make_legs(shape=(64, 64, 40))
    grid = replace(plain.grid, spacing_mm=(pixel_mm, pixel_mm))
    runner = Runner(make_onnx(replace(plain, grid=grid, usual_mm={"femur": 50.0})), "cpu", threads=1)
    assert (segment(scan, runner).size < 1) == magnified


def test_what_is_no_leg_is_not_magnified(make_onnx, plain, monkeypatch):
    monkeypatch.setattr("seg_core.segment.surer", lambda *looks: True)
    usual = replace(plain, usual_mm={"femur": 50.0})
    array = np.random.default_rng(0).integers(0, 40, (64, 64, 40)).astype(np.float32)
    scan = Volume(array, Geometry(array.shape, np.diag([4.0, 4.0, 5.0, 1.0])))
    assert segment(scan, Runner(make_onnx(usual), "cpu", threads=1)).size == 1.0
