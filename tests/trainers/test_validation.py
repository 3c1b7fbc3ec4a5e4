"""What a network is chosen by, and how it goes on where nothing is held back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from seg_core.errors import UsageError
from trainers.augment import FINE, NONE, Augmentation
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import IGNORED, TrainConfig
from trainers.log import read_log
from trainers.loop import BEST, LAST, Source, train
from trainers.materials import mix
from trainers.soft_tissue import Tissue
from trainers.torch import checkpoint, engine, make_engine
from trainers.validation import fixed_batch

CONFIG = TrainConfig(
    epochs=3, epoch_samples=16, batch=8, validation_samples=8, patience=1, augmentation=NONE, device="cpu"
)


@pytest.fixture
def data(tmp_path, make_cache):
    """The slices of one person."""
    return make_cache(tmp_path / "data", subjects=1)


def rows_of(run):
    rows = read_log(run / "log.csv")
    return [{name: text for name, text in row.items() if name != "seconds"} for row in rows]


def test_the_last_network_of_all_epochs_is_kept(data, tmp_path, grey_engine, caplog, read_json):
    with caplog.at_level("INFO", "trainers"):
        result = train(grey_engine, CONFIG, (data, None), tmp_path / "run")
    assert (result.best_epoch, result.epochs, result.best_dsc) == (3, 3, -1)
    kept, last = (read_json(tmp_path / "run" / name) for name in (BEST, LAST))
    assert kept["sums"] == last["sums"]
    assert np.sum(kept["sums"], 0)[1] == 3 * 16 * 32 * 64  # pixels that it has seen
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 3
    not_known = {"validation_loss", "dsc", "dsc_tibia", "dsc_femur"}
    assert {name for row in rows for name, text in row.items() if text == "nan"} == not_known
    assert "nothing is validated: the network after epoch 3 is kept" in caplog.text
    assert "nothing but background" not in caplog.text
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.size == (900, 360)
    known = read_json(tmp_path / "run" / "run.json")
    assert known["subjects"] == [["0-0"], []]
    assert known["data"] == [str(data)] * 2


def test_it_goes_on_alike(data, tmp_path, grey_engine, monkeypatch):
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)
    train(grey_engine, CONFIG, (data, None), tmp_path / "whole")
    train(grey_engine, replace(CONFIG, epochs=1), (data, None), tmp_path / "cut")
    train(grey_engine, CONFIG, (data, None), tmp_path / "cut")
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    a, b = (json.loads((tmp_path / run / BEST).read_text())["sums"] for run in ("cut", "whole"))
    assert a == b


def test_neither_kind_goes_on_as_the_other(tmp_path, make_cache, grey_engine, monkeypatch):
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)
    folder = make_cache(tmp_path / "data")
    one, other = Source(folder, ("0-0",)), Source(folder, ("0-1",))
    for first, then in (((one, None), (one, other)), ((one, other), (Source(folder), None))):
        run = tmp_path / str(first[1] is None)
        train(grey_engine, replace(CONFIG, epochs=1), first, run)
        with pytest.raises(UsageError, match="data of other validation"):
            train(grey_engine, CONFIG, then, run)


def test_a_running_mean_is_what_is_kept(data, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)
    monkeypatch.setattr(engine, "build_network", lambda name, classes, channels, *_: torch.nn.Sequential(
        torch.nn.Conv2d(channels, classes, 1)
    ))  # fmt: skip
    config = replace(CONFIG, average=0.9, lr=0.02)
    train(make_engine, config, (data, None), tmp_path / "run")
    kept, last = (checkpoint.load(tmp_path / "run" / name) for name in (BEST, LAST))
    name = "0.weight"
    assert torch.equal(kept["network"][name], last["average"]["network"][name])
    assert not torch.equal(kept["network"][name], last["network"][name])


def test_nothing_to_learn_from(tmp_path, grey_engine):
    SliceCacheWriter(tmp_path / "empty", CacheIndex((32, 64), ("tibia", "femur"))).close()
    with pytest.raises(UsageError, match="no slices to learn from"):
        train(grey_engine, CONFIG, (tmp_path / "empty", None), tmp_path / "run")


@pytest.fixture
def materials(tmp_path):
    """Drawn slices, all of the same materials."""
    rng = np.random.default_rng(0)
    mixtures = mix(rng.integers(0, len(Tissue), (4, 32, 32)).astype(np.uint8), 1)[None].repeat(12, 0)
    with SliceCacheWriter(tmp_path / "m", CacheIndex((32, 32), ("bone",), "uint32")) as writer:
        writer.append("a", mixtures, rng.integers(0, 2, mixtures.shape, np.uint8), (1.0, 1.0, 5.0))
    return SliceCache(tmp_path / "m")


MOVED = replace(NONE, flip=1.0, rotation=1.0, shift=1.0, scale=1.0)
NOISY = replace(MOVED, noise=1.0, noise_sigma=0.3)
THREE = {"channels": 3, "channel_fill": "neighbours", "neighbour_mm": 5.0}


def test_drawn_looks_are_as_disturbed_as_those_that_teach(materials):
    chosen, still = np.arange(12), replace(CONFIG, **THREE)
    images, labels = fixed_batch(materials, chosen, replace(still, augmentation=NOISY))
    plain, truth = materials.batch(chosen, still.around)
    assert np.array_equal(labels, truth)  # nothing has moved
    # Each slice has a draw of its own: SD of its noise is uniform up to 0.3.
    noise = (images - plain)[(plain > 0.2) & (plain < 0.6)].std()
    assert 0.08 < noise < 0.25
    for options in (NONE, MOVED):
        assert np.array_equal(fixed_batch(materials, chosen, replace(still, augmentation=options))[0], plain)
    for options in (Augmentation(), FINE):
        assert (
            np.abs(fixed_batch(materials, chosen, replace(still, augmentation=options))[0] - plain).max()
            > 0.05
        )


def test_a_slice_is_always_disturbed_alike(materials):
    config = replace(CONFIG, augmentation=FINE, **THREE)
    whole, _ = fixed_batch(materials, np.arange(12), config)
    part, _ = fixed_batch(materials, np.array([7, 2]), replace(config, seed=5))
    assert np.array_equal(part, whole[[7, 2]])
    assert not np.array_equal(whole[3, 1] - whole[3, 0], whole[4, 1] - whole[4, 0])


def test_drawn_patches_too(materials):
    config = replace(CONFIG, channels=1, patch=(6, 16, 40), augmentation=NOISY)  # 40 columns of 32
    images, labels = fixed_batch(materials, np.array([3, 8]), config)
    plain, truth = fixed_batch(materials, np.array([3, 8]), replace(config, augmentation=NONE))
    beyond = truth == IGNORED
    assert beyond.any()
    assert images.shape == plain.shape == (2, 1, 6, 16, 40)
    assert np.array_equal(labels, truth)
    assert not images[:, 0][beyond].any()
    assert (images != plain)[:, 0][~beyond].mean() > 0.9
    first, second = (images - plain)[0, 0, :2, :, 4:-4]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.3  # noise differs from slice to slice


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_images_stay_as_they_were_prepared(tmp_path, make_cache, dtype):
    cache = SliceCache(make_cache(tmp_path / "c", dtype=dtype))
    images, labels = fixed_batch(cache, np.array([1, 5]), replace(CONFIG, augmentation=NOISY))
    plain, truth = cache.batch(np.array([1, 5]))
    assert np.array_equal(images, plain)
    assert np.array_equal(labels, truth)
