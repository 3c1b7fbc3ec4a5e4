"""Networks of patches, from the scan to labels on its own grid."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from scipy.ndimage import map_coordinates

import seg_core.patches as patches_module
import seg_core.segment as segment_module
from seg_core.errors import ModelError, UsageError
from seg_core.geometry import Geometry, Volume
from seg_core.labels import BONES
from seg_core.model_spec import Denoise, Grid, ModelSpec
from seg_core.patches import Stack, patch_labels
from seg_core.prepare import plan_slices, prepare
from seg_core.runner import Runner
from seg_core.segment import SegmentOptions, segment
from seg_core.sliding import Tiling, sliding_logits

NOTHING = Denoise(fraction=0.0, minimum_pixels=0, volume_fraction=0.0)
COARSE = Grid("spacing", spacing_mm=(6.0, 5.0), slice_mm=16.0)


@pytest.fixture(name="legs", scope="module")
def legs_in_slices_of_10_mm(make_legs):
    return make_legs(spacing=(4.0, 4.0, 10.0))


def noisy(legs, seed=0):
    scan = legs[0]
    array = scan.array + np.random.default_rng(seed).normal(0, 20, scan.array.shape)
    return Volume(np.asfortranarray(np.clip(array, 0, 255).astype(np.float32)), scan.geometry)


def test_slices_are_resampled_as_a_whole_volume_would_be(legs, make_spec):
    scan = noisy(legs)
    for slice_mm in (None, 3.0, 10.0, 23.0):
        spec = make_spec(patch=(8, 16, 16), grid=replace(COARSE, slice_mm=slice_mm))
        plan = plan_slices(scan.geometry, spec)
        stack = Stack(scan.array, plan, (0.0, 255.0), (3, 37))
        native = prepare(scan.array, plan, (0.0, 255.0), 3, 37)[:, 0]
        assert stack.shape == (round(340 / (slice_mm or 10)), *plan.grid)
        if slice_mm in (None, 10.0):
            assert np.array_equal(stack[:], native)
        elif slice_mm == 3.0:  # finer: linear between slices
            place = np.clip((np.arange(stack.shape[0]) + 0.5) * 34 / stack.shape[0] - 0.5, 0, 33)
            whole = np.meshgrid(place, *map(np.arange, plan.grid), indexing="ij")
            assert np.abs(stack[:] - map_coordinates(native, whole, order=1)).max() < 1e-5
        else:  # coarser: a mean, so noise falls
            assert stack[:].std() < native.std()
            assert abs(stack[:].mean() - native.mean()) < 0.01
        cuts = [0, 1, 5, stack.shape[0]]
        parts = [stack[a:b] for a, b in pairwise(cuts)]
        assert np.array_equal(np.concatenate(parts), stack[:])


def test_labels_are_the_greatest_of_logits_on_the_scans_own_grid(legs, make_spec, make_onnx):
    scan = noisy(legs)
    plan = plan_slices(scan.geometry, make_spec(patch=(1, 1, 1), grid=COARSE))
    stack = Stack(scan.array, plan, (0.0, 255.0), (0, 40))
    # A patch as large as the volume: its logits are the network's, and are interpolated by SciPy.
    runner = Runner(make_onnx(make_spec(patch=stack.shape, grid=COARSE, denoise=NOTHING)), "cpu")
    logits = runner.logits(stack[:][None, None])[0].astype(float)
    pairs = zip((40, *plan.native), stack.shape, strict=True)
    grid = np.meshgrid(*[(np.arange(t) + 0.5) * s / t - 0.5 for t, s in pairs], indexing="ij")
    fine = np.stack([map_coordinates(one, grid, order=1, mode="nearest") for one in logits])
    found = segment(scan, runner, SegmentOptions(hip_slice=39, denoise=False))
    classes = (found.labels.array.astype(int) - 1) % 4 + 1
    classes[found.labels.array == 0] = 0
    assert (plan.oriented(classes) == fine.argmax(0)).mean() > 0.9999
    assert len(np.unique(classes)) == 5


@pytest.mark.parametrize(("slab", "threads"), [(1, 1), (7, 2), (64, 1)])
def test_labels_do_not_depend_on_slab_or_threads(legs, make_spec, make_onnx, slab, threads, monkeypatch):
    data, scan = make_onnx(make_spec(patch=(9, 24, 40), grid=COARSE)), noisy(legs)
    expected = segment(scan, Runner(data, "cpu", 1), SegmentOptions(confidence=True))
    monkeypatch.setattr(segment_module, "SLAB", slab)
    found = segment(scan, Runner(data, "cpu", threads), SegmentOptions(confidence=True))
    assert len(np.unique(expected.labels.array)) == 9
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert np.array_equal(found.confidence.array, expected.confidence.array)
    assert np.array_equal(found.removed["slices"].voxels, expected.removed["slices"].voxels)


@pytest.mark.parametrize(("order", "signs"), [((0, 1, 2), (1, 1, -1)), ((2, 0, 1), (-1, 1, 1))])
def test_other_orientations_give_the_same_bones(legs, make_spec, make_onnx, order, signs):
    runner = Runner(make_onnx(make_spec(patch=(12, 40, 48), grid=COARSE)), "cpu")
    scan, expected = legs[0], segment(legs[0], runner).labels.array
    affine = scan.geometry.affine.copy()
    affine[:3, :3] = affine[:3, list(order)]
    array, wanted = scan.array.transpose(order), expected.transpose(order)
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array, wanted = np.flip(array, axis), np.flip(wanted, axis)
    found = segment(Volume(array, Geometry(array.shape, affine)), runner)
    assert expected.any()
    assert np.array_equal(found.labels.array, wanted)


def test_only_a_patchs_slices_are_prepared_at_a_time(legs, make_spec, make_onnx, monkeypatch):
    asked = []

    def counting(array, plan, window, start, stop):
        asked.append((start, stop))
        return prepare(array, plan, window, start, stop)

    monkeypatch.setattr(patches_module, "prepare", counting)
    spec = make_spec(patch=(8, 64, 64), grid=Grid("size", (64, 64)))
    plan = plan_slices(legs[0].geometry, spec)
    stack = Stack(legs[0].array, plan, (0.0, 255.0), (0, 40))
    labels = list(patch_labels(stack, Runner(make_onnx(spec), "cpu"), (40, 64, 64)))
    assert [number for number, _, _ in labels] == list(range(40))
    assert [start for start, _ in asked] == [0, *(stop for _, stop in asked[:-1])]  # each once, in order
    assert max(stop - start for start, stop in asked) == 8
    assert asked[-1][1] == 40


def test_a_flat_patch_is_a_network_of_slices_that_slides(legs):
    seen = []

    def infer(patch):
        seen.append(patch.shape)
        return np.stack([patch, 1 - patch])

    volume = np.random.default_rng(0).random((5, 20, 30), dtype=np.float32)
    slabs = list(sliding_logits(volume, Tiling((1, 16, 16)), infer))
    assert len(seen) == 5 * 2 * 3
    assert np.abs(np.concatenate([logits[0] for _, logits in slabs]) - volume).max() < 1e-6


def test_a_network_that_keeps_all_slices(legs, make_spec, make_onnx):
    far = np.zeros((64, 64, 30), np.uint8)
    far[28:36, 28:36, 25:] = 70
    scan = np.asfortranarray(np.concatenate([legs[0].array, far], axis=2))
    geometry = Geometry(scan.shape, legs[0].geometry.affine)
    kept = {}
    for limb_range in (True, False):
        spec = make_spec(patch=(16, 64, 64), limb_range=limb_range, denoise=NOTHING)
        found = segment(Volume(scan, geometry), Runner(make_onnx(spec), "cpu"))
        kept[limb_range] = found.labels.array[:, :, 65:].any(), found.slices
    assert not kept[True][0]
    assert kept[False] == (True, (0, 70))


def test_the_description_is_kept_and_older_ones_are_read(make_spec):
    spec = make_spec(patch=(16, 32, 48), overlap=0.25, grid=COARSE)
    assert ModelSpec.from_json(spec.to_json()) == spec
    plain = ModelSpec("plain", BONES)
    older = json.loads(plain.to_json())
    for name in ("patch", "overlap", "limb_range"):
        del older[name]
    del older["grid"]["slice_mm"]
    assert ModelSpec.from_json(json.dumps(older)) == plain


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (None, "channel_fill", "neighbors"),
        (None, "layout", "nchw"),
        ("grid", "kind", "Spacing"),
        ("normalisation", "kind", "max"),
        ("denoise", "connectivity", 6),
    ],
)
def test_a_word_that_a_description_does_not_have_is_refused(part, name, value):
    raw = json.loads(ModelSpec("plain", BONES).to_json())
    (raw if part is None else raw[part])[name] = value
    with pytest.raises(ModelError, match=f"{name} {value!r}"):
        ModelSpec.from_json(json.dumps(raw))


def test_so_many_classes_that_labels_are_no_bytes():
    assert len(ModelSpec("many", tuple(map(str, range(255))), sided=False).classes) == 255
    for count, sided in ((0, False), (256, False), (128, True)):
        with pytest.raises(ModelError, match=f"{count} classes"):
            ModelSpec("many", tuple(map(str, range(count))), sided=sided)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch": (0, 8, 8)},
        {"patch": (8, 8)},
        {"patch": (8, 8, 8), "overlap": 1.0},
        {"patch": (8, 8, 8), "channels": 3, "channel_fill": "neighbours"},
        {"patch": (8, 8, 8), "grid": Grid(slice_mm=-1.0)},
        {"grid": Grid(slice_mm=3.0)},
    ],
)
def test_descriptions_that_make_no_sense(legs, make_spec, changes):
    with pytest.raises(ModelError):
        plan_slices(legs[0].geometry, make_spec(**changes))


def test_files_and_images_that_do_not_fit_are_refused(legs, make_spec, make_onnx, tiny_model):
    spec = make_spec(patch=(4, 8, 8))
    runner = Runner(make_onnx(spec), "cpu")
    images = np.zeros((2, 1, 4, 8, 8), np.float32)
    assert runner.logits(images).shape == (2, 5, 4, 8, 8)
    for wrong in (images[:, :, :2], images[:, :, 0], images.astype(float)):
        with pytest.raises(UsageError):
            runner.logits(wrong)
    with pytest.raises(UsageError, match="logits of patches"):
        runner.run(images, (8, 8))
    stack = Stack(legs[0].array, plan_slices(legs[0].geometry, spec), (0.0, 255.0), (0, 4))
    with pytest.raises(UsageError, match="a network of patches"):
        list(patch_labels(stack, Runner(tiny_model, "cpu"), (4, 64, 64)))
    model = onnx.load_from_string(make_onnx(spec))
    for other in (replace(spec, patch=(4, 8, 16)), replace(spec, patch=None), replace(spec, channels=2)):
        model.metadata_props[0].value = other.to_json()
        with pytest.raises(ModelError, match="the model"):
            Runner(model.SerializeToString(), "cpu")
