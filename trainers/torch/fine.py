"""The report's U-Net on ResNet34 on pixels half as large, at all but the same cost.

Blocks of 2 x 2 pixels become channels before the network, and its output channels blocks of 2 x 2 pixels
after it (Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel
convolutional neural network, CVPR 2016): the same layers then see the same millimetres, but know where within
their own pixel a border lies. The last stage of the decoder sees the input too, since borders are there.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from trainers.torch.pretrained import pretrained_unet

FACTOR = 2
STEM, LAST, HEAD = "encoder.conv1.weight", "decoder.blocks.4.conv1.0.weight", "segmentation_head.0"
Weights = dict[str, npt.NDArray[np.float32]]


class FineUNet(torch.nn.Module):
    """See the module.

    Parameters
    ----------
    classes, channels : int
        Of the output and the input, which have the same rows and columns, multiples of 64.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        blocks = FACTOR**2
        unet = pretrained_unet("resnet34", blocks * classes, blocks * channels)
        self.encoder, self.decoder, self.segmentation_head = (
            unet.encoder,
            unet.decoder,
            unet.segmentation_head,
        )
        first = unet.decoder.blocks[-1].conv1[0]  # type: ignore[union-attr, index]
        self.decoder.blocks[-1].conv1[0] = torch.nn.Conv2d(  # type: ignore[union-attr, index]
            first.in_channels + blocks * channels, first.out_channels, 3, padding=1, bias=False
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes, rows, columns) of images (n, channels, rows, columns)."""
        x = pixel_unshuffle(image, FACTOR)
        # The encoder's first feature is its input, which the decoder leaves out: given twice, one stays.
        decoded = self.decoder([x, *self.encoder(x)])
        return pixel_shuffle(self.segmentation_head(decoded), FACTOR)


def widened(weights: Weights, channels: int) -> Weights:
    """Return the weights with which a fine network computes what a plain one does on its own pixels.

    Parameters
    ----------
    weights : dict of str to ndarray of float32
        Of ``unet-resnet34``, by name; with as many channels, or channels that repeat one slice. Left alone.
    channels : int
        Of the fine network; the middle one gets what the plain network does with a repeated slice.

    Returns
    -------
    dict of str to ndarray of float32
        Each pixel of a block counts a quarter; each pixel of the output is its block's. The rest as it was.
    """
    blocks = FACTOR**2
    stem, last, head = weights[STEM], weights[LAST], weights[f"{HEAD}.weight"]
    wide = np.zeros((stem.shape[0], channels, *stem.shape[2:]), np.float32)
    wide[:, channels // 2] = stem.sum(1)
    unseen = np.zeros((last.shape[0], blocks * channels, *last.shape[2:]), np.float32)
    return weights | {
        STEM: np.repeat(wide / blocks, blocks, axis=1),
        LAST: np.concatenate([last, unseen], axis=1),
        f"{HEAD}.weight": np.repeat(head, blocks, axis=0),
        f"{HEAD}.bias": np.repeat(weights[f"{HEAD}.bias"], blocks, axis=0),
    }
