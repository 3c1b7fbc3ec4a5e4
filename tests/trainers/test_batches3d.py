"""Patches of volumes for 3D networks, and the training that takes them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seg_core.errors import UsageError
from seg_core.metrics import evaluate
from trainers.augment import NONE, Augmentation
from trainers.batches import Draw, drawn_slices
from trainers.batches3d import SubjectStack, fixed_patches, patch_batches
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import IGNORED, Patches, TrainConfig
from trainers.loop import Source, Training
from trainers.loop import train as run_training
from trainers.scores import score_subject
from trainers.torch import engine, make_engine

CLASSES = ("tibia", "femur")
CONFIG = TrainConfig(
    network="nnunet-3d", channels=1, patch=(6, 16, 24), slice_mm=2.0, epochs=3, epoch_samples=16, batch=4,
    validation_samples=8, lr=0.02, device="cpu", augmentation=NONE,
)  # fmt: skip


@pytest.fixture
def cache(tmp_path, make_cache):
    """Two subjects of ten slices of 32 x 64, 3 mm apart."""
    return SliceCache(make_cache(tmp_path / "cache"))


def draw(epoch=0, **changes):
    return replace(Draw(seed=5, epoch=epoch, slices=20, samples=12, batch=3), **changes)


def boxes(volume, size, fill):
    """Every box of a volume, and of what lies around one that is shorter than the box."""
    pad = [
        (max(p - n, 0) // 2, max(p - n, 0) - max(p - n, 0) // 2)
        for n, p in zip(volume.shape, size, strict=True)
    ]
    padded = np.pad(volume, pad, constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, size).reshape(-1, *size)


@pytest.mark.parametrize("size", [(4, 16, 48), (12, 16, 16), (3, 40, 80), (1, 8, 8)])
@pytest.mark.parametrize("slice_mm", [0.0, 2.0, 5.0])
def test_a_patch_is_a_box_of_its_subject(cache, size, slice_mm):
    patches = Patches(size, slice_mm)
    images, labels = next(patch_batches(cache, draw(), NONE, patches))
    assert (images.shape, labels.shape) == ((3, 1, *size), (3, *size))
    for number, image, label in zip(drawn_slices(draw(), 0), images[:, 0], labels, strict=True):
        stack = SubjectStack(cache, number, slice_mm)
        volume, truth = stack.read(0, stack.shape[0])
        same = (boxes(volume, size, 0) == image).all((1, 2, 3)) & (boxes(truth, size, IGNORED) == label).all(
            (1, 2, 3)
        )
        assert same.sum() >= 1


def test_slices_come_at_the_distance_that_is_wanted(cache):
    native, truth = cache.block(10, 20)
    assert np.array_equal(native, cache.batch(np.arange(10, 20))[0][:, 0])
    fine, coarse = SubjectStack(cache, 13, 1.0), SubjectStack(cache, 13, 6.0)
    assert (fine.shape, coarse.shape) == ((30, 32, 64), (5, 32, 64))
    place = np.clip((np.arange(30) + 0.5) / 3 - 0.5, 0, 9)
    low = np.minimum(place.astype(int), 8)
    weight = (place - low)[:, None, None]
    assert np.abs(fine[:] - (native[low] * (1 - weight) + native[low + 1] * weight)).max() < 1e-6
    labels = np.concatenate([fine.read(a, b)[1] for a, b in ((0, 1), (1, 17), (17, 30))])
    assert np.array_equal(labels, np.repeat(truth, 3, axis=0))
    assert [fine.place_of(n) // 3 for n in range(10, 20)] == list(range(10))
    assert [coarse.place_of(n) for n in range(10, 20)] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_patches_lie_around_the_slices_that_were_drawn(tmp_path):
    images = np.linspace(0.2, 1, 40)[:, None, None] * np.ones((40, 32, 32))
    with SliceCacheWriter(tmp_path, CacheIndex((32, 32), CLASSES, "float16")) as writer:
        writer.append("one", images, np.zeros(images.shape, np.uint8), (1.0, 1.0, 3.0))
    cache, d = SliceCache(tmp_path), draw(slices=40, samples=40, batch=4)
    for number, (patches, _) in enumerate(patch_batches(cache, d, NONE, Patches((8, 16, 16)))):
        for drawn, patch in zip(drawn_slices(d, number), patches[:, 0], strict=True):
            assert np.isclose(patch[:, 0, 0], cache.block(drawn, drawn + 1)[0][0, 0, 0]).sum() == 1


def test_many_patches_show_what_is_labelled(tmp_path):
    labels = np.zeros((20, 96, 96), np.uint8)
    labels[:, 70:74, 80:84] = 1
    with SliceCacheWriter(tmp_path, CacheIndex((96, 96), CLASSES)) as writer:
        writer.append("one", np.full(labels.shape, 0.5), labels, (1.0, 1.0, 3.0))
    d = draw(slices=20, samples=60, batch=60)
    _, found = next(patch_batches(SliceCache(tmp_path), d, NONE, Patches((4, 16, 16))))
    share = (found == 1).any((1, 2, 3)).mean()
    assert 1 / 3 - 0.15 < share < 1 / 3 + 0.25


@pytest.mark.parametrize("options", [Augmentation(), Augmentation(unit="volume", factor=2)])
def test_an_epoch_can_be_taken_up_at_any_batch(cache, options):
    patches = Patches((4, 16, 16), 2.0)
    whole = list(patch_batches(cache, draw(), options, patches))
    rest = list(patch_batches(cache, draw(), options, patches, first_batch=2))
    assert (len(whole), len(rest)) == (4, 2)
    for (a, b), (c, d) in zip(whole[2:], rest, strict=True):
        assert np.array_equal(a, c)
        assert np.array_equal(b, d)
    other = next(patch_batches(cache, draw(epoch=1), options, patches))
    assert not np.array_equal(other[0], whole[0][0])


def test_all_slices_of_a_patch_change_alike_but_for_noise(tmp_path, make_slices):
    image, label = make_slices(1, 3)
    with SliceCacheWriter(tmp_path, CacheIndex((32, 64), CLASSES)) as writer:
        writer.append("one", image.repeat(12, axis=0), label.repeat(12, axis=0), (1.0, 1.0, 3.0))
    cache, patches, d = SliceCache(tmp_path), Patches((6, 24, 24)), draw(slices=12, samples=6, batch=6)
    still, _ = next(patch_batches(cache, d, NONE, patches))
    moved, labels = next(patch_batches(cache, d, Augmentation(noise=0), patches))
    assert np.array_equal(moved, np.broadcast_to(moved[:, :, :1], moved.shape))
    assert np.array_equal(labels, np.broadcast_to(labels[:, :1], labels.shape))
    assert not np.isclose(moved, still).all()
    noisy, _ = next(patch_batches(cache, d, Augmentation(noise=1), patches))
    assert not np.array_equal(noisy[:, :, 0], noisy[:, :, 1])


def test_fixed_patches_are_always_the_same(cache):
    patches = Patches((4, 16, 16), 2.0)
    images, labels = fixed_patches(cache, np.array([3, 12]), patches)
    again = fixed_patches(cache, np.array([12, 3]), patches)
    assert np.array_equal(images, again[0][::-1])
    assert np.array_equal(labels, again[1][::-1])


class Small(torch.nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        nn = torch.nn
        self.layers = nn.Sequential(
            nn.Conv3d(channels, 16, 1), nn.BatchNorm3d(16), nn.ReLU(), nn.Conv3d(16, classes, 1)
        )

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def small(monkeypatch):
    def build(name, classes, channels, weights="", patch=None):
        assert patch == CONFIG.patch
        return Small(classes, channels)

    monkeypatch.setattr(engine, "build_network", build)


def test_a_3d_network_learns_and_is_scored_on_whole_subjects(tmp_path, make_cache, grey_engine):
    def distances(self, images):
        centres = self.sums[:, 0] / np.maximum(self.sums[:, 1], 1)
        return np.abs(images[:, 0] - centres.reshape(-1, *[1] * (images.ndim - 1)))

    grey_engine._distances = distances
    grey_engine.logits = lambda self, images: -np.moveaxis(self._distances(images), 0, 1).astype(np.float32)
    data = make_cache(tmp_path / "train", dtype="float16"), make_cache(tmp_path / "validation", seed=1)
    config = replace(CONFIG, epochs=1, slice_mm=0.0)
    result = run_training(grey_engine, config, data, tmp_path / "run")
    assert result.best_dsc > 0.99
    trained = grey_engine(replace(config, init=str(result.best)), CLASSES)
    cache = SliceCache(data[1])
    scores = score_subject(trained, cache, "1-0", config)
    # A network of single voxels needs no patches: the subject at once gives the same.
    images, truth = cache.block(0, 10)
    found = trained.logits(images[None, None]).argmax(1)[0].astype(np.uint8)
    expected = evaluate(found, truth, 2, 3.0)
    np.testing.assert_allclose(scores.dsc, expected.dsc, atol=2e-3)
    assert scores.dsc.min() > 0.99
    finer = score_subject(trained, cache, "1-0", replace(config, slice_mm=1.0))
    assert finer.true_voxels.tolist() == scores.true_voxels.tolist()
    assert finer.dsc.min() > 0.7


def test_a_killed_3d_training_goes_on_as_if_nothing_had_happened(tmp_path, make_cache, small):
    config = replace(CONFIG, augmentation=Augmentation())
    data = make_cache(tmp_path / "train"), make_cache(tmp_path / "validation", seed=1)

    def killed(tick):
        if (tick.epoch, tick.batch) == (2, 3):
            raise KeyboardInterrupt

    whole = run_training(make_engine, config, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_training(make_engine, config, data, tmp_path / "killed", watch=killed)
    resumed = run_training(make_engine, config, data, tmp_path / "killed")
    assert resumed.best_dsc == pytest.approx(whole.best_dsc, abs=1e-6)
    with pytest.raises(UsageError, match="--slice-mm 3"):
        run_training(make_engine, replace(config, slice_mm=3.0), data, tmp_path / "killed")


def test_what_nobody_labelled_counts_nowhere(tmp_path, make_slices, small):
    images, labels = make_slices(10, 0)
    wrong = np.where(np.arange(64) < 32, IGNORED, labels).astype(np.uint8)
    losses = []
    images = 0.3 + 0.5 * images  # all of it tissue, so that patches lie in the same places
    for name, some in (("a", images), ("b", np.where(wrong == IGNORED, 1 - images, images))):
        with SliceCacheWriter(tmp_path / name, CacheIndex((32, 64), CLASSES)) as writer:
            writer.append("one", some, wrong, (1.0, 1.0, 3.0))
        source = Training(make_engine, CONFIG, (Source(tmp_path / name),) * 2, tmp_path / "run")
        losses.append(source.validate())
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-6)
    assert losses[0][1] == pytest.approx(losses[1][1], nan_ok=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch": None},
        {"patch": (8, 8)},
        {"patch": (0, 8, 8)},
        {"slice_mm": -1.0},
        {"window": 16},
        {"channels": 3, "channel_fill": "neighbours"},
    ],
)
def test_configurations_that_make_no_sense(changes):
    with pytest.raises(UsageError):
        replace(CONFIG, **changes)


def test_an_engine_without_logits_cannot_be_scored(cache, grey_engine):
    with pytest.raises(UsageError, match="without logits"):
        score_subject(grey_engine(CONFIG, CLASSES), cache, "0-0", CONFIG)
