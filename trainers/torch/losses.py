"""Losses of logits (n, classes, *space) against labels (n, *space).

Pixels labelled ``IGNORED`` count in none of them: they lose nothing and teach nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F  # noqa: N812

from trainers.config import IGNORED, Loss


def dice_loss(logits: torch.Tensor, target: torch.Tensor, smooth: float = 1e-5) -> torch.Tensor:
    """Return one minus the soft Dice coefficient, counted over the whole batch, mean over classes.

    Parameters
    ----------
    logits : Tensor, (n, classes, *space)
        In float32.
    target : Tensor of int64, (n, *space)
    smooth : float
        Added above and below; a class that is neither there nor predicted loses nothing.
    """
    known = target != IGNORED
    classes = target.where(known, 0)
    probabilities = logits.softmax(1) * known[:, None]
    true = probabilities.gather(1, classes[:, None])[:, 0]
    # A mask a class, and no one-hot tensor of 64-bit numbers, which took longer than all the rest.
    masks = [(classes == value) & known for value in range(logits.shape[1])]
    both = torch.stack([(true * mask).sum() for mask in masks])
    wanted = torch.stack([mask.sum() for mask in masks])
    total = probabilities.sum((0, *range(2, logits.ndim))) + wanted
    return 1 - ((2 * both + smooth) / (total + smooth)).mean()


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return ``-log p`` of the true class, mean over pixels; parameters as in `dice_loss`."""
    return focal_loss(logits, target, gamma=0.0, alpha=1.0)


def focal_loss(
    logits: torch.Tensor, target: torch.Tensor, gamma: float = 2.0, alpha: float = 0.25
) -> torch.Tensor:
    """Return the categorical focal loss ``-alpha (1 - p)^gamma log p`` of the true class, mean over pixels.

    Lin et al., "Focal loss for dense object detection", 2017, equation 5.

    Parameters
    ----------
    logits : Tensor, (n, classes, *space)
        In float32.
    target : Tensor of int64, (n, *space)
    gamma, alpha : float
        Focus and weight.
    """
    known = target != IGNORED
    log_p = logits.log_softmax(1).gather(1, target.where(known, 0)[:, None])[:, 0]
    loss = -(alpha * (1 - log_p.exp()) ** gamma * log_p)
    return (loss * known).sum() / known.sum().clamp(min=1)


Pixelwise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Outputs = torch.Tensor | Sequence[torch.Tensor]
"""Logits, or several of falling weight: in general of falling resolution."""


def _sum(*parts: Pixelwise) -> Callable[[Outputs, torch.Tensor], torch.Tensor]:
    """Return the sum of some losses, of logits of any floating type and targets of any integer type."""

    def one(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits, target = logits.float(), target.long()
        return torch.stack([part(logits, target) for part in parts]).sum()

    def loss(outputs: Outputs, target: torch.Tensor) -> torch.Tensor:
        return one(outputs, target) if isinstance(outputs, torch.Tensor) else _deep(one, outputs, target)

    return loss


def _deep(loss: Pixelwise, outputs: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """Return nnU-Net's deep supervision: weights 1, 1/2, 1/4, ... of sum 1."""
    weights = [0.5**i for i in range(len(outputs))]
    total = torch.zeros((), device=target.device)
    for logits, weight in zip(outputs, weights, strict=True):
        size = logits.shape[2:]
        smaller = F.interpolate(target[:, None].float(), size, mode="nearest-exact")[:, 0].to(target.dtype)
        total = total + weight / sum(weights) * loss(logits, smaller)
    return total


LOSSES: Mapping[Loss, Callable[[Outputs, torch.Tensor], torch.Tensor]] = MappingProxyType(
    {
        "dice": _sum(dice_loss),
        "cross_entropy": _sum(cross_entropy),
        "dice_focal": _sum(dice_loss, focal_loss),  # report 4.5.3.4
        "dice_cross_entropy": _sum(dice_loss, cross_entropy),  # nnU-Net's
    }
)
