"""DenseUNets in slices and in volumes, and H-DenseUNet, which joins them (the report's 6.2).

Li et al., "H-DenseUNet: Hybrid Densely Connected UNet for Liver and Tumor Segmentation from CT Volumes", IEEE
TMI 2018. Blocks, growth and widths are those of its 2D DenseUNet-167 (on DenseNet-161) and 3D DenseUNet-65;
upsampling repeats pixels, as in the authors' program. Their BatchNorm and the scale after it are one affine
BatchNorm here.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from seg_core.errors import UsageError
from trainers.torch.precision import exact_volumes
from trainers.torch.pretrained import pretrained_unet

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
DROPOUT = 0.3
PATCH_MULTIPLE = (4, 32, 32)
"""Slices are halved twice on the way down, rows and columns five times."""


@dataclass(frozen=True)
class Width:
    """How deep and wide a DenseUNet is.

    Parameters
    ----------
    blocks : tuple of int
        Layers of each dense block.
    growth : int
        Features that a layer adds.
    first : int
        Features of the first convolution.
    decoder : tuple of int
        Features after each of the five upsamplings.
    """

    blocks: tuple[int, ...]
    growth: int
    first: int
    decoder: tuple[int, ...]


SLICES = Width((6, 12, 36, 24), 48, 96, (768, 384, 96, 96, 64))
VOLUME = Width((3, 4, 12, 8), 32, 96, (504, 224, 192, 96, 64))


class _DenseLayer(nn.Module):
    """A bottleneck and a convolution, whose features are put behind those that came in."""

    def __init__(self, axes: int, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _NORM[axes](channels), _CONV[axes](channels, 4 * growth, 1, bias=False)
        self.norm2 = _NORM[axes](4 * growth)
        self.conv2 = _CONV[axes](4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(narrow)))], 1)


class _Transition(nn.Module):
    """Half the features, half the rows and columns."""

    def __init__(self, axes: int, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = _NORM[axes](channels), _CONV[axes](channels, channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2) if axes == 2 else nn.AvgPool3d((1, 2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halved: torch.Tensor = self.pool(self.conv(F.relu(self.norm(x))))
        return halved


class DenseEncoder(nn.Module):
    """A DenseNet without its classifier; in 2D its weights are named as torchvision's.

    Parameters
    ----------
    axes : {2, 3}
        Of space.
    channels : int
        Of the input.
    width : Width

    Attributes
    ----------
    channels : list of int
        Features of each resolution, the finest first.
    """

    def __init__(self, axes: int, channels: int, width: Width) -> None:
        super().__init__()
        count = width.first
        self.channels = [count]
        self.features = nn.ModuleDict(
            {
                "conv0": _CONV[axes](channels, count, 7, 2, 3, bias=False),
                "norm0": _NORM[axes](count),
                "pool0": nn.MaxPool2d(3, 2, 1) if axes == 2 else nn.MaxPool3d(3, 2, 1),
            }
        )
        for number, layers in enumerate(width.blocks, 1):
            if number > 1:
                self.features[f"transition{number - 1}"] = _Transition(axes, count)
                count //= 2
            block: OrderedDict[str, nn.Module] = OrderedDict()
            for layer in range(layers):
                block[f"denselayer{layer + 1}"] = _DenseLayer(axes, count, width.growth)
                count += width.growth
            self.features[f"denseblock{number}"] = nn.Sequential(block)
            self.channels.append(count)
        self.features["norm5"] = _NORM[axes](count)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of each resolution, the finest first."""
        parts = self.features
        found = [F.relu(parts["norm0"](parts["conv0"](x)))]
        x = parts["pool0"](found[0])
        for number in range(1, len(self.channels)):
            x = parts[f"denseblock{number}"](parts[f"transition{number - 1}"](x) if number > 1 else x)
            found.append(x)
        found[-1] = F.relu(parts["norm5"](x))
        return found


class DenseFeatures(nn.Module):
    """A DenseUNet up to its last features, which have the input's resolution.

    Features of the encoder are added to those that come up, through a convolution where their numbers differ.

    Parameters
    ----------
    axes, channels, width
        As `DenseEncoder`'s.
    """

    def __init__(self, axes: int, channels: int, width: Width) -> None:
        super().__init__()
        self.encoder = DenseEncoder(axes, channels, width)
        *skips, count = self.encoder.channels
        widths = [count, *width.decoder]
        conv = _CONV[axes]
        self.skips = nn.ModuleList(
            nn.Identity() if skip == above else conv(skip, above, 1)
            for skip, above in zip(reversed(skips), widths, strict=False)
        )
        self.steps = nn.ModuleList(
            nn.Sequential(conv(a, b, 3, padding=1), _NORM[axes](b), nn.ReLU(inplace=True))
            for a, b in pairwise(widths)
        )
        self.steps[-1].insert(1, nn.Dropout(DROPOUT))  # type: ignore[operator]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features (n, width.decoder[-1], *space) of images (n, channels, *space)."""
        *skips, x = self.encoder(x)
        *steps, last = self.steps
        for skip, connect, step in zip(reversed(skips), self.skips, steps, strict=True):
            x = step(F.interpolate(x, skip.shape[2:]) + connect(skip))
        features: torch.Tensor = last(F.interpolate(x, scale_factor=2))
        return features


class DenseUNet(nn.Module):
    """A DenseUNet of slices.

    Parameters
    ----------
    classes, channels : int
        Of the output and the input; the paper's three channels are a slice and its neighbours.
    width : Width
    """

    def __init__(self, classes: int, channels: int, width: Width) -> None:
        super().__init__()
        self.features = DenseFeatures(2, channels, width)
        self.head = nn.Conv2d(width.decoder[-1], classes, 1)

    @property
    def encoder(self) -> DenseEncoder:
        """The DenseNet in it."""
        return self.features.encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes, rows, columns) of images (n, channels, rows, columns)."""
        logits: torch.Tensor = self.head(self.features(x))
        return logits


class HDenseUNet(nn.Module):
    """H-DenseUNet: a volume with what a DenseUNet of slices says of it, and the features of both joined.

    Each slice goes with its neighbours (the border repeats) through the DenseUNet of slices. A DenseUNet of
    volumes sees the volume and these probabilities; the last features of the two are added, convolved and
    classified.

    Parameters
    ----------
    classes, channels : int
        Of the output and the input.
    slices, volume : Width
        Of the two; the last number of their decoders is the same.
    """

    def __init__(self, classes: int, channels: int, slices: Width, volume: Width) -> None:
        super().__init__()
        self.slices = DenseUNet(classes, 3 * channels, slices)
        self.volume = DenseFeatures(3, channels + classes, volume)
        count = volume.decoder[-1]
        self.fusion = nn.Sequential(
            nn.Conv3d(count, count, 3, padding=1),
            nn.Dropout(DROPOUT),
            nn.BatchNorm3d(count),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Conv3d(count, classes, 1)

    @property
    def encoder(self) -> DenseEncoder:
        """The DenseNet of slices in it."""
        return self.slices.encoder

    def to(self, *args: Any, memory_format: torch.memory_format | None = None, **options: Any) -> Self:  # type: ignore[override]
        """Move or convert; a layout of volumes becomes one of slices in the DenseUNet of slices."""
        super().to(*args, **options)
        if memory_format == torch.channels_last_3d:
            for module in (self.volume, self.fusion, self.head):
                module.to(memory_format=memory_format)
            self.slices.to(memory_format=torch.channels_last)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits (n, classes, slices, rows, columns) of volumes (n, channels, slices, rows, columns).

        While training a list: with those of the DenseUNet of slices, which count half as much in the loss.
        """
        with exact_volumes(x):
            logits, logits2d = self._logits(x)
        return [logits, logits2d] if self.training else logits

    def _logits(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hybrid's logits and those of the slices."""
        depth = x.shape[2]
        padded = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
        around = torch.cat([padded[:, :, step : step + depth] for step in range(3)], 1)
        flat = self.slices.features(around.transpose(1, 2).flatten(0, 1))
        features, logits2d = (
            found.unflatten(0, (-1, depth)).transpose(1, 2) for found in (flat, self.slices.head(flat))
        )
        seen = torch.cat([x, logits2d.softmax(1)], 1)
        return self.head(self.fusion(self.volume(seen) + features)), logits2d


def denseunet_161(classes: int, channels: int, weights: str = "random") -> nn.Module:
    """Build the DenseUNet of slices on DenseNet-161.

    Parameters
    ----------
    classes, channels : int
        Of the output and the input.
    weights : str
        See `trainers.torch.network.build_network`.

    Raises
    ------
    MissingPackageError
        If segmentation-models-pytorch is not installed, and weights are wanted.
    ModelError
        If the weights cannot be had.
    """
    network = DenseUNet(classes, channels, SLICES)
    _begin(network.encoder, channels, weights)
    return network


def h_denseunet(classes: int, channels: int, patch: tuple[int, ...], weights: str = "random") -> nn.Module:
    """Build H-DenseUNet; ``weights`` are those of the DenseNet of slices in it.

    Parameters
    ----------
    classes, channels, weights
        As `denseunet_161`'s.
    patch : tuple of int
        Slices, rows, columns.

    Raises
    ------
    UsageError
        If the patch cannot be halved as often as the network halves it.
    MissingPackageError, ModelError
        As `denseunet_161`.
    """
    if any(length % multiple for length, multiple in zip(patch, PATCH_MULTIPLE, strict=True)):
        raise UsageError(f"patches of {patch}", f"multiples of {PATCH_MULTIPLE}")
    network = HDenseUNet(classes, channels, SLICES, VOLUME)
    _begin(network.encoder, 3 * channels, weights)
    return network


def _begin(encoder: DenseEncoder, channels: int, weights: str) -> None:
    """Give an encoder of slices the weights with which smp's begins."""
    if weights != "random":
        encoder.load_state_dict(pretrained_unet("densenet161", 2, channels, weights).encoder.state_dict())
