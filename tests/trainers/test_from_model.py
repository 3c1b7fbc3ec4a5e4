import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cli.train import configure, warn_of_other_preparation
from exporters.torch import fold_batchnorm
from seg_core.errors import ModelError, UsageError
from seg_core.labels import BONES
from seg_core.model_spec import Grid, Normalisation
from seg_core.runner import Runner, default_model
from trainers.cache import CacheIndex, SliceCacheWriter
from trainers.config import TrainConfig
from trainers.loop import Source
from trainers.model_file import channel_settings, model_file, network_of, other_preparation, read_model
from trainers.torch.engine import TorchEngine
from trainers.torch.from_model import fill, unfold

CONFIG = TrainConfig(
    network="unet-resnet34-fine", epochs=1, epoch_samples=2, batch=2, init="default",
    channel_fill="neighbours", neighbour_mm=10.0,
)  # fmt: skip


class Small(torch.nn.Module):
    """Convolutions with and without BatchNorm, and with and without a bias of their own."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4)
        self.inner = torch.nn.Sequential(torch.nn.Conv2d(4, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.ReLU())
        self.head = torch.nn.Conv2d(5, 2, 1)

    def forward(self, x):
        return self.head(self.inner(torch.relu(self.norm(self.first(x)))))


def taught():
    """A network whose BatchNorms have seen something, and images."""
    torch.manual_seed(0)
    network, images = Small(), torch.rand(6, 3, 20, 20)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.uniform_(module.bias, -1, 1)
    for _ in range(20):
        network(images * 3 - 1)
    return network.eval(), images


def weights_of(network):
    return {name: value.numpy() for name, value in network.state_dict().items()}


def test_a_folded_network_computes_the_same_and_learns_from_there():
    network, images = taught()
    wanted = network(images).detach()
    other = Small()
    with pytest.raises(ModelError, match="has no"):
        fill(other, {}, default_model())
    norms = fill(other, weights_of(fold_batchnorm(network, images.numpy())), default_model())
    assert norms == ["norm", "inner.1"]
    other.eval()
    assert torch.allclose(other(images), wanted, atol=1e-5)
    unfold(other, norms, images)
    assert torch.allclose(other(images), wanted, atol=1e-5)
    # Learning computes with the batch's own mean and variance, which these now are.
    assert torch.allclose(other.train()(images), wanted, atol=1e-4)


def test_training_begins_with_what_the_bundled_network_says():
    images = np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)
    wanted = Runner("default", device="cpu", precision="fp32").logits(images)
    engine = TorchEngine(CONFIG, BONES)

    def furthest():
        with torch.no_grad():
            return np.abs(engine.network.eval()(torch.from_numpy(images)).numpy() - wanted).max()

    assert furthest() < 1e-3
    engine.step(images, np.zeros((2, 64, 64), np.uint8), 1e-9)
    # BatchNorm's running mean and variance have moved by a tenth of what two images differ.
    assert furthest() < 0.1 * np.ptp(wanted)


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(UsageError, match="for tibia, femur"):
        TorchEngine(CONFIG, ("femur",))
    with pytest.raises(UsageError, match="from 3 channels"):
        TorchEngine(replace(CONFIG, channels=1), BONES)
    with pytest.raises(ModelError, match="has no"):
        TorchEngine(replace(CONFIG, network="unet-resnet50"), BONES)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"cannot be read|no description"):
        read_model(bad)


def test_a_training_takes_the_network_and_the_channels_of_what_it_begins_with():
    assert model_file("random") is None
    assert model_file("run/best.ckpt") is None
    spec, _ = read_model(model_file("default"))
    _, config = configure("torch", None, {"init": "default", "lr": 1e-3})
    assert config.network == network_of(spec) == "unet-resnet34-fine"
    assert config.lr == 1e-3
    assert channel_settings(spec) == {name: getattr(config, name) for name in channel_settings(spec)}
    assert configure("torch", None, {"init": "default", "neighbour_mm": 2.5})[1].neighbour_mm == 2.5


def test_another_preparation_is_said(tmp_path, capsys):
    spec, _ = read_model(default_model())
    assert other_preparation(spec, spec) == []
    data = replace(spec, grid=Grid("size", (256, 256)), normalisation=Normalisation("divide"), usual_mm={})
    pixels, intensities, people = other_preparation(spec, data)
    assert pixels == "pixels of 0.9375 x 0.9375 mm, not slices of 256 x 256 pixels"
    assert "percentile (1, 99.5), not intensities by divide" in intensities
    assert people.startswith("small people magnified to shafts of ")
    assert people.endswith(" mm of a tibia, not people as large as they are")
    with SliceCacheWriter(
        tmp_path / "c", CacheIndex((32, 64), BONES, meta={"spec": json.loads(data.to_json())})
    ) as writer:
        writer.append("anna", np.zeros((2, 32, 64)), np.zeros((2, 32, 64), np.uint8), (1.0, 1.0, 1.0))
    warn_of_other_preparation("default", Source(tmp_path / "c"))
    (tmp_path / "best.ckpt").touch()
    (tmp_path / "run.json").write_text(json.dumps({"meta": {"spec": json.loads(spec.to_json())}}))
    warn_of_other_preparation(str(tmp_path / "best.ckpt"), Source(tmp_path / "c"))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6
    assert said[3].endswith(f"best.ckpt knows {pixels}: prepare the data as it wants them")
