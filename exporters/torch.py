"""A PyTorch network -> a model file of lls."""

import copy
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from exporters.blocks import rewrite_blocks
from exporters.onnx_graph import INPUT, LOGITS, OPSET, finish, write
from exporters.options import Exported, ExportOptions, check_classes, check_samples
from exporters.parity import Reference, Tolerance, compare, prove
from seg_core.errors import LlsError, ModelError
from seg_core.model_spec import ModelSpec
from trainers.torch.from_model import CONVOLUTIONS, Norm


def load(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Read a checkpoint of the PyTorch trainer: the network in evaluation mode, and the facts beside it.

    Raises
    ------
    ModelError
        If it cannot be read or does not fit the network.
    """
    from trainers.torch.engine import load_best

    return load_best(path)


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
        columns are multiples of ``spec.grid.multiple``. Where the description has a patch, that is the space.
    spec : ModelSpec
        Its description; the layout is NCHW.
    path : Path
        The file; replaced if it is there.
    samples : ndarray of float32, (n, channels, *space)
        Prepared slices or patches, two or more, on which the two are compared.
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
    check_samples(spec, samples)
    original = copy.deepcopy(network).to("cpu", torch.float32).eval()
    reference = Reference(_logits(original, samples))
    check_classes(spec, reference.trained)
    stored = fold_batchnorm(original, samples)
    if options.weights == "float16":
        folded = _logits(stored, samples)
        _round_weights(stored)
        reference = replace(reference, folded=folded, rounded=_logits(stored, samples))
    bare = _graph(stored, samples)
    rewrite_blocks(bare, spec.channels)
    model = finish(bare, spec, options.weights)
    parity, difference = prove(model, samples, reference, options.tolerance)
    return Exported(path, write(model, path), parity, difference, spec)


def fold_batchnorm(network: torch.nn.Module, samples: npt.NDArray[np.float32]) -> torch.nn.Module:
    """Return a copy of an evaluating network in which convolutions contain the BatchNorm that follows.

    Computed in float64. Pairs are those registered next to each other in a module, as in smp's; where that is
    not how they are used, so that the copy gives something else for ``samples``, it is left as it was.
    """
    if not any(isinstance(module, Norm) for module in network.modules()):
        return copy.deepcopy(network)
    result = copy.deepcopy(network).to(torch.float64).eval()
    for module in list(result.modules()):
        children = list(module.named_children())
        for (name, first), (after, second) in pairwise(children):
            if (
                isinstance(first, CONVOLUTIONS)
                and isinstance(second, Norm)
                and first.out_channels == second.num_features
            ):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, after, torch.nn.Identity())
    folded = result.to(torch.float32)
    apart = compare(_logits(folded, samples[:1]), _logits(network, samples[:1]))
    return folded if apart.logits <= Tolerance().logits else copy.deepcopy(network)


@torch.no_grad()
def _round_weights(network: torch.nn.Module) -> None:
    """Round what the file will store in 16 bit, in place: tensors of two and more axes."""
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            parameter.copy_(parameter.half().float())


@torch.inference_mode()
def _logits(network: torch.nn.Module, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = network(torch.from_numpy(samples)).numpy()
    return logits


def _graph(network: torch.nn.Module, samples: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """Export with any number of images, and of a network of slices any number of rows and columns."""
    for module in network.modules():
        if hasattr(module, "inplace"):  # decomposed over symbolic sizes, which takes far longer
            module.inplace = False
    dynamic = dict.fromkeys((0, 2, 3) if samples.ndim == 4 else (0,), torch.export.Dim.DYNAMIC)
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
