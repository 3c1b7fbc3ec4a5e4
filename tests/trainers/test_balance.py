"""Samples that are drawn by class."""

import numpy as np
import pytest

from seg_core.errors import UsageError
from trainers.augment import NONE
from trainers.batches import Draw, drawn_slices, epoch_order, training_batches
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import Around, TrainConfig

CLASSES = ("long", "rare", "nowhere")
SIZE = 64


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SliceCache:
    """Ninety slices of a long bone, ten of a rare one in another corner."""
    folder = tmp_path_factory.mktemp("balance") / "cache"
    labels = np.zeros((100, SIZE, SIZE), np.uint8)
    labels[:90, 4:12, 4:12] = 1
    labels[90:, 52:60, 52:60] = 2
    images = (labels > 0).astype(np.float32)
    with SliceCacheWriter(folder, CacheIndex((SIZE, SIZE), CLASSES)) as writer:
        writer.append("someone", images, labels, (1.0, 1.0, 1.0))
    return SliceCache(folder)


def test_the_cache_knows_which_classes_a_slice_shows(cache: SliceCache) -> None:
    shown = cache.shown()
    assert shown.shape == (100, 3)
    assert shown[:90, 0].all()
    assert shown[90:, 1].all()
    assert shown.sum() == 100


def test_all_samples_by_class_show_each_class_as_often(cache: SliceCache) -> None:
    draw = Draw(1, 0, 100, 400, 8, balance=1.0)
    slices = np.concatenate([drawn_slices(draw, n, cache) for n in range(50)])
    assert 140 < np.count_nonzero(slices >= 90) < 260
    assert set(range(90, 100)) <= set(slices.tolist())


def test_a_favoured_class_is_drawn_as_often_as_all_others(tmp_path) -> None:
    labels = np.repeat(np.arange(1, 5, dtype=np.uint8), 20)[:, None, None] * np.ones((SIZE, SIZE), np.uint8)
    with SliceCacheWriter(tmp_path, CacheIndex((SIZE, SIZE), tuple("abcd"))) as writer:
        writer.append("someone", np.zeros(labels.shape, np.float32), labels, (1.0, 1.0, 1.0))
    for favour, expected in ((0, (0.25, 0.25)), (3, (0.5, 1 / 6))):
        draw = Draw(1, 0, 80, 1600, 8, balance=1.0, favour=favour)
        drawn = [drawn_slices(draw, n, SliceCache(tmp_path)) for n in range(200)]
        shares = np.bincount(np.concatenate(drawn) // 20, minlength=4) / 1600
        np.testing.assert_allclose(shares[[2, 0]], expected, atol=0.05)


def test_a_share_leaves_the_others_where_they_were(cache: SliceCache) -> None:
    draw = Draw(1, 0, 100, 400, 8, balance=0.25)
    slices = np.concatenate([drawn_slices(draw, n, cache) for n in range(50)])
    assert 0.65 < (slices == epoch_order(draw)).mean() < 0.85


def test_windows_lie_on_the_class(cache: SliceCache) -> None:
    draw = Draw(1, 0, 100, 80, 8, window=32, balance=1.0)
    for number, (_, labels) in enumerate(training_batches(cache, draw, NONE, Around())):
        wanted = np.where(drawn_slices(draw, number, cache) < 90, 1, 2)
        assert all((some == value).any() for some, value in zip(labels, wanted, strict=True))


def test_copies_keep_their_place_in_the_pool(cache: SliceCache) -> None:
    draw = Draw(1, 0, 100, 200, 8, copies=2, balance=1.0)
    assert drawn_slices(draw, 0, cache).max() < 100


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="by class"):
        TrainConfig(balance=1.5)
    with pytest.raises(UsageError, match="patches drawn by class"):
        TrainConfig(balance=0.5, patch=(8, 8, 8))
    with pytest.raises(UsageError, match="favoured"):
        TrainConfig(favour="pelvis")
