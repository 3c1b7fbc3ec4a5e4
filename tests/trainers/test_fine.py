import dataclasses

import numpy as np
import pytest
import torch

from seg_core.errors import UsageError
from seg_core.labels import BONES
from seg_core.model_spec import ModelSpec
from trainers.config import TrainConfig
from trainers.torch import engine as engine_module
from trainers.torch.average import Average
from trainers.torch.engine import TorchEngine, load_best
from trainers.torch.fine import FineUNet, widened
from trainers.torch.pretrained import pretrained_unet

CHANNELS = 3


@pytest.fixture(scope="module")
def plain() -> torch.nn.Module:
    torch.manual_seed(3)
    return pretrained_unet("resnet34", 5, CHANNELS).eval()


@torch.inference_mode()
def test_a_widened_network_computes_what_the_plain_one_does_on_its_own_pixels(plain: torch.nn.Module) -> None:
    weights = {name: value.numpy() for name, value in plain.state_dict().items()}
    fine = FineUNet(5, CHANNELS).eval()
    fine.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in widened(weights, CHANNELS).items()})
    image = torch.rand(2, CHANNELS, 128, 192)
    middle = torch.nn.functional.avg_pool2d(image[:, 1:2], 2).expand(-1, CHANNELS, -1, -1)
    wanted = plain(middle).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(fine(image), wanted, atol=1e-4)


def test_the_last_stage_sees_the_input(plain: torch.nn.Module) -> None:
    first = FineUNet(5, CHANNELS).decoder.blocks[-1].conv1[0]
    assert first.in_channels == plain.decoder.blocks[-1].conv1[0].in_channels + 4 * CHANNELS


def test_a_training_of_fine_pixels_begins_with_a_network_of_plain_ones(
    plain: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {name: value.numpy() for name, value in plain.state_dict().items()}
    monkeypatch.setattr(engine_module, "read_model", lambda path: (ModelSpec("plain", BONES), weights))
    config = TrainConfig(
        network="unet-resnet34-fine", init="plain.onnx", epoch_samples=2, batch=2, device="cpu",
        channel_fill="neighbours",
    )  # fmt: skip
    engine = TorchEngine(config, BONES)
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        wanted = plain(image.expand(-1, CHANNELS, -1, -1)).argmax(1).repeat_interleave(2, 1)
    fine = engine.predict(image.numpy().repeat(2, 2).repeat(2, 3))
    # A processor that has bfloat16 rounds.
    assert (fine == wanted.repeat_interleave(2, 2).numpy()).mean() > 0.95


def test_the_average_follows_and_is_what_is_kept(tmp_path) -> None:
    config = TrainConfig(network="unet-baseline", channels=1, epoch_samples=2, batch=2, average=0.999)
    engine = TorchEngine(config, ("bone",))
    rng = np.random.default_rng(1)
    images, labels = rng.random((2, 1, 32, 32), np.float32), rng.integers(0, 2, (2, 32, 32)).astype(np.uint8)
    for _ in range(3):
        engine.step(images, labels, 1e-2)
    logits = engine.logits(images)
    facts = {"classes": ["bone"], "config": dataclasses.asdict(config)}
    engine.save(tmp_path / "best", facts, resumable=False)
    engine.save(tmp_path / "last", facts, resumable=True)
    again = TorchEngine(config, ("bone",))
    again.load(tmp_path / "last")
    assert np.array_equal(again.logits(images), logits)
    assert again.average is not None
    assert again.average.steps == 3
    for name in ("best", "last"):
        network, _ = load_best(tmp_path / name)
        kept = engine.average.network.state_dict()
        assert all(torch.equal(value, kept[key]) for key, value in network.state_dict().items())
    raw = engine.network.state_dict()
    assert not all(torch.equal(value, raw[key]) for key, value in kept.items())


def test_the_average_is_the_running_mean_of_its_formula() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = Average(network, 0.5)
    wanted = float(network.weight.detach())
    for step in range(1, 30):
        with torch.no_grad():
            network.weight.fill_(step)
        average.follow(network)
        share = 1 - min(0.5, step / (step + 9))
        wanted += share * (step - wanted)
    assert float(average.network.weight) == pytest.approx(wanted, rel=1e-5)


def test_a_mean_that_keeps_all_is_refused() -> None:
    with pytest.raises(UsageError, match="running mean"):
        TrainConfig(average=1.0)
