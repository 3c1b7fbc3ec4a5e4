import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its usual name)
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.errors import GeometryError, UsageError
from seg_core.geometry import Geometry, LabelMap
from seg_core.labels import IGNORED
from seg_core.metrics import evaluate, leave_unknown, summarise
from seg_core.surface_distance import surface_distances

NAMES = {1: "tibia", 2: "femur", 3: "fibula", 4: "pelvis"}


def random_labels(shape, seed, smooth=False):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 5, shape, np.uint8)
    # Stretches longer than a machine word, of one class and of air.
    return np.repeat(array, 20, axis=0)[: shape[0]] if smooth else array


def slow(predicted, truth, n):
    rows = []
    for label in range(1, n + 1):
        p, t = predicted == label, truth == label
        total = p.sum() + t.sum()
        rows.append((2 * (p & t).sum() / total if total else np.nan, abs(int(p.sum()) - int(t.sum()))))
    return np.array(rows).T


@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(*[st.integers(0, 25)] * 3),
    seeds=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    axes=st.permutations(range(3)),
    smooth=st.booleans(),
    flip=st.booleans(),
)
def test_equals_numpy_in_any_memory_order(shape, seeds, axes, smooth, flip):
    predicted, truth = (random_labels(shape, seed, smooth) for seed in seeds)
    truth = np.where(truth == 4, predicted, truth)
    truth = np.ascontiguousarray(truth.transpose(axes)).transpose(np.argsort(axes))
    if flip:
        predicted, truth = predicted[::-1, :, 1:], truth[::-1, :, 1:]
    scores = evaluate(predicted, truth, 5, 250.0)
    dsc, error = slow(predicted, truth, 5)
    np.testing.assert_array_equal(scores.dsc, dsc)
    np.testing.assert_allclose(scores.volume_error_cm3, error * 0.25, rtol=1e-12)
    np.testing.assert_array_equal(scores.predicted_voxels, [(predicted == c).sum() for c in range(1, 6)])
    np.testing.assert_array_equal(scores.true_voxels, [(truth == c).sum() for c in range(1, 6)])
    both = [((predicted == c) & (truth == c)).sum() for c in range(1, 6)]
    np.testing.assert_array_equal(scores.common_voxels, both)


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    longest=st.sampled_from([3, 20, 200]),
    size=st.integers(2_200_000, 2_200_100),
)
def test_runs_of_any_value_shared_among_cores(seed, longest, size):
    rng = np.random.default_rng(seed)
    values = np.array([0, 0, 1, 2, 127, 128, 255], np.uint8)

    def runs():
        parts = np.repeat(rng.choice(values, size // 2), rng.integers(1, longest, size // 2))
        return np.resize(parts, size).reshape(-1, 1, 1)

    truth = runs()
    predicted = np.where(rng.random(truth.shape) < 0.5, truth, runs()) if longest < 200 else runs()
    scores = evaluate(predicted, truth, 255, 1.0)
    np.testing.assert_array_equal(scores.predicted_voxels, np.bincount(predicted.ravel(), minlength=256)[1:])
    np.testing.assert_array_equal(scores.true_voxels, np.bincount(truth.ravel(), minlength=256)[1:])
    both = np.bincount(truth[truth == predicted], minlength=256)[1:]
    np.testing.assert_array_equal(scores.common_voxels, both)


def test_equals_simpleitk():
    predicted, truth = random_labels((20, 30, 40), 1), random_labels((20, 30, 40), 2)
    truth = np.where(np.indices(truth.shape)[0] < 12, predicted, truth)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.GetImageFromArray(truth), sitk.GetImageFromArray(predicted))
    scores = evaluate(predicted, truth, 4, 1.0)
    np.testing.assert_allclose(scores.dsc, [overlap.GetDiceCoefficient(c) for c in NAMES], rtol=1e-12)


def test_empty_sets():
    predicted, truth = np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 3), np.uint8)
    predicted[0], truth[1], truth[2] = 1, 2, 3
    predicted[2] = 3
    scores = evaluate(predicted, truth, 4, 1000.0)
    np.testing.assert_array_equal(scores.dsc, [0, 0, 1, np.nan])
    np.testing.assert_array_equal(scores.volume_error_cm3, [9, 9, 0, 0])


def test_label_maps_bring_their_own_voxel_volume_and_names():
    geometry = Geometry((4, 5, 6), np.diag([-1, 2, 3, 1]))
    array = random_labels(geometry.shape, 3)
    truth = LabelMap(array, geometry, NAMES)
    scores = evaluate(LabelMap(array, geometry, NAMES), truth)
    np.testing.assert_array_equal(scores.dsc, np.ones(4))
    np.testing.assert_allclose(scores.true_cm3, [(array == c).sum() * 6 / 1000 for c in NAMES])


def test_unknown_voxels_count_in_nothing():
    geometry = Geometry((8, 5, 6), np.diag([-1, 2, 3, 1]))
    found, true = (random_labels(geometry.shape, seed) for seed in (3, 4))
    half = true.copy()
    half[4:] = IGNORED
    maps = LabelMap(found, geometry, NAMES), LabelMap(half, geometry, NAMES | {IGNORED: "unknown"})
    scores = evaluate(*leave_unknown(*maps))
    alone = evaluate(found[:4], true[:4], 4, 6.0)
    np.testing.assert_array_equal(scores.common_voxels, alone.common_voxels)
    np.testing.assert_array_equal(scores.dsc, alone.dsc)
    whole = maps[0], LabelMap(true, geometry, NAMES)
    assert leave_unknown(*whole) == whole
    with pytest.raises(GeometryError):
        leave_unknown(LabelMap(found[1:], Geometry((7, 5, 6), geometry.affine), NAMES), whole[1])


def test_surfaces_on_request():
    geometry = Geometry((4, 5, 6), np.diag([-1, 2, 3, 1]))
    maps = [LabelMap(random_labels(geometry.shape, seed), geometry, NAMES) for seed in (3, 4)]
    scores = evaluate(*maps, surface=True)
    alone = surface_distances(maps[0].array, maps[1].array, 4, (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(scores.surface.hd95_mm, alone.hd95_mm)
    np.testing.assert_array_equal(scores.surface.assd_mm, alone.assd_mm)
    assert evaluate(*maps).surface is None
    with pytest.raises(UsageError):
        evaluate(maps[0].array, maps[1].array, 4, 1.0, surface=True)
    sheared = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    tilted = LabelMap(maps[0].array, Geometry(geometry.shape, sheared), NAMES)
    with pytest.raises(GeometryError, match="sheared"):
        evaluate(tilted, tilted, surface=True)


def test_a_summary_of_surfaces():
    geometry = Geometry((4, 5, 6), np.diag([-1, 2, 3, 1]))
    first, second = (LabelMap(random_labels(geometry.shape, seed), geometry, NAMES) for seed in (3, 4))
    without = LabelMap(np.where(second.array == 2, 0, second.array).astype(np.uint8), geometry, NAMES)
    scores = [evaluate(first, truth, surface=True) for truth in (second, without)]
    summary = summarise(scores)
    assert summary.hd95_mean_mm[1] == scores[0].surface.hd95_mm[1]
    assert np.isnan(summary.assd_sd_mm[1])
    both = [score.surface.assd_mm[0] for score in scores]
    assert summary.assd_mean_mm[0] == pytest.approx(np.mean(both))
    assert summary.assd_sd_mm[0] == pytest.approx(np.std(both, ddof=1))
    assert summarise([scores[0], evaluate(first, second)]).hd95_mean_mm is None


def test_refuses_other_grids():
    array = np.zeros((4, 5, 6), np.uint8)
    here = LabelMap(array, Geometry(array.shape, np.eye(4)), NAMES)
    there = LabelMap(array, Geometry(array.shape, np.diag([1, 1, -1, 1])), NAMES)
    with pytest.raises(GeometryError):
        evaluate(here, there)
    with pytest.raises(GeometryError):
        evaluate(array, array[:3], 4, 1.0)


def test_refuses_impossible_arguments():
    array = np.full((2, 2, 2), 5, np.uint8)
    labelled = LabelMap(array, Geometry(array.shape, np.eye(4)), NAMES)
    for arguments in [
        (array, array, 4, 1.0),
        (array, array, 5),
        (array, array, 5, 0.0),
        (array, array, 300, 1.0),
        (labelled, labelled),
        (labelled, array),
        (array.astype(float), array, 5, 1.0),
        (array.astype(np.int16) - 6, array, 5, 1.0),
    ]:
        with pytest.raises(UsageError):
            evaluate(*arguments)
    assert evaluate(array.astype(np.int64), array, 5, 1.0).dsc[4] == 1


def test_summary_leaves_out_what_is_not_there():
    full = np.repeat(np.array([1, 2], np.uint8), 50).reshape(10, 10, 1)
    half = full.copy()
    half[:5, :5] = 0
    only_two = np.where(full == 2, full, 0).astype(np.uint8)
    scores = [evaluate(p, t, 3, 1000.0) for p, t in [(full, full), (half, full), (only_two, only_two)]]
    summary = summarise(scores)
    first = np.array([1, 2 * 25 / 75])
    np.testing.assert_allclose(summary.dsc_mean, [first.mean(), 1, np.nan])
    np.testing.assert_allclose(summary.dsc_sd, [first.std(ddof=1), 0, np.nan])
    np.testing.assert_allclose(summary.volume_error_mean_cm3, [12.5, 0, np.nan])
    assert summary.subjects.tolist() == [2, 3, 0]
    assert np.isnan(summarise(scores[:1]).dsc_sd).all()
    with pytest.raises(UsageError):
        summarise([])
    with pytest.raises(UsageError):
        summarise([scores[0], evaluate(full, full, 2, 1.0)])


@pytest.mark.parametrize(("shift_mm", "same"), [(0.4, True), (0.6, False)])
def test_grids_are_the_same_within_half_a_voxel(shift_mm, same):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[0, 3] = shift_mm
    array = random_labels((4, 5, 6), 3)
    truth = LabelMap(array, Geometry(array.shape, np.diag([1.0, 2.0, 3.0, 1.0])), NAMES)
    moved = LabelMap(array, Geometry(array.shape, affine), NAMES)
    if same:
        assert np.nanmin(evaluate(moved, truth).dsc) == 1
    else:
        with pytest.raises(GeometryError, match="lie in different places"):
            evaluate(moved, truth)
