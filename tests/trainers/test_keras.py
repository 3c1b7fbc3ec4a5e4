import csv
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest

from seg_core.errors import DeviceError, MissingPackageError, ModelError, OutputError, UsageError
from trainers.augment import NONE
from trainers.config import IGNORED, TrainConfig
from trainers.keras import NETWORKS, make_engine
from trainers.loop import BEST, LAST, train
from trainers.registry import get_config, get_trainer, trainer_names

# Keras and PyTorch are imported by the tests that need them: each test process collects this file.

CONFIG = TrainConfig(epochs=3, epoch_samples=32, batch=8, validation_samples=16, lr=0.02, device="cpu")
CLASSES = ("tibia", "femur")


def small(name, classes, channels, weights="random"):
    from keras import Input, Model, layers

    image = Input((None, None, channels), name="image")
    x = layers.Conv2D(16, 3, padding="same", name="convolution")(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.8, name="norm")(x))
    x = layers.Dropout(0.1)(x)
    return Model(image, layers.Conv2D(classes, 1, name="decoder_head")(x), name=name)


@pytest.fixture
def data(tmp_path, make_cache, monkeypatch):
    """Caches for training and validation; the network is `small`."""
    from trainers.keras import engine

    monkeypatch.setattr(engine, "build_network", small)
    return make_cache(tmp_path / "train"), make_cache(tmp_path / "validation", seed=1)


@pytest.fixture
def shallow(monkeypatch):
    """The real ResNet34's network with one block a stage."""
    from trainers.keras import resnet34

    monkeypatch.setattr(resnet34, "STAGES", (1, 1, 1, 1))


def rows_of(run):
    with (run / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def counts(network):
    sizes = [
        sum(int(np.prod(w.shape)) for w in weights)
        for weights in (network.trainable_weights, network.non_trainable_weights)
    ]
    return sum(sizes), *sizes


def batch(seed=0, channels=1):
    rng = np.random.default_rng(seed)
    images = rng.random((2, channels, 32, 32), dtype=np.float32)
    return images, rng.integers(0, 3, (2, 32, 32)).astype(np.uint8)


def test_asking_what_there_is_imports_no_framework():
    assert "keras" in trainer_names()
    assert get_trainer("keras").NETWORKS is NETWORKS
    config = get_config("keras", "unet-baseline")
    assert (config.batch, config.lr, config.learning_rate(10), config.loss) == (30, 1e-3, 1e-3, "dice")
    code = "import sys, trainers.keras; sys.exit(bool({'keras', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_reports_network_counts_as_in_its_figure_11():
    from trainers.keras.networks import build_network, freeze_encoder

    network = build_network("unet-resnet34", 5, 3)
    freeze_encoder(network)
    assert counts(network) == (24_456_734, 3_167_640, 21_289_094)
    paths = {w.path for w in network.weights}
    assert len(paths) == len(network.weights)  # a checkpoint keeps them by these names


def test_the_baseline_has_31_million():
    from trainers.keras.networks import build_network, freeze_encoder

    network = build_network("unet-baseline", 5, 1)
    assert counts(network) == (31_048_517, 31_036_741, 11_776)
    with pytest.raises(UsageError, match="cannot freeze"):
        freeze_encoder(network)


def test_it_learns(data, tmp_path):
    from trainers.keras.engine import load_best

    result = train(make_engine, replace(CONFIG, epochs=12, augmentation=NONE), data, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert result.best_dsc > 0.9
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    network, facts = load_best(result.best)
    assert facts["classes"] == list(CLASSES)
    assert network.output_shape[-1] == 3


class Killed(BaseException):
    pass


def test_a_killed_training_goes_on_as_if_nothing_had_happened(data, tmp_path, monkeypatch):
    from trainers.keras import checkpoint
    from trainers.keras.engine import KerasEngine

    config = replace(CONFIG, save_minutes=0.0)
    train(make_engine, config, data, tmp_path / "whole")
    step, count = KerasEngine.step, iter(range(100))

    def fail(self, *args):
        if next(count) == 6:  # the third batch of the second epoch
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(KerasEngine, "step", fail)
    with pytest.raises(Killed):
        train(make_engine, config, data, tmp_path / "cut")
    assert len(rows_of(tmp_path / "cut")) == 1
    train(make_engine, config, data, tmp_path / "cut")
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    a, b = (checkpoint.load(tmp_path / run / LAST)[0] for run in ("whole", "cut"))
    assert a.keys() == b.keys()
    assert {"seed/0", "optimizer/iteration", "convolution/kernel"} <= a.keys()
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_both_frameworks_see_the_same_batches(data, tmp_path, monkeypatch):
    import torch

    from trainers import torch as torch_trainer
    from trainers.keras.engine import KerasEngine
    from trainers.torch import engine as torch_engine

    monkeypatch.setattr(torch_engine, "build_network", lambda *a, **k: torch.nn.Conv2d(3, 3, 1))
    seen = {"torch": [], "keras": []}
    for name, engine in (("torch", torch_engine.TorchEngine), ("keras", KerasEngine)):

        def record(self, images, labels, lr, name=name):
            seen[name].append((images.copy(), labels.copy(), lr))
            return 1.0

        monkeypatch.setattr(engine, "step", record)
    for name, make in (("torch", torch_trainer.make_engine), ("keras", make_engine)):
        train(make, replace(CONFIG, epochs=2), data, tmp_path / name)
    assert len(seen["torch"]) == 8
    for a, b in zip(seen["torch"], seen["keras"], strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_losses_and_their_gradients_equal_pytorchs():
    import tensorflow as tf
    import torch

    from trainers.keras.losses import LOSSES as OURS
    from trainers.torch.losses import LOSSES as THEIRS

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 6, 8, 3)).astype(np.float32)
    target = rng.integers(0, 2, (2, 6, 8)).astype(np.uint8)  # nobody has the last class
    target[:, :, 5:] = IGNORED
    logits[0, 0, 0] = 0, 200, 0  # as sure as a network can be
    assert OURS.keys() == THEIRS.keys()
    for labels in (target, np.full_like(target, IGNORED)):
        for name in OURS:
            x = torch.tensor(np.moveaxis(logits, -1, 1), requires_grad=True)
            theirs = THEIRS[name](x, torch.tensor(labels))
            theirs.backward()
            y = tf.Variable(logits)
            with tf.GradientTape() as tape:
                ours = OURS[name](y, tf.constant(labels))
            assert float(ours) == pytest.approx(float(theirs.detach()), abs=1e-6)
            gradient = tape.gradient(ours, y).numpy()
            assert np.abs(np.moveaxis(gradient, -1, 1) - x.grad.numpy()).max() < 1e-6
            assert not gradient[labels == IGNORED].any()


def test_what_fills_the_channels(data):
    images, labels = batch()
    repeat = make_engine(replace(CONFIG, batch=2), CLASSES)
    neighbours = make_engine(replace(CONFIG, batch=2, channel_fill="neighbours"), CLASSES)
    loss, found = repeat.evaluate(images, labels)
    assert (found.dtype, found.shape) == (np.uint8, labels.shape)
    assert neighbours.evaluate(np.repeat(images, 3, axis=1), labels)[0] == pytest.approx(loss, rel=1e-5)


def test_a_frozen_encoder_keeps_its_convolutions(shallow, tmp_path):
    config = replace(CONFIG, network="unet-resnet34", batch=2, freeze_encoder=True)
    engine = make_engine(config, CLASSES)
    before = {w.path: w.numpy().copy() for w in engine.network.weights}
    engine.step(*batch(), 0.01)
    changed = {w.path for w in engine.network.weights if not np.array_equal(before[w.path], w.numpy())}
    engine.save(tmp_path / "last.ckpt", {"config": asdict(config), "classes": list(CLASSES)}, resumable=True)
    with pytest.raises(UsageError, match="--freeze-encoder as before"):
        make_engine(replace(config, freeze_encoder=False), CLASSES).load(tmp_path / "last.ckpt")
    encoder = {path for path in before if not path.startswith("decoder")}
    assert {p for p in encoder - changed if p.endswith("kernel")} == {
        p for p in encoder if p.endswith("kernel")
    }
    assert {"bn0/gamma", "bn0/moving_mean", "decoder_stage0a_conv/kernel", "decoder_head/bias"} <= changed


def test_an_encoder_begins_with_published_weights(shallow, tmp_path, monkeypatch):
    """The file is as Keras 2 wrote it: a group a layer, its arrays named by an attribute."""
    import h5py
    import keras

    from trainers.keras.networks import build_network

    published = build_network("unet-resnet34", 2, 3)
    encoder = [layer for layer in published.layers if layer.weights and not layer.name.startswith("decoder")]
    encoder[0].moving_mean.assign([123.0, 117, 104])
    encoder[0].moving_variance.assign([3500.0, 3300, 3600])
    path = tmp_path / "resnet34.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in encoder]
        for layer in encoder:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{w.name}:0" for w in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = weight.numpy()
    monkeypatch.setattr(keras.utils, "get_file", lambda *a, **k: str(path))
    for weights in (str(path), "imagenet"):
        network = build_network("unet-resnet34", 3, 3, weights)
        for layer in encoder[1:]:
            for a, b in zip(layer.get_weights(), network.get_layer(layer.name).get_weights(), strict=True):
                assert np.array_equal(a, b)
    assert encoder[0].name == "bn_data"
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    expected = encoder[0](255 * image, training=False)  # what these weights were taught
    found = network.get_layer("bn_data")(image, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [b"conv0"]
    with pytest.raises(ModelError, match="lacks"):
        build_network("unet-resnet34", 3, 3, "imagenet")


@pytest.mark.parametrize(
    ("name", "module", "last", "border"),
    [
        ("unet-resnet50", "resnet50", "conv1_relu", 2),
        ("unet-vgg19", "vgg19", "block1_conv1", 1),
        ("unet-mobilenetv2", "mobilenet_v2", "Conv1_relu", 1),
    ],
)
def test_published_encoders_see_what_they_were_taught(name, module, last, border, tmp_path):
    import keras

    from trainers.keras.networks import _APPLICATIONS, build_network

    published = _APPLICATIONS[name][0](include_top=False, weights=None, input_shape=(64, 64, 3))
    for layer in published.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.linspace(-1, 1, layer.moving_mean.shape[0]))
    path = tmp_path / "published.weights.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        published.save_weights(path)
    image = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    prepare = getattr(keras.applications, module).preprocess_input
    expected = until(published, last)(prepare(255 * image), training=False)
    found = until(build_network(name, 2, 3, str(path)), last)(image, training=False)
    inside = slice(border, -border)
    np.testing.assert_allclose(found[:, inside, inside], expected[:, inside, inside], rtol=1e-3, atol=1e-3)


def until(network, layer):
    import keras

    return keras.Model(network.input, network.get_layer(layer).output)


def test_weights_that_cannot_be_had(shallow, tmp_path, monkeypatch):
    import keras

    from trainers.keras.networks import build_network

    def refuse(*args, **kwargs):
        raise OSError("no connection")

    monkeypatch.setattr(keras.utils, "get_file", refuse)
    with pytest.raises(ModelError, match="no connection"):
        build_network("unet-resnet34", 3, 3, "imagenet")
    with pytest.raises(ModelError, match="could not be loaded"):
        build_network("unet-resnet34", 3, 3, str(tmp_path / "none.h5"))
    with pytest.raises(UsageError, match="1 channels"):
        build_network("unet-resnet34", 3, 1, "imagenet")
    with pytest.raises(UsageError, match="unet-baseline"):
        build_network("unet-baseline", 3, 3, "imagenet")
    with pytest.raises(UsageError, match="network"):
        build_network("unet", 3, 3)
    with pytest.raises(UsageError, match="classes"):
        build_network("unet-resnet34", 1, 3)


def test_it_begins_with_another_network(data, tmp_path):
    from trainers.keras.engine import load_best

    first = train(make_engine, replace(CONFIG, epochs=3), data, tmp_path / "first")
    still = replace(CONFIG, epochs=1, lr=1e-12, lr_floor=1e-12, init=str(first.best))
    train(make_engine, still, data, tmp_path / "second")
    a, b = (
        load_best(tmp_path / run / BEST)[0].get_layer("convolution").kernel for run in ("first", "second")
    )
    assert np.allclose(a.numpy(), b.numpy(), atol=1e-6)
    with pytest.raises(UsageError, match="has the network"):
        make_engine(replace(still, network="unet-vgg19"), CLASSES)


def test_checkpoints_that_do_not_fit(data, tmp_path):
    engine = make_engine(CONFIG, CLASSES)
    facts = {"classes": list(CLASSES), "config": {"network": CONFIG.network, "channels": 3}}
    engine.save(tmp_path / LAST, facts, True)
    assert engine.load(tmp_path / LAST) == facts
    with pytest.raises(UsageError, match="classes"):
        make_engine(CONFIG, ("tibia", "fibula")).load(tmp_path / LAST)
    with pytest.raises(ModelError, match="shape"):
        make_engine(replace(CONFIG, channels=1), CLASSES).load(tmp_path / LAST)
    engine.save(tmp_path / BEST, facts, False)
    with pytest.raises(ModelError, match="shape None"):
        engine.load(tmp_path / BEST)
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read"):
        engine.load(tmp_path / LAST)
    with pytest.raises(OutputError):
        engine.save(tmp_path / "none" / LAST, facts, True)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"patch": (8, 32, 32)}, "patches"), ({"average": 0.9}, "running mean")],
)
def test_what_pytorchs_trainer_alone_can(data, change, text):
    with pytest.raises(UsageError, match=text):
        make_engine(replace(CONFIG, **change), CLASSES)


def test_slices_that_cannot_be_halved_so_often(data):
    engine = make_engine(CONFIG, CLASSES)
    images, labels = batch()
    for call in (lambda x, y: engine.step(x, y, 0.1), engine.evaluate, lambda x, y: engine.predict(x)):
        with pytest.raises(UsageError, match="multiples of 32"):
            call(images[..., :24], labels[..., :24])


def test_half_precision_is_of_convolutions_alone(monkeypatch, tmp_path):
    import keras

    from trainers.keras import engine, networks
    from trainers.keras.engine import load_best

    monkeypatch.setattr(engine, "computes_bfloat16", lambda device: True)
    monkeypatch.setattr(networks, "baseline_unet", partial(networks.baseline_unet, features=(4, 8)))
    config = replace(CONFIG, network="unet-baseline", batch=2)
    trained = make_engine(config, CLASSES)
    assert keras.config.dtype_policy().name == "float32"  # for whoever else makes layers
    losses, loss = [], trained.loss
    monkeypatch.setattr(trained, "loss", lambda *some: losses.append(loss(*some)) or losses[-1])
    before = {v.path: v.numpy() for v in trained.network.trainable_variables}
    images, labels = batch()
    assert np.isfinite(trained.step(images, labels, 1e-2))
    layers = {
        name: trained.network.get_layer(name) for name in ("encoder0a_conv", "encoder0a_bn", "decoder_head")
    }
    outputs = keras.Model(trained.network.input, [layer.output for layer in layers.values()])
    found = outputs(np.moveaxis(images, 1, -1).repeat(3, axis=-1), training=False)
    assert [x.dtype.name for x in found] == ["bfloat16", "bfloat16", "float32"]
    assert [value.dtype.name for value in losses] == ["float32"]
    numbers = [v for v in (*trained.network.weights, *trained.optimizer.variables) if "float" in v.dtype]
    assert {v.dtype for v in numbers} == {"float32"}
    assert any(not np.array_equal(before[v.path], v.numpy()) for v in trained.network.trainable_variables)
    facts = {"classes": list(CLASSES), "config": asdict(config)}
    trained.save(tmp_path / BEST, facts, resumable=False)
    assert {layer.compute_dtype for layer in load_best(tmp_path / BEST)[0].layers} == {"float32"}


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    import tensorflow as tf

    from trainers.keras.engine import _device

    for gpus, found in (([], "/CPU:0"), (["GPU:0"], "/GPU:0")):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
        assert _device("auto") == found
        assert _device("cpu") == "/CPU:0"


def test_what_is_not_there(data, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(DeviceError, match="GPU"):
        make_engine(replace(CONFIG, device="cuda"), CLASSES)
    monkeypatch.delitem(sys.modules, "trainers.keras.engine")
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(MissingPackageError, match=r"\.\[keras\]"):
        make_engine(CONFIG, CLASSES)
