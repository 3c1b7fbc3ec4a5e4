from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates

from seg_core.errors import UsageError
from seg_core.sliding import Tiling, sliding_logits, tile_starts, tile_weights, upsampled_labels

CLASSES = 3


def infer(patch):
    """A network that sees where in its patch a voxel lies, as padding makes real ones do."""
    place = np.indices(patch.shape).sum(0) / sum(patch.shape)
    return np.stack([patch * (k + 1) - k * place for k in range(CLASSES)]).astype(np.float32)


def slow(volume, tiling):
    """Every patch's logits added up, with nnU-Net's own weights."""
    spare = [max(p - n, 0) for n, p in zip(volume.shape, tiling.patch, strict=True)]
    padded = np.pad(volume, [(m // 2, m - m // 2) for m in spare])
    total, weights = np.zeros((CLASSES, *padded.shape)), np.zeros(padded.shape)
    point = np.zeros(tiling.patch)
    point[tuple(p // 2 for p in tiling.patch)] = 1
    gauss = gaussian_filter(point, [p / 8 for p in tiling.patch], mode="constant", truncate=20)
    axes = [tile_starts(n, p, tiling.overlap) for n, p in zip(padded.shape, tiling.patch, strict=True)]
    for start in np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3):
        place = tuple(slice(s, s + p) for s, p in zip(start, tiling.patch, strict=True))
        total[:, *place] += infer(padded[place]) * gauss
        weights[place] += gauss
    inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(spare, volume.shape, strict=True))
    return (total / weights)[:, *inside]


sizes = st.tuples(*[st.integers(1, 21)] * 3)
patches = st.tuples(*[st.integers(6, 11)] * 3)


@given(shape=sizes, patch=patches, overlap=st.sampled_from([0.0, 0.3, 0.5, 0.75]))
@settings(deadline=None, max_examples=25)
def test_slabs_equal_the_sum_over_all_patches(shape, patch, overlap):
    volume = np.random.default_rng(sum(shape)).random(shape, dtype=np.float32)
    tiling = Tiling(patch, overlap)
    slabs = list(sliding_logits(volume, tiling, infer))
    assert all(logits.shape[1] <= patch[0] for _, logits in slabs)
    firsts = [first for first, _ in slabs]
    lengths = [logits.shape[1] for _, logits in slabs]
    assert firsts == np.cumsum([0, *lengths[:-1]]).tolist()
    found = np.concatenate([logits for _, logits in slabs], axis=1)
    np.testing.assert_allclose(found, slow(volume, tiling), atol=2e-4)


@given(length=st.integers(1, 300), patch=st.integers(1, 64), overlap=st.floats(0, 0.9, exclude_max=True))
@settings(deadline=None, max_examples=60)
def test_patches_cover_an_axis_and_overlap(length, patch, overlap):
    starts = tile_starts(length, patch, overlap)
    assert starts[0] == 0
    if length <= patch:
        assert starts == [0]
        return
    assert starts[-1] == length - patch
    assert np.all(np.diff(starts) >= 0)
    assert np.diff(starts).max() <= max(patch * (1 - overlap), 1) + 1


def test_starts_are_those_of_nnunet():
    assert tile_starts(110, 64, 0.5) == [0, 23, 46]
    assert tile_starts(64, 64, 0.5) == [0]
    assert tile_starts(200, 128, 0.5) == [0, 36, 72]


def test_weights_are_those_of_nnunet():
    point = np.zeros(32)
    point[16] = 1
    gauss = gaussian_filter(point, 4, mode="constant")
    np.testing.assert_allclose(tile_weights(32), gauss / gauss.max(), atol=1e-6)


@pytest.mark.parametrize("target", [(5, 6, 7), (12, 15, 9), (3, 4, 5), (5, 20, 3), (1, 1, 1)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_labels_are_the_greatest_of_interpolated_logits(target, temperature):
    source = (5, 6, 7)
    logits = np.random.default_rng(3).normal(size=(4, *source)).astype(np.float32)
    grid = np.meshgrid(
        *[(np.arange(t) + 0.5) * s / t - 0.5 for s, t in zip(source, target, strict=True)],
        indexing="ij",
    )
    fine = np.stack([map_coordinates(one.astype(float), grid, order=1, mode="nearest") for one in logits])
    shares = np.exp(fine / temperature) / np.exp(fine / temperature).sum(0)
    for cuts in ((0, 5), (0, 2, 5), (0, 1, 2, 3, 4, 5)):
        slabs = [(a, logits[:, a:b]) for a, b in pairwise(cuts)]
        found = list(upsampled_labels(slabs, source, target, temperature))
        assert [number for number, _, _ in found] == list(range(target[0]))
        labels, confidence = np.stack([f[1] for f in found]), np.stack([f[2] for f in found])
        assert np.array_equal(labels, fine.argmax(0))
        assert np.abs(confidence - 255 * shares.max(0)).max() < 0.51


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_an_axis_the_nearest_logits_may_be_taken(axis):
    source, target = (5, 6, 7), (12, 15, 9)
    logits = np.random.default_rng(3).normal(size=(4, *source)).astype(np.float32)
    places = [(np.arange(t) + 0.5) * s / t - 0.5 for s, t in zip(source, target, strict=True)]
    places[axis] = np.floor(places[axis] + 0.5)
    grid = np.meshgrid(*places, indexing="ij")
    fine = np.stack([map_coordinates(one.astype(float), grid, order=1, mode="nearest") for one in logits])
    slabs = [(a, logits[:, a:b]) for a, b in ((0, 1), (1, 3), (3, 5))]
    found = list(upsampled_labels(slabs, source, target, nearest=axis))
    assert np.array_equal(np.stack([labels for _, labels, _ in found]), fine.argmax(0))


def test_what_makes_no_sense():
    for patch, overlap in (((0, 4, 4), 0.5), ((4, 4, 4), 1.0), ((4, 4), 0.5)):
        with pytest.raises(UsageError, match="overlap"):
            Tiling(patch, overlap)
    tiling = Tiling((4, 4, 4))
    for volume in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 4)), np.zeros((0, 4, 4), np.float32)):
        with pytest.raises(UsageError, match="volume"):
            list(sliding_logits(volume, tiling, infer))
    with pytest.raises(UsageError, match="logits"):
        list(sliding_logits(np.zeros((4, 4, 4), np.float32), tiling, lambda patch: patch))
