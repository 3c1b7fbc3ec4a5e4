"""Where a network breaks: noise, shading, motion, resolution, field of view, rotation, in steps.

    python -m benchmarks.degradations -o WORK

Scans of measured subjects 23, 24 and 25 at the stature of 7, 10 and 14 years, as ``lls phantom`` draws them
(Dixon water, ordinary noise), 384 x 384 px of 1.25 mm, slices 6 mm apart; seeds from ``FIRST_SEED`` on, which
no training uses. Each is segmented as it is and at every step of `benchmarks.degradations.degrade`, one thing
at a time. DSC of each bone, right and left taken together, against the truth on the degraded scan's own grid;
of any bone, which tells finding from naming; and the share of the bones' voxels that lie on the wrong side. A
bone that the view does not hold counts nowhere. The step is named at which the mean DSC over bones has
fallen by more than ``BROKEN``.

WORK keeps scans, every figure (``scores-<model>.json``), table (``degradations.md``) and picture. A command
can be killed and called again: scores that are there stay. ``--only noise`` takes one of them, ``--people 1``
fewer people; ``--smoke`` proves only that everything runs.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.command import command, parser_of
from benchmarks.degradations.degrade import DEGRADATIONS, Degradation, Scan
from benchmarks.looks import keep_scan
from benchmarks.pictures import Panel, draw_panels
from seg_core.labels import BONES
from seg_core.metrics import evaluate
from seg_core.nifti import read_labels
from seg_core.output import write_whole
from seg_core.runner import Runner
from seg_core.scan import read_scan
from seg_core.segment import segment
from trainers.curves import can_draw
from trainers.phantom import PhantomConfig

FIRST_SEED = 940_000
PEOPLE = ((23, 122.0), (24, 138.0), (25, 162.0))
BROKEN = 0.1
SMOKE = "SMOKE RUN: it proves only that the command runs. These figures mean nothing."
Scores = dict[str, list[float | None]]


@dataclass(frozen=True)
class Step:
    """One scan at one step: key in the file of scores."""

    person: int
    degradation: str
    step: float

    def __str__(self) -> str:
        return f"{self.person} {self.degradation} {self.step:g}"


def people(smoke: bool) -> Iterator[PhantomConfig]:
    """Yield who is scanned."""
    for number, (subject, stature) in enumerate(PEOPLE):
        config = PhantomConfig(
            seed=FIRST_SEED + number,
            subject=subject,
            stature_cm=stature,
            size=384,
            pixel_mm=1.25,
            slice_mm=6.0,
            trunk_mm=60.0,
        )
        yield replace(config, size=64, pixel_mm=7.5, slice_mm=60.0) if smoke else config


def read(config: PhantomConfig, folder: Path) -> Scan:
    """Return a scan with its truth, made where it is not there yet; refuse another's."""
    keep_scan(config, folder)
    return Scan(read_scan(folder / "dicom").volume, read_labels(folder / "labels.nii.gz"))


def score(scan: Scan, runner: Runner) -> list[float]:
    """Segment; return DSC of each bone and of any, and the share on the wrong side, NaN without sides."""
    segmentation = segment(scan.volume, runner)
    found = segmentation.labels.array
    truth = scan.labels.array
    voxel = scan.volume.geometry.voxel_volume
    bones = evaluate(_bones(found), _bones(truth), len(BONES), voxel).dsc
    some = evaluate((found > 0).astype(np.uint8), (truth > 0).astype(np.uint8), 1, voxel).dsc
    both = (found > 0) & (truth > 0)
    crossed = both & ((found > len(BONES)) != (truth > len(BONES)))
    absent = [not np.any(_bones(truth) == value) for value in range(1, len(BONES) + 1)]
    bones[absent] = np.nan
    known = segmentation.sides is not None and segmentation.sides.kind != "unknown"
    wrong = crossed.sum() / max(both.sum(), 1) if known else np.nan
    return [float(v) for v in (*bones, *some, wrong)]


def _bones(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the bone of either side."""
    return np.where(labels > 0, (labels - 1) % len(BONES) + 1, 0).astype(np.uint8)


def mean(scores: Scores, what: Sequence[Step]) -> npt.NDArray[np.float64]:
    """Return the mean of scans over those in which a bone was in view; NaN where there is none."""
    values = np.array([[np.nan if v is None else v for v in scores[str(step)]] for step in what])
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    result = np.full(total.shape, np.nan)
    np.divide(total, known.sum(axis=0), out=result, where=known.any(axis=0))
    return result


def table(name: str, rows: Mapping[float, npt.NDArray[np.float64]]) -> str:
    """Return the rows of a degradation as Markdown; the first, at 0, is the scan as it was."""
    one = DEGRADATIONS[name]
    lines = [f"| {one.title}: {one.unit} | {' | '.join(BONES)} | any bone | wrong side |", "|---" * 7 + "|"]
    for step, values in rows.items():
        cells = " | ".join("-" if np.isnan(v) else f"{v:.3f}" for v in values)
        lines.append(f"| {f'{step:g}' if step else 'as it was'} | {cells} |")
    return "\n".join([*lines, "", breaks(rows)])


def breaks(rows: Mapping[float, npt.NDArray[np.float64]]) -> str:
    """Say at which step the mean DSC over the bones in view has fallen too far."""
    whole = rows[0.0][: len(BONES)]
    for step, values in rows.items():
        lost = whole - values[: len(BONES)]
        lost = lost[np.isfinite(lost)]
        if lost.size and lost.mean() > BROKEN:
            return f"Broken at {step:g}: the mean DSC over bones is {lost.mean():.2f} lower."
    return "Not broken by any of these steps."


class Study:
    """The work of a command; scores are kept as soon as they are there."""

    def __init__(self, work: Path, model: str, smoke: bool) -> None:
        self.smoke = smoke
        self.work = work / "smoke" if smoke else work
        self.work.mkdir(parents=True, exist_ok=True)
        self.runner = Runner(model)
        # Of its twin where that is taken.
        self.file = self.work / f"scores-{self.runner.fingerprint[:12]}.json"
        self.scores: Scores = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def run(self, number: int, config: PhantomConfig, chosen: Sequence[str]) -> None:
        """Score one person at every step that has no score yet."""
        wanted = [Step(number, "none", 0.0)]
        wanted += [Step(number, name, step) for name in chosen for step in self.steps(DEGRADATIONS[name])]
        missing = [step for step in wanted if str(step) not in self.scores]
        if not missing:
            return
        scan = read(config, self.work / "scans" / f"subject{config.subject}")
        for step in missing:
            worse = scan
            if step.step:
                rng = np.random.default_rng([config.seed, list(DEGRADATIONS).index(step.degradation)])
                worse = DEGRADATIONS[step.degradation].apply(scan, step.step, rng)
            self.scores[str(step)] = [None if np.isnan(v) else v for v in score(worse, self.runner)]
            write_whole(self.file, json.dumps(self.scores, indent=1) + "\n")
            print(step, " ".join(f"{v:.3f}" for v in mean(self.scores, [step])), flush=True)

    def steps(self, degradation: Degradation) -> tuple[float, ...]:
        """Return the steps: the first and the last in a smoke run, whose scans are coarse already."""
        return degradation.steps[:: len(degradation.steps) - 1] if self.smoke else degradation.steps

    def rows(self, name: str, count: int) -> dict[float, npt.NDArray[np.float64]]:
        """Return the means over people by step; 0 is the scan as it was."""
        rows = {0.0: mean(self.scores, [Step(n, "none", 0.0) for n in range(count)])}
        for step in self.steps(DEGRADATIONS[name]):
            rows[step] = mean(self.scores, [Step(n, name, step) for n in range(count)])
        return rows


def panel(name: str, rows: Mapping[float, npt.NDArray[np.float64]]) -> Panel:
    """Return the lines of a degradation's picture."""
    columns = np.array(list(rows.values())).T
    ticks = ["as it was" if step == 0 else f"{step:g}" for step in rows]
    lines = dict(zip((*BONES, "any bone"), columns.tolist(), strict=False))
    return Panel(DEGRADATIONS[name].title, DEGRADATIONS[name].unit, ticks, lines)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Score, print the tables and draw the picture."""
    parser = parser_of(__doc__, "benchmarks.degradations")
    parser.add_argument("-o", "--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--model", default="default")
    parser.add_argument("--only", choices=DEGRADATIONS, action="append", help="may be repeated")
    parser.add_argument("--people", type=int, default=len(PEOPLE), choices=range(1, len(PEOPLE) + 1))
    parser.add_argument("--smoke", action="store_true", help="one coarse scan: figures mean nothing")
    chosen = parser.parse_args(arguments)
    names, count = chosen.only or list(DEGRADATIONS), 1 if chosen.smoke else chosen.people
    study = Study(chosen.work, chosen.model, chosen.smoke)
    for number, config in enumerate(list(people(chosen.smoke))[:count]):
        study.run(number, config, names)
    rows = {name: study.rows(name, count) for name in names}
    title = f"Synthetic scans of {count} people, made worse; model {study.runner.spec.name}"
    parts = [title, *([SMOKE] if chosen.smoke else []), *(table(name, rows[name]) for name in names)]
    text = "\n\n".join(parts) + "\n"
    write_whole(study.work / "degradations.md", text)
    if can_draw():
        draw_panels([panel(name, rows[name]) for name in names], "DSC", study.work / "degradations.png")
    print(f"\n{text}")


if __name__ == "__main__":
    sys.exit(main())
