"""The networks by name."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from seg_core.errors import UsageError
from trainers.torch.baseline import BaselineUNet
from trainers.torch.denseunet import denseunet_161, h_denseunet
from trainers.torch.fine import FineUNet
from trainers.torch.nnunet import nnunet_2d, nnunet_3d
from trainers.torch.pretrained import pretrained_unet

_PRETRAINED: Mapping[str, Callable[..., torch.nn.Module]] = MappingProxyType(
    {
        "unet-resnet34": partial(pretrained_unet, "resnet34"),
        "unet-resnet50": partial(pretrained_unet, "resnet50"),
        "unet-vgg19": partial(pretrained_unet, "vgg19"),
        "unet-mobilenetv2": partial(pretrained_unet, "mobilenet_v2"),
        "denseunet-161": denseunet_161,
        "h-denseunet": h_denseunet,
    }
)
_OTHERS: Mapping[str, Callable[..., torch.nn.Module]] = MappingProxyType(
    {
        "unet-resnet34-fine": FineUNet,
        "unet-baseline": BaselineUNet,
        "nnunet-2d": nnunet_2d,
        "nnunet-3d": nnunet_3d,
    }
)
_OF_PATCHES = frozenset({"nnunet-3d", "h-denseunet"})


def build_network(
    name: str,
    classes: int,
    channels: int,
    weights: str = "random",
    patch: tuple[int, int, int] | None = None,
) -> torch.nn.Module:
    """Build a network that gives logits.

    Parameters
    ----------
    name : str
        One of ``trainers.torch.NETWORKS``.
    classes : int
        Number of output channels, the background among them; at least 2.
    channels : int
        Number of input channels.
    weights : str
        The encoder's start: ``random``; ``imagenet``, as smp's own loader brings it; or the path of a file
        with a state dict of the encoder, as torchvision publishes them.
    patch : tuple of int, optional
        Slices, rows, columns that a 3D network sees.

    Returns
    -------
    torch.nn.Module
        (n, channels, *space) float32 -> logits (n, classes, *space); the axes of space are multiples of what
        ``NETWORKS`` says. While training it may give a list: logits of falling weight, its own first.

    Raises
    ------
    UsageError
        If there is no such network, it has no weights to begin with, or it is not one of patches, or is.
    MissingPackageError
        If its package is not installed.
    ModelError
        If the weights cannot be had.
    """
    if classes < 2 or channels < 1:
        raise UsageError(f"{classes} classes, {channels} channels", "2 or more, 1 or more")
    builders = _PRETRAINED | _OTHERS
    if name not in builders:
        raise UsageError(f"network {name!r}", f"one of {', '.join(builders)}")
    if (name in _OF_PATCHES) != (patch is not None):
        raise UsageError(f"{name} on {'slices' if patch is None else f'patches of {patch}'}", "the other")
    options: dict[str, Any] = {} if patch is None else {"patch": patch}
    if name in _PRETRAINED:
        options["weights"] = weights
    elif weights != "random":
        raise UsageError(f"{name} beginning with {weights!r}", f"one of {', '.join(_PRETRAINED)}, or random")
    return builders[name](classes, channels, **options)
