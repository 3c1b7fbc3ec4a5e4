"""A network of this trainer as an exported model file holds it, to be trained on.

In the file each convolution contains the BatchNorm after it (`exporters.torch.fold_batchnorm`). Training
needs the BatchNorms again: they are given the data's own mean and variance, and the scale and shift that undo
them, so that the network computes what the file computes until it learns.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from seg_core.errors import ModelError

CONVOLUTIONS = torch.nn.Conv2d, torch.nn.Conv3d
Norm = torch.nn.BatchNorm2d | torch.nn.BatchNorm3d
Weights = dict[str, npt.NDArray[np.float32]]


def fill(network: torch.nn.Module, weights: Weights, path: Path) -> list[str]:
    """Put a file's weights into a network, which then computes the same in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
        Of the architecture that was exported; changed.
    weights : dict of str to ndarray of float32
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
    images : Tensor of float32, (n, channels, *space)
        A batch to be learned from.
    """

    def measure(norm: Norm, inputs: tuple[torch.Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].float(), (0, *range(2, inputs[0].ndim)), correction=0)
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
        if isinstance(first, CONVOLUTIONS) and isinstance(second, Norm)
    ]


def _weight(weights: Weights, name: str, path: Path) -> torch.Tensor:
    if name not in weights:
        raise ModelError(f"{path} has no {name}", "a file of the same network, exported from PyTorch")
    return torch.from_numpy(weights[name].copy())
