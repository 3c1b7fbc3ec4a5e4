import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes

from seg_core import intensity
from seg_core.errors import ModelError, ScanError
from seg_core.intensity import intensity_window, normalised_input, percentiles, scale
from seg_core.model_spec import Normalisation

TYPES = ["u1", "i1", "u2", "i2", ">i2", "u4", "i4", "i8", "u8", "f2", "f4", ">f4", "f8"]
MINMAX = Normalisation("minmax")


def random_array(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)).astype(dtype)
    # int64 beyond 2**53 has no exact double.
    info = np.iinfo(dtype)
    low, high = max(info.min, -(2**50)), min(info.max, 2**50)
    return rng.integers(low, high, shape, np.int64, endpoint=True).astype(dtype)


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    dtype=st.sampled_from(TYPES),
    percents=st.lists(st.floats(0, 100), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_percentiles_equal_numpy(shape, dtype, percents, seed):
    array = random_array(shape, dtype, seed)
    expected = np.percentile(array.astype(np.float64), percents)
    for view in (array, array.T, array[::-1], np.asfortranarray(array)):
        np.testing.assert_array_equal(percentiles(view, percents), expected)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_percentiles_that_several_threads_count_equal_numpy(dtype, monkeypatch):
    count, threads = intensity._count_digits, set()

    def watched(*args):
        threads.add(threading.current_thread())
        count(*args)

    monkeypatch.setattr(intensity, "_count_digits", watched)
    monkeypatch.setattr(intensity, "_SHARE", 100)
    monkeypatch.setattr("seg_core.threads.cores", lambda: 3)
    array = random_array((9, 10, 11), dtype, 0)
    expected = np.percentile(array.astype(np.float64), [0, 1, 40, 99.5, 100])
    np.testing.assert_array_equal(percentiles(array, [0, 1, 40, 99.5, 100]), expected)
    assert len(threads) > 1


def test_percentiles_of_many_equal_values_and_extremes():
    array = np.concatenate([np.zeros(900, "i2"), np.full(90, 4095, "i2"), np.full(10, -32768, "i2")])
    assert percentiles(array, [0, 0.5, 50, 95, 100]) == [-32768, -32768, 0, 4095, 4095]
    assert percentiles(np.array([True, False, True]), [0, 50]) == [0, 1]
    values = np.array([np.finfo("f4").min, -0.0, 1e-45, np.finfo("f4").max], "f4")
    assert percentiles(values, [0, 100]) == [float(values[0]), float(values[-1])]


def test_windows():
    array = np.arange(101, dtype=np.uint16).reshape(1, 1, 101) * 10
    assert intensity_window(array, MINMAX) == (0, 1000)
    assert intensity_window(array, Normalisation("divide", 0, 255)) == (0, 255)
    assert intensity_window(array, Normalisation("percentile", 1, 99)) == (10, 990)


def test_one_hot_voxel_does_not_move_the_percentiles():
    array = random_array((20, 20, 20), "u1", 0).astype(np.uint16)
    spiked = array.copy()
    spiked[3, 4, 5] = 65535
    robust = Normalisation("percentile", 0.5, 99.5)
    assert intensity_window(spiked, robust)[1] <= 256
    assert intensity_window(spiked, MINMAX)[1] == 65535


def test_a_scan_of_nearly_nothing_but_air_falls_back_to_its_extremes():
    array = np.zeros((10, 10, 100), np.int16)
    array[0, 0, 0] = 700
    assert intensity_window(array, Normalisation("percentile", 1, 99)) == (0, 700)


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 2, 2), 7, np.int16),
        np.zeros((0, 2, 2)),
        np.array([1.0, np.nan]),
        np.array([1.0, np.inf]),
        np.array([1.0, 2j]),
    ],
)
@pytest.mark.parametrize("kind", ["divide", "minmax", "percentile"])
def test_scans_that_cannot_be_normalised(array, kind):
    with pytest.raises(ScanError):
        intensity_window(array, Normalisation(kind, 1, 99))


@pytest.mark.parametrize(
    "normalisation",
    [
        Normalisation("divide", 0, 0),
        Normalisation("divide", 0, float("nan")),
        Normalisation("percentile", 99, 1),
        Normalisation("percentile", 1, 101),
    ],
)
def test_impossible_normalisations(normalisation):
    with pytest.raises(ModelError):
        intensity_window(np.arange(3), normalisation)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(0, 6)] * 3),
    dtype=st.sampled_from([t for t in TYPES if t != "f2"]),
    axes=st.permutations(range(3)),
    seed=st.integers(0, 2**32 - 1),
)
def test_scale_equals_numpy_in_any_memory_order(shape, dtype, axes, seed):
    array = random_array(shape, dtype, seed).transpose(axes)[::-1]
    low, high = -12.5, 300.0
    expected = np.clip((array.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)
    result = scale(array, low, high)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


def test_scale_keeps_nan_and_memory_order():
    array = np.asfortranarray(np.array([[1.0, np.nan], [2.0, 3.0]]))
    result = scale(array, 1, 2)
    np.testing.assert_array_equal(result, [[0, np.nan], [1, 1]])
    assert result.flags.f_contiguous
    np.testing.assert_array_equal(scale(np.arange(256, dtype="u1"), 0, 255), np.arange(256, dtype="f4") / 255)
    with pytest.raises(ScanError):
        scale(array, 2, 2)


def bodies(dtype):
    """A body with a hole of zeros in it, away from the border, and its mask with the hole."""
    array = np.zeros((9, 10, 11), dtype)
    array[2:8, 3:9, 1:9] = np.random.default_rng(0).integers(1, 200, (6, 6, 8))
    array[4:6, 5:7, 4:6] = 0
    array[7, 8, 8] = 0  # a corner that is open to the outside
    return array, binary_fill_holes(array != 0)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "f4"])
def test_zscores_of_the_box_around_all_but_zeros(dtype):
    array, _ = bodies(dtype)
    box = array[2:8, 3:9, 1:9].astype(np.float64)
    for view in (array, np.asfortranarray(array)):
        taken, window = normalised_input(view, Normalisation("zscore"))
        assert taken is view
        scaled = scale(taken, *window)
        np.testing.assert_allclose(scaled, (array - box.mean()) / box.std(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "f4"])
def test_zscores_within_a_mask_leave_zeros_outside_and_count_holes(dtype):
    array, mask = bodies(dtype)
    before = array.copy()
    scaled = scale(*flat(normalised_input(array, Normalisation("zscore_nonzero"))))
    inside = array[mask].astype(np.float64)
    assert (inside == 0).sum() == 8
    np.testing.assert_allclose(scaled[mask], (inside - inside.mean()) / inside.std(), rtol=1e-5, atol=1e-6)
    assert np.abs(scaled[~mask]).max() < 1e-6
    assert np.array_equal(array, before)


def flat(pair):
    return pair[0], *pair[1]


def test_a_fixed_mean_and_deviation_after_clipping():
    array = np.array([[[-2000.0, -100.0, 40.0, 900.0]]])
    window = intensity_window(array, Normalisation("fixed", -500.0, 300.0, mean=50.0, sd=25.0))
    np.testing.assert_allclose(scale(array, *window), [[[-22.0, -6.0, -0.4, 10.0]]], rtol=1e-6)
    for wrong in ({"low": 300.0}, {"sd": 0.0}, {"mean": np.nan}):
        facts = {"low": -500.0, "high": 300.0, "mean": 50.0, "sd": 25.0} | wrong
        with pytest.raises(ModelError, match="impossible"):
            intensity_window(array, Normalisation("fixed", **facts))


@pytest.mark.parametrize("kind", ["zscore", "zscore_nonzero"])
def test_zscores_of_constant_scans_are_refused(kind):
    with pytest.raises(ScanError, match="constant"):
        normalised_input(np.full((2, 3, 4), 7), Normalisation(kind))
