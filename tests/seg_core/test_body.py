import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core import body
from seg_core.body import GROUP, find_views
from seg_core.geometry import Geometry
from seg_core.model_spec import Grid
from seg_core.prepare import crop, plan_slices, prepare, prepare_slices

WINDOW = (0.0, 100.0)

MARGIN_MM = 48.0


def views_of(array, plan, multiple):
    (views,) = find_views(array, plan, multiple, (MARGIN_MM,))
    return views


@pytest.fixture
def plan_of(make_spec):
    """The plan of a scan (i, j, k) of 2 x 3 x 5 mm for a network of 4 mm pixels in multiples of 16."""

    def make(shape, **changes):
        affine = np.diag([-2.0, -3.0, 5.0, 1.0])
        spec = make_spec(grid=Grid("spacing", spacing_mm=(4.0, 4.0), multiple=16), **changes)
        return plan_slices(Geometry(shape, affine), spec)

    return make


def scan_with_a_box(shape, columns, rows, slices, noise=0.0):
    array = np.abs(np.random.default_rng(1).normal(0, noise, shape)) if noise else np.zeros(shape)
    array[slice(*columns), slice(*rows), slice(*slices)] += 100
    return np.asfortranarray(array)


def margins(view, plan, columns, rows):
    """How far a view reaches beyond a box of stored pixels, in mm: left, right, above, below."""
    mm = 4.0
    before = plan.before[0] * 3.0, plan.before[1] * 2.0
    return (
        columns[0] * 2 + before[1] - view.columns[0] * mm,
        view.columns[1] * mm - columns[1] * 2 - before[1],
        rows[0] * 3 + before[0] - view.rows[0] * mm,
        view.rows[1] * mm - rows[1] * 3 - before[0],
    )


def test_a_view_holds_the_body_and_a_margin_or_reaches_the_frame(plan_of):
    plan = plan_of((300, 200, 40))
    columns, rows = (120, 180), (80, 130)
    views = views_of(scan_with_a_box(plan_shape(plan), columns, rows, (0, 40)), plan, 16)
    assert [view.slices for view in views] == [(0, 16), (16, 32), (32, 40)]
    for view in views:
        assert all(n % 16 == 0 for n in (*view.rows, *view.columns))
        left, right, above, below = margins(view, plan, columns, rows)
        assert min(left, right, above, below) >= MARGIN_MM
        assert max(left, right, above, below) < MARGIN_MM + 16 * 4 + 2 * body.BLOCK_MM


def plan_shape(plan):
    return plan.native[1], plan.native[0], plan.slices


def test_slices_of_air_have_nothing_to_see(plan_of):
    plan = plan_of((300, 200, 64))
    array = scan_with_a_box((300, 200, 64), (120, 180), (80, 130), (20, 40), noise=1.0)
    assert [view.empty for view in views_of(array, plan, 16)] == [True, False, False, True]


def test_neighbours_of_a_slice_are_seen(plan_of):
    plan = plan_of((300, 200, 32), channels=3, channel_fill="neighbours", neighbour_mm=10.0)
    array = scan_with_a_box((300, 200, 32), (120, 180), (80, 130), (16, 32))
    first, second = views_of(array, plan, 16)
    assert (first.rows, first.columns) == (second.rows, second.columns)


def test_dark_limbs_are_seen_and_strong_noise_gives_the_whole_frame(plan_of):
    plan = plan_of((300, 200, 32))
    array = scan_with_a_box((300, 200, 32), (120, 180), (80, 130), (0, 32))
    array[:, :, 16:] *= 0.06  # far from the coil
    assert not any(view.empty for view in views_of(array, plan, 16))
    noisy = scan_with_a_box((300, 200, 32), (120, 180), (80, 130), (0, 32), noise=150.0)
    for view in views_of(noisy, plan, 16):
        assert (view.rows, view.columns) == ((0, plan.grid[0]), (0, plan.grid[1]))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), dtype=st.sampled_from(["u1", "<i2", ">i2", "f4"]))
def test_means_are_those_of_the_blocks(seed, dtype):
    rng = np.random.default_rng(seed)
    shape, blocks = rng.integers(1, 12, 3), tuple(int(n) for n in rng.integers(1, 6, 2))
    slices = rng.integers(0, 200, shape).astype(dtype).transpose(0, 2, 1)
    found = body._block_means(slices, blocks)
    for s, r, c in np.ndindex(found.shape):
        rows, columns = (slice(n * b, (n + 1) * b) for n, b in zip((r, c), blocks, strict=True))
        assert found[s, r, c] == pytest.approx(slices[s, rows, columns].astype(float).mean())


@pytest.mark.parametrize("dtype", ["u2", ">i2", "f4", "f8"])
def test_threads_and_order_change_no_bit_of_the_means(dtype, monkeypatch):
    add, threads = body._sum_blocks, set()

    def watched(*args):
        threads.add(threading.current_thread())
        add(*args)

    monkeypatch.setattr(body, "_sum_blocks", watched)
    monkeypatch.setattr("seg_core.threads.cores", lambda: 3)
    slices = (np.random.default_rng(0).random((27, 7, 9)) * 4000).astype(dtype)
    found = body._block_means(slices, (3, 4))
    expected = np.zeros((27, 3, 3))
    for s, r, c in np.ndindex(slices.shape):  # row by row, one pixel after another
        expected[s, r // 3, c // 4] += slices[s, r, c]
    assert np.array_equal(found, expected / (np.array([[3], [3], [1]]) * [4, 4, 1]))
    assert len(threads) > 1


def test_views_do_not_depend_on_how_the_scan_is_stored(plan_of):
    array = scan_with_a_box((300, 200, 40), (120, 180), (80, 130), (5, 40), noise=2.0)
    expected = views_of(array, plan_of((300, 200, 40)), 16)
    assert views_of(np.ascontiguousarray(array), plan_of((300, 200, 40)), 16) == expected
    assert len(expected) == -(-40 // GROUP)


def test_a_part_of_the_frame_is_prepared_as_in_the_whole(plan_of):
    plan = plan_of((256, 160, 3))  # 4 mm are a whole number of pixels along rows: 2
    array = np.asfortranarray(np.random.default_rng(0).random((256, 160, 3)) * 100)
    whole = prepare(array, plan, WINDOW, 0, 3)
    part = plan.part((0, plan.grid[0]), (32, 80))
    found = prepare_slices(array, part, WINDOW, np.arange(3))
    assert found.shape[2:] == part.grid == (plan.grid[0], 48)
    # The filter that shrinks reaches over a pixel of the network's.
    assert np.allclose(found[..., 2:-2], whole[..., 34:78], atol=1e-6)


def test_labels_of_a_part_come_back_to_their_place(plan_of):
    plan = plan_of((270, 150, 2))
    native = np.random.default_rng(0).integers(1, 5, (2, *plan.native)).astype(np.uint8)
    framed = np.zeros((2, *plan.frame), np.uint8)
    crop(framed, plan)[...] = native
    for rows, columns in (((0, 16), (16, 48)), ((96, plan.grid[0]), (112, plan.grid[1]))):
        part = plan.part(rows, columns)
        top, left = plan.before[0] - part.before[0], plan.before[1] - part.before[1]
        cut = framed[:, top : top + part.frame[0], left : left + part.frame[1]]
        assert np.array_equal(crop(cut, part), part.within(native))
        assert part.within(native).size


def test_the_whole_frame_is_a_part_of_itself(plan_of):
    plan = plan_of((271, 153, 2))
    assert plan.part((0, plan.grid[0]), (0, plan.grid[1])) == plan
