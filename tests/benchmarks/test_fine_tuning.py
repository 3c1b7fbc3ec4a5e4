"""The smoke setting with a network of a few weights, and what the table is made of."""

import json

import numpy as np
import pytest
import torch

from benchmarks import fine_tuning
from benchmarks.fine_tuning import COUNTS, STARTS, Setting, means, panels, table
from benchmarks.report.sheet import SMOKE
from exporters.run import export_run
from seg_core.labels import BONES
from seg_core.metrics import evaluate
from seg_core.model_spec import Grid, ModelSpec, Normalisation
from trainers.cache import CacheIndex, SliceCacheWriter
from trainers.config import TrainConfig
from trainers.loop import train
from trainers.torch import engine, make_engine
from trainers.torch.baseline import BaselineUNet

SPEC = ModelSpec(
    "data",
    BONES,
    grid=Grid("spacing", spacing_mm=(8.0, 8.0), multiple=16),
    normalisation=Normalisation("percentile", 1.0, 99.0),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file of the network that every name stands for."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "build_network", lambda name, c, n, *_: BaselineUNet(c, n, (2, 4)))
        patch.setattr("trainers.log.can_draw", lambda: False)
        rng = np.random.default_rng(0)
        meta = {"spec": json.loads(SPEC.to_json())}
        with SliceCacheWriter(folder / "cache", CacheIndex((32, 32), BONES, meta=meta)) as writer:
            labels = rng.integers(0, 5, (6, 32, 32), np.uint8)
            writer.append("one", labels.astype(np.float32) / 4, labels, (8.0, 8.0, 5.0))
        config = TrainConfig(epochs=1, epoch_samples=2, batch=2, validation_samples=2, device="cpu")
        train(make_engine, config, (folder / "cache", folder / "cache"), folder / "run")
        export_run(folder / "run", folder / "tiny.onnx")
        yield folder / "tiny.onnx"


@pytest.fixture
def steps(monkeypatch):
    """Count the steps that are learned, and by what each training began."""
    counted, learn, threads = [], engine.TorchEngine.step, torch.get_num_threads()

    def step(self, *arguments):
        counted.append(self.config.init)
        return learn(self, *arguments)

    monkeypatch.setattr(engine.TorchEngine, "step", step)
    torch.set_num_threads(1)
    yield counted
    torch.set_num_threads(threads)


def test_the_smoke_setting_runs_and_runs_once(model, steps, tmp_path, capsys, read_json):
    arguments = ["-o", str(tmp_path), "--model", str(model), "--smoke", "--device", "cpu"]
    assert fine_tuning.main(arguments) == 0
    assert steps == 2 * [str(model)] + 2 * ["random"]
    text = (tmp_path / "smoke" / "fine-tuning.md").read_text()
    assert SMOKE in text
    assert text in capsys.readouterr().out
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:4] == [["| bundled", "0"], ["| bundled", "1"], ["| scratch", "1"]]
    run = read_json(tmp_path / "smoke" / "bundled-1" / "run.json")
    scored = read_json(tmp_path / "smoke" / "bundled-1" / "scores.json")
    assert run["subjects"] == [["second-1"], ["second-6"]]
    assert list(scored) == ["second-7", "second-8"]
    steps.clear()
    assert fine_tuning.main(arguments) == 0
    assert not steps
    assert fine_tuning.main([*arguments, "--epochs", "3"]) == 2
    assert "another setting" in capsys.readouterr().err


def test_the_full_setting_is_the_same_for_both_starts(model):
    setting = Setting(model, "unet-resnet34", 20, 160, "cpu", 0, False)
    assert setting.counts == COUNTS == (1, 2, 3, 5)
    bundled, scratch = (setting.config(start) for start in STARTS)
    assert (bundled.init, scratch.init) == (str(model), "random")
    assert {f: v for f, v in vars(bundled).items() if f != "init"} == {
        f: v for f, v in vars(scratch).items() if f != "init"
    }
    assert (bundled.epochs, bundled.epoch_samples, bundled.window) == (20, 160, 64)  # at 8 mm a pixel


def test_a_table_and_its_curves():
    truth = np.arange(5, dtype=np.uint8).repeat(10).reshape(1, 5, 10)
    half = truth.copy()
    half[..., 5:] = 0
    scores = {name: evaluate(labels, truth, 4, 1.0) for name, labels in (("a", truth), ("b", half))}
    assert means(scores) == pytest.approx(dict.fromkeys([*BONES, "mean"], (1 + 2 / 3) / 2))
    results = {("bundled", 0): {"b": scores["b"]}, ("bundled", 3): scores, ("scratch", 3): {"b": scores["b"]}}
    lines = table(results).splitlines()
    assert lines[0].startswith("| start | scans that teach (one more chooses the epoch) | tibia |")
    assert lines[2] == "| bundled | 0 | 0.667 | 0.667 | 0.667 | 0.667 | 0.667 |"
    assert lines[-1] == "| the report's, real scans: fine-tuned | 3 | 0.93 | 0.95 | 0.87 | 0.81 | 0.89 |"
    first = panels(results)[0]
    assert first.ticks == ["0", "3"]
    assert first.lines["bundled"] == pytest.approx([2 / 3, 5 / 6])
    assert np.isnan(first.lines["scratch"][0])
