"""Losses of logits (n, classes, rows, columns) against labels (n, rows, columns)."""

import torch
import torch.nn.functional as F  # noqa: N812


def dice_loss(probabilities: torch.Tensor, target: torch.Tensor, smooth: float = 1e-5) -> torch.Tensor:
    """Return one minus the soft Dice coefficient, counted over the whole batch, mean over classes.

    Parameters
    ----------
    probabilities : Tensor, (n, classes, rows, columns)
        Softmax of the logits, in float32.
    target : Tensor of int64, (n, rows, columns)
    smooth : float
        Added above and below; a class that is neither there nor predicted loses nothing.
    """
    classes = probabilities.shape[1]
    wanted = F.one_hot(target, classes).movedim(-1, 1).to(probabilities.dtype)
    axes = (0, 2, 3)
    both = (probabilities * wanted).sum(axes)
    total = probabilities.sum(axes) + wanted.sum(axes)
    return 1 - ((2 * both + smooth) / (total + smooth)).mean()


def focal_loss(
    log_probabilities: torch.Tensor, target: torch.Tensor, gamma: float = 2.0, alpha: float = 0.25
) -> torch.Tensor:
    """Return the categorical focal loss ``-alpha (1 - p)^gamma log p`` of the true class, mean over pixels.

    Lin et al., "Focal loss for dense object detection", 2017, equation 5.

    Parameters
    ----------
    log_probabilities : Tensor, (n, classes, rows, columns)
        Log-softmax of the logits, in float32.
    target : Tensor of int64, (n, rows, columns)
    gamma, alpha : float
        Focus and weight.
    """
    log_p = log_probabilities.gather(1, target[:, None])
    return -(alpha * (1 - log_p.exp()) ** gamma * log_p).mean()


def dice_focal_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return Dice plus categorical focal loss (report 4.5.3.4), computed in float32.

    Parameters
    ----------
    logits : Tensor, (n, classes, rows, columns)
        Of any floating type.
    target : Tensor of an integer type, (n, rows, columns)
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    target = target.long()
    return dice_loss(log_p.exp(), target) + focal_loss(log_p, target)
