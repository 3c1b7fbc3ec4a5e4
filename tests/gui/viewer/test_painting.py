"""Painting: what was painted is what is there and what is written, and undo restores every bit."""

from itertools import pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gui.viewer import painting as module
from gui.viewer.painting import Painting, Stroke, between, brush, write_correction
from seg_core.errors import OutputError, UsageError
from seg_core.geometry import Geometry, LabelMap
from seg_core.labels import BONES, sided_labels
from seg_core.nifti import read_labels
from seg_core.planes import PLANES, Planes

ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def grid(order=(0, 1, 2), signs=(1, 1, 1), shape=(9, 11, 13), sizes=(1.0, 1.5, 2.0)):
    """A grid whose axis n runs along world axis order[n]; shape and sizes are along right, front, head."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * sizes[world]
        affine[world, 3] += 5.0 if sign > 0 else 5.0 + (shape[world] - 1) * sizes[world]
    return Geometry(tuple(shape[world] for world in order), affine)


def labelmap(geometry, seed=None, order="F"):
    array = np.zeros(geometry.shape, np.uint8, order=order)
    if seed is not None:
        array[...] = np.random.default_rng(seed).integers(0, 4, geometry.shape) * (
            np.random.default_rng(seed + 1).random(geometry.shape) < 0.4
        )
    return LabelMap(array, geometry, sided_labels(BONES))


def covered_slowly(shape, points, radius, mm):
    """Every pixel, every piece of the line, one after the other."""
    mask = np.zeros(shape, bool)
    pieces = list(pairwise(points)) or [(points[0], points[0])]
    for row, column in np.ndindex(*shape):
        here = np.array([row, column]) * mm
        for start, end in pieces:
            a, b = np.array(start[::-1]) * mm, np.array(end[::-1]) * mm
            length = ((b - a) ** 2).sum()
            t = min(1.0, max(0.0, float((here - a) @ (b - a) / length))) if length else 0.0
            if np.linalg.norm(here - a - t * (b - a)) <= radius + 1e-9:
                mask[row, column] = True
    for column, row in points:
        at = int(np.floor(row + 0.5)), int(np.floor(column + 0.5))
        if 0 <= at[0] < shape[0] and 0 <= at[1] < shape[1]:
            mask[at] = True
    return mask


COORDINATE = st.floats(-4, 16, width=16)


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=4),
    radius=st.sampled_from([0.0, 0.4, 1.0, 2.7, 6.0]),
    mm=st.sampled_from([(1.0, 1.0), (3.0, 0.9), (0.7, 2.0)]),
)
@example([(0.0, 2.0), (1e-5, 0.0)], 0.0, (1.0, 1.0))  # beside a pixel, if only just
def test_brush_covers_what_lies_within_its_radius(points, radius, mm):
    np.testing.assert_array_equal(
        brush((9, 12), points, radius, mm), covered_slowly((9, 12), points, radius, mm)
    )


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_a_stroke_lands_where_the_patient_was_touched(order, signs):
    geometry = grid(order, signs)
    painting = Painting(labelmap(geometry))
    planes = Planes(geometry)
    # One voxel, touched in each plane in turn: right 3, front 4, head 6 from the lowest corner.
    world = np.array([5 + 3 * 1.0, 5 + 4 * 1.5, 5 + 6 * 2.0])
    left, back, up = 9 - 1 - 3, 11 - 1 - 4, 6
    np.testing.assert_allclose(planes.affine @ [left, back, up, 1], [*world, 1], atol=1e-9)
    places = {"axial": (up, left, back), "coronal": (back, left, 12 - up), "sagittal": (left, back, 12 - up)}
    for value, (plane, (level, column, row)) in enumerate(places.items(), 1):
        painting.apply(Stroke(plane, level, [(column, row)], 0.0, value, over=True))
        ((i, j, k),) = np.argwhere(painting.array == value)
        np.testing.assert_allclose(geometry.to_world([i, j, k]), world, atol=1e-9)
        assert planes.stored(plane, planes.stored(plane, level)) == level
        axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
        assert (i, j, k)[order.index(axis)] == planes.stored(plane, level)


def strokes(shape=(9, 11, 13)):
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}
    return st.sampled_from(PLANES).flatmap(
        lambda plane: st.builds(
            Stroke,
            st.just(plane),
            st.integers(0, shape[axis[plane]] - 1),
            st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=3),
            st.sampled_from([0.0, 1.2, 4.0]),
            st.integers(1, 3),
            st.booleans(),
            st.booleans(),
        )
    )


@settings(max_examples=50, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    memory=st.sampled_from("CF"),
    steps=st.lists(st.one_of(strokes(), st.sampled_from(["undo", "redo"])), max_size=12),
)
def test_undo_and_redo_restore_every_bit(orientation, memory, steps):
    painting = Painting(labelmap(grid(*orientation), seed=3, order=memory))
    before = painting.original.array.copy()
    states, at = [before], 0
    for step in steps:
        if step == "undo":
            assert painting.undo() == (at > 0)
            at = max(0, at - 1)
        elif step == "redo":
            assert painting.redo() == (at + 1 < len(states))
            at = min(at + 1, len(states) - 1)
        elif painting.apply(step):
            states[at + 1 :] = [painting.array.copy()]
            at += 1
        np.testing.assert_array_equal(painting.array, states[at])
        assert (painting.can_undo, painting.can_redo) == (at > 0, at + 1 < len(states))
        assert painting.unsaved == (at > 0)
    while painting.undo():
        pass
    np.testing.assert_array_equal(painting.array, before)
    np.testing.assert_array_equal(painting.original.array, before)
    while painting.redo():
        pass
    np.testing.assert_array_equal(painting.array, states[-1])


@settings(max_examples=30, deadline=None)
@given(stroke=strokes())
def test_a_stroke_changes_what_it_may_and_nothing_else(stroke):
    geometry = grid()
    painting = Painting(labelmap(geometry, seed=8))
    planes, old = Planes(geometry), painting.original.array
    mask = np.zeros(geometry.shape, bool)
    pixels = planes.cut(mask, stroke.plane, stroke.level)
    pixels[...] = brush(pixels.shape, stroke.points, stroke.radius_mm, planes.pixel_mm(stroke.plane))
    if stroke.erase:
        expected = np.where(mask & (old == stroke.value), 0, old)
    else:
        expected = np.where(mask & (stroke.over | (old == 0)), stroke.value, old)
    assert painting.apply(stroke) == np.count_nonzero(expected != old)
    np.testing.assert_array_equal(painting.array, expected)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::7])
def test_what_is_painted_is_what_is_written(order, signs, tmp_path):
    geometry = grid(order, signs)
    painting = Painting(labelmap(geometry, seed=5))
    painting.apply(Stroke("coronal", 4, [(1, 2), (7, 9)], 2.0, 6, over=True))
    painting.apply(Stroke("axial", 6, [(4, 4)], 3.0, 2, erase=True))
    assert painting.unsaved
    path = write_correction(painting.labelmap, tmp_path / "new", "leg")
    painting.mark_saved()
    assert not painting.unsaved
    written = read_labels(path)
    np.testing.assert_array_equal(written.array, painting.array)
    assert written.array.dtype == np.uint8
    np.testing.assert_allclose(written.geometry.affine, geometry.affine, atol=1e-6)
    assert written.labels == painting.original.labels
    painting.undo()
    assert painting.unsaved
    second = write_correction(painting.labelmap, tmp_path / "new", "leg")
    assert [path.name, second.name] == ["leg_desc-corrected_dseg.nii.gz", "leg_desc-corrected2_dseg.nii.gz"]
    np.testing.assert_array_equal(read_labels(path).array, written.array)


def test_a_correction_needs_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="folder"):
        write_correction(labelmap(grid()), tmp_path / "file", "leg")
    for name in ("../leg", "a/leg", "a\\leg", "/leg"):
        with pytest.raises(UsageError, match="plain file name"):
            write_correction(labelmap(grid()), tmp_path, name)


def test_history_is_bounded_and_the_oldest_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "HISTORY_BYTES", 2500)
    painting = Painting(labelmap(grid()))
    for level in range(12):
        painting.apply(Stroke("axial", level, [(4, 5)], 3.0, 1))
    kept = 0
    while painting.undo():
        kept += 1
    assert 0 < kept < 12
    assert painting.array.any(axis=(0, 1)).sum() == 12 - kept
    assert painting.unsaved  # what was forgotten cannot be taken back


def disc(shape, centre, radius, mm=(1.0, 1.0)):
    rows, columns = np.indices(shape)
    return np.hypot((rows - centre[0]) * mm[0], (columns - centre[1]) * mm[1]) <= radius


@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_between_two_shapes_lies_the_first_at_0_and_the_last_at_1(part):
    first, last = disc((40, 50), (15, 14), 9), disc((40, 50), (24, 33), 5)
    found = between(first, last, part, (1.0, 1.0))
    expected = disc((40, 50), (15 + 9 * part, 14 + 19 * part), 9 - 4 * part)
    if part in (0.0, 1.0):
        np.testing.assert_array_equal(found, expected)
    edge = ndimage.binary_dilation(expected) ^ ndimage.binary_erosion(expected)
    assert not ((found != expected) & ~edge).any()


def test_the_shape_between_is_measured_in_millimetres():
    mm = (3.0, 0.5)
    first, last = disc((24, 90), (12, 44), 12, mm), disc((24, 90), (12, 44), 20, mm)
    found = between(first, last, 0.5, mm)
    width, height = np.ptp(np.flatnonzero(found.any(0))) * 0.5, np.ptp(np.flatnonzero(found.any(1))) * 3.0
    assert (width, height) == (pytest.approx(32, abs=1.5), pytest.approx(32, abs=6))


@pytest.mark.parametrize("plane", PLANES)
def test_filling_draws_a_bone_anew_between_the_slices_that_were_painted(plane):
    geometry = grid((2, 0, 1), (1, -1, 1), shape=(30, 32, 34), sizes=(1.0, 1.0, 1.0))
    painting = Painting(labelmap(geometry))
    planes = Planes(geometry)
    planes.cut(painting.array, plane, 12)[:, :] = 3  # another bone, which stays
    planes.cut(painting.array, plane, 9)[2:4, 2:4] = 1  # a stray piece, which goes
    for level, radius in ((8, 4.0), (14, 8.0)):
        painting.apply(Stroke(plane, level, [(15, 15)], radius, 1))
    assert painting.painted_levels(plane, 1) == [8, 14]
    before = painting.array.copy()
    assert painting.fill_between(plane, 1) > 0
    for level in (9, 10, 11, 13):
        pixels = planes.cut(painting.array, plane, level)
        radius = 4 + 4 * (level - 8) / 6
        assert np.count_nonzero(pixels == 1) == pytest.approx(np.pi * radius**2, rel=0.15)
        assert not pixels[2:4, 2:4].any()
    assert (planes.cut(painting.array, plane, 12) == 3).all()
    for level in (8, 14, 7, 15):
        np.testing.assert_array_equal(
            planes.cut(painting.array, plane, level), planes.cut(before, plane, level)
        )
    assert painting.undo()
    np.testing.assert_array_equal(painting.array, before)
    painting.redo()
    painting.fill_between(plane, 1, over=True)
    assert np.count_nonzero(planes.cut(painting.array, plane, 12) == 1) > 0


def test_filling_needs_two_slices_that_are_painted_and_not_taken_back():
    painting = Painting(labelmap(grid()))
    painting.apply(Stroke("axial", 2, [(4, 5)], 2.0, 1))
    painting.apply(Stroke("axial", 6, [(4, 5)], 2.0, 1))
    painting.undo()
    painting.apply(Stroke("axial", 3, [(4, 5)], 2.0, 1))
    painting.apply(Stroke("coronal", 7, [(4, 5)], 2.0, 1))
    with pytest.raises(UsageError, match="right_tibia was painted on 2 axial slices"):
        painting.fill_between("axial", 1)


def test_labels_that_changed_are_known_by_version():
    painting = Painting(labelmap(grid()))
    painting.apply(Stroke("axial", 2, [(4, 5)], 2.0, 1))
    painting.apply(Stroke("axial", 2, [(4, 5)], 1.0, 2, over=True))
    painting.apply(Stroke("axial", 9, [(4, 5)], 1.0, 3))
    assert painting.changed_at == {1: 2, 2: 2, 3: 3}
    painting.undo()
    assert painting.changed_at[3] == painting.version == 4


GOOD = {"plane": "axial", "level": 1, "points": [[1, 2]], "radius_mm": 1, "value": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"plane": "oblique"}, {"level": "x"}, {"points": []}, {"points": [[1]]}, {"points": 3},
        {"points": [[1, float("nan")]]}, {"points": [[0, 0]] * 20_001}, {"radius_mm": -1},
        {"radius_mm": float("inf")}, {"value": None},
    ],
)  # fmt: skip
def test_messages_that_are_no_strokes_are_refused(wrong):
    assert Stroke.from_message(GOOD).points == [(1.0, 2.0)]
    with pytest.raises(UsageError):
        Stroke.from_message(GOOD | wrong)


@pytest.mark.parametrize("wrong", [{"level": 13}, {"level": -1}, {"value": 9}, {"value": 0}])
def test_strokes_outside_the_scan_or_its_table_are_refused(wrong):
    painting = Painting(labelmap(grid()))
    with pytest.raises(UsageError):
        painting.apply(Stroke.from_message(GOOD | wrong))
    assert not painting.unsaved


def test_a_correction_does_not_bring_a_deleted_result_back(tmp_path):
    with pytest.raises(OutputError, match="corrections"):
        write_correction(labelmap(grid()), tmp_path / "deleted" / "corrections", "leg")
    assert list(tmp_path.iterdir()) == []
