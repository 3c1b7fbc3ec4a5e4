import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its usual name)
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.errors import GeometryError, UsageError
from seg_core.surface_distance import surface_distances


def blobs(shape, seed):
    """Boxes of the values 1 to 4, one over another."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for value in (1, 2, 3, 4, 2, 1):
        low = [int(rng.integers(0, n)) for n in shape]
        labels[tuple(slice(a, a + int(rng.integers(1, 5))) for a in low)] = value
    return labels


def border(mask):
    padded = np.pad(mask, 1)
    covered = np.ones_like(padded)
    for axis in range(3):
        covered &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    return np.argwhere(padded & ~covered) - 1


def slow(predicted, truth, n, sizes):
    """HD95 and ASSD from all pairs of border voxels."""
    result = np.full((2, n), np.nan)
    for value in range(1, n + 1):
        p, t = border(predicted == value) * sizes, border(truth == value) * sizes
        if len(p) and len(t):
            pairs = np.linalg.norm(p[:, None] - t[None], axis=-1)
            there, back = pairs.min(1), pairs.min(0)
            result[0, value - 1] = max(np.percentile(there, 95), np.percentile(back, 95))
            result[1, value - 1] = np.concatenate([there, back]).mean()
    return result


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    seeds=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    sizes=st.tuples(*[st.floats(0.3, 6)] * 3),
    axes=st.permutations(range(3)),
    flip=st.booleans(),
)
def test_equals_all_pairs_in_any_memory_order(shape, seeds, sizes, axes, flip):
    predicted, truth = (blobs(shape, seed) for seed in seeds)
    truth = np.ascontiguousarray(truth.transpose(axes)).transpose(np.argsort(axes))
    if flip:
        predicted, truth = predicted[::-1, :, ::2], truth[::-1, :, ::2]
    found = surface_distances(predicted, truth, 5, sizes)
    hd95, mean = slow(predicted, truth, 5, np.array(sizes))
    np.testing.assert_allclose(found.hd95_mm, hd95, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.assd_mm, mean, rtol=1e-9, atol=1e-12)


def test_equals_simpleitk():
    sizes = (0.9375, 1.25, 3.0)
    maps = [np.pad(blobs((30, 25, 12), seed), 2) for seed in (1, 2)]
    found = surface_distances(*maps, 4, sizes)
    for value in range(1, 5):
        contours, fields = [], []
        for array in maps:
            image = sitk.GetImageFromArray((array == value).astype(np.uint8).T)
            image.SetSpacing(sizes)
            contour = sitk.LabelContour(image, fullyConnected=False)
            contours.append(sitk.GetArrayFromImage(contour).astype(bool))
            far = sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True)
            fields.append(np.abs(sitk.GetArrayFromImage(far)))
        there, back = fields[1][contours[0]], fields[0][contours[1]]
        expected = max(np.percentile(there, 95), np.percentile(back, 95))
        assert found.hd95_mm[value - 1] == pytest.approx(expected, rel=1e-5)
        assert found.assd_mm[value - 1] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)


def test_a_shift_is_its_length():
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[5:10, 5:10, 5:10] = 3
    found = surface_distances(np.roll(truth, 4, axis=2), truth, 3, (1.0, 1.0, 2.5))
    assert found.hd95_mm[2] == 10
    assert 0 < found.assd_mm[2] < 10
    assert np.isnan(found.hd95_mm[:2]).all()
    same = surface_distances(truth, truth, 3, (1.0, 1.0, 2.5))
    assert (same.hd95_mm[2], same.assd_mm[2]) == (0, 0)


def test_what_is_empty_has_no_distance():
    full, none = np.ones((3, 3, 3), np.uint8), np.zeros((3, 3, 3), np.uint8)
    for pair in [(full, none), (none, full), (none, none), (none[:0], none[:0])]:
        found = surface_distances(*pair, 1, (1.0, 1.0, 1.0))
        assert np.isnan([found.hd95_mm[0], found.assd_mm[0]]).all()


def test_a_stray_voxel_far_off_needs_no_memory():
    # A distance map of the box around both would need hundreds of megabytes.
    truth = np.zeros((256, 256, 300), np.uint8, order="F")
    truth[200:210, 200:210, 100:110] = 1
    predicted = truth.copy(order="F")
    predicted[0, 0, 299] = 1
    surface_distances(truth[:9, :9], truth[:9, :9], 1, (1.0, 1.0, 1.0))  # compiles
    tracemalloc.start()
    found = surface_distances(predicted, truth, 1, (1.0, 1.0, 1.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.hd95_mm[0] == 0
    assert found.assd_mm[0] > 0
    assert peak < 1e6


def test_refuses_impossible_arguments():
    labels = np.ones((3, 3, 3), np.uint8)
    with pytest.raises(GeometryError):
        surface_distances(labels, labels[:2], 1, (1.0, 1.0, 1.0))
    with pytest.raises(GeometryError):
        surface_distances(labels[0], labels[0], 1, (1.0, 1.0, 1.0))
    for arguments in [
        (labels, labels, 0, (1.0, 1.0, 1.0)),
        (labels, labels, 1, (1.0, 1.0, 0.0)),
        (labels, labels, 1, (1.0, 1.0, np.nan)),
        (labels, labels, 1, (1.0, 1.0)),
        (labels.astype(np.int16), labels, 1, (1.0, 1.0, 1.0)),
    ]:
        with pytest.raises(UsageError):
            surface_distances(*arguments)
