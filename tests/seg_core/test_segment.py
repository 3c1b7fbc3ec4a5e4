import threading

import numpy as np
import pytest

import seg_core.segment as module
from seg_core.errors import ScanError, UsageError
from seg_core.geometry import Geometry, Volume
from seg_core.labels import sided_labels
from seg_core.model_spec import Denoise, Grid
from seg_core.runner import Runner
from seg_core.segment import SegmentOptions, segment


@pytest.fixture(scope="module")
def runner(tiny_model):
    return Runner(tiny_model, "cpu", threads=1)


def test_made_up_legs_are_found(legs, runner):
    scan, truth = legs
    before = scan.array.copy()
    found = segment(scan, runner, SegmentOptions(confidence=True))
    assert np.array_equal(found.labels.array, truth.array)
    assert dict(found.labels.labels) == sided_labels(runner.spec.classes)
    assert found.labels.geometry is scan.geometry
    assert found.confidence.array.dtype == np.uint8
    inside = found.confidence.array[:, :, found.slices[0] : found.slices[1]]
    assert inside.min() >= 255 // 5
    assert found.axis == 2
    assert set(found.seconds) == {"range", "prepare", "infer", "denoise", "restore", "sides"}
    assert found.warnings == ()
    assert np.array_equal(scan.array, before)


@pytest.mark.parametrize("slab", [1, 7, 64])
@pytest.mark.parametrize("batch", [1, 4, 5])
def test_labels_do_not_depend_on_slab_or_batch(legs, tiny_model, slab, batch, monkeypatch):
    noisy = legs[0].array + np.random.default_rng(0).normal(0, 25, legs[0].array.shape)
    scan = Volume(np.clip(noisy, 0, 255), legs[0].geometry)
    expected = segment(scan, Runner(tiny_model, "cpu", 1), SegmentOptions(confidence=True))
    other = Runner(tiny_model, "cpu", 2)
    other.batch = batch
    monkeypatch.setattr(module, "SLAB", slab)
    found = segment(scan, other, SegmentOptions(confidence=True))
    assert expected.labels.array.any()
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert np.array_equal(found.confidence.array, expected.confidence.array)
    assert found.slices == expected.slices
    for key in ("slices", "volume"):
        assert np.array_equal(found.removed[key].voxels, expected.removed[key].voxels)


def reoriented(volume, order, flips):
    """The same scan stored otherwise."""
    array = volume.array.transpose(order)
    affine = volume.geometry.affine.copy()
    affine[:3, :3] = volume.geometry.affine[:3, list(order)]
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
    return Volume(array, Geometry(array.shape, affine))


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_all_48_orientations_give_the_same_bones(legs, runner, order):
    scan, truth = legs
    for flips in np.ndindex(2, 2, 2):
        stored = reoriented(scan, order, flips)
        wanted = reoriented(Volume(truth.array, truth.geometry), order, flips)
        found = segment(stored, runner)
        assert np.array_equal(found.labels.array, wanted.array), flips
        assert found.axis == order.index(2)


def test_side_keeps_one_leg(legs, runner):
    scan, truth = legs
    right = segment(scan, runner, SegmentOptions(side="right")).labels.array
    assert np.array_equal(right, np.where(truth.array <= 4, truth.array, 0))
    left = segment(scan, runner, SegmentOptions(side="left")).labels.array
    assert np.array_equal(left, np.where(truth.array > 4, truth.array, 0))


def test_hip_slice_cuts_towards_the_head(legs, runner):
    scan, truth = legs
    found = segment(scan, runner, SegmentOptions(hip_slice=25, hip_tolerance=3))
    assert found.slices == (0, 29)
    assert np.array_equal(found.labels.array[:, :, :29], truth.array[:, :, :29])
    assert not found.labels.array[:, :, 29:].any()
    assert truth.array[:, :, 29:].any()


def test_without_denoising_specks_stay(legs, runner):
    scan = Volume(legs[0].array.copy(order="K"), legs[0].geometry)
    scan.array[3, 3, 10] = 70  # a tibia of one voxel, in air
    noisy = segment(scan, runner, SegmentOptions(denoise=False))
    clean = segment(scan, runner)
    assert noisy.labels.array[3, 3, 10] > 0
    assert clean.labels.array[3, 3, 10] == 0
    assert dict(noisy.removed) == {}
    assert clean.removed["slices"].components[1] >= 1


def test_a_single_slice_is_segmented_with_a_warning(legs, runner):
    scan, truth = legs
    geometry = scan.geometry.window((0, 0, 10), (64, 64, 1))
    found = segment(Volume(scan.array[:, :, 10:11], geometry), runner)
    assert np.array_equal(found.labels.array > 0, truth.array[:, :, 10:11] > 0)
    assert any("single slice" in w for w in found.warnings)


def test_air_alone_is_empty_and_said(runner):
    noise = np.random.default_rng(0).integers(0, 10, (64, 64, 12)).astype(np.uint8)
    found = segment(Volume(noise, Geometry(noise.shape, np.diag([-4.0, -4, 10, 1]))), runner)
    assert not found.labels.array.any()
    assert any("no bone" in w for w in found.warnings)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(legs, runner, value):
    array = legs[0].array.astype(float)
    array[5, 5, 5] = value
    with pytest.raises(ScanError):
        segment(Volume(array, legs[0].geometry), runner)


def test_a_constant_scan_is_refused(legs, runner):
    with pytest.raises(ScanError, match="constant"):
        segment(Volume(np.full_like(legs[0].array, 7), legs[0].geometry), runner)


def test_a_network_without_sides(legs, band_model):
    spec = {"sided": False, "grid": Grid("size", (64, 64)), "denoise": Denoise()}
    unsided = Runner(band_model(**spec), "cpu")
    assert segment(legs[0], unsided).sides is None
    with pytest.raises(UsageError, match="without sides"):
        segment(legs[0], unsided, SegmentOptions(side="left"))


def test_progress_reaches_its_end_and_no_thread_is_left(legs, runner):
    seen, threads = [], threading.active_count()
    segment(legs[0], runner, progress=lambda *args: seen.append(args))
    last = {step: (done, total) for step, done, total in seen}
    assert set(last) == {"range", "infer"}
    assert all(done == total for done, total in last.values())
    assert threading.active_count() == threads


def test_an_interruption_goes_through(legs, runner):
    def stop(step, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(legs[0], runner, progress=stop)


def test_options_are_checked():
    with pytest.raises(UsageError, match="side"):
        SegmentOptions(side="middle")
