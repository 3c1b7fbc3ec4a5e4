"""The networks by name: U-Nets on pretrained encoders, and the report's plain one."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras import layers

from seg_core.errors import ModelError, UsageError
from trainers.keras.resnet34 import resnet34

DECODER = (256, 128, 64, 32, 16)
BASELINE = (64, 128, 256, 512, 1024)

_APPLICATIONS: Mapping[str, tuple[Callable[..., keras.Model], tuple[str, ...]]] = MappingProxyType(
    {
        "unet-resnet50": (
            keras.applications.ResNet50,
            ("conv4_block6_out", "conv3_block4_out", "conv2_block3_out", "conv1_relu"),
        ),
        "unet-vgg19": (
            keras.applications.VGG19,
            ("block5_conv4", "block4_conv4", "block3_conv4", "block2_conv2", "block1_conv2"),
        ),
        "unet-mobilenetv2": (
            keras.applications.MobileNetV2,
            ("block_13_expand_relu", "block_6_expand_relu", "block_3_expand_relu", "block_1_expand_relu"),
        ),
    }
)
"""Encoders of keras.applications, with the layers at which the decoder takes from them, the deepest first."""
_MEAN_BGR = (103.939, 116.779, 123.68)
"""Of ImageNet, as keras.applications subtracts it."""


def build_network(name: str, classes: int, channels: int, weights: str = "random") -> keras.Model:
    """Build a network that gives logits.

    Parameters
    ----------
    name : str
        One of ``trainers.keras.NETWORKS``.
    classes : int
        Number of output channels, the background among them; at least 2.
    channels : int
        Number of input channels.
    weights : str
        The encoder's start: ``random``; ``imagenet``, as Keras' own loader brings it; or the path of an HDF5
        file with the encoder's weights, as Keras publishes them.

    Returns
    -------
    keras.Model
        (n, rows, columns, channels) float32 -> logits (n, rows, columns, classes) float32; rows and columns
        are multiples of what ``NETWORKS`` says. Layers of the decoder have names that begin with ``decoder``.

    Raises
    ------
    UsageError
        If there is no such network, or it has no weights to begin with, or not for so many channels.
    ModelError
        If the weights cannot be had.
    """
    if classes < 2 or channels < 1:
        raise UsageError(f"{classes} classes, {channels} channels", "2 or more, 1 or more")
    known = ("unet-resnet34", *_APPLICATIONS)
    if name not in (*known, "unet-baseline"):
        raise UsageError(f"network {name!r}", f"one of {', '.join((*known, 'unet-baseline'))}")
    image = keras.Input((None, None, channels), name="image")
    if name == "unet-baseline":
        if weights != "random":
            raise UsageError(f"{name} beginning with {weights!r}", f"one of {', '.join(known)}, or random")
        return baseline_unet(image, classes)
    if weights != "random" and channels != 3:
        raise UsageError(f"{weights} for {channels} channels", "3, as the published weights take")
    try:
        encoder, skips = _encoder(name, image, weights)
    except Exception as error:  # downloads and HDF5 raise dozens of kinds
        if weights == "random":
            raise
        raise ModelError(
            f"the encoder's weights {weights} of {name} could not be loaded: {error}",
            fix="connect to the internet once, or name a file with the encoder's weights",
        ) from error
    return _unet(image, encoder, skips, classes)


def freeze_encoder(network: keras.Model) -> None:
    """Keep an encoder's convolutions as they are; its normalisations stay free, as in the report's Figure 11.

    Raises
    ------
    UsageError
        If the network has no encoder that could have been trained before.
    """
    if network.name == "unet-baseline":
        raise UsageError("a network without an encoder cannot freeze it", fix="train all of it")
    for layer in network.layers:
        if not layer.name.startswith("decoder") and not isinstance(layer, layers.BatchNormalization):
            layer.trainable = False


def baseline_unet(image: Any, classes: int, features: Sequence[int] = BASELINE) -> keras.Model:
    """Build the report's 4.5.1: Ronneberger et al. 2015 with padding, dropout in the bottleneck.

    Two 3 x 3 convolutions with batch normalisation (report 6.3) and ReLU a stage, max pooling, transposed
    convolutions. These are 2 x 2, with which the network has the 31 M parameters of the report's Table 5;
    with the 3 x 3 of its text it had 34.5. Without normalisation the report's loss and rate (Dice, 1e-3) make
    everything background within a dozen steps, and it stays so.

    Parameters
    ----------
    image : KerasTensor
        Input, (n, rows, columns, channels).
    classes : int
        Of the output.
    features : sequence of int
        Channels of each stage; the last one is the bottleneck's.
    """
    x, skips = image, []
    for stage, width in enumerate(features):
        if stage:
            x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
        for part in "ab":
            x = _convolution(x, width, f"encoder{stage}{part}")
        skips.append(x)
    x = layers.Dropout(0.5, name="dropout")(skips.pop())
    for stage, (_, width) in enumerate(pairwise(features[::-1])):
        x = layers.Conv2DTranspose(width, 2, strides=2, padding="same", name=f"decoder{stage}_up")(x)
        x = layers.Concatenate(name=f"decoder{stage}_concat")([skips.pop(), x])
        for part in "ab":
            x = _convolution(x, width, f"decoder{stage}{part}")
    return keras.Model(image, _head(x, classes, 1), name="unet-baseline")


def _encoder(name: str, image: Any, weights: str) -> tuple[keras.Model, tuple[str, ...]]:
    """Return an encoder that ends at 1/32 of the image, and the names of the layers to take from."""
    if name == "unet-resnet34":
        return resnet34(image, weights), (
            "stage4_unit1_relu1",
            "stage3_unit1_relu1",
            "stage2_unit1_relu1",
            "relu0",
        )
    make, skips = _APPLICATIONS[name]
    start = None if weights == "random" else weights
    encoder = make(include_top=False, weights=start, input_tensor=image, name=name)
    if start is not None:
        _take_unit_range(encoder, name)
    return encoder, skips


def _take_unit_range(encoder: keras.Model, name: str) -> None:
    """Fold what keras.applications does to images of 0 to 255 into the first convolution: ours are of 0 to 1.

    Where the image is padded the two differ: theirs pads the mean image, ours black.
    """
    first = next(layer for layer in encoder.layers if isinstance(layer, layers.Conv2D))
    kernel = first.kernel.numpy()
    if name == "unet-mobilenetv2":  # 2 x - 1, and a BatchNorm where there is no bias
        first.kernel.assign(2 * kernel)
        mean = encoder.get_layer("bn_Conv1").moving_mean
        mean.assign(mean + kernel.sum((0, 1, 2)))
    else:  # channels as BGR, less ImageNet's mean
        first.kernel.assign(255 * kernel[:, :, ::-1])
        first.bias.assign(first.bias - np.tensordot(kernel.sum((0, 1)), _MEAN_BGR, (0, 0)))


def _unet(image: Any, encoder: keras.Model, skips: Sequence[str], classes: int) -> keras.Model:
    """Add the decoder of segmentation_models: upsample, concatenate, twice convolution, BatchNorm, ReLU."""
    x = encoder.output
    if isinstance(encoder.layers[-1], layers.MaxPooling2D):  # VGG: nothing has yet looked at its last scale
        for part in "ab":
            x = _convolution(x, 512, f"decoder_centre_{part}")
    for stage, width in enumerate(DECODER):
        name = f"decoder_stage{stage}"
        x = layers.UpSampling2D(2, name=f"{name}_up")(x)
        if stage < len(skips):
            skip = encoder.get_layer(skips[stage]).output
            x = layers.Concatenate(name=f"{name}_concat")([x, skip])
        for part in "ab":
            x = _convolution(x, width, f"{name}{part}")
    return keras.Model(image, _head(x, classes, 3), name=encoder.name)


def _convolution(x: Any, width: int, name: str) -> Any:
    x = layers.Conv2D(
        width, 3, padding="same", use_bias=False, kernel_initializer="he_uniform", name=f"{name}_conv"
    )(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))


def _head(x: Any, classes: int, size: int) -> Any:
    """Add the last convolution, in float32 also where the others compute in 16 bit."""
    return layers.Conv2D(classes, size, padding="same", dtype="float32", name="decoder_head")(x)
