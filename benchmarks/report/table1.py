"""Table 1: image sizes, the plain 2D U-Net on the tibia alone; ten people in five folds (report 4.4.3.1)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.report.published import Figure
from benchmarks.report.sheet import Sheet
from benchmarks.report.study import Plan, Setting, Study, Variant
from trainers.crossval import FoldWatch
from trainers.log import read_log

PLAN = Plan(10, 5, structures=("tibia",))
VARIANTS = tuple(Variant(f"{size} x {size}", "unet-baseline", size=size) for size in (512, 400, 256))
NOTE = (
    "Time: the median epoch, validation left out; trainings ran one after the other. Memory: the slices with"
    " their labels, which the report held in memory and which are memory-mapped here. Ratios to 256 x 256."
)


def table1(setting: Setting, watch: FoldWatch | None = None) -> Sheet:
    """Make the table; what an earlier call has done is kept."""
    study = Study("1", setting, PLAN, watch)
    ours: dict[tuple[str, str], Mapping[str, Figure]] = {}
    lines = [*study.conditions(), NOTE]
    for variant in VARIANTS:
        data = study.data(variant.size)
        found, how = study.cross_validate(variant, data)
        costs = {"epoch": _median_epoch(study.folder / variant.name), "data": _size(data)}
        ours |= {key: {**cell, **costs} for key, cell in found.items()}
        lines.append(how)
    return replace(study.sheet(ours, ("dsc", "epoch", "data"), lines), reference=VARIANTS[-1].name)


def _median_epoch(folder: Path) -> Figure:
    """Return the seconds of the median epoch of a cross-validation."""
    logs = [read_log(path) for path in folder.glob("fold-*/log.csv")]
    return Figure(median(float(row["seconds"]) for log in logs for row in log))


def _size(data: Path) -> Figure:
    """Return the bytes of a dataset's slices."""
    return Figure(sum(path.stat().st_size for path in (data / "cache").glob("*.npy")))
