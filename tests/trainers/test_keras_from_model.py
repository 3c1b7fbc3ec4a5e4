"""Keras' trainer begins with a model file that was exported from it."""

from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest

from seg_core.errors import ModelError, UsageError
from seg_core.model_spec import Grid, ModelSpec
from seg_core.runner import Runner
from trainers.config import TrainConfig
from trainers.keras import make_engine
from trainers.loop import LAST, train

# Keras is imported by the tests that need it: each test process collects this file.

CLASSES = ("tibia", "femur")
CONFIG = TrainConfig(
    trainer="keras", network="unet-resnet34", batch=2, epoch_samples=2, device="cpu", threads=1
)  # fmt: skip
IMAGES = np.random.default_rng(0).random((2, 1, 64, 64), dtype=np.float32).repeat(3, axis=1)
LABELS = np.zeros((2, 64, 64), np.uint8)


EVERY = "unet-vgg19"
"""What `every_kind` is called here."""


def every_kind(image, classes):
    """A network with each kind of convolution before a BatchNorm, and one BatchNorm that follows none."""
    from keras import Model, layers

    x = layers.BatchNormalization(name="data")(image)
    for name, convolution in (
        ("plain", layers.Conv2D(6, 3, padding="same", name="plain")),
        ("deep", layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=2, use_bias=False, name="deep")),
        ("turned", layers.Conv2DTranspose(5, 2, 2, padding="same", name="turned")),
    ):
        x = layers.ReLU()(layers.BatchNormalization(name=f"{name}_norm")(convolution(x)))
    return Model(image, layers.Conv2D(classes, 1, name="decoder_head")(x), name=EVERY)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Networks of few layers, which compute in float32 wherever the tests run."""
    from trainers.keras import engine, networks, resnet34

    monkeypatch.setattr(engine, "computes_bfloat16", lambda device: False)
    monkeypatch.setattr(resnet34, "STAGES", (1, 1, 1, 1))
    monkeypatch.setattr(networks, "baseline_unet", partial(networks.baseline_unet, features=(4, 8, 8)))
    build = networks.build_network

    def built(name, classes, channels, weights="random"):
        from keras import Input

        if name != EVERY:
            return build(name, classes, channels, weights)
        return every_kind(Input((None, None, channels), name="image"), classes)

    for module in (networks, engine):
        monkeypatch.setattr(module, "build_network", built)


@pytest.fixture
def exported(tmp_path):
    """Return a function that exports a network whose BatchNorms have seen something."""

    def export(name, weights="float32"):
        from exporters.keras import export as write
        from exporters.options import ExportOptions
        from trainers.keras.networks import build_network

        network, rng = build_network(name, len(CLASSES) + 1, 3), np.random.default_rng(1)
        for variable in network.weights:
            if variable.name in ("gamma", "moving_variance"):
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
            elif variable.name in ("beta", "moving_mean", "bias"):
                variable.assign(rng.normal(0, 0.2, variable.shape))
        spec = ModelSpec(name, CLASSES, grid=Grid("size", (64, 64)), provenance={"network": name})
        path = tmp_path / f"{name}.onnx"
        write(network, spec, path, IMAGES, ExportOptions(weights))
        return path

    return export


@pytest.mark.parametrize(
    ("name", "weights"), [("unet-resnet34", "float32"), ("unet-baseline", "float32"), (EVERY, "float16")]
)
def test_it_computes_the_same_and_learns_from_there(exported, name, weights):
    from keras import Model
    from keras.layers import BatchNormalization

    from trainers.keras.from_model import unfold

    path = exported(name, weights)
    wanted = np.moveaxis(Runner(path, "cpu").logits(IMAGES), 1, -1)
    engine = make_engine(replace(CONFIG, network=name, init=str(path)), CLASSES)
    images = np.moveaxis(IMAGES, 1, -1)

    def furthest():
        return np.abs(engine.network(images, training=False).numpy() - wanted).max() / np.ptp(wanted)

    assert furthest() < 1e-4
    norms = [layer.name for layer in engine.network.layers if isinstance(layer, BatchNormalization)]
    folded = [engine.network.get_layer(name) for name in engine._folded]
    assert len(norms) / 2 < len(folded) < len(norms) + (name == "unet-baseline")
    unfold(engine.network, engine._folded, images)
    assert furthest() < 1e-4
    for layer in folded:  # learning computes with the batch's own mean and variance, which these now are
        reaching = Model(engine.network.input, layer.input)(images, training=False).numpy()
        np.testing.assert_allclose(layer.moving_mean, reaching.mean((0, 1, 2)), atol=1e-3)
        np.testing.assert_allclose(layer.moving_variance, reaching.var((0, 1, 2)), rtol=1e-2)


def test_a_step_opens_what_was_folded(exported):
    engine = make_engine(replace(CONFIG, network=EVERY, init=str(exported(EVERY))), CLASSES)
    norm = engine.network.get_layer("turned_norm")
    assert np.array_equal(norm.gamma, np.ones(5))
    assert np.isfinite(engine.step(IMAGES[:, :1], LABELS, 1e-9))
    assert not np.isclose(norm.gamma, 1).any()
    opened = norm.gamma.numpy().copy()
    engine.step(IMAGES[:, :1], LABELS, 1e-9)
    np.testing.assert_allclose(norm.gamma, opened, atol=1e-6)


def test_training_goes_on_from_a_file(exported, tmp_path, make_cache):
    """The command takes network and channels from the file; what goes on opens no BatchNorm again."""
    from cli.train import configure

    path = exported("unet-baseline")
    given = {"init": str(path), "epochs": 1, "epoch_samples": 4, "batch": 2, "device": "cpu", "threads": 1}
    make, config = configure("keras", None, given)
    assert (config.network, config.channels) == ("unet-baseline", 3)
    data = make_cache(tmp_path / "a"), make_cache(tmp_path / "b", seed=1)
    assert train(make, config, data, tmp_path / "run").epochs == 1
    engine = make(config, CLASSES)
    engine.load(tmp_path / "run" / LAST)
    assert not engine._folded


def test_files_that_do_not_fit(exported, tmp_path):
    path = str(exported("unet-baseline"))
    for change, words in (({"network": "unet-resnet34"}, "has the network"), ({"channels": 1}, "channels")):
        with pytest.raises(UsageError, match=words):
            make_engine(replace(CONFIG, **{"network": "unet-baseline", "init": path} | change), CLASSES)
    with pytest.raises(UsageError, match="has the classes tibia, femur"):
        make_engine(replace(CONFIG, network="unet-baseline", init=path), ("tibia", "fibula"))
    other = onnx.load(path)
    for tensor in other.graph.initializer:
        tensor.name = f"theirs.{tensor.name}"
    onnx.save(other, tmp_path / "theirs.onnx")
    with pytest.raises(
        ModelError, match=r"theirs\.onnx has no encoder0a_conv\.weight[\s\S]*exported from Keras"
    ):
        make_engine(replace(CONFIG, network="unet-baseline", init=str(tmp_path / "theirs.onnx")), CLASSES)
