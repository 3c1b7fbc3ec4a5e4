import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from seg_core.errors import DeviceError, ModelError, OutputError, UsageError
from seg_core.model_spec import ModelSpec, Normalisation
from seg_core.runner import default_model
from trainers.augment import NONE
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import IGNORED, TrainConfig
from trainers.loop import BEST, LAST, DivergedError, Source, Training
from trainers.loop import train as run_training
from trainers.model_file import read_model
from trainers.torch import checkpoint, engine, make_engine
from trainers.torch.engine import TorchEngine, load_best
from trainers.torch.losses import LOSSES

CONFIG = TrainConfig(epochs=3, epoch_samples=32, batch=8, validation_samples=16, lr=0.02, device="cpu")


def train(config, train_data, validation_data, run, **options):
    return run_training(make_engine, config, (train_data, validation_data), run, **options)


class Small(torch.nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 16, 3, padding=1),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, classes, 1),
        )
        self.encoder = self.layers[:2]

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def data(tmp_path, make_cache, monkeypatch):
    monkeypatch.setattr(
        engine, "build_network", lambda name, classes, channels, weights="": Small(classes, channels)
    )
    return make_cache(tmp_path / "train"), make_cache(tmp_path / "validation", seed=1)


def rows_of(run):
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_it_learns(data, tmp_path):
    result = train(replace(CONFIG, epochs=12, augmentation=NONE), *data, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert result.best_dsc > 0.9
    assert result.epochs == len(rows) == 12
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert max(float(r["dsc"]) for r in rows) == pytest.approx(result.best_dsc, abs=1e-5)
    assert set(rows[0]) >= {
        "epoch",
        "samples",
        "train_loss",
        "validation_loss",
        "dsc_tibia",
        "dsc_femur",
        "lr",
    }
    network, state = load_best(result.best)
    assert not network.training
    assert state["classes"] == ["tibia", "femur"]


class Killed(BaseException):
    pass


def test_a_killed_training_goes_on_as_if_nothing_had_happened(data, tmp_path, monkeypatch):
    config = replace(CONFIG, save_minutes=0.0)
    train(config, *data, tmp_path / "whole")
    step, count = TorchEngine.step, iter(range(100))

    def fail(self, *args):
        if next(count) == 6:  # the third batch of the second epoch
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(TorchEngine, "step", fail)
    with pytest.raises(Killed):
        train(config, *data, tmp_path / "cut")
    assert len(rows_of(tmp_path / "cut")) == 1
    train(config, *data, tmp_path / "cut")
    assert without_seconds(rows_of(tmp_path / "cut")) == without_seconds(rows_of(tmp_path / "whole"))
    a, b = (checkpoint.load(tmp_path / run / LAST)["network"] for run in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_data_that_grow_are_seen_in_the_next_epoch(data, tmp_path, make_slices, monkeypatch):
    save = Training.save

    def grow(self, name):
        save(self, name)
        if name == LAST and self.progress.epoch == 1:
            with SliceCacheWriter(data[0], SliceCache(data[0]).index) as writer:
                writer.append("late", *make_slices(5, 9), (1.0, 1.0, 3.0))

    monkeypatch.setattr(Training, "save", grow)
    train(CONFIG, *data, tmp_path / "run")
    assert [r["slices"] for r in rows_of(tmp_path / "run")] == ["20", "25", "25"]


def test_other_data_than_a_training_began_with_are_refused(data, tmp_path, make_cache, make_slices):
    train(replace(CONFIG, epochs=1), *data, tmp_path / "run")
    with pytest.raises(UsageError, match="data without 0-0, 0-1"):
        train(CONFIG, make_cache(tmp_path / "others", seed=2), data[1], tmp_path / "run")
    index = replace(SliceCache(data[0]).index, meta={"pixel_mm": 0.5}, subjects=())
    with SliceCacheWriter(tmp_path / "rescaled", index) as writer:
        writer.append("0-0", *make_slices(4, 0), (1.0, 1.0, 3.0))
    with pytest.raises(UsageError, match="data of other meta"):
        train(CONFIG, *[tmp_path / "rescaled"] * 2, tmp_path / "run")


def test_a_subject_that_was_prepared_anew_is_refused(tmp_path, make_cache, make_slices):
    def cache(name, slices, key):
        with SliceCacheWriter(tmp_path / name, CacheIndex((32, 64), ("tibia", "femur"), "uint8")) as writer:
            writer.append("s0", *make_slices(slices, 0), (1.0, 1.0, 3.0), {"key": key})
        return tmp_path / name

    validation = make_cache(tmp_path / "validation", seed=3)
    train(replace(CONFIG, epochs=1), cache("a", 12, "1"), validation, tmp_path / "run")
    for name, slices, key in (("b", 8, "1"), ("c", 12, "2")):
        with pytest.raises(UsageError, match="slices of s0, prepared anew"):
            train(CONFIG, cache(name, slices, key), validation, tmp_path / "run")


def test_data_that_were_prepared_in_other_ways_are_refused(tmp_path, make_slices):
    folders = []
    for kind in ("percentile", "divide"):
        spec = ModelSpec("d", ("tibia", "femur"), normalisation=Normalisation(kind, 1.0, 99.0))
        index = CacheIndex((32, 64), ("tibia", "femur"), "uint8", {"spec": json.loads(spec.to_json())})
        folders.append(tmp_path / kind)
        with SliceCacheWriter(folders[-1], index) as writer:
            writer.append(kind, *make_slices(12, 0), (1.0, 1.0, 3.0))
    with pytest.raises(UsageError, match="prepared with another normalisation"):
        train(CONFIG, *folders, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"neighbour_mm": 5.0}, "--channel-fill neighbours"),
        ({"lr": 1e-7}, "floor"),
        ({"epochs": -1}, "^--epochs -1\n"),
        ({"batch": 0}, "^--batch 0\n"),
        ({"validation_samples": 0}, "^--validation-samples 0\n"),
    ],
)
def test_options_without_effect_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        replace(CONFIG, **changes)


def test_slices_that_a_model_file_has_seen_are_remembered(data, tmp_path):
    def begun(config):
        return Training(lambda config, classes: None, config, (Source(data[0]), Source(data[1])), tmp_path)

    seen = read_model(default_model())[0].provenance["samples_seen"]
    assert begun(replace(CONFIG, init="default")).progress.samples_before == seen > 10_000
    assert begun(CONFIG).progress.samples_before == 0


def test_a_loss_that_is_no_number_stops_it(data, tmp_path):
    with pytest.raises(DivergedError, match=r"nan|inf"):
        train(replace(CONFIG, lr=1e30, epochs=20), *data, tmp_path / "run")


@pytest.mark.parametrize(("dsc", "told"), [(0.0, True), (0.4, False)])
def test_background_alone_is_told_of(data, tmp_path, monkeypatch, caplog, dsc, told):
    monkeypatch.setattr(Training, "validate", lambda self: (0.8, np.full(len(self.index.classes), dsc)))
    with caplog.at_level("WARNING", "trainers"):
        train(replace(CONFIG, epochs=4, epoch_samples=8), *data, tmp_path / "run")
    assert caplog.text.count("nothing but background so far") == told


def test_patience_ends_it(data, tmp_path):
    result = train(replace(CONFIG, epochs=50, patience=2, lr=1e-12, lr_floor=1e-12), *data, tmp_path / "run")
    assert result.epochs < 50
    losses = [float(row["validation_loss"]) for row in rows_of(tmp_path / "run")]
    assert result.epochs - 1 - int(np.argmin(losses)) == 2


def test_another_start_is_refused(data, tmp_path):
    train(replace(CONFIG, epochs=1), *data, tmp_path / "run")
    with pytest.raises(UsageError, match="holds a training"):
        train(CONFIG, *data, tmp_path / "run", resume=False)
    with pytest.raises(UsageError, match="began with"):
        train(replace(CONFIG, batch=4), *data, tmp_path / "run")
    other = (tmp_path / "run" / BEST).rename(tmp_path / "other.ckpt")
    with pytest.raises(UsageError, match=r"init 'other\.ckpt', but the training began with 'random'"):
        train(replace(CONFIG, init=str(other)), *data, tmp_path / "run")
    with pytest.raises(UsageError, match="--network 'unet-resnet50', but the training began with"):
        train(replace(CONFIG, network="unet-resnet50", batch=4), *data, tmp_path / "run")
    with pytest.raises(UsageError, match="augmentation"):
        train(replace(CONFIG, augmentation=NONE), *data, tmp_path / "run")
    with pytest.raises(UsageError, match="--freeze-encoder"):
        train(replace(CONFIG, freeze_encoder=True), *data, tmp_path / "run")
    (tmp_path / "run" / LAST).write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be read"):
        train(CONFIG, *data, tmp_path / "run")


def test_what_another_trainer_made_is_said(data, tmp_path):
    first = train(replace(CONFIG, epochs=1), *data, tmp_path / "run")
    other = replace(CONFIG, trainer="keras", epochs=1)
    with pytest.raises(UsageError, match=r"last\.ckpt was made by the trainer torch[\s\S]*--trainer torch"):
        train(other, *data, tmp_path / "run")
    with pytest.raises(UsageError, match=r"best\.ckpt was made by the trainer torch"):
        train(replace(other, init=str(first.best)), *data, tmp_path / "new")


def test_a_finished_training_says_so(data, tmp_path, caplog):
    once = replace(CONFIG, epochs=1)
    train(once, *data, tmp_path / "run")
    with caplog.at_level("INFO", "trainers"):
        train(once, *data, tmp_path / "run")
    assert "finished already, after 1 epochs" in caplog.text
    assert "resumed" not in caplog.text


def test_another_rate_is_told_of(data, tmp_path, caplog):
    train(replace(CONFIG, epochs=1), *data, tmp_path / "run")
    with caplog.at_level("INFO", "trainers"):
        train(replace(CONFIG, lr=0.005, patience=7), *data, tmp_path / "run")
    assert "lr is now 0.005; it was 0.02" in caplog.text
    assert float(rows_of(tmp_path / "run")[-1]["lr"]) < 0.006


def test_a_device_that_is_not_there(data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no GPU"):
        train(replace(CONFIG, device="cuda"), *data, tmp_path / "run")
    with pytest.raises(UsageError, match="auto, cpu or cuda"):
        replace(CONFIG, device="tpu")


def test_it_begins_with_another_network(data, tmp_path):
    first = train(replace(CONFIG, epochs=3), *data, tmp_path / "first")
    still = replace(CONFIG, epochs=1, lr=1e-12, lr_floor=1e-12, init=str(first.best))
    train(still, *data, tmp_path / "second")
    before, after = (load_best(tmp_path / run / BEST)[0].state_dict() for run in ("first", "second"))
    torch.testing.assert_close(before["layers.0.weight"], after["layers.0.weight"])
    with pytest.raises(UsageError, match="has the channels 3"):
        train(replace(still, channels=1), *data, tmp_path / "third")


def test_the_rate_falls_and_has_a_floor():
    config = TrainConfig(lr=1e-4, lr_step=1e-6)
    assert config.learning_rate(0) == 1e-4
    assert config.learning_rate(10) == pytest.approx(9e-5)
    assert config.learning_rate(500) == 1e-6


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch": 64},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"lr_step": -1.0},
        {"seed": -1},
        {"threads": -1},
        {"channel_fill": "other"},
        {"patience": 0},
    ],
)
def test_settings_that_make_no_sense(change):
    with pytest.raises(UsageError):
        replace(CONFIG, **change)


def test_losses_equal_their_formulas():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 3, 5, 7)), rng.integers(0, 3, (2, 5, 7))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = (np.arange(3)[:, None, None] == target[:, None]).astype(float)
    dice = np.mean([2 * (p[:, c] * wanted[:, c]).sum() / (p[:, c] + wanted[:, c]).sum() for c in range(3)])
    of_truth = (p * wanted).sum(1)
    entropy = -np.log(of_truth)
    focal = (0.25 * (1 - of_truth) ** 2 * entropy).mean()
    expected = {
        "dice": 1 - dice,
        "cross_entropy": entropy.mean(),
        "dice_focal": 1 - dice + focal,
        "dice_cross_entropy": 1 - dice + entropy.mean(),
    }
    x, y = torch.tensor(logits), torch.tensor(target.astype(np.uint8))
    perfect = torch.tensor(wanted * 100)
    assert expected.keys() == LOSSES.keys()
    for name, loss in LOSSES.items():
        assert float(loss(x, y)) == pytest.approx(expected[name], abs=1e-5)
        assert float(loss(perfect, y)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_what_nobody_labelled_teaches_nothing(name):
    logits = torch.randn(2, 3, 6, 8, generator=torch.manual_seed(0))
    target = torch.randint(0, 3, (2, 6, 8), dtype=torch.uint8)
    cut = LOSSES[name](logits[..., :5], target[..., :5])
    target[..., 5:] = IGNORED
    logits.requires_grad_()
    loss = LOSSES[name](logits, target)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(cut), abs=1e-6)
    assert not logits.grad[..., 5:].any()
    assert logits.grad[..., :5].any()


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError):
        checkpoint.save({"network": {}}, tmp_path / "none" / "last.pt")
