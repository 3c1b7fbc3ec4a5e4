"""Losses of logits (n, rows, columns, classes) against labels (n, rows, columns); PyTorch's twins.

Pixels labelled ``IGNORED`` count in none of them: they lose nothing and teach nothing.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import tensorflow as tf

from trainers.config import IGNORED, Loss


def dice_loss(logits: tf.Tensor, target: tf.Tensor, smooth: float = 1e-5) -> tf.Tensor:
    """Return one minus the soft Dice coefficient, counted over the whole batch, mean over classes.

    Parameters
    ----------
    logits : Tensor of float32, (n, rows, columns, classes)
    target : Tensor of int32, (n, rows, columns)
    smooth : float
        Added above and below; a class that is neither there nor predicted loses nothing.
    """
    known = tf.cast(target != IGNORED, tf.float32)[..., None]
    wanted = tf.one_hot(target, logits.shape[-1])  # IGNORED is no class: all zeros
    probabilities = tf.nn.softmax(logits) * known
    both = tf.reduce_sum(probabilities * wanted, (0, 1, 2))
    total = tf.reduce_sum(probabilities, (0, 1, 2)) + tf.reduce_sum(wanted, (0, 1, 2))
    return 1 - tf.reduce_mean((2 * both + smooth) / (total + smooth))


def cross_entropy(logits: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Return ``-log p`` of the true class, mean over pixels; parameters as in `dice_loss`."""
    return focal_loss(logits, target, gamma=0.0, alpha=1.0)


def focal_loss(logits: tf.Tensor, target: tf.Tensor, gamma: float = 2.0, alpha: float = 0.25) -> tf.Tensor:
    """Return the categorical focal loss ``-alpha (1 - p)^gamma log p`` of the true class, mean over pixels.

    Lin et al., "Focal loss for dense object detection", 2017, equation 5.

    Parameters
    ----------
    logits : Tensor of float32, (n, rows, columns, classes)
    target : Tensor of int32, (n, rows, columns)
    gamma, alpha : float
        Focus and weight.
    """
    known = target != IGNORED
    log_p = -tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(known, target, 0), logits)
    # A power of 0 has no gradient where p is 1.
    focus = (1 - tf.exp(log_p)) ** gamma if gamma else 1.0
    counted = tf.cast(known, tf.float32)
    return tf.reduce_sum(-alpha * focus * log_p * counted) / tf.maximum(tf.reduce_sum(counted), 1.0)


Pixelwise = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _sum(*parts: Pixelwise) -> Pixelwise:
    """Return the sum of some losses, of logits of any floating type and targets of any integer type."""

    def loss(logits: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        logits, target = tf.cast(logits, tf.float32), tf.cast(target, tf.int32)
        return tf.add_n([part(logits, target) for part in parts])

    return loss


LOSSES: Mapping[Loss, Pixelwise] = MappingProxyType(
    {
        "dice": _sum(dice_loss),
        "cross_entropy": _sum(cross_entropy),
        "dice_focal": _sum(dice_loss, focal_loss),  # report 4.5.3.4
        "dice_cross_entropy": _sum(dice_loss, cross_entropy),  # nnU-Net's
    }
)
