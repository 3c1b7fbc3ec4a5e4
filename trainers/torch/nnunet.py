"""nnU-Net's U-Nets (the report's 4.5.2), of the package dynamic-network-architectures."""

import warnings
from typing import Any

import torch

from seg_core.errors import MissingPackageError, UsageError, install_hint
from trainers.torch.precision import exact_volumes
from trainers.torch.pretrained import torchvision_operators

SMALLEST = 4  # voxels of an axis at the coarsest stage, at least
HALVINGS, FEATURES_3D = 5, (32, 64, 128, 256, 320, 320)
FEATURES_2D = (32, 64, 128, 256, 512, 512, 512)


class DeeplySupervised(torch.nn.Module):
    """A network that gives logits of all resolutions but the coarsest while training, else the finest only.

    Parameters
    ----------
    network : torch.nn.Module
        With ``encoder``, and a ``decoder`` that has the switch ``deep_supervision``.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def encoder(self) -> Any:
        """The encoder."""
        return self.network.encoder

    def train(self, mode: bool = True) -> "DeeplySupervised":
        """Turn training on or off, and deep supervision with it."""
        self.network.decoder.deep_supervision = mode  # type: ignore[union-attr]
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> Any:
        """Return logits (n, classes, *space), while training a list of them, the finest first."""
        with exact_volumes(x):
            outputs = self.network(x)
        # nnU-Net gives the coarsest no weight; a network of two stages has but one.
        return outputs[:-1] if self.training and len(outputs) > 1 else outputs


def nnunet_2d(classes: int, channels: int, features: tuple[int, ...] = FEATURES_2D) -> torch.nn.Module:
    """Build nnU-Net's 2D U-Net as it plans it for 256 x 256 pixels: seven stages.

    Parameters
    ----------
    classes, channels : int
        Of the output and the input.
    features : tuple of int
        Channels of each stage.

    Raises
    ------
    MissingPackageError
        If dynamic-network-architectures is not installed.
    """
    return plain_unet(classes, channels, features, [(1, 1), *[(2, 2)] * (len(features) - 1)])


def nnunet_3d(classes: int, channels: int, patch: tuple[int, ...]) -> torch.nn.Module:
    """Build nnU-Net's 3D U-Net as it plans it for a patch: six stages for 128 x 112 x 160 voxels.

    Each axis is halved while it stays even and long enough, up to five times (Isensee et al. 2021).

    Parameters
    ----------
    classes, channels : int
        Of the output and the input.
    patch : tuple of int
        Slices, rows, columns.

    Raises
    ------
    UsageError
        If no axis of the patch can be halved.
    MissingPackageError
        If dynamic-network-architectures is not installed.
    """
    halvings = [_halvings(length) for length in patch]
    stages = 1 + max(halvings)
    if stages == 1:
        raise UsageError(f"patches of {patch}", f"an axis that can be halved to {SMALLEST} or more")
    strides = [tuple(2 if 0 < stage <= n else 1 for n in halvings) for stage in range(stages)]
    return plain_unet(classes, channels, FEATURES_3D[:stages], strides)


def _halvings(length: int) -> int:
    count = 0
    while count < HALVINGS and length % 2 == 0 and length // 2 >= SMALLEST:
        length, count = length // 2, count + 1
    return count


def plain_unet(
    classes: int, channels: int, features: tuple[int, ...], strides: list[tuple[int, ...]]
) -> torch.nn.Module:
    """Build nnU-Net's plain U-Net: instance norm, leaky ReLU, two convolutions a stage, deep supervision.

    Parameters
    ----------
    classes, channels : int
        Of the output and the input.
    features : tuple of int
        Channels of each stage.
    strides : list of tuple of int
        Of each stage along each axis; two axes or three.
    """
    nn, three = torch.nn, len(strides[0]) == 3
    network = plain_conv_unet()(
        input_channels=channels,
        n_stages=len(features),
        features_per_stage=features,
        conv_op=nn.Conv3d if three else nn.Conv2d,
        kernel_sizes=3,
        strides=strides,
        n_conv_per_stage=2,
        num_classes=classes,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d if three else nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    network.apply(network.initialize)
    return DeeplySupervised(network)


def plain_conv_unet() -> Any:
    """Import nnU-Net's plain U-Net.

    Raises
    ------
    MissingPackageError
        If dynamic-network-architectures is not installed.
    """
    with warnings.catch_warnings():
        # timm, which it imports, uses what torch has deprecated; nothing that we can mend.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            torchvision_operators()
            from dynamic_network_architectures.architectures.unet import (  # type: ignore[import-untyped]
                PlainConvUNet,
            )
        except ImportError as error:
            raise MissingPackageError(
                f"dynamic-network-architectures cannot be imported: {error}", fix=install_hint("nnunet")
            ) from error
    return PlainConvUNet
