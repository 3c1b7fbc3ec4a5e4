"""ResNet34 with activations before the convolutions, as the report's Keras network has it."""

from pathlib import Path
from typing import Any

import keras
from keras import layers

from seg_core.errors import ModelError

IMAGENET = (
    "https://github.com/qubvel/classification_models/releases/download/0.0.1/resnet34_imagenet_1000_no_top.h5"
)
IMAGENET_MD5 = "8caaa0ad39d927cb8ba5385bf945d582"
STAGES = (3, 4, 6, 3)


def resnet34(image: Any, weights: str = "random") -> keras.Model:
    """Build the encoder: He et al., "Identity mappings in deep residual networks", 2016, with 34 layers.

    The data are normalised without a scale of their own, and a block's shortcut begins after its first
    activation where it changes the shape. Names of layers are those of the published ImageNet weights.

    Parameters
    ----------
    image : KerasTensor
        Input, (n, rows, columns, channels).
    weights : str
        ``random``, ``imagenet``, or the path of an HDF5 file with weights.

    Returns
    -------
    keras.Model
        Ends with 512 channels at 1/32 of the image.

    Raises
    ------
    ModelError
        If the file does not hold this encoder's layers.
    """
    x = _normalise(image, "bn_data", scale=False)
    x = layers.ZeroPadding2D(3, name="pad0")(x)
    x = _relu(_normalise(_convolve(x, 64, 7, 2, "conv0"), "bn0"), "relu0")
    x = layers.ZeroPadding2D(1, name="pad1")(x)
    x = layers.MaxPooling2D(3, 2, name="pooling0")(x)
    for stage, units in enumerate(STAGES, 1):
        for unit in range(1, units + 1):
            x = _block(x, 32 * 2**stage, 2 if unit == 1 < stage else 1, f"stage{stage}_unit{unit}_")
    x = _relu(_normalise(x, "bn1"), "relu1")
    encoder = keras.Model(image, x, name="unet-resnet34")
    if weights != "random":
        _load(encoder, _imagenet_file() if weights == "imagenet" else Path(weights))
        _take_unit_range(encoder)
    return encoder


def _block(x: Any, width: int, stride: int, name: str) -> Any:
    """Add two convolutions to what goes past them; the first block of a stage changes the shape."""
    shortcut = x
    x = _relu(_normalise(x, f"{name}bn1"), f"{name}relu1")
    if name.endswith("unit1_"):
        shortcut = _convolve(x, width, 1, stride, f"{name}sc")
    x = layers.ZeroPadding2D(1, name=f"{name}pad1")(x)
    x = _convolve(x, width, 3, stride, f"{name}conv1")
    x = _relu(_normalise(x, f"{name}bn2"), f"{name}relu2")
    x = layers.ZeroPadding2D(1, name=f"{name}pad2")(x)
    return layers.Add(name=f"{name}add")([_convolve(x, width, 3, 1, f"{name}conv2"), shortcut])


def _convolve(x: Any, width: int, size: int, stride: int, name: str) -> Any:
    return layers.Conv2D(width, size, stride, use_bias=False, kernel_initializer="he_uniform", name=name)(x)


def _normalise(x: Any, name: str, scale: bool = True) -> Any:
    return layers.BatchNormalization(epsilon=2e-5, scale=scale, name=name)(x)


def _relu(x: Any, name: str) -> Any:
    return layers.Activation("relu", name=name)(x)


def _take_unit_range(encoder: keras.Model) -> None:
    """Let the published weights, which were taught images of 0 to 255, take ours of 0 to 1."""
    mean, variance = (
        getattr(encoder.get_layer("bn_data"), name) for name in ("moving_mean", "moving_variance")
    )
    mean.assign(mean / 255)
    variance.assign(variance / 255**2)


def _imagenet_file() -> Path:
    """Return the published weights, from Keras' cache folder or from where they lie."""
    return Path(
        keras.utils.get_file(
            IMAGENET.rsplit("/", 1)[1], IMAGENET, cache_subdir="models", file_hash=IMAGENET_MD5
        )
    )


def _load(encoder: keras.Model, path: Path) -> None:
    """Fill the layers by name, all of those that have weights."""
    import h5py

    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        names = {n.decode() if isinstance(n, bytes) else n for n in group.attrs.get("layer_names", ())}
    missing = sorted(layer.name for layer in encoder.layers if layer.weights and layer.name not in names)
    if missing:
        raise ModelError(f"{path} lacks the layers {', '.join(missing[:3])} ...", "a ResNet34 of Keras 2")
    encoder.load_weights(path, by_name=True)
