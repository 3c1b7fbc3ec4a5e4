"""The networks by name."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch

from seg_core.errors import UsageError
from trainers.torch.baseline import BaselineUNet
from trainers.torch.fine import FineUNet
from trainers.torch.nnunet import nnunet_2d, nnunet_3d
from trainers.torch.pretrained import pretrained_unet

Builder = Callable[[int, int], torch.nn.Module]

_BACKBONES = {
    "unet-resnet34": "resnet34",
    "unet-resnet50": "resnet50",
    "unet-vgg19": "vgg19",
    "unet-mobilenetv2": "mobilenet_v2",
}
_BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {"unet-resnet34-fine": FineUNet, "unet-baseline": BaselineUNet, "nnunet-2d": nnunet_2d}
)
_BUILDERS_3D = MappingProxyType({"nnunet-3d": nnunet_3d})


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
        ``NETWORKS`` says. While training it may give a list: logits of falling resolution, the finest first.

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
    if (name in _BUILDERS_3D) != (patch is not None):
        raise UsageError(f"{name} on {'slices' if patch is None else f'patches of {patch}'}", "the other")
    build: Builder
    if patch is not None:
        build = partial(_BUILDERS_3D[name], patch=patch)
        if weights != "random":
            raise UsageError(f"{name} beginning with {weights!r}", "random")
    elif name in _BACKBONES:
        build = partial(pretrained_unet, _BACKBONES[name], weights=weights)
    elif weights != "random":
        raise UsageError(f"{name} beginning with {weights!r}", f"one of {', '.join(_BACKBONES)}, or random")
    elif name in _BUILDERS:
        build = _BUILDERS[name]
    else:
        raise UsageError(f"network {name!r}", f"one of {', '.join((*_BACKBONES, *_BUILDERS))}")
    return build(classes, channels)
