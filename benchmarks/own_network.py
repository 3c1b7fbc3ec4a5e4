"""A network of one's own from `lls phantom` folders alone, with each trainer, by the commands of a user.

    python -m benchmarks.own_network -o WORK

Children and adults that `lls phantom` draws teach, two more choose the epoch; ``lls prepare``, ``lls train``
and ``lls export`` make a network of each trainer, and ``lls segment`` finds bones with both in the ordinary
scans of `benchmarks.accuracy`, of people whom nobody taught. The mean DSC shall be at least ``WANTED``: less
is a failure. All settings are fixed here; they fit a CPU of two cores. WORK keeps everything; a command can
be killed and called again. ``--smoke`` proves only that it runs, in ``WORK/smoke``: tiny phantoms, of which
the second chooses and is scored.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy import configurations, name_of
from benchmarks.command import command, parser_of
from benchmarks.looks import keep_scan
from benchmarks.report.sheet import SMOKE
from seg_core.labels import BONES
from seg_core.metrics import Scores, evaluate
from seg_core.nifti import read_labels
from seg_core.output import write_whole
from seg_core.report import sha256
from trainers.phantom import PhantomConfig

Options = Mapping[str, object]
"""Of a command, as Python writes their names."""

WANTED = 0.85
FIRST_SEED = 600_000
TRAINERS = ("torch", "keras")
PEOPLE, CHOOSING = 30, 2
SCAN: Mapping[str, Any] = MappingProxyType({"slice_mm": 5.0})
TRAINING: Options = MappingProxyType(
    {
        "window": 128,
        "batch": 16,
        "epochs": 10,
        "epoch_samples": 3000,
        "validation_samples": 120,
        "balance": 0.5,
        "lr": "5e-4",
        "lr_step": "5e-5",
        "lr_floor": "2e-5",
        "channel_fill": "neighbours",
        "neighbour_mm": 10,
    }
)
"""Slices of 480 mm, of which windows of 240 mm are learned, with those 10 mm above and below."""
_SMOKE_SCAN: Mapping[str, Any] = MappingProxyType({"size": 64, "pixel_mm": 7.5, "slice_mm": 20.0})
_SMOKE_TRAINING: Options = MappingProxyType(
    {"network": "unet-mobilenetv2", "epochs": 1, "epoch_samples": 4, "batch": 2}
)


@dataclass(frozen=True)
class Setting:
    """What the user chooses.

    Parameters
    ----------
    work : Path
        Folder of everything.
    trainers : tuple of str
        Whose networks.
    smoke : bool
        Whether to prove only that it runs.
    """

    work: Path
    trainers: tuple[str, ...] = TRAINERS
    smoke: bool = False

    @property
    def home(self) -> Path:
        """Where all is kept but the table: a smoke run's apart."""
        return self.work / "smoke" if self.smoke else self.work


def make_networks(setting: Setting) -> dict[str, Path]:
    """Return a model file of each trainer; what an earlier call has done is kept."""
    folders, data = list(people(setting)), setting.home / "data"
    lls("prepare", *folders, "-o", data, "-q", **{"size": 64} if setting.smoke else {"pixel_mm": 1.875})
    choice = [
        f"--validation-subject={folder.name}" for folder in folders[-1 if setting.smoke else -CHOOSING :]
    ]
    models = {}
    for trainer in setting.trainers:
        run, models[trainer] = setting.home / trainer, setting.home / f"{trainer}.onnx"
        how = _SMOKE_TRAINING if setting.smoke else TRAINING
        lls("train", data, *choice, "-o", run, trainer=trainer, **how)
        lls("export", run, "-o", models[trainer], "--overwrite", name=trainer)
    return models


def people(setting: Setting) -> Iterator[Path]:
    """Yield the folders of those who teach and choose, made where they are missing.

    Raises
    ------
    UsageError
        If a folder holds another scan.
    """
    count = 2 if setting.smoke else PEOPLE + CHOOSING
    slices = _SMOKE_SCAN if setting.smoke else SCAN
    statures = np.linspace(115, 180, count)[np.random.default_rng(FIRST_SEED).permutation(count)]
    for number, stature in enumerate(statures):
        folder = setting.home / "people" / f"person{number + 1}"
        person = PhantomConfig(seed=FIRST_SEED + number, stature_cm=round(stature), **slices)
        if not folder.is_dir():
            grid = {"size": person.size, "spacing": person.pixel_mm, "slice_spacing": person.slice_mm}
            lls("phantom", "-o", folder, seed=person.seed, stature=person.stature_cm, **grid)
        yield keep_scan(person, folder)


def lls(*arguments: object, **options: object) -> None:
    """Say a command, and run it."""
    parts = [str(part) for part in arguments]
    for name, value in options.items():
        parts += [f"--{name.replace('_', '-')}", str(value)]
    print("lls", *parts, flush=True)
    subprocess.run([sys.executable, "-m", "cli", *parts], check=True)


def scored(setting: Setting, model: Path) -> list[Scores]:
    """Segment each test scan by the command and return its scores, of the 8 labels."""
    results = []
    folder = setting.home / "found" / f"{model.stem}-{sha256(model)[:12]}"
    for scan in unseen_scans(setting):
        found = folder / scan.name
        if not found.is_dir():
            lls("segment", scan / "dicom", "-o", found, "--model", model, "-q")
        truth = read_labels(scan / "labels.nii.gz")
        labels = read_labels(found / "scan_dseg.nii.gz").array
        results.append(evaluate(labels, truth.array, 2 * len(BONES), truth.geometry.voxel_volume))
    return results


def unseen_scans(setting: Setting) -> Iterator[Path]:
    """Yield the folders of the ordinary set, made where they are missing.

    Raises
    ------
    UsageError
        If a folder holds another scan.
    """
    if setting.smoke:
        yield setting.home / "people" / "person2"
        return
    for config in configurations("ordinary"):
        yield keep_scan(config, setting.home / "ordinary" / name_of(config))


def rows(results: Mapping[str, Sequence[Scores]]) -> Iterator[str]:
    """Yield the table's lines: DSC a bone, mean and SD over scans and sides, and the mean of all bones."""
    yield f"| trainer | {' | '.join(BONES)} | mean | at least |"
    yield "|---|" + "---|" * (len(BONES) + 2)
    for trainer, scores in results.items():
        cells = [f"{np.nanmean(d):.3f} ± {np.nanstd(d, ddof=1):.3f}" for d in _by_bone(scores).T]
        yield f"| {trainer} | {' | '.join(cells)} | {mean_dsc(scores):.3f} | {WANTED} |"


def mean_dsc(scores: Sequence[Scores]) -> float:
    """Return the mean over bones of their mean DSC over scans and sides."""
    return float(np.nanmean(np.nanmean(_by_bone(scores), axis=0)))


def _by_bone(scores: Sequence[Scores]) -> npt.NDArray[np.float64]:
    """Return the DSC (scans and sides, bones)."""
    return np.array([s.dsc for s in scores]).reshape(-1, len(BONES))


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Make the networks, score them, print the table; return 1 below what is wanted."""
    parser = parser_of(__doc__, "benchmarks.own_network")
    parser.add_argument("-o", "--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--trainer", dest="trainers", action="append", help="only this; may be repeated")
    parser.add_argument("--smoke", action="store_true", help="tiny phantoms, one epoch: figures mean nothing")
    given = parser.parse_args(arguments)
    setting = Setting(given.work, tuple(given.trainers or TRAINERS), given.smoke)
    try:
        models = make_networks(setting)
        results = {trainer: scored(setting, model) for trainer, model in models.items()}
    except subprocess.CalledProcessError as error:
        return error.returncode
    lines = [*([SMOKE, ""] if setting.smoke else []), *rows(results)]
    text = "\n".join(lines) + "\n"
    smoke = "-smoke" * setting.smoke
    write_whole(setting.work / f"own-network{smoke}.md", text)
    figures = {trainer: [s.dsc.tolist() for s in scores] for trainer, scores in results.items()}
    write_whole(setting.work / f"own-network{smoke}.json", json.dumps(figures, indent=1) + "\n")
    print(f"\n{text}")
    return int(not setting.smoke and any(mean_dsc(scores) < WANTED for scores in results.values()))


if __name__ == "__main__":
    sys.exit(main())
