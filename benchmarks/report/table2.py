"""Tables 2A to 2D: weights to begin with, backbones, losses, learning rates (report 4.5.3.1 to 4.5.3.4)."""

from typing import Any

from benchmarks.report.sheet import Sheet
from benchmarks.report.study import Setting, Study, Variant
from seg_core.errors import UsageError
from trainers.crossval import FoldWatch

TRAINING: dict[str, Any] = {"loss": "dice", "batch": 8, "epochs": 20, "lr": 1e-4, "lr_step": 0.0}
"""The report's 4.5.3.1."""
BACKBONES = ("unet-resnet34", "unet-resnet50", "unet-vgg19", "unet-mobilenetv2")
RATES = {"1e-4": (1e-4, 0.0), "1e-5": (1e-5, 0.0), "falling": (1e-4, 1e-6)}


def table2a(setting: Setting, watch: FoldWatch | None = None) -> Sheet:
    """Make the table of pretrained and random weights; what an earlier call has done is kept.

    Raises
    ------
    UsageError
        If there are no pretrained weights to compare with.
    """
    if setting.encoder == "random" and not setting.smoke:
        raise UsageError(
            "pretrained weights that are random", "imagenet, or a folder of weights", "give --encoder"
        )
    variants = [Variant("pretrained", changes=TRAINING, pretrained=True), Variant("random", changes=TRAINING)]
    return Study("2A", setting, watch=watch).compare(variants)


def table2b(setting: Setting, watch: FoldWatch | None = None) -> Sheet:
    """Make the table of backbones; what an earlier call has done is kept."""
    variants = [Variant(name, name, TRAINING, pretrained=True) for name in BACKBONES]
    return Study("2B", setting, watch=watch).compare(variants)


def table2c(setting: Setting, watch: FoldWatch | None = None) -> Sheet:
    """Make the table of losses; what an earlier call has done is kept."""
    variants = [
        Variant(loss, changes=TRAINING | {"loss": loss}, pretrained=True)
        for loss in ("dice", "cross_entropy", "dice_focal")
    ]
    return Study("2C", setting, watch=watch).compare(variants)


def table2d(setting: Setting, watch: FoldWatch | None = None) -> Sheet:
    """Make the table of learning rates; what an earlier call has done is kept."""
    variants = [
        Variant(name, changes=TRAINING | {"lr": lr, "lr_step": step}, pretrained=True)
        for name, (lr, step) in RATES.items()
    ]
    return Study("2D", setting, watch=watch).compare(variants)
