"""From a training's folder to a model file, whatever trained it."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cli.export import export as export_command
from exporters import registry
from exporters import torch as torch_exporter
from exporters.options import ExportOptions
from exporters.run import RunExport, describe, export_run, validation_slices
from seg_core.errors import MissingPackageError, ModelError, OutputError, UsageError
from seg_core.model_spec import Denoise, Grid, ModelSpec, Normalisation
from seg_core.runner import Runner
from seg_core.segment import SegmentOptions, segment
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import TrainConfig
from trainers.loop import train as run_training
from trainers.start import RUN
from trainers.torch import denseunet, engine, make_engine, nnunet
from trainers.torch.baseline import BaselineUNet
from trainers.torch.denseunet import Width
from trainers.torch.network import build_network

DATA = ModelSpec(
    "data",
    ("tibia", "femur"),
    grid=Grid("spacing", spacing_mm=(2.0, 2.0)),
    normalisation=Normalisation("percentile", 1.0, 99.0),
    orientation="RAS",
    provenance={"licence": "CC0-1.0"},
)
CONFIG = TrainConfig(
    network="unet-baseline", epochs=1, epoch_samples=2, batch=2, validation_samples=2, channels=2,
    channel_fill="neighbours", device="cpu",
)  # fmt: skip


def small(name, classes, channels, *options, **sizes):
    """Build a small network in place of the configuration's; others as they are."""
    if name == CONFIG.network:
        return BaselineUNet(classes, channels, (2, 4))
    return build_network(name, classes, channels, *options, **sizes)


def make_cache(folder, meta):
    rng = np.random.default_rng(0)
    with SliceCacheWriter(folder, CacheIndex((32, 32), ("tibia", "femur"), meta=meta)) as writer:
        labels = rng.integers(0, 3, (6, 32, 32), np.uint8)
        writer.append("one", labels.astype(np.float32) / 2, labels, (2.0, 2.0, 5.0))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "build_network", small)
        cache = make_cache(folder / "cache", {"spec": json.loads(DATA.to_json())})
        run_training(make_engine, CONFIG, (cache, cache), folder / "run")
        yield folder / "run"


def facts_of(**changes):
    facts = {
        "config": {"network": "nnunet-2d", "channels": 1, "channel_fill": "repeat", "loss": "dice"},
        "classes": ["tibia", "femur"],
        "meta": {"spec": json.loads(DATA.to_json())},
        "progress": {"samples": 12, "best_dsc": 0.5},
    }
    return facts | changes


def test_the_command_writes_a_model_that_runs(run, tmp_path):
    path = tmp_path / "new" / "mine.onnx"
    done = CliRunner().invoke(export_command, [str(run), "-o", str(path), "--name", "mine", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert said["parity"]["labels"] <= 1e-4
    assert said["difference"] == said["parity"]
    assert said["compared_on"] == "prepared slices"
    runner = Runner(path, "cpu")
    assert runner.spec.name == "mine"
    assert (runner.spec.channels, runner.spec.channel_fill) == (2, "neighbours")
    assert runner.spec.grid == Grid("spacing", spacing_mm=(2.0, 2.0), multiple=16)
    assert runner.spec.provenance["samples_seen"] == 2
    assert str(run.parent).encode() not in path.read_bytes()


def test_the_command_says_how_far_the_file_is_from_what_was_trained(run, tmp_path):
    arguments = [str(run), "--weights", "float16", "--overwrite", "-o", str(tmp_path / "x.onnx")]
    done = CliRunner().invoke(export_command, [*arguments, "--json"], catch_exceptions=False)
    parity, difference = (json.loads(done.stdout)[name] for name in ("parity", "difference"))
    network, facts = torch_exporter.load(run / "best.ckpt")
    images, _ = validation_slices(run.parent / "cache", describe(facts), 8)
    with torch.inference_mode():
        logits = network(torch.from_numpy(images)).numpy()
    found = Runner(tmp_path / "x.onnx", "cpu").logits(images)
    apart = np.abs(found - logits).max() / np.abs(logits).max()
    assert apart == pytest.approx(difference["logits"], rel=1e-3)
    assert parity["logits"] < 1e-5 < difference["logits"]
    assert set(difference) == {"logits", "labels", "labelled"}
    text = CliRunner().invoke(export_command, arguments, catch_exceptions=False).stdout
    told = re.search(r"trained network on prepared slices: logits differ by (\S+), labels of", text)
    rest = re.search(r"but for the rounding of weights: logits by (\S+), labels of", text)
    assert float(told[1]) == pytest.approx(difference["logits"], rel=0.5)  # a digit is shown
    assert float(rest[1]) == pytest.approx(parity["logits"], rel=0.5)


def test_where_no_file_can_be_written_nothing_is_exported(run, tmp_path, monkeypatch):
    monkeypatch.setattr("exporters.run.export_run", lambda *arguments: pytest.fail("work was begun"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "there.onnx").write_bytes(b"mine")
    for name, kind, words in (
        ("mine.bin", UsageError, "ends in .onnx"),
        ("there.onnx", OutputError, "add --overwrite"),
        ("folder.onnx", OutputError, "is a folder"),
        ("file/x.onnx", OutputError, "is a file"),
    ):
        done = CliRunner().invoke(export_command, [str(run), "-o", str(tmp_path / name)])
        assert isinstance(done.exception, kind)
        assert words in str(done.exception)
    itself = tmp_path / "there.onnx"
    done = CliRunner().invoke(export_command, [str(itself), "-o", str(itself), "--overwrite"])
    assert "is what is exported" in str(done.exception)
    assert itself.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.onnx", "there.onnx"]


def test_a_file_is_replaced_where_that_was_asked_for(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("exporters.run.export_run", lambda run, path, request: asked.append(path))
    (tmp_path / "there.onnx").touch()
    CliRunner().invoke(export_command, [str(run), "-o", str(tmp_path / "there.onnx"), "--overwrite"])
    assert asked == [tmp_path / "there.onnx"]


def test_what_is_no_training_is_said_in_its_own_words(tmp_path):
    (tmp_path / "mine.onnx").touch()
    with pytest.raises(UsageError, match="is a model file already"):
        export_run(tmp_path / "mine.onnx", tmp_path / "again.onnx")
    with pytest.raises(ModelError, match=r"nix is not there[\s\S]*given to lls train as -o"):
        export_run(tmp_path / "nix", tmp_path / "q.onnx")


def test_the_gate_compares_slices_of_the_run(run, monkeypatch):
    seen = []

    class Fake:
        load = staticmethod(lambda path: (None, facts_of()))

        @staticmethod
        def export(network, spec, path, images, options):
            seen.append((spec.name, images, options.weights))

    monkeypatch.setattr("exporters.run.get_exporter", lambda trainer: Fake)
    export_run(run, run / "x.onnx", RunExport(options=ExportOptions("float16")))
    name, images, weights = seen[0]
    assert (name, weights) == ("nnunet-2d", "float16")
    wanted, _ = SliceCache(run.parent / "cache").batch(np.arange(6))
    assert np.array_equal(images, wanted)


@pytest.mark.parametrize(("network", "patch"), [("nnunet-3d", (8, 16, 16)), ("h-denseunet", (4, 32, 32))])
def test_a_3d_training_becomes_a_model_that_segments(network, patch, tmp_path, make_legs, monkeypatch):
    config = TrainConfig(
        network=network, epochs=1, epoch_samples=2, batch=2, validation_samples=2, channels=1,
        device="cpu", patch=patch, slice_mm=10.0,
    )  # fmt: skip
    monkeypatch.setattr(nnunet, "FEATURES_3D", (2, 4, 4))
    monkeypatch.setattr(denseunet, "SLICES", Width((1, 2, 1, 1), 4, 8, (6, 5, 8, 7, 6)))
    monkeypatch.setattr(denseunet, "VOLUME", Width((1, 1, 2, 1), 3, 4, (9, 4, 5, 4, 6)))
    data = replace(DATA, orientation="LPS")
    cache = make_cache(tmp_path / "cache", {"spec": json.loads(data.to_json())})
    run_training(make_engine, config, (cache, cache), tmp_path / "run")
    done = export_run(tmp_path / "run", tmp_path / "3d.onnx")
    assert done.parity.labels <= 1e-4
    runner = Runner(done.path, "cpu")
    spec = runner.spec
    assert (spec.patch, spec.grid.slice_mm, spec.overlap) == (patch, 10.0, 0.5)
    scan, _ = make_legs(shape=(16, 12, 9), spacing=(4.0, 4.0, 15.0), sides=(1,))
    found = segment(scan, runner, SegmentOptions(hip_slice=8, denoise=False))
    assert found.labels.array.shape == scan.array.shape
    assert np.array_equal(found.labels.geometry.affine, scan.geometry.affine)


def test_what_the_data_say_comes_into_the_description():
    spec = describe(facts_of(), "legs")
    assert spec == replace(
        DATA,
        name="legs",
        channels=1,
        grid=replace(DATA.grid, multiple=64),
        provenance=spec.provenance,
    )
    assert spec.provenance["licence"] == "CC0-1.0"
    assert spec.provenance["loss"] == "dice"
    assert spec.provenance["validation_dsc"] == 0.5
    assert "torch" in spec.provenance["framework"]
    other = replace(DATA, denoise=Denoise(fraction=0.3), sided=False)
    assert describe(facts_of(meta={}), data=other).denoise == other.denoise


def test_neighbours_and_repeated_channels(tmp_path):
    cache = make_cache(tmp_path / "cache", {})
    repeated, labels = validation_slices(cache, replace(DATA, channels=3), 8)
    assert repeated.shape == (6, 3, 32, 32)
    assert labels.shape == (6, 32, 32)
    assert len(validation_slices(cache, DATA, 2)[0]) == 2
    assert np.array_equal(repeated[:, 0], repeated[:, 2])
    around, _ = validation_slices(cache, replace(DATA, channels=3, channel_fill="neighbours"), 8)
    assert np.array_equal(around[1, 0], repeated[0, 0])
    assert np.array_equal(around[1, 2], repeated[2, 0])


def test_a_training_without_validation(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "build_network", small)
    cache = make_cache(tmp_path / "cache", {"spec": json.loads(DATA.to_json())})
    run_training(make_engine, CONFIG, (cache, None), tmp_path / "run")
    done = export_run(tmp_path / "run", tmp_path / "x.onnx")  # compared on slices that taught
    assert done.parity.logits < 1e-4
    assert Runner(tmp_path / "x.onnx", "cpu").spec.provenance["samples_seen"] == 2


def test_what_cannot_be_exported(run, tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    with pytest.raises(ModelError, match="how they were prepared"):
        describe(facts_of(meta={}))
    with pytest.raises(ModelError, match=r"best\.ckpt is not there"):
        export_run(tmp_path, path)
    known = json.loads((run / RUN).read_text(encoding="utf-8"))
    for name, text in (("other", {"config": {"trainer": "jax"}}), ("bare", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.ckpt").write_bytes((run / "best.ckpt").read_bytes())
        (tmp_path / name / RUN).write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(UsageError, match="'jax'"):
        export_run(tmp_path / "other", path)
    with pytest.raises(UsageError, match="where its slices are"):
        export_run(tmp_path / "bare", path)
    with pytest.raises(ModelError, match="no cache"):
        export_run(run, path, RunExport(slices=tmp_path / "none"))
    assert known["data"][1] == str(run.parent / "cache")
    assert not path.exists()


def test_an_exporter_without_its_framework(monkeypatch):
    monkeypatch.delitem(sys.modules, "exporters.torch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"\.\[torch\]"):
        registry.get_exporter("torch")
