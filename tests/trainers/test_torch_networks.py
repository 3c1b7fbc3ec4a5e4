"""The PyTorch networks: their sizes, their starts, what is frozen, what is supervised."""

import sys

import numpy as np
import pytest
import torch

from seg_core.errors import MissingPackageError, ModelError, UsageError
from trainers.config import IGNORED, TrainConfig
from trainers.torch import NETWORKS, checkpoint, engine, make_engine
from trainers.torch.baseline import BaselineUNet
from trainers.torch.engine import freeze_encoder, load_best
from trainers.torch.losses import LOSSES
from trainers.torch.network import build_network
from trainers.torch.nnunet import nnunet_2d, nnunet_3d

FAST = "unet-mobilenetv2"
IMAGES = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)
LABELS = (IMAGES[:, 0] > 0.5).astype(np.uint8)


def config_of(**changes):
    return TrainConfig(**{"network": FAST, "batch": 2, "epoch_samples": 2, "device": "cpu"} | changes)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_their_parameters():
    expected = {
        "unet-resnet34": 24_436_949,
        "unet-resnet34-fine": 24_469_076,
        "unet-resnet50": 32_521_685,
        "unet-vgg19": 29_058_517,
        "unet-mobilenetv2": 6_629_525,
        "unet-baseline": 31_036_741,
        "nnunet-2d": 33_476_350,
        "nnunet-3d": 30_788_409,
        "denseunet-161": 49_527_973,
        "h-denseunet": 66_107_954,
    }
    with torch.device("meta"):
        found = {
            name: parameters(
                build_network(
                    name, 5, network.defaults.get("channels", 3), patch=network.defaults.get("patch")
                )
            )
            for name, network in NETWORKS.items()
        }
    assert found == expected


def test_nnunet_has_seven_stages_of_instance_norm():
    with torch.device("meta"):
        network = build_network("nnunet-2d", 5, 1)
    assert len(network.encoder.stages) == 7
    kinds = [type(m).__name__ for m in network.modules()]
    assert kinds.count("InstanceNorm2d") == 2 * 7 + 2 * 6
    assert not any(kind.startswith("BatchNorm") for kind in kinds)


def test_nnunet_plans_its_strides_from_the_patch():
    with torch.device("meta"):
        network = build_network("nnunet-3d", 5, 1, patch=(128, 112, 160))
        assert len(network.encoder.stages) == 6
        assert [tuple(stride) for stride in network.encoder.strides] == [
            (1, 1, 1), *[(2, 2, 2)] * 4, (2, 1, 2)
        ]  # fmt: skip
    small, x = nnunet_3d(3, 1, (8, 12, 16)), torch.rand(1, 1, 8, 12, 16)
    assert [tuple(y.shape[2:]) for y in small.train()(x)] == [(8, 12, 16)]
    assert small.eval()(x).shape == (1, 3, 8, 12, 16)
    with pytest.raises(UsageError, match="halved"):
        nnunet_3d(3, 1, (7, 9, 6))


def test_patches_are_for_3d_networks_alone():
    with pytest.raises(UsageError, match="on slices"):
        build_network("nnunet-3d", 5, 1)
    with pytest.raises(UsageError, match="on patches"):
        build_network("nnunet-2d", 5, 1, patch=(8, 8, 8))
    with pytest.raises(UsageError, match="imagenet"):
        build_network("nnunet-3d", 5, 1, "imagenet", (8, 8, 8))


def test_the_baseline_drops_half_of_its_bottleneck_while_training_only():
    torch.manual_seed(0)
    network, x = BaselineUNet(3, 1, (4, 8, 8)), torch.from_numpy(IMAGES)
    assert network(x).shape == (2, 3, 32, 32)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
    assert network.dropout.p == 0.5


def test_what_cannot_be_built():
    with pytest.raises(UsageError, match="classes"):
        build_network("unet-resnet34", 1, 3)
    with pytest.raises(UsageError, match="unet-resnet34"):
        build_network("unet-resnet35", 5, 3)
    for name in ("unet-baseline", "nnunet-2d"):
        with pytest.raises(UsageError, match="imagenet"):
            build_network(name, 5, 3, "imagenet")


@pytest.mark.parametrize(
    ("package", "network", "extra"),
    [
        ("segmentation_models_pytorch", "unet-vgg19", r"\.\[torch\]"),
        ("dynamic_network_architectures.architectures.unet", "nnunet-2d", r"\.\[nnunet\]"),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, package, network, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=extra):
        build_network(network, 5, 3)


def test_imagenet_without_the_internet(monkeypatch):
    build_network(FAST, 5, 3)
    from segmentation_models_pytorch import encoders

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(encoders, "hf_hub_download", refuse)
    with pytest.raises(ModelError, match="connect to the internet once"):
        build_network(FAST, 5, 3, "imagenet")


def test_imagenet_with_what_the_hub_gives(tmp_path, monkeypatch):
    published = build_network(FAST, 5, 3).encoder.state_dict()
    from safetensors.torch import save_file
    from segmentation_models_pytorch import encoders

    save_file(published, tmp_path / "model.safetensors")
    asked = []

    def give(repo_id, filename, **revision):
        asked.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr(encoders, "hf_hub_download", give)
    trained = make_engine(config_of(init="imagenet"), ("tibia",))
    found = trained.network.encoder.state_dict()
    assert found.keys() == published.keys()
    assert all(torch.equal(found[key], published[key]) for key in found)
    assert ("smp-hub/mobilenet_v2.imagenet", "model.safetensors") in asked
    other = make_engine(config_of(init="random"), ("tibia",)).network.encoder.state_dict()
    assert not torch.equal(other["features.0.0.weight"], published["features.0.0.weight"])
    assert np.isfinite(trained.step(IMAGES, LABELS, 1e-3))


def test_an_encoders_weights_from_a_file(tmp_path):
    path = tmp_path / "encoder.pth"
    first = build_network(FAST, 5, 3).encoder.state_dict()
    torch.save(first, path)
    same = make_engine(config_of(init=str(path)), ("tibia",)).network.encoder.state_dict()
    assert all(torch.equal(same[key], first[key]) for key in first)
    grey = build_network(FAST, 2, 1, str(path)).encoder.state_dict()
    stem = "features.0.0.weight"
    torch.testing.assert_close(grey[stem], first[stem].sum(1, keepdim=True))
    torch.save({"other": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="does not fit the encoder"):
        build_network(FAST, 5, 3, str(path))
    with pytest.raises(ModelError, match="cannot be read"):
        build_network(FAST, 5, 3, str(tmp_path / "none.pth"))


def test_a_frozen_encoder_moves_only_its_normalisations():
    trained = make_engine(config_of(freeze_encoder=True), ("tibia",))
    before = {name: p.detach().clone() for name, p in trained.network.named_parameters()}
    trained.step(IMAGES, LABELS, 1e-2)
    moved = {n for n, p in trained.network.named_parameters() if not torch.equal(p, before[n])}
    encoder = {n for n in before if n.startswith("encoder.")}
    assert any(n.startswith("decoder.") for n in moved)
    assert encoder & moved
    assert all(before[n].ndim == 1 for n in encoder & moved)
    free = {n for n, p in trained.network.named_parameters() if p.requires_grad}
    assert free & encoder == {n for n in encoder if before[n].ndim == 1}
    for network in (nnunet_2d(2, 1, (4, 8)), BaselineUNet(2, 1, (4, 8))):
        freeze_encoder(network)
        frozen = [p for p in network.parameters() if not p.requires_grad]
        assert 0 < len(frozen) < len(list(network.parameters()))
    with pytest.raises(UsageError, match="without an encoder"):
        freeze_encoder(torch.nn.Conv2d(1, 1, 1))


def test_checkpoints_know_their_network(tmp_path, monkeypatch):
    built = []

    def build(name, classes, channels, weights="random"):
        built.append(name)
        return torch.nn.Conv2d(channels, classes, 1)

    monkeypatch.setattr(engine, "build_network", build)
    facts = {"classes": ["tibia"], "config": {"network": "unet-baseline", "channels": 3}}
    path = tmp_path / "best.ckpt"
    checkpoint.save(facts | {"network": torch.nn.Conv2d(3, 2, 1).state_dict()}, path)
    load_best(path)
    with pytest.raises(UsageError, match="unet-baseline"):
        make_engine(config_of(init=str(path)), ("tibia",))
    del facts["config"]["network"]  # as the first checkpoints were
    checkpoint.save(facts | {"network": torch.nn.Conv2d(3, 2, 1).state_dict()}, path)
    load_best(path)
    assert built == ["unet-baseline", "unet-baseline", "unet-resnet34"]


def test_deep_supervision_weighs_resolutions_as_nnunet_does():
    generator = torch.manual_seed(0)
    outputs = [torch.randn(2, 3, n, n, generator=generator) for n in (32, 16, 8)]
    target = torch.randint(0, 3, (2, 32, 32), generator=generator).to(torch.uint8)
    target[:, 20:] = IGNORED
    loss = LOSSES["dice_cross_entropy"]
    # The pixel that nearest-exact takes from a block of s x s is the one at s / 2.
    expected = sum(
        w * loss(logits, target[:, s // 2 :: s, s // 2 :: s])
        for w, s, logits in zip((4 / 7, 2 / 7, 1 / 7), (1, 2, 4), outputs, strict=True)
    )
    assert float(loss(outputs, target)) == pytest.approx(float(expected), abs=1e-6)
    assert float(loss(outputs[:1], target)) == pytest.approx(float(loss(outputs[0], target)), abs=1e-6)


def test_nnunet_gives_many_outputs_while_training_and_one_after():
    network, x = nnunet_2d(3, 1, (4, 8, 8, 8)), torch.from_numpy(IMAGES)
    assert [tuple(y.shape) for y in network.train()(x)] == [(2, 3, 32, 32), (2, 3, 16, 16)]
    assert network.eval()(x).shape == (2, 3, 32, 32)


def test_training_leaves_tiny_numbers_to_everybody_else():
    tiny = np.float32(1e-40)
    trained = make_engine(config_of(), ("bone",))
    assert tiny * np.float32(0.5) > 0
    trained.step(IMAGES, LABELS, 1e-3)
    assert tiny * np.float32(0.5) > 0
    with engine.flushed_denormals():
        assert float(torch.tensor([1e-40]) * 0.5) == 0


@pytest.mark.parametrize("half", [True, False])
def test_half_precision_is_of_convolutions_alone(monkeypatch, half):
    monkeypatch.setattr(engine, "computes_bfloat16", lambda device: half)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 1))
    monkeypatch.setattr(engine, "build_network", lambda *arguments, **options: network)
    seen, losses = [], []
    network[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trained = make_engine(config_of(channels=1, lr=1e-2), ("bone",))
    loss = trained.loss
    monkeypatch.setattr(trained, "loss", lambda *some: losses.append(loss(*some)) or losses[-1])
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    trained.step(IMAGES, LABELS, 1e-2)
    trained.evaluate(IMAGES, LABELS)
    assert seen == [torch.bfloat16 if half else torch.float32] * 2
    assert [value.dtype for value in losses] == [torch.float32] * 2
    for name, parameter in network.named_parameters():
        kept = [v.dtype for v in trained.optimizer.state[parameter].values()]
        assert {parameter.dtype, parameter.grad.dtype, *kept} == {torch.float32}
        assert not torch.equal(parameter, parameter.bfloat16().float())
        assert not torch.equal(parameter, before[name])
    assert trained.logits(IMAGES).dtype == np.float32


@pytest.mark.parametrize(("there", "found"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, there, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert engine._device("auto") == torch.device(found)
    assert engine._device("cpu") == torch.device("cpu")


def test_the_baseline_learns_by_dice_at_the_reports_rate():
    """Without normalisation all becomes background within some steps, a loss of 0.51, and stays so."""
    torch.manual_seed(0)
    rows, columns = np.mgrid[:32, :32]
    centres = np.random.default_rng(0).uniform(8, 24, (16, 2, 1, 1))
    disc = np.hypot(rows - centres[:, 0], columns - centres[:, 1]) < 4
    images, target = torch.from_numpy(disc[:, None] * np.float32(0.5)), torch.from_numpy(disc.astype(int))
    network = BaselineUNet(2, 1, (8, 16, 32, 64, 128))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(120):
        loss = LOSSES["dice"](network(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.48
