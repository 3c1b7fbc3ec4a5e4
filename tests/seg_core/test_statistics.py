import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.errors import GeometryError
from seg_core.geometry import Geometry, LabelMap
from seg_core.labels import BONES, sided_labels
from seg_core.moments import extent_along, label_moments
from seg_core.statistics import bone_statistics, split_name, write_statistics

TABLE = sided_labels(BONES)


def box_map(shape=(20, 18, 30), spacing=(1.0, 1.0, 3.0)):
    """A tibia of 4 x 4 x 20 voxels inside the scan, a femur that leaves it at the last slice."""
    labels = np.zeros(shape, np.uint8, order="F")
    labels[5:9, 6:10, 4:24] = 1
    labels[12:15, 6:9, 20:] = 2
    return LabelMap(labels, Geometry(shape, np.diag([*spacing, 1.0])), TABLE)


def test_a_row_for_every_expected_bone():
    rows = bone_statistics(box_map())
    assert [row.name for row in rows] == list(TABLE.values())
    assert [row.status for row in rows] == ["found", "truncated"] + ["empty"] * 6


def test_numbers_of_a_box():
    row = bone_statistics(box_map(), removed={1: 3})[0]
    assert (row.bone, row.side, row.voxels, row.components_removed) == ("tibia", "right", 320, 3)
    assert row.volume_cm3 == pytest.approx(320 * 3 / 1000)
    assert row.length_mm == pytest.approx(60)
    assert row.centroid_mm == pytest.approx((6.5, 7.5, 40.5))
    assert row.confidence is None


def test_an_absent_bone_says_so():
    row = bone_statistics(box_map(), confidence=np.ones((20, 18, 30), np.float32))[4]
    assert (row.voxels, row.volume_cm3) == (0, 0.0)
    assert (row.length_mm, row.centroid_mm, row.confidence) == (None, None, None)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_touching_any_edge_is_truncated(axis, end):
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[2:5, 2:5, 2:5] = 1
    geometry = Geometry(labels.shape, np.eye(4))
    assert bone_statistics(LabelMap(labels, geometry, {1: "right_tibia"}))[0].status == "found"
    np.moveaxis(labels, axis, 0)[end, 3, 3] = 1
    assert bone_statistics(LabelMap(labels, geometry, {1: "right_tibia"}))[0].status == "truncated"


def test_length_follows_the_bone_not_the_axes():
    shape, direction = (90, 90, 60), np.array([1.0, 2.0, 2.0]) / 3
    geometry = Geometry(shape, np.diag([-1.0, 1.0, 1.5, 1.0]))
    points = geometry.to_world(np.moveaxis(np.indices(shape), 0, -1))
    points = points - geometry.to_world((np.array(shape) - 1) / 2)
    along = points @ direction
    across = np.linalg.norm(points - along[..., None] * direction, axis=-1)
    labels = ((np.abs(along) <= 40) & (across <= 4)).astype(np.uint8)
    row = bone_statistics(LabelMap(labels, geometry, {1: "right_tibia"}))[0]
    assert row.length_mm == pytest.approx(80, abs=3.5)


def test_confidence_is_a_mean_from_0_to_1():
    labelmap = box_map()
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, labelmap.array.shape, dtype=np.uint8)
    expected = values[labelmap.array == 1].mean() / 255
    assert bone_statistics(labelmap, values)[0].confidence == pytest.approx(expected)
    shares = (values / 255).astype(np.float32)
    assert bone_statistics(labelmap, shares)[0].confidence == pytest.approx(expected)


def test_confidence_of_another_shape_is_refused():
    with pytest.raises(GeometryError, match="confidence of shape"):
        bone_statistics(box_map(), np.ones((2, 2, 2)))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), order=st.sampled_from("CF"))
def test_moments_equal_numpy(seed, order):
    rng = np.random.default_rng(seed)
    labels = np.array(rng.integers(0, 4, rng.integers(1, 9, 3)), np.uint8, order=order)
    confidence = rng.random(labels.shape)
    found = label_moments(labels, confidence)
    assert sorted(found) == sorted(set(np.unique(labels)) - {0})
    for value, moments in found.items():
        points = np.argwhere(labels == value)
        assert moments.voxels == len(points)
        assert (moments.low, moments.high) == (tuple(points.min(axis=0)), tuple(points.max(axis=0)))
        np.testing.assert_allclose(moments.mean, points.mean(axis=0))
        np.testing.assert_allclose(moments.covariance, np.cov(points.T, bias=True), atol=1e-9)
        assert moments.confidence == pytest.approx(confidence[labels == value].mean())
        weights = rng.normal(size=3)
        expected = np.ptp(points @ weights) + np.abs(weights).sum()
        assert extent_along(labels, value, weights) == pytest.approx(expected)


def test_extent_of_an_absent_label_is_zero():
    assert extent_along(np.zeros((2, 2, 2), np.uint8), 1, np.ones(3)) == 0.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("left_tibia", ("tibia", "left")), ("tibia", ("tibia", "unknown")), ("right_", ("right_", "unknown"))],
)
def test_split_name(name, expected):
    assert split_name(name) == expected


def test_csv_has_a_line_a_bone_and_blanks_where_nothing_is_known(tmp_path):
    write_statistics(tmp_path / "s.csv", bone_statistics(box_map()))
    with open(tmp_path / "s.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(TABLE.values())
    assert float(rows[0]["volume_cm3"]) == pytest.approx(0.96)
    assert float(rows[0]["centroid_z_mm"]) == pytest.approx(40.5)
    assert (rows[4]["status"], rows[4]["length_mm"], rows[4]["centroid_x_mm"]) == ("empty", "", "")
