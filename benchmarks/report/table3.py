"""Table 3: networks, each trained as the report trained it (4.5.1, 4.5.2, 4.5.3.4, 4.6)."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.report.sheet import Sheet
from benchmarks.report.study import Setting, Study, Variant
from seg_core.errors import install_hint
from trainers.augment import REPORT
from trainers.crossval import SCORES, FoldWatch
from trainers.registry import get_trainer
from trainers.scores import scores_from_json

NETWORKS = ("nnunet-2d", "nnunet-3d", "unet-resnet34", "unet-baseline", "h-denseunet")
PRETRAINED = "unet-resnet34"
FOURFOLD = {"augmentation": replace(REPORT, factor=4)}
MEASURED = (
    "Volume error: whatever its sign. HD95: the distance of the other surface within which 95 % of each one's"
    " voxels lie; the report has none. `(1 none)`: so many people have none, for their bone was missed."
)


def table3(setting: Setting, watch: FoldWatch | None = None) -> Sheet:
    """Make the table of the networks that the trainer has, and Figure 10; what is done already is kept."""
    names, missing = available(setting)
    variants = [Variant(name, name, FOURFOLD, pretrained=name == PRETRAINED) for name in names]
    study = Study("3", setting, watch=watch)
    sheet = study.compare(variants, ("dsc", "volume_error_cm3", "hd95_mm"), [MEASURED, *missing])
    return replace(sheet, boxes={name: held_out_dsc(study.folder / name) for name in names})


def held_out_dsc(folder: Path) -> list[float]:
    """Return the DSC of every held-out person and bone of a cross-validation's folder, bone after bone."""
    done = [scores_from_json(file.read_text(encoding="utf-8")) for file in folder.glob(f"fold-*/{SCORES}")]
    found: list[float] = np.array([s.dsc for fold in done for s in fold.values()]).T.ravel().tolist()
    return found


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
