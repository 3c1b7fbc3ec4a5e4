"""The report's baseline (4.5.1): a plain U-Net."""

from itertools import pairwise

import torch
from torch import nn

FEATURES = (64, 128, 256, 512, 1024)


class BaselineUNet(nn.Module):
    """A U-Net of four stages and a bottleneck with dropout; Ronneberger et al. 2015 with padding.

    Two 3 x 3 convolutions with batch normalisation (report 6.3) and ReLU a stage, max pooling, transposed
    convolutions. These are 2 x 2, with which the network has the 31 M parameters of the report's Table 5;
    with the 3 x 3 of its text it had 34.5. Without normalisation the report's loss and rate (Dice, 1e-3) make
    everything background within a dozen steps, and it stays so.

    Parameters
    ----------
    classes, channels : int
        Of the output and the input.
    features : tuple of int
        Channels of each stage; the last one is the bottleneck's.
    dropout : float
        Share of the bottleneck's features that is dropped while training.
    """

    def __init__(
        self, classes: int, channels: int, features: tuple[int, ...] = FEATURES, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(_block(a, b) for a, b in pairwise((channels, *features)))
        self.pool, self.dropout = nn.MaxPool2d(2), nn.Dropout(dropout)
        steps = list(pairwise(features[::-1]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in steps)
        self.decoder = nn.ModuleList(_block(2 * b, b) for _, b in steps)
        self.head = nn.Conv2d(features[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes, rows, columns) of images (n, channels, rows, columns)."""
        skips: list[torch.Tensor] = []
        for stage in self.encoder:
            x = stage(self.pool(x) if skips else x)
            skips.append(x)
        x = self.dropout(skips.pop())
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = stage(torch.cat([skips.pop(), up(x)], 1))
        logits: torch.Tensor = self.head(x)
        return logits


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        convolution = nn.Conv2d(channels, channels_out, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # type: ignore[arg-type]
        layers += [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
