"""A network of this trainer as an exported model file holds it, to be trained on.

In the file each convolution contains the BatchNorm after it (`exporters.torch.fold_batchnorm`). Training
needs the BatchNorms again: they are given the data's own mean and variance, and the scale and shift that undo
them, so that the network computes what the file computes until it learns.
"""

from itertools import pairwise
from pathlib import Path

import torch

from seg_core.errors import MissingPackageError, ModelError
from seg_core.model_spec import METADATA_KEY, ModelSpec

Norm = torch.nn.BatchNorm2d


def read_model(path: Path) -> tuple[ModelSpec, dict[str, torch.Tensor]]:
    """Return a model file's description and weights by name, float32.

    Raises
    ------
    ModelError
        If it is no model file of lls.
    MissingPackageError
        If onnx is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingPackageError(
            f"onnx cannot be imported: {error}", fix="pip install 'lls[torch]'"
        ) from error
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf and the file system raise many kinds
        raise ModelError(f"{path} cannot be read: {error}", "a model file of lls") from error
    described = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if not described:
        raise ModelError(f"{path} has no description of lls", fix="name a file that lls export wrote")
    weights = {
        tensor.name.removesuffix(".float16"): torch.from_numpy(numpy_helper.to_array(tensor).copy()).float()
        for tensor in model.graph.initializer
    }
    return ModelSpec.from_json(described[0]), weights


def fill(network: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> list[str]:
    """Put a file's weights into a network, which then computes the same in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
        Of the architecture that was exported; changed.
    weights : dict of str to Tensor
        Of the file; names as in the network, a folded BatchNorm's shift as its convolution's ``bias``.
    path : Path
        The file, for messages.

    Returns
    -------
    list of str
        Names of the BatchNorms that were folded: `unfold` them before training.

    Raises
    ------
    ModelError
        If the file lacks a weight, or has one of another shape.
    """
    state = dict(network.state_dict())
    folded = [pair for pair in _pairs(network) if f"{pair[1]}.weight" not in weights]
    for convolution, norm in folded:
        size = state[f"{norm}.weight"].shape
        eps = network.get_submodule(norm).eps
        state[f"{norm}.weight"] = torch.ones(size)
        state[f"{norm}.running_mean"] = torch.zeros(size)
        state[f"{norm}.running_var"] = torch.full(size, 1 - float(eps))
        own = f"{convolution}.bias" in state  # then it has the shift already
        state[f"{norm}.bias"] = torch.zeros(size) if own else _weight(weights, f"{convolution}.bias", path)
    opened = {norm for _, norm in folded}
    for name in state:
        if name.rpartition(".")[0] not in opened and not name.endswith("num_batches_tracked"):
            state[name] = _weight(weights, name, path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path}: {error}", "weights of this network") from error
    return [norm for _, norm in folded]


@torch.no_grad()
def unfold(network: torch.nn.Module, norms: list[str], images: torch.Tensor) -> None:
    """Give BatchNorms the mean and variance of what reaches them, and what undoes these.

    Parameters
    ----------
    network : torch.nn.Module
        As `fill` left it; changed, but for what it computes in evaluation mode.
    norms : list of str
        Names of the BatchNorms.
    images : Tensor of float32, (n, channels, rows, columns)
        A batch to be learned from.
    """

    def measure(norm: Norm, inputs: tuple[torch.Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].float(), (0, 2, 3), correction=0)
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
        shift = norm.bias - norm.running_mean * gain  # type: ignore[operator]
        norm.running_mean, norm.running_var = mean, variance
        norm.weight.copy_(gain * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + mean * gain)

    modules = [network.get_submodule(name) for name in norms]
    hooks = [module.register_forward_pre_hook(measure) for module in modules]  # type: ignore[arg-type]
    network.eval()
    network(images)
    for hook in hooks:
        hook.remove()


def _pairs(network: torch.nn.Module) -> list[tuple[str, str]]:
    """Return the names of convolutions, each with that of the BatchNorm registered after it."""
    return [
        (f"{outer}.{name}".lstrip("."), f"{outer}.{after}".lstrip("."))
        for outer, module in network.named_modules()
        for (name, first), (after, second) in pairwise(module.named_children())
        if isinstance(first, torch.nn.Conv2d) and isinstance(second, Norm)
    ]


def _weight(weights: dict[str, torch.Tensor], name: str, path: Path) -> torch.Tensor:
    if name not in weights:
        raise ModelError(f"{path} has no {name}", "a file of the same network, exported from PyTorch")
    return weights[name]
