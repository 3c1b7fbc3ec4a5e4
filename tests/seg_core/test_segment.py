import re
import threading

import numpy as np
import pytest

import seg_core.segment as whole
import seg_core.slice_inference as module
from seg_core.errors import ScanError, UsageError
from seg_core.geometry import Geometry, Volume
from seg_core.labels import plain_labels, sided_labels
from seg_core.limb_range import coarse_slices
from seg_core.model_spec import Denoise, Grid
from seg_core.prepare import plan_slices
from seg_core.runner import Runner
from seg_core.segment import SegmentOptions, segment


@pytest.fixture(scope="module")
def runner(tiny_model):
    return Runner(tiny_model, "cpu", threads=1)


@pytest.fixture(scope="module")
def patch_runner(make_spec, make_onnx):
    """The same network in three dimensions, on patches that are smaller than a slice."""
    return Runner(make_onnx(make_spec(patch=(12, 40, 48))), "cpu", threads=1)


@pytest.fixture(params=["runner", "patch_runner"])
def any_runner(request):
    return request.getfixturevalue(request.param)


def test_made_up_legs_are_found(legs, any_runner):
    scan, truth = legs
    before = scan.array.copy()
    runner, steps = (
        any_runner,
        {"range", "prepare", "infer", "denoise", "restore", "sides", "measure", "views"},
    )
    found = segment(scan, runner, SegmentOptions(confidence=True))
    assert np.array_equal(found.labels.array, truth.array)
    assert dict(found.labels.labels) == sided_labels(runner.spec.classes)
    assert found.labels.geometry is scan.geometry
    assert found.confidence.array.dtype == np.uint8
    inside = found.confidence.array[:, :, found.slices[0] : found.slices[1]]
    assert inside.min() >= 255 // 5
    assert found.axis == 2
    assert set(found.seconds) == (steps if runner.spec.patch is None else steps - {"views"})
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
    for part in (module, whole):
        monkeypatch.setattr(part, "SLAB", slab)
    found = segment(scan, other, SegmentOptions(confidence=True))
    assert expected.labels.array.any()
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert np.array_equal(found.confidence.array, expected.confidence.array)
    assert found.slices == expected.slices
    for key in ("slices", "volume"):
        assert np.array_equal(found.removed[key].voxels, expected.removed[key].voxels)


def test_the_coarse_pass_takes_several_slices_at_once_and_prepares_ahead(legs, runner, monkeypatch):
    prepare, begin, threads, asked = whole.prepare_slices, runner.begin, set(), []

    def watched_prepare(*args):
        threads.add(threading.current_thread())
        return prepare(*args)

    def watched_begin(images, *args, **options):
        asked.append(len(images))
        return begin(images, *args, **options)

    monkeypatch.setattr(whole, "prepare_slices", watched_prepare)
    monkeypatch.setattr(runner, "begin", watched_begin)
    options = SegmentOptions(whole_frame=True)
    segment(legs[0], runner, options, progress=lambda step, done, total: asked.append(step))
    # The second begins before the first is waited for.
    assert asked[:3] == [module.APART, module.APART, "range"]
    coarse = [n for n in asked[: len(asked) - asked[::-1].index("range")] if n != "range"]
    count = len(coarse_slices(plan_slices(legs[0].geometry, runner.spec)))
    assert sum(coarse) == count > 2 * module.APART
    assert max(coarse) == module.APART > 1
    assert len(coarse) == -(-count // module.APART)
    assert len(threads) == 1
    assert threading.current_thread() not in threads


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


def test_an_oblique_scan_comes_back_on_its_own_grid(legs, runner):
    scan, truth = legs
    c, s = np.cos(np.radians(15)), np.sin(np.radians(15))
    turn = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])
    oblique = Geometry(scan.geometry.shape, turn @ scan.geometry.affine)
    found = segment(Volume(scan.array, oblique), runner)
    assert found.labels.geometry is oblique
    assert np.array_equal(found.labels.array, truth.array)


def test_side_keeps_one_leg(legs, runner):
    scan, truth = legs
    right = segment(scan, runner, SegmentOptions(side="right")).labels.array
    assert np.array_equal(right, np.where(truth.array <= 4, truth.array, 0))
    left = segment(scan, runner, SegmentOptions(side="left")).labels.array
    assert np.array_equal(left, np.where(truth.array > 4, truth.array, 0))


def one_leg(legs, side, fibula=True):
    """A scan that shows one leg alone, and its true labels."""
    scan, truth = legs
    there = np.zeros(scan.array.shape, bool)
    there[: 32 if side == "right" else 0] = True  # columns run to the left
    there[32 if side == "left" else 64 :] = True
    array, labels = np.where(there, scan.array, 0), np.where(there, truth.array, 0)
    if not fibula:
        array[(labels == 3) | (labels == 7)] = 20
    return Volume(np.asfortranarray(array), scan.geometry), labels


@pytest.mark.parametrize("asked", ["both", "right", "left"])
def test_where_the_side_is_unknown_all_is_kept_and_said(legs, runner, asked):
    scan, truth = one_leg(legs, "left", fibula=False)
    found = segment(scan, runner, SegmentOptions(side=asked))
    assert found.sides.kind == "unknown"
    assert dict(found.labels.labels) == plain_labels(runner.spec.classes)
    wanted = np.where(truth > 4, truth - 4, truth)
    assert np.array_equal(found.labels.array, np.where(wanted == 3, 0, wanted))
    assert found.warnings[0].startswith("the side is unknown: one leg")
    *told, missed = found.warnings[1:]
    assert [w for w in found.warnings if f"the {asked} side was asked for" in w] == told
    assert missed.startswith("not plausible: no fibula was found")
    assert len(found.warnings) == (2 if asked == "both" else 3)


def test_a_header_that_the_fibula_contradicts_is_followed_and_said(legs, runner):
    scan, truth = one_leg(legs, "left")
    assert np.array_equal(segment(scan, runner).labels.array, truth)
    found = segment(scan, runner, SegmentOptions(laterality="R"))
    assert set(np.unique(found.labels.array)) == {0, 1, 2, 3, 4}
    (warning,) = found.warnings
    assert "contradicts" in warning


def test_the_side_that_is_not_there_is_said(legs, runner):
    found = segment(one_leg(legs, "left")[0], runner, SegmentOptions(side="right"))
    assert not found.labels.array.any()
    (warning,) = found.warnings
    assert "every bone lies on the other one" in warning


def test_hip_slice_cuts_towards_the_head(legs, any_runner):
    scan, truth = legs
    found = segment(scan, any_runner, SegmentOptions(hip_slice=25, hip_tolerance=3))
    assert found.slices == (0, 29)
    assert np.array_equal(found.labels.array[:, :, :29], truth.array[:, :, :29])
    assert not found.labels.array[:, :, 29:].any()
    assert truth.array[:, :, 29:].any()


def in_a_long_scan(volume, labels, bone_in_trunk=0):
    """Legs with 400 mm of trunk above, and noise of air beyond both ends."""
    rng = np.random.default_rng(1)
    columns, rows, _ = volume.array.shape
    trunk = np.zeros((columns, rows, 40), np.uint8)
    trunk[6:-6, 18:-18] = rng.integers(15, 35, (columns - 12, rows - 36, 40))
    trunk[30:34, 30:34, 40 - bone_in_trunk :] = 120
    air = rng.integers(0, 4, (columns, rows, 20)).astype(np.uint8)
    array = np.concatenate([air, volume.array, trunk, air], axis=2)
    truth = np.zeros(array.shape, np.uint8)
    truth[:, :, 20:60] = labels.array
    return Volume(np.asfortranarray(array), volume.geometry.window((0, 0, -20), array.shape)), truth


@pytest.mark.parametrize("bone_in_trunk", [0, 3, 12])
@pytest.mark.parametrize("upside_down", [False, True])
def test_the_limb_is_found_below_a_trunk_and_between_air(legs, any_runner, bone_in_trunk, upside_down):
    scan, truth = in_a_long_scan(*legs, bone_in_trunk)
    if upside_down:
        scan = reoriented(scan, (0, 1, 2), (False, False, True))
        truth = truth[:, :, ::-1]
    found = segment(scan, any_runner)
    assert np.array_equal(found.labels.array, truth)
    first, last = np.flatnonzero(truth.any(axis=(0, 1)))[[0, -1]]
    assert first - 4 <= found.slices[0] <= first - 1  # a margin of 30 mm, less one coarse step at most
    assert last + 1 <= found.slices[1] - 1 <= last + 4
    assert found.warnings == ()


def test_much_bone_that_is_left_out_is_told_of(legs, any_runner):
    scan = Volume(legs[0].array.copy(order="K"), legs[0].geometry)
    lost = (legs[1].array == 2) | (legs[1].array == 6)
    lost[:, :, :22] = False  # the network loses most of both thighs
    scan.array[lost] = 20
    found = segment(scan, any_runner)
    assert found.slices[1] <= 26
    warning, *others = found.warnings
    assert all(other.startswith("not plausible") for other in others)
    first, last = map(int, re.findall(r"\d+", warning))
    assert 32 <= first <= 33
    assert 36 <= last <= 37
    assert "were left out" in warning


def test_a_thin_ankle_in_a_wide_slice_is_no_air(runner):
    # A child's ankle is a five-hundredth of a slice of half a metre.
    image = np.zeros((64, 64, 30), np.uint8)
    image[30:33, 30:33] = 20
    image[20:45, 20:45, 20:] = 200
    image[31:33, 31:33] = 70
    found = segment(Volume(image, Geometry(image.shape, np.diag([-8.0, -8, 10, 1]))), runner)
    assert found.slices[0] == 0


def test_without_denoising_specks_stay(legs, any_runner):
    scan = Volume(legs[0].array.copy(order="K"), legs[0].geometry)
    scan.array[3, 3, 10] = 70  # a tibia of one voxel, in air
    noisy = segment(scan, any_runner, SegmentOptions(denoise=False))
    clean = segment(scan, any_runner)
    assert noisy.labels.array[3, 3, 10] > 0
    assert clean.labels.array[3, 3, 10] == 0
    assert dict(noisy.removed) == {}
    assert clean.removed["slices"].components[1] >= 1
    assert max(row.components_removed for row in clean.bones if row.bone == "tibia") >= 1


def test_a_second_fibula_beside_the_first_goes(legs, any_runner):
    scan, truth = legs
    array = scan.array.copy(order="K")
    fibula = np.argwhere(truth.array == 3)
    i, j, k = fibula.min(axis=0)
    block = slice(i + 1, i + 4), slice(j + 10, j + 13), slice(k + 2, k + 6)  # 40 mm behind the right fibula
    array[block] = array[tuple(fibula[0])]
    scan = Volume(array, scan.geometry)
    found = segment(scan, any_runner)
    assert not found.labels.array[block].any()
    assert found.removed["beside"].components.tolist() == [0, 0, 0, 1, 0]
    assert found.warnings == ("pieces beside a fibula that cannot be of it were left out: 1",)
    assert [row.components_removed for row in found.bones if row.bone == "fibula"] == [1, 1]  # by bone
    assert segment(scan, any_runner, SegmentOptions(denoise=False)).labels.array[block].all()


@pytest.mark.parametrize(("pixel_mm", "kept"), [(2.0, 12), (1.0, 12), (4.0, 3), (8.0, 2)])
def test_small_is_what_is_small_on_the_networks_pixels(band_model, pixel_mm, kept):
    spec = {
        "grid": Grid("spacing", spacing_mm=(2.0, 2.0)),
        "denoise": Denoise(fraction=0.0, minimum_pixels=12),
        "sided": False,  # pieces beside each other stay
    }
    array = np.zeros((48, 48, 4), np.uint8)
    for n, (rows, columns) in enumerate(((1, 1), (1, 2), (2, 2), (3, 3), (4, 4))):
        array[2 + 8 * n : 2 + 8 * n + rows, 10 : 10 + columns] = 70
    geometry = Geometry(array.shape, np.diag([-pixel_mm, -pixel_mm, 10, 1]))
    found = segment(Volume(array, geometry), Runner(band_model(**spec), "cpu"), SegmentOptions(hip_slice=3))
    assert found.denoise.minimum_pixels == kept
    sizes = [int((found.labels.array[8 * n : 8 * n + 8, :, 1] > 0).sum()) for n in range(5)]
    assert all(size == 0 or size >= kept for size in sizes)
    assert pixel_mm < 2 or (sizes[2] > 0) == (kept <= 3)  # four pixels, of 4 mm 64 mm2
    assert sizes[-1] > 0


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


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.complex64])
def test_numbers_that_no_kernel_takes_are_refused(legs, runner, dtype):
    with pytest.raises(ScanError, match="a scan of"):
        segment(Volume(legs[0].array.astype(dtype), legs[0].geometry), runner)


def test_a_network_without_sides(legs, band_model):
    spec = {"sided": False, "grid": Grid("size", (64, 64)), "denoise": Denoise()}
    unsided = Runner(band_model(**spec), "cpu")
    found = segment(legs[0], unsided)
    assert found.sides is None
    assert found.plausibility == ()  # a tibia in two pieces is right here
    with pytest.raises(UsageError, match="without sides"):
        segment(legs[0], unsided, SegmentOptions(side="left"))


def test_progress_reaches_its_end(legs, any_runner):
    seen = []
    segment(legs[0], any_runner, progress=lambda *args: seen.append(args))
    last = {step: (done, total) for step, done, total in seen}
    assert set(last) == {"range", "infer"}
    assert all(done == total for done, total in last.values())


@pytest.mark.parametrize("patch", [None, (12, 40, 48)])
def test_threads_end_with_the_runner(legs, make_onnx, make_spec, patch):
    before = set(threading.enumerate())
    runner = Runner(make_onnx(make_spec(patch=patch)), "cpu", threads=2)
    for _ in range(2):
        segment(legs[0], runner)
        left = set(threading.enumerate()) - before
        assert len(left) == runner.at_once == (2 if patch is None else 1)
    del runner
    for thread in left:
        thread.join(10)
        assert not thread.is_alive()


def test_an_interruption_goes_through(legs, runner):
    def stop(step, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(legs[0], runner, progress=stop)


def test_options_are_checked():
    with pytest.raises(UsageError, match="side"):
        SegmentOptions(side="middle")
    for word in ("right", "r", ""):
        with pytest.raises(UsageError, match="laterality"):
            SegmentOptions(laterality=word)
    assert SegmentOptions().hip_tolerance == 50  # slices, as in the report
