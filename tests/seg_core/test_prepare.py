from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seg_core import prepare as module
from seg_core.errors import ModelError, UsageError
from seg_core.geometry import Geometry
from seg_core.model_spec import Grid
from seg_core.prepare import HARDLY, crop, plan_slices, prepare, prepare_slices, restore

ORIENTATIONS = [
    "".join(pair[sign] for pair, sign in zip(order, signs, strict=True))
    for order in permutations(("RL", "AP", "SI"))
    for signs in product((0, 1), repeat=3)
]
LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def geometry_of(orientation, shape, spacing=(1.0, 1.0, 1.0), tilt=0.0):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, letter in enumerate(orientation):
        axis, sign = LETTERS[letter]
        affine[axis, column] = sign * spacing[column]
    c, s = np.cos(tilt), np.sin(tilt)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ affine[:3, :3]
    affine[:3, 3] = (-30, 17, 400)
    return Geometry(shape, affine)


def stored_as(array, orientation):
    """Re-store an array that runs to L, P, S in another orientation, one axis at a time."""
    where = [LETTERS[letter][0] for letter in orientation]
    moved = np.transpose(array, where)
    for axis, letter in enumerate(orientation):
        if letter in "RAI":
            moved = np.flip(moved, axis)
    return moved


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["size", "spacing"])
def test_every_orientation_gives_the_same_input_and_comes_back(band_spec, orientation, kind):
    spec = band_spec(grid=Grid(kind, (32, 64), (1.3, 1.1)), channels=1)
    lps = np.random.default_rng(3).random((45, 37, 6))
    stored = stored_as(lps, orientation)
    spacing = {"L": 1.0, "R": 1.0, "P": 0.9, "A": 0.9, "S": 3.0, "I": 3.0}
    geometry = geometry_of(orientation, stored.shape, [spacing[x] for x in orientation], tilt=0.3)
    plan = plan_slices(geometry, spec)
    expected = plan_slices(geometry_of("LPS", lps.shape, (1.0, 0.9, 3.0)), spec)
    assert (plan.native, plan.frame, plan.before, plan.grid) == (
        expected.native,
        expected.frame,
        expected.before,
        expected.grid,
    )
    images = prepare(stored, plan, (0.0, 1.0), 1, 5)
    assert np.array_equal(images, prepare(lps, expected, (0.0, 1.0), 1, 5))

    labels = np.random.default_rng(4).integers(0, 5, (6, 37, 45), dtype=np.uint8)  # slice, row, column
    out = np.zeros(stored.shape, np.uint8)
    framed = np.full((6, *plan.frame), 9, np.uint8)
    crop(framed, plan)[...] = labels
    restore(framed[:2], plan, out, 0)
    restore(labels[2:], plan, out, 2)
    assert np.array_equal(out, stored_as(labels.T, orientation))


def test_input_equals_pillow(band_spec):
    array = np.random.default_rng(0).integers(0, 900, (50, 40, 3)).astype(np.int16)
    plan = plan_slices(geometry_of("LPS", array.shape), band_spec(channels=1))
    images = prepare(array, plan, (100, 600), 0, 3)
    for k in range(3):
        scaled = np.clip((array[:, :, k].T - 100.0) / 500, 0, 1).astype(np.float32)
        resized = Image.fromarray(scaled).resize((64, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(images[k, 0], np.asarray(resized))


@settings(deadline=None, max_examples=60)
@given(
    pixels=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    pixel_mm=st.floats(0.2, 4),
    mm=st.floats(0.5, 4),
    multiple=st.sampled_from([1, 16, 32]),
)
def test_frame_covers_the_slice_and_equals_the_grid_in_mm(pixels, pixel_mm, mm, multiple):
    from seg_core.model_spec import ModelSpec

    spec = ModelSpec("any", ("a",), grid=Grid("spacing", spacing_mm=(mm, mm), multiple=multiple))
    plan = plan_slices(geometry_of("LPS", (pixels[1], pixels[0], 2), (pixel_mm, pixel_mm, 3)), spec)
    for axis in range(2):
        after = plan.frame[axis] - plan.native[axis] - plan.before[axis]
        assert plan.native[axis] == pixels[axis]
        assert 0 <= plan.before[axis] <= after <= plan.before[axis] + 1
        assert plan.grid[axis] % multiple == 0
        # Within half a pixel of the scan; a slice that fits but for the last bit may exceed by that bit.
        length_mm = plan.grid[axis] * mm
        slack = 0.0 if (plan.frame[axis] * multiple) % plan.grid[axis] else HARDLY * length_mm
        assert abs(plan.frame[axis] * pixel_mm - length_mm) <= pixel_mm * 0.501 + slack
        assert (plan.grid[axis] - multiple) * mm < pixels[axis] * pixel_mm


@pytest.mark.parametrize(
    ("pixel_mm", "step"),
    [(0.9375, 64), (1.5, 40), (0.95, 63), (1.45, 41), (1.9, 32), (0.3, 200), (3.3, 18), (4.1, None)],
)
def test_multiples_end_between_two_pixels_where_that_hardly_changes_them(band_spec, pixel_mm, step):
    spec = band_spec(grid=Grid("spacing", spacing_mm=(0.9375, 0.9375), multiple=64))
    plan = plan_slices(geometry_of("LPS", (321, 250, 1), (pixel_mm, pixel_mm, 3)), spec)
    steps = {frame * 64 / grid for frame, grid in zip(plan.frame, plan.grid, strict=True)}
    if step is None:  # 14.63 pixels: 15 are too many
        assert all(abs(found - 60 / pixel_mm) < 0.1 for found in steps)
    else:
        assert steps == {step}
        view = plan.part((64, 128), (64, 128))
        assert view.frame == (step, step)


@pytest.mark.parametrize(
    ("pixels", "field_mm", "grid"),
    [(256, 300, 320), (512, 300, 320), (320, 360, 384), (512, 420, 448), (512, 480, 512)],
)
def test_whole_steps_take_no_more_multiples(band_spec, pixels, field_mm, grid):
    spec = band_spec(grid=Grid("spacing", spacing_mm=(0.9375, 0.9375), multiple=64))
    mm = field_mm / pixels
    assert plan_slices(geometry_of("LPS", (pixels, pixels, 1), (mm, mm, 3)), spec).grid == (grid, grid)


def test_an_exact_fit_does_not_grow(band_spec):
    spec = band_spec(grid=Grid("spacing", spacing_mm=(1.875, 1.875)))
    plan = plan_slices(geometry_of("LPS", (512, 256, 1), (0.9375, 0.9375, 3)), spec)
    assert (plan.grid, plan.frame, plan.before) == ((128, 256), (256, 512), (0, 0))


def test_ones_stay_ones_up_to_the_last_slice_and_air_is_zero(band_spec):
    spec = band_spec(grid=Grid("spacing", spacing_mm=(1.0, 1.0)))
    plan = plan_slices(geometry_of("LPS", (40, 32, 5)), spec)
    images = prepare(np.ones((40, 32, 5)), plan, (0, 1), 0, 5)
    assert images.shape == (5, 3, 32, 64)
    assert (images[..., 12:52] == 1).all()
    assert not images[..., :12].any()
    assert not images[..., 52:].any()


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_neighbours_fill_the_channels(band_spec, channels):
    array = np.arange(7.0) * np.ones((64, 32, 1))
    spec = band_spec(channels=channels, channel_fill="neighbours")
    plan = plan_slices(geometry_of("LPS", array.shape), spec)
    images = prepare(array, plan, (0, 10), 0, 7)
    for s, c in product(range(7), range(channels)):
        assert np.allclose(images[s, c], min(max(s + c - channels // 2, 0), 6) / 10)
    slabs = [prepare(array, plan, (0, 10), a, b) for a, b in ((0, 2), (2, 3), (3, 7))]
    assert np.array_equal(np.concatenate(slabs), images)


@pytest.mark.parametrize(("slice_mm", "stride"), [(1.0, 10), (3.0, 3), (6.0, 2), (25.0, 1)])
def test_neighbours_lie_at_a_distance_in_mm(band_spec, slice_mm, stride):
    array = np.arange(30.0) * np.ones((64, 32, 1))
    plan = plan_slices(
        Geometry(array.shape, np.diag([-1, -1, slice_mm, 1.0])),
        band_spec(channel_fill="neighbours", neighbour_mm=10.0),
    )
    images = prepare(array, plan, (0, 30), 0, 30)
    for s, c in product(range(30), range(3)):
        assert np.allclose(images[s, c], min(max(s + (c - 1) * stride, 0), 29) / 30)
    slabs = [prepare(array, plan, (0, 30), n, n + 1) for n in range(30)]
    assert np.array_equal(np.concatenate(slabs), images)


@pytest.mark.parametrize("slab", [1, 2, 3, 8])
def test_slices_that_follow_one_another_are_prepared_once(band_spec, slab, monkeypatch):
    spec = band_spec(
        grid=Grid("size", (8, 8), multiple=8), channels=3, channel_fill="neighbours", neighbour_mm=9.0
    )
    array = np.random.default_rng(0).random((10, 12, 21))
    plan = plan_slices(geometry_of("LPS", array.shape, (1, 1, 3.0)), spec)
    expected, framed, kept, counts = prepare(array, plan, (0.0, 1.0), 0, 21), module._framed, {}, []
    monkeypatch.setattr(
        module, "_framed", lambda slices, *args: counts.append(len(slices)) or framed(slices, *args)
    )
    parts = [
        prepare_slices(array, plan, (0.0, 1.0), np.arange(n, min(n + slab, 21)), kept)
        for n in range(0, 21, slab)
    ]
    assert plan.stride == 3
    assert np.array_equal(np.concatenate(parts), expected)
    assert sum(counts) == 21
    assert len(kept) <= 2 * plan.stride + slab


def test_slices_that_are_not_there_are_refused(band_spec):
    plan = plan_slices(geometry_of("LPS", (64, 32, 5)), band_spec())
    for start, stop in ((-1, 2), (3, 6), (4, 3)):
        with pytest.raises(UsageError):
            prepare(np.zeros((64, 32, 5)), plan, (0, 1), start, stop)
    with pytest.raises(UsageError):
        restore(np.zeros((2, 32, 64), np.uint8), plan, np.zeros((64, 32, 5), np.uint8), 4)
    with pytest.raises(UsageError):
        restore(np.zeros((2, 31, 64), np.uint8), plan, np.zeros((64, 32, 5), np.uint8), 0)
    assert prepare(np.zeros((64, 32, 5)), plan, (0, 1), 2, 2).shape == (0, 3, 32, 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"orientation": "LPL"},
        {"orientation": "LP"},
        {"grid": Grid("size", (33, 64))},
        {"grid": Grid("spacing", spacing_mm=(0.0, 1.0))},
    ],
)
def test_descriptions_that_make_no_sense(band_spec, changes):
    with pytest.raises(ModelError):
        plan_slices(geometry_of("LPS", (64, 32, 5)), band_spec(**changes))
