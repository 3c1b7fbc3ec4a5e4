"""A Keras network -> a model file of lls, its graph written layer by layer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from exporters.keras_graph import Layers, write_graph
from exporters.onnx_graph import finish, write
from exporters.options import Exported, ExportOptions, check_classes, check_samples
from exporters.parity import Reference, prove
from seg_core.model_spec import ModelSpec

Float32Array = npt.NDArray[np.float32]


def load(path: Path) -> tuple[keras.Model, dict[str, Any]]:
    """Read a checkpoint of the Keras trainer: a network that computes in float32, and the facts beside it.

    Raises
    ------
    ModelError
        If it cannot be read or does not fit the network.
    """
    from trainers.keras.engine import load_best

    return load_best(path)


def export(
    network: keras.Model,
    spec: ModelSpec,
    path: Path,
    samples: Float32Array,
    options: ExportOptions | None = None,
) -> Exported:
    """Write a network with its description, after proving that ONNX Runtime computes the same.

    Parameters
    ----------
    network : keras.Model
        Functional: (n, rows, columns, channels) float32 -> logits (n, rows, columns, classes + 1); left
        alone. Rows and columns are multiples of ``spec.grid.multiple``.
    spec : ModelSpec
        Its description; the layout is NCHW, as the file's will be.
    path : Path
        The file; replaced if it is there.
    samples : ndarray of float32, (n, channels, rows, columns)
        Prepared slices, two or more, on which the two are compared.
    options : ExportOptions, optional

    Raises
    ------
    UsageError
        If the samples do not fit the description.
    ModelError
        If a layer has no translation or the file computes something else; nothing is written.
    OutputError
        If the file cannot be written.
    """
    options = options or ExportOptions()
    check_samples(spec, samples)
    with tf.device("/CPU:0"):  # GPUs round products to 19 bits
        reference = Reference(_logits(network, samples))
        check_classes(spec, reference.trained)
        stored = fold_batchnorm(network)
        if options.weights == "float16":
            folded = _logits(stored, samples)
            _round_weights(stored)
            reference = replace(reference, folded=folded, rounded=_logits(stored, samples))
    model = finish(write_graph(stored), spec, options.weights)
    parity, difference = prove(model, samples, reference, options.tolerance)
    return Exported(path, write(model, path), parity, difference, spec)


def fold_batchnorm(network: keras.Model) -> keras.Model:
    """Return a copy in which each BatchNorm that follows a convolution does nothing but add.

    Its scale goes into the convolution's kernel, in float64; `write_graph` takes what it adds as the bias.
    """
    result = keras.models.clone_model(network)
    result.set_weights(network.get_weights())
    for convolution, norm in Layers(result).pairs().items():
        _fold(result.get_layer(convolution), result.get_layer(norm))
    return result


def _fold(convolution: Any, norm: Any) -> None:
    mean, variance = _float64(norm.moving_mean), _float64(norm.moving_variance)
    scale = (_float64(norm.gamma) if norm.scale else 1.0) / np.sqrt(variance + norm.epsilon)
    added = _float64(norm.beta) - mean * scale
    if convolution.use_bias:
        added += _float64(convolution.bias) * scale
        convolution.bias.assign(np.zeros_like(scale))
    kernel = _float64(convolution.kernel)
    if isinstance(convolution, keras.layers.DepthwiseConv2D):
        factor = scale.reshape(kernel.shape[2:])
    else:
        factor = scale[:, None] if isinstance(convolution, keras.layers.Conv2DTranspose) else scale
    convolution.kernel.assign(kernel * factor)
    norm.moving_mean.assign(np.zeros_like(scale))
    norm.moving_variance.assign(np.full_like(scale, 1 - norm.epsilon))
    if norm.scale:
        norm.gamma.assign(np.ones_like(scale))
    norm.beta.assign(added)


def _float64(variable: Any) -> npt.NDArray[np.float64]:
    return np.asarray(variable).astype(np.float64)


def _round_weights(network: keras.Model) -> None:
    """Round what the file will store in 16 bit, in place: tensors of two and more axes."""
    for variable in network.weights:
        if len(variable.shape) >= 2:
            variable.assign(np.asarray(variable).astype(np.float16).astype(np.float32))


def _logits(network: keras.Model, samples: Float32Array) -> Float32Array:
    """Return the framework's logits (n, classes + 1, rows, columns), slice by slice to spare memory."""
    images = np.moveaxis(samples, 1, -1)
    parts = [np.asarray(network(images[i : i + 1], training=False)) for i in range(len(images))]
    return np.ascontiguousarray(np.moveaxis(np.concatenate(parts), -1, 1), np.float32)
