"""A PyTorch network -> a model file of lls."""

import copy
import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from exporters.onnx_graph import INPUT, LOGITS, OPSET, finish, write
from exporters.parity import Parity, Tolerance, check
from seg_core.errors import LlsError, ModelError, UsageError
from seg_core.model_spec import ModelSpec


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Parameters
    ----------
    weights : {"float32", "float16"}
        Type in which the file stores weights. For float16 the gate's reference is the network with weights
        rounded to it.
    tolerance : Tolerance
        Of the gate.
    """

    weights: Literal["float32", "float16"] = "float32"
    tolerance: Tolerance = field(default_factory=Tolerance)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Parameters
    ----------
    path : Path
    sha256 : str
        Of the file.
    parity : Parity
        How far ONNX Runtime and the framework were apart.
    rounding : Parity
        How far the stored weights' network is from the one that was given: folding and float16.
    """

    path: Path
    sha256: str
    parity: Parity
    rounding: Parity


def export(
    network: torch.nn.Module,
    spec: ModelSpec,
    path: Path,
    samples: npt.NDArray[np.float32],
    options: ExportOptions | None = None,
) -> Exported:
    """Write a network with its description, after proving that ONNX Runtime computes the same.

    Parameters
    ----------
    network : torch.nn.Module
        (n, channels, rows, columns) float32 -> logits (n, classes + 1, rows, columns); left alone. Rows and
        columns are multiples of ``spec.grid.multiple``.
    spec : ModelSpec
        Its description; the layout is NCHW.
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
        If the network cannot be exported or the file computes something else; nothing is written.
    OutputError
        If the file cannot be written.
    """
    options = options or ExportOptions()
    _check_samples(spec, samples)
    original = copy.deepcopy(network).to("cpu", torch.float32).eval()
    stored = _round_weights(fold_batchnorm(original), options.weights)
    reference, rounded = _logits(original, samples), _logits(stored, samples)
    if reference.shape[1] != len(spec.classes) + 1:
        raise ModelError(
            f"{reference.shape[1]} output channels", f"{len(spec.classes)} classes and background"
        )
    scale = max(float(np.abs(reference).max()), 1e-6)
    rounding = Parity(
        float(np.abs(rounded - reference).max() / scale),
        float(np.mean(rounded.argmax(1) != reference.argmax(1))),
    )
    model = finish(_graph(stored, samples), spec, options.weights)
    parity = check(model, samples, rounded, options.tolerance)
    return Exported(path, write(model, path), parity, rounding)


def fold_batchnorm(network: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of an evaluating network in which convolutions contain the BatchNorm that follows.

    Computed in float64. Pairs are those registered next to each other in a module, as in smp's; where that is
    not how they are used, the copy is left as it was.
    """
    result = copy.deepcopy(network).to(torch.float64).eval()
    for module in list(result.modules()):
        children = list(module.named_children())
        for (name, first), (after, second) in pairwise(children):
            if (
                isinstance(first, torch.nn.Conv2d)
                and isinstance(second, torch.nn.BatchNorm2d)
                and first.out_channels == second.num_features
            ):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, after, torch.nn.Identity())
    folded = result.to(torch.float32)
    x = torch.linspace(0, 1, 64 * 64).reshape(1, 1, 64, 64).expand(1, _channels(network), 64, 64)
    with torch.inference_mode():
        wanted, found = network(x), folded(x)
    close = float((wanted - found).abs().max()) <= 1e-3 * max(float(wanted.abs().max()), 1e-6)
    return folded if close else copy.deepcopy(network)


def _channels(network: torch.nn.Module) -> int:
    return next((m.in_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)), 1)


def _round_weights(network: torch.nn.Module, weights: str) -> torch.nn.Module:
    """Round what the file will store in 16 bit, in place: tensors of two and more axes."""
    if weights == "float16":
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim >= 2:
                    parameter.copy_(parameter.half().float())
    return network


def _check_samples(spec: ModelSpec, samples: npt.NDArray[np.float32]) -> None:
    if spec.layout != "NCHW":
        raise UsageError(f"layout {spec.layout}", "NCHW: networks of PyTorch have channels first")
    if (
        samples.ndim != 4
        or len(samples) < 2
        or samples.shape[1] != spec.channels
        or samples.dtype != np.float32
    ):
        raise UsageError(
            f"samples {samples.dtype} {samples.shape}", f"float32 (2 or more, {spec.channels}, rows, columns)"
        )


@torch.inference_mode()
def _logits(network: torch.nn.Module, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = network(torch.from_numpy(samples)).numpy()
    return logits


def _graph(network: torch.nn.Module, samples: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """Export with any number of images, rows and columns."""
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        # The exporter calls what torch itself has deprecated.
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network,
                (torch.from_numpy(samples[:2]),),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                input_names=[INPUT],
                output_names=[LOGITS],
                dynamic_shapes=(dynamic,),
            )
        except LlsError:
            raise
        except Exception as error:  # torch.export raises many kinds
            raise ModelError(f"the network cannot be exported: {type(error).__name__}: {error}") from error
    if program is None:
        raise ModelError("the network cannot be exported: the exporter gave nothing")
    model: onnx.ModelProto = program.model_proto
    return model
