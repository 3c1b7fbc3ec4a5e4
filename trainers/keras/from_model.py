"""A network of this trainer as an exported model file holds it, to be trained on.

In the file each convolution contains the BatchNorm after it (`exporters.keras.fold_batchnorm`). Training
needs the BatchNorms again: they are given the data's own mean and variance, and the scale and shift that undo
them, so that the network computes what the file computes until it learns.
"""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras.layers import BatchNormalization, DepthwiseConv2D

from seg_core.errors import ModelError

Weights = dict[str, npt.NDArray[np.float32]]
_PARTS = MappingProxyType(
    {
        "kernel": "weight",
        "bias": "bias",
        "gamma": "scale",
        "beta": "bias",
        "moving_mean": "mean",
        "moving_variance": "variance",
    }
)
"""Names of a layer's variables -> those of a file's weights, after the layer's own name."""


def read_variables(network: keras.Model, weights: Weights, path: Path) -> tuple[Weights, list[str]]:
    """Return what a network's variables are in a file, with which it computes the same in evaluation.

    Parameters
    ----------
    network : keras.Model
        Of the architecture that was exported; left alone.
    weights : dict of str to ndarray of float32
        Of the file; named after layers, a folded BatchNorm's shift as its convolution's ``bias``.
    path : Path
        The file, for messages.

    Returns
    -------
    variables : dict of str to ndarray of float32
        By the paths of the network's variables.
    folded : list of str
        Names of the BatchNorms that were folded: `unfold` them before training.

    Raises
    ------
    ModelError
        If the file lacks a weight.
    """
    found, folded = dict(weights), dict[str, str]()
    for norm, source in _before_norms(network).items():
        if f"{norm}.mean" in weights or f"{source}.bias" not in weights:
            continue
        folded[source] = norm
        shift = found[f"{source}.bias"]
        found[f"{source}.bias"] = np.zeros_like(shift)
        one = np.ones_like(shift)
        variance = one - np.float32(network.get_layer(norm).epsilon)
        parts = {"scale": one, "bias": shift, "mean": 0 * one, "variance": variance}
        found |= {f"{norm}.{part}": value for part, value in parts.items()}
    result = {}
    for layer in network.layers:
        for variable in layer.weights:
            name = f"{layer.name}.{_PARTS[variable.name]}"
            if name not in found:
                raise ModelError(f"{path} has no {name}", "a file of the same network, exported from Keras")
            kernel = variable.name == "kernel"
            result[variable.path] = _channels_last(found[name], layer) if kernel else found[name]
    return result, list(folded.values())


def unfold(network: keras.Model, norms: list[str], images: tf.Tensor) -> None:
    """Give BatchNorms the mean and variance of what reaches them, and what undoes these.

    Parameters
    ----------
    network : keras.Model
        With the variables that `read_variables` gave; changed, but for what it computes in evaluation.
    norms : list of str
        Names of the BatchNorms.
    images : Tensor of float32, (n, rows, columns, channels)
        A batch to be learned from.
    """
    layers = [network.get_layer(name) for name in norms]
    reaching = keras.Model(network.input, [layer.input for layer in layers])(images, training=False)
    for layer, inputs in zip(layers, reaching, strict=True):
        mean, variance = tf.nn.moments(tf.cast(inputs, tf.float32), (0, 1, 2))
        gain = layer.gamma / tf.sqrt(layer.moving_variance + layer.epsilon)
        shift = layer.beta - layer.moving_mean * gain
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
        layer.gamma.assign(gain * tf.sqrt(variance + layer.epsilon))
        layer.beta.assign(shift + mean * gain)


def _before_norms(network: keras.Model) -> dict[str, str]:
    """Return the names of BatchNorms, each with that of the layer before it."""
    return {
        entry["name"]: entry["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0]
        for entry in network.get_config()["layers"]
        if entry["class_name"] == BatchNormalization.__name__
    }


def _channels_last(weight: npt.NDArray[np.float32], layer: Any) -> npt.NDArray[np.float32]:
    """Return a convolution's kernel as Keras has it."""
    if isinstance(layer, DepthwiseConv2D):
        multiplier = layer.depth_multiplier
        return weight.reshape(-1, multiplier, *weight.shape[2:]).transpose(2, 3, 0, 1)
    return weight.transpose(2, 3, 1, 0)
