import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from exporters.options import ExportOptions
from exporters.parity import Tolerance
from seg_core.errors import ModelError, UsageError
from seg_core.model_spec import METADATA_KEY, Grid, ModelSpec
from seg_core.runner import Runner
from trainers.keras import NETWORKS

# Keras is imported by the tests that need it: each test process collects this file.

SPEC = ModelSpec(
    "small", ("tibia", "femur"), grid=Grid("size", (32, 64)), provenance={"licence": "Apache-2.0"}
)
SAMPLES = np.random.default_rng(0).random((3, 3, 32, 64), dtype=np.float32)


def all_layers():
    """A network with every layer that has a translation, in each of its ways."""
    import keras
    from keras import layers as k

    image = keras.Input((None, None, 3), name="image")
    x = k.BatchNormalization(scale=False, name="data")(image)
    x = skip = k.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = k.Conv2D(8, 3, strides=2, padding="same")(x)  # the odd pixel
    x = k.ReLU(6.0)(k.BatchNormalization()(x))  # folded, with a bias
    x = k.DepthwiseConv2D(3, strides=2, use_bias=False)(k.ZeroPadding2D(((0, 1), (0, 1)))(x))
    x = half = k.Activation("relu")(k.BatchNormalization(scale=False)(x))
    x = k.MaxPooling2D(3, 2)(k.ZeroPadding2D(1)(x))  # padded by the pooling
    x = k.Conv2D(8, 3, use_bias=False)(k.ZeroPadding2D(1)(x))  # padded by the convolution
    x = k.Add()([x, k.BatchNormalization()(x), k.Conv2D(8, 3, dilation_rate=2, padding="same")(x)])
    x = k.UpSampling2D(2)(k.Dropout(0.5)(x))
    x = k.MaxPooling2D(2, 1, padding="same")(k.Concatenate()([x, half]))
    x = k.BatchNormalization()(k.Conv2DTranspose(6, 3, strides=2, padding="same")(x))
    x = k.MaxPooling2D(3, 1)(k.ZeroPadding2D(1)(x))  # below zero: padded by itself
    x = k.Conv2DTranspose(6, 2, strides=2, padding="same")(x)
    x = k.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(k.Concatenate()([x, skip]))
    x = k.Add()([k.Conv2D(8, 1)(x), skip])
    return keras.Model(image, k.Conv2D(3, 1, name="head")(x))


def randomise(network, samples=SAMPLES):
    """Give every variable a value that a mistake in the translation would not survive; every class wins."""
    rng = np.random.default_rng(1)
    for variable in network.weights:
        shape = tuple(variable.shape)
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif len(shape) == 1:
            variable.assign(rng.normal(0, 0.2, shape))
    bias = network.layers[-1].bias
    bias.assign(np.asarray(bias) - logits_of(network, samples).mean((0, 2, 3)))
    return network


def logits_of(network, images):
    return np.moveaxis(np.asarray(network(np.moveaxis(images, 1, -1), training=False)), -1, 1)


@pytest.fixture(scope="module")
def network():
    import keras

    keras.utils.set_random_seed(0)
    return randomise(all_layers())


@pytest.fixture(scope="module")
def export():
    from exporters.keras import export

    return export


@pytest.fixture(scope="module")
def exported(network, export, tmp_path_factory):
    return export(network, SPEC, tmp_path_factory.mktemp("export") / "small.onnx", SAMPLES)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_passes_the_gate(name, export, tmp_path):
    import keras

    from trainers.keras.networks import build_network

    keras.utils.set_random_seed(0)
    channels = NETWORKS[name].defaults.get("channels", 3)
    samples = SAMPLES[:2, :channels]
    network = randomise(build_network(name, 5, channels), samples)
    spec = ModelSpec(name, ("a", "b", "c", "d"), channels=channels, grid=Grid("size", (32, 64)))
    exported = export(network, spec, tmp_path / "x.onnx", samples)
    assert exported.difference == exported.parity
    assert exported.parity.logits < 2e-5
    model = onnx.load(exported.path)
    exported.path.unlink()  # 100 MB
    kinds = [node.op_type for node in model.graph.node if not node.name.startswith("lls.")]
    assert set(kinds) <= {
        *("Conv", "ConvTranspose", "BatchNormalization", "Relu", "Clip", "MaxPool", "Add", "Concat", "Resize")
    }
    assert len(kinds) < 170
    assert kinds.count("Resize") == (0 if name == "unet-baseline" else 5)


def test_the_file_computes_what_keras_computes_at_any_size(network, exported):
    runner = Runner(exported.path, "cpu")
    for shape in ((1, 3, 32, 32), (5, 3, 96, 64)):
        images = np.random.default_rng(1).random(shape, dtype=np.float32)
        logits = logits_of(network, images)
        assert np.abs(runner.logits(images) - logits).max() < 1e-5 * np.abs(logits).max()
        assert (runner.run(images, shape[2:]).labels == logits.argmax(1)).mean() > 0.999
    assert len(np.unique(logits.argmax(1))) == 3  # else the labels said nothing


def by_another_converter(network, images):
    """Logits of a network that tf2onnx translated."""
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    function = tf.function(lambda x: network(x, training=False))
    signature = [tf.TensorSpec((None, None, None, images.shape[1]), tf.float32, name="image")]
    model, _ = tf2onnx.convert.from_function(function, signature, opset=18)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: np.moveaxis(images, 1, -1)})
    return np.moveaxis(found, -1, 1)


def thin(network):
    """The same layers with an eighth of the channels."""
    import keras

    def thinner(layer):
        config = layer.get_config()
        if "filters" in config and layer is not network.layers[-1]:
            config["filters"] //= 8
        return layer.__class__.from_config(config)

    return keras.models.clone_model(network, clone_function=thinner)


@pytest.mark.filterwarnings("ignore")  # tf2onnx uses what NumPy and TensorFlow have deprecated
def test_another_converter_agrees(network, exported):
    wanted = Runner(exported.path, "cpu").logits(SAMPLES)
    found = by_another_converter(network, SAMPLES)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize("name", NETWORKS)
def test_another_converter_agrees_on_every_network(name, export, tmp_path):
    import keras

    from trainers.keras.networks import build_network

    keras.utils.set_random_seed(0)
    channels = NETWORKS[name].defaults.get("channels", 3)
    samples = SAMPLES[:2, :channels]
    network = randomise(thin(build_network(name, 3, channels)), samples)
    spec = replace(SPEC, channels=channels)
    wanted = Runner(export(network, spec, tmp_path / "x.onnx", samples).path, "cpu").logits(samples)
    found = by_another_converter(network, samples)
    assert np.abs(found - wanted).max() < 1e-4 * wanted.std((0, 2, 3)).min()  # of what the image decides


def test_the_file_describes_itself_and_nothing_else(exported):
    model = onnx.load(exported.path)
    assert model.ir_version == 10
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert [p.key for p in model.metadata_props] == [METADATA_KEY]
    assert ModelSpec.from_json(model.metadata_props[0].value) == SPEC
    assert not model.producer_name


def test_few_nodes(exported):
    kinds = [n.op_type for n in onnx.load(exported.path).graph.node if not n.name.startswith("lls.")]
    assert "Transpose" not in kinds
    assert kinds.count("BatchNormalization") == 2  # of the data, and of a tensor that others see too
    assert kinds.count("Pad") == 1
    assert "Identity" not in kinds


def test_the_same_bytes_twice(network, export, exported, tmp_path):
    again = export(network, SPEC, tmp_path / "other.onnx", SAMPLES)
    assert again.path.read_bytes() == exported.path.read_bytes()
    assert again.sha256 == exported.sha256


EXPORT = """
import pathlib, runpy, sys
import keras, numpy
from exporters.keras import export

mine, folder = runpy.run_path(sys.argv[1]), pathlib.Path(sys.argv[2])
network = keras.models.load_model(folder / "network.keras")
export(network, mine["SPEC"], folder / "again.onnx", mine["SAMPLES"])
"""


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras' own, when it saves
def test_the_same_bytes_in_another_process_with_another_order_of_hashes(network, exported, tmp_path):
    network.save(tmp_path / "network.keras")
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    command = [sys.executable, "-c", EXPORT, __file__, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    assert hashlib.sha256((tmp_path / "again.onnx").read_bytes()).hexdigest() == exported.sha256


def test_float16_weights_are_smaller_and_stay_exact(network, export, exported, tmp_path):
    half = export(network, SPEC, tmp_path / "half.onnx", SAMPLES, ExportOptions("float16"))
    assert half.parity.logits < 1e-5
    assert 1e-5 < half.difference.logits < 1e-2
    kept = {t.name for t in onnx.load(half.path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    assert len(kept) == sum(len(w.shape) >= 2 for w in network.weights)


def test_nothing_is_written_when_the_gate_refuses(network, export, tmp_path):
    with pytest.raises(ModelError, match="differ"):
        export(network, SPEC, tmp_path / "x.onnx", SAMPLES, ExportOptions(tolerance=Tolerance(logits=0.0)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("times", [1.001, 3.0])
def test_a_wrong_fold_is_refused(network, export, weights, times, tmp_path, monkeypatch):
    from exporters import keras as exporter

    fold = exporter._fold

    def wrong(convolution, norm):
        fold(convolution, norm)
        convolution.kernel.assign(np.asarray(convolution.kernel) * times)

    monkeypatch.setattr(exporter, "_fold", wrong)
    with pytest.raises(ModelError, match="differ"):
        export(network, SPEC, tmp_path / "x.onnx", SAMPLES, ExportOptions(weights))
    assert list(tmp_path.iterdir()) == []


def test_folding_leaves_the_network_alone(network, export, exported):
    from exporters.keras import fold_batchnorm

    before = network.get_weights()
    folded = fold_batchnorm(network)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(before, folded.get_weights(), strict=True))
    wanted = logits_of(network, SAMPLES)
    assert np.abs(logits_of(folded, SAMPLES) - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_what_does_not_fit_is_refused(network, export, tmp_path):
    path = tmp_path / "x.onnx"
    with pytest.raises(UsageError, match="layout"):
        export(network, replace(SPEC, layout="NHWC"), path, SAMPLES)
    with pytest.raises(UsageError, match="samples"):
        export(network, SPEC, path, SAMPLES[:1])
    with pytest.raises(ModelError, match="classes"):
        export(network, replace(SPEC, classes=("tibia",)), path, SAMPLES)
    assert not path.exists()


def test_layers_without_a_translation_are_named(export, tmp_path):
    import keras
    from keras import layers as k

    image = keras.Input((None, None, 3), name="image")
    twice = k.Conv2D(3, 1, name="twice")
    for last, message in (
        (k.Activation("swish", name="odd")(image), "odd with activation"),
        (k.UpSampling2D(1, interpolation="bilinear", name="odd")(image), "odd with interpolation"),
        (k.LayerNormalization(name="odd")(image), "odd of kind LayerNormalization"),
        (twice(twice(image)), "twice is used"),
    ):
        with pytest.raises(ModelError, match=message):
            export(keras.Model(image, last), SPEC, tmp_path / "x.onnx", SAMPLES)
