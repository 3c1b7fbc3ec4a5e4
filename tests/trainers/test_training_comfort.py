"""What a training says and survives; with an engine in NumPy."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cli.train import TrainingLine
from seg_core.errors import OutputError
from trainers.augment import NONE, REPORT
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import IGNORED, TrainConfig
from trainers.log import read_log
from trainers.loop import BEST, LAST, DivergedError, Source, Tick, train

CONFIG = TrainConfig(epochs=3, epoch_samples=16, batch=8, validation_samples=8, augmentation=NONE)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)


@pytest.fixture
def data(tmp_path, make_cache):
    return make_cache(tmp_path / "train"), make_cache(tmp_path / "validation", seed=1)


def test_each_batch_says_how_far_it_is(data, tmp_path, grey_engine):
    ticks = []
    train(grey_engine, CONFIG, data, tmp_path / "run", watch=ticks.append)
    assert [(t.epoch, t.batch) for t in ticks] == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert {(t.epochs, t.batches) for t in ticks} == {(3, 2)}
    assert ticks[-1].seconds_left == 0
    assert all(t.seconds_left > 0 for t in ticks[:-1])
    rows = read_log(tmp_path / "run" / "log.csv")
    assert [round(t.loss, 5) for t in ticks[1::2]] == [float(row["train_loss"]) for row in rows]


def test_the_time_left_follows_from_this_process_alone(data, tmp_path, grey_engine, monkeypatch):
    train(grey_engine, replace(CONFIG, epochs=1), data, tmp_path / "run")
    clock = [0.0]
    monkeypatch.setattr("trainers.loop.time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Slow(grey_engine):
        def step(self, images, labels, lr):
            clock[0] += 10
            return super().step(images, labels, lr)

    ticks = []
    train(Slow, CONFIG, data, tmp_path / "run", watch=ticks.append)
    assert [(t.epoch, t.batch, t.seconds_left) for t in ticks] == [
        (2, 1, 30),
        (2, 2, 20),
        (3, 1, 10),
        (3, 2, 0),
    ]


def test_a_tick_in_words():
    assert (
        str(Tick(3, 50, 40, 125, 0.33124, 7833.4))
        == "epoch 3/50  batch 40/125  loss 0.3312  2:10:33 left at most"
    )


class Stream:
    def __init__(self, terminal):
        self.text, self.terminal = "", terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self.terminal


def test_a_line_on_a_terminal_and_a_line_a_minute_elsewhere():
    ticks = [Tick(1, 2, batch, 5, 0.5, 60.0) for batch in range(1, 6)]
    shown = {}
    for terminal in (True, False):
        now = iter([0, 1, 1.1, 70, 71, 71.1])
        stream = Stream(terminal)
        line = TrainingLine(stream, lambda now=now: next(now))
        for tick in ticks:
            line(tick, "fold 1/7  ")
        shown[terminal] = stream.text
    start = "\r\x1b[2K"
    assert shown[True] == "".join([*(f"{start}fold 1/7  {ticks[n]}" for n in (0, 2, 3)), start])
    assert shown[False] == f"fold 1/7  {ticks[2]}\n"


def test_a_loss_that_is_no_number_names_what_to_look_at(tmp_path, make_slices, make_cache, grey_engine):
    (others, truth), (images, labels) = make_slices(8, 0), make_slices(8, 1)
    images[5, 3, 4:9] = np.nan
    with SliceCacheWriter(tmp_path / "c", CacheIndex((32, 64), ("tibia", "femur"), "float16")) as writer:
        writer.append("good", others, truth, (1.0, 1.0, 3.0))
        writer.append("bad", images, labels, (1.0, 1.0, 3.0))
    config = replace(CONFIG, batch=16)
    with pytest.raises(DivergedError) as caught:
        train(grey_engine, config, (tmp_path / "c", make_cache(tmp_path / "v")), tmp_path / "run")
    text = str(caught.value)
    assert "epoch 1, batch 1" in text
    assert "good: 0, 1, 2, 3, 4, 5, 6, 7; bad: 0, 1, 2, 3, 4, 5, 6, 7" in text
    low, high = (min(others.min(), np.nanmin(images)), max(others.max(), np.nanmax(images)))
    assert f"from {np.float16(low):.4g} to {np.float16(high):.4g}, not all of them numbers in bad: 5;" in text
    assert "labels 0, 1, 2" in text
    assert "look at these slices" in text


def test_a_validation_loss_that_is_no_number_too(tmp_path, make_slices, make_cache, grey_engine):
    images, labels = make_slices(8, 1)
    images[2, 3, 4] = np.nan
    with SliceCacheWriter(tmp_path / "v", CacheIndex((32, 64), ("tibia", "femur"), "float16")) as writer:
        writer.append("bad", images, labels, (1.0, 1.0, 3.0))
    sources = make_cache(tmp_path / "c", dtype="float16"), tmp_path / "v"
    with pytest.raises(DivergedError, match=r"validation loss of nan after epoch 1.*numbers in bad: 2;"):
        train(grey_engine, CONFIG, sources, tmp_path / "run")
    assert not (tmp_path / "run" / BEST).exists()


def test_some_subjects_of_a_dataset(tmp_path, make_cache, grey_engine, read_json):
    make_cache(tmp_path / "dataset" / "cache", subjects=3)
    sources = (Source(tmp_path / "dataset", ("0-0", "0-2")), Source(tmp_path / "dataset", ("0-1",)))
    train(grey_engine, CONFIG, sources, tmp_path / "run")
    facts = read_json(tmp_path / "run" / "run.json")
    assert facts["subjects"] == [["0-0", "0-2"], ["0-1"]]
    assert facts["data"] == [str(tmp_path / "dataset" / "cache")] * 2
    assert [row["slices"] for row in read_log(tmp_path / "run" / "log.csv")] == ["20"] * 3


def test_the_reports_augmentation_trains_and_resumes(data, tmp_path, grey_engine):
    config = replace(CONFIG, augmentation=REPORT)
    train(grey_engine, config, data, tmp_path / "whole")
    train(grey_engine, replace(config, epochs=1), data, tmp_path / "cut")
    train(grey_engine, config, data, tmp_path / "cut")
    losses = [[row["train_loss"] for row in read_log(tmp_path / run / "log.csv")] for run in ("whole", "cut")]
    assert losses[0] == losses[1]


@pytest.fixture
def small_disk():
    """Return a function that lets this process write no file of more than some bytes."""
    resource = pytest.importorskip("resource", reason="no limits on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def torch_checkpoint():
    """Return how PyTorch's trainer writes an array, and how it reads it."""
    import torch

    from trainers.torch import checkpoint

    return (
        lambda array, path: checkpoint.save({"network": {"w": torch.from_numpy(array)}}, path),
        lambda path: checkpoint.load(path)["network"]["w"].numpy(),
    )


def keras_checkpoint():
    """Return the same of Keras'."""
    from trainers.keras import checkpoint

    return (
        lambda array, path: checkpoint.save(path, {"w": array}, {"epoch": 1}),
        lambda path: checkpoint.load(path)[0]["w"],
    )


@pytest.mark.parametrize("kind", [torch_checkpoint, keras_checkpoint])
def test_a_full_disk_loses_no_earlier_checkpoint(tmp_path, small_disk, kind):
    (save, load), path = kind(), tmp_path / LAST
    save(np.arange(10), path)
    small_disk(100_000)
    with pytest.raises(OutputError):
        save(np.zeros(100_000), path)
    small_disk(-1)
    assert np.array_equal(load(path), np.arange(10))
    assert os.listdir(tmp_path) == [LAST]


@pytest.mark.parametrize("what", ["log", "checkpoint"])
def test_a_disk_that_fills_in_an_epoch_ends_it_and_it_goes_on(data, tmp_path, grey_engine, monkeypatch, what):
    train(grey_engine, CONFIG, data, tmp_path / "whole")
    train(grey_engine, replace(CONFIG, epochs=1), data, tmp_path / "run")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in (BEST, LAST)}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("trainers.log._append_row" if what == "log" else "trainers.loop.Training.save", full)
        with pytest.raises(OutputError, match="no space left"):
            train(grey_engine, CONFIG, data, tmp_path / "run")
    assert (tmp_path / "run" / LAST).read_bytes() == before[LAST]
    assert (tmp_path / "run" / BEST).exists()
    train(grey_engine, CONFIG, data, tmp_path / "run")
    losses = [[row["train_loss"] for row in read_log(tmp_path / run / "log.csv")] for run in ("whole", "run")]
    assert losses[0] == losses[1]


def test_a_class_that_is_not_there_is_left_out_of_the_choice(tmp_path, make_slices, grey_engine):
    """Nobody labelled the second class: the mean is the first one's alone."""
    for name in ("train", "validation"):
        images, labels = make_slices(8, 3)
        labels[labels == 2] = IGNORED
        with SliceCacheWriter(tmp_path / name, CacheIndex((32, 64), ("tibia", "femur"))) as writer:
            writer.append("one", images, labels, (1.0, 1.0, 3.0))
    result = train(grey_engine, CONFIG, (tmp_path / "train", tmp_path / "validation"), tmp_path / "run")
    row = read_log(tmp_path / "run" / "log.csv")[-1]
    assert row["dsc_femur"] == "nan"
    assert float(row["dsc_tibia"]) == float(row["dsc"]) == pytest.approx(result.best_dsc, abs=1e-5)
    assert 0.9 < result.best_dsc <= 1


def test_validation_counts_over_all_slices(data, tmp_path, grey_engine):
    train(grey_engine, replace(CONFIG, epochs=1, validation_samples=100), data, tmp_path / "run")
    cache = SliceCache(data[1])
    images, labels = cache.batch(np.arange(len(cache)))
    engine = grey_engine(replace(CONFIG, init=str(tmp_path / "run" / BEST)), ("tibia", "femur"))
    found = engine.evaluate(images, labels)[1]
    (row,) = read_log(tmp_path / "run" / "log.csv")
    for value, name in enumerate(("tibia", "femur"), 1):
        p, t = found == value, labels == value
        assert float(row[f"dsc_{name}"]) == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), abs=1e-5)
