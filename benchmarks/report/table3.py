"""Table 3: networks, each trained as the report trained it (4.5.1, 4.5.2, 4.5.3.4, 4.6)."""

from dataclasses import replace

from benchmarks.report.sheet import Sheet
from benchmarks.report.study import Setting, Study, Variant
from seg_core.errors import install_hint
from trainers.augment import REPORT
from trainers.crossval import FoldWatch
from trainers.registry import get_trainer

NETWORKS = ("nnunet-2d", "nnunet-3d", "unet-resnet34", "unet-baseline", "h-denseunet")
PRETRAINED = "unet-resnet34"
FOURFOLD = {"augmentation": replace(REPORT, factor=4)}


def table3(setting: Setting, watch: FoldWatch | None = None) -> Sheet:
    """Make the table of the networks that the trainer has; what an earlier call has done is kept."""
    names, missing = available(setting)
    variants = [Variant(name, name, FOURFOLD, pretrained=name == PRETRAINED) for name in names]
    study = Study("3", setting, watch=watch)
    return study.compare(variants, ("dsc", "volume_error_cm3", "hd95_mm"), missing)


def available(setting: Setting) -> tuple[list[str], list[str]]:
    """Return those of the table's networks that the trainer has, and a line on each that it has not."""
    known, names, missing = get_trainer(setting.trainer).NETWORKS, [], []
    for name in setting.networks or NETWORKS:
        if name not in known:
            missing.append(f"{name}: MISSING, the trainer {setting.trainer} has no such network.")
        elif known[name].missing:
            missing.append(f"{name}: MISSING, it needs {install_hint(known[name].extra)}.")
        else:
            names.append(name)
    return names, missing
