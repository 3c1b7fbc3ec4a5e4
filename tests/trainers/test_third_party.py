"""A trainer and an exporter that another package brings, found by its entry points alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seg_core.errors import MissingPackageError
from seg_core.model_spec import Grid, ModelSpec
from seg_core.runner import Runner
from trainers.cache import CacheIndex, SliceCacheWriter
from trainers.log import read_log
from trainers.registry import get_trainer, trainer_names

CLASSES = ("tibia", "femur")
TRAINER = '''
"""Learns the mean grey value of each class."""
import json
import numpy as np
from seg_core.output import write_whole
from trainers.registry import Network

NETWORKS = {
    "shades": Network("a grey value a class", "shades", {"batch": 4, "channels": 1}, ("numpy",), multiple=1)
}

class ShadesEngine:
    def __init__(self, config, classes):
        self.sums = np.zeros((len(classes) + 1, 2))
        if config.init != "random":
            self.load(config.init)

    def step(self, images, labels, lr):
        for value, row in enumerate(self.sums):
            row += images[:, 0][labels == value].sum(), (labels == value).sum()
        return self.evaluate(images, labels)[0]

    def evaluate(self, images, labels):
        distances = np.abs(images[:, 0] - self.means[:, None, None, None])
        return float(distances.min(0).mean()), distances.argmin(0).astype(np.uint8)

    def predict(self, images):
        return self.evaluate(images, None)[1]

    def parameters(self):
        return self.sums.size, self.sums.size

    @property
    def means(self):
        return self.sums[:, 0] / np.maximum(self.sums[:, 1], 1)

    def save(self, path, facts, resumable):
        write_whole(path, json.dumps({"sums": self.sums.tolist(), "facts": facts}))

    def load(self, path):
        with open(path) as file:
            state = json.load(file)
        self.sums = np.array(state["sums"])
        return state["facts"]

def make_engine(config, classes):
    return ShadesEngine(config, classes)
'''
EXPORTER = '''
"""Writes the mean grey values as one convolution."""
import numpy as np
import shades_trainer
from exporters.onnx_graph import INPUT, LOGITS, OPSET, finish, write
from exporters.options import Exported, ExportOptions
from exporters.parity import check
from onnx import TensorProto, helper, numpy_helper
from trainers.config import TrainConfig

def load(path):
    engine = shades_trainer.make_engine(TrainConfig(), ())
    facts = engine.load(path)
    return engine.means.astype(np.float32), facts

def export(network, spec, path, samples, options=None):
    options = options or ExportOptions()
    weight, bias = (400 * network).reshape(-1, 1, 1, 1), -200 * network**2  # -200 (x - mean)^2, less 200 x^2
    graph = helper.make_graph(
        [helper.make_node("Conv", [INPUT, "weight", "bias"], [LOGITS])], "network",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 1, "rows", "columns"])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["n", len(network), "rows", "columns"])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = finish(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]), spec)
    parity = check(model, samples, samples * weight[:, 0] + bias[:, None, None], options.tolerance)
    return Exported(path, write(model, path), parity, parity, spec)
'''
POINTS = """[lls.trainers]
shades = shades_trainer

[lls.exporters]
shades = shades_exporter
"""


def install(folder, points, **modules):
    """Write a package as pip would leave it; return the folder for Python's path."""
    about = folder / "shades-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shades\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def lls(tmp_path):
    """Run `lls` as a program that has the package on its path."""
    folder = install(tmp_path / "site", POINTS, shades_trainer=TRAINER, shades_exporter=EXPORTER)
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])

    def call(*arguments):
        command = [sys.executable, "-m", "cli", *map(str, arguments)]
        return subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
        ).stdout

    return call


def test_it_is_listed_trains_and_is_exported(lls, tmp_path, make_slices, read_json):
    assert "shades" not in trainer_names()  # here, where it is not installed
    (listed,) = [row for row in json.loads(lls("networks", "--json")) if row["trainer"] == "shades"]
    assert listed["network"] == "shades"
    assert listed["installed"]
    assert listed["defaults"] == {"batch": 4, "channels": 1}

    spec = ModelSpec("data", CLASSES, grid=Grid("size", (32, 64)))
    meta = {"spec": json.loads(spec.to_json())}
    with SliceCacheWriter(tmp_path / "data", CacheIndex((32, 64), CLASSES, meta=meta)) as writer:
        for n, name in enumerate(("anna", "ben")):
            writer.append(name, *make_slices(8, n), (1.0, 1.0, 3.0))
    run = tmp_path / "run"
    how = ("--trainer", "shades", "--network", "shades", "--epochs", 2, "--epoch-samples", 8)
    said = lls("train", tmp_path / "data", "--validation-subject", "ben", "-o", run, *how)
    assert said.startswith("epoch ")
    config = read_json(run / "run.json")["config"]
    assert (config["trainer"], config["batch"]) == ("shades", 4)
    assert [row["epoch"] for row in read_log(run / "log.csv")] == ["1", "2"]

    lls("export", run, "-o", tmp_path / "shades.onnx", "--name", "mine")
    runner = Runner(tmp_path / "shades.onnx", "cpu")
    assert (runner.spec.name, runner.spec.provenance["network"]) == ("mine", "shades")
    assert runner.spec.grid.multiple == 1
    images, labels = make_slices(4, 9)
    assert (runner.run(images[:, None], (32, 64)).labels == labels).mean() > 0.99


def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    points = "[lls.trainers]\nshades = shades_trainer\n"
    monkeypatch.syspath_prepend(install(tmp_path, points, shades_trainer="import no_such_framework"))
    assert "shades" in trainer_names()
    with pytest.raises(MissingPackageError, match=r"trainer shades cannot be imported.*no_such_framework"):
        get_trainer("shades")
