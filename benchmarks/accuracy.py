"""Accuracy on synthetic scans of people that no network has seen: the bundled file, from DICOM to labels.

Frozen before any network was trained, and not eased afterwards: measured subjects 23, 24 and 25, each at the
stature of 7, 10 and 14 years, both legs with trunk and hands in view, 512 x 512 px of 0.9375 mm, slices 3 mm
apart; seeds of noise, contrast and soft tissue that no training uses (all of them start at ``FIRST_SEED``).
The ordinary set draws a scan as ``lls phantom`` does; the hard set has three times the noise, twice the
shading, blur and motion ghosts, and thicker slices (5 mm). The shading is mild in both: over the body its SD
is 2 to 7 % in the ordinary, 5 to 13 % in the hard set. The development set, added later, is for choices:
ordinary scans of the validation's subjects 20, 21 and 22, at 7, 10 and 14 years.

    python -m benchmarks.accuracy --set ordinary --scans DIR --json FILE

``--scans`` keeps the scans for another run. A bone's figures are the mean and SD over scans and sides.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.command import command, parser_of, write_figures
from benchmarks.looks import keep_scan
from seg_core.labels import BONES
from seg_core.metrics import evaluate
from seg_core.nifti import read_labels
from seg_core.runner import Runner
from seg_core.scan import read_scan
from seg_core.segment import SegmentOptions, segment
from trainers.phantom import PhantomConfig

FIRST_SEED = 900_000
SUBJECTS = (23, 24, 25)
STATURE_CM = {7: 122.0, 10: 138.0, 14: 162.0}
DEVELOPMENT = (20, 21, 22)
TESTS = ("ordinary", "hard")
SETS = (*TESTS, "development")
# The report's Table 3, its ResNet34 U-Net: DSC and volume error (cm3).
REPORT = {"tibia": (0.93, 5.4), "femur": (0.95, 0.9), "fibula": (0.78, 2.9), "pelvis": (0.88, 24.5)}


def configurations(name: str) -> Iterator[PhantomConfig]:
    """Yield the scans of a set: nine, or three for development."""
    statures = STATURE_CM.values()
    people = zip(DEVELOPMENT, statures, strict=True) if name == "development" else product(SUBJECTS, statures)
    for seed, (subject, stature) in enumerate(people, FIRST_SEED + 100 * SETS.index(name)):
        yield PhantomConfig(
            seed=seed,
            subject=subject,
            stature_cm=stature,
            slice_mm=5.0 if name == "hard" else 3.0,
            trunk_mm=120.0,
            difficulty="hard" if name == "hard" else "ordinary",
        )


@dataclass(frozen=True)
class Result:
    """One scan's figures: DSC and volume error (cm3) of each of the 8 labels, and of any bone."""

    scan: str
    dsc: list[float]
    volume_error_cm3: list[float]
    any_bone_dsc: float
    wrong_side_voxels: int
    seconds: float


def score(config: PhantomConfig, runner: Runner, folder: Path) -> Result:
    """Segment one scan from its DICOM files and compare with the truth."""
    keep_scan(config, folder)
    truth = read_labels(folder / "labels.nii.gz").array
    started = time.perf_counter()
    scan = read_scan(folder / "dicom")
    labels = segment(scan.volume, runner, SegmentOptions(laterality=scan.laterality)).labels.array
    seconds = time.perf_counter() - started
    voxel = scan.volume.geometry.voxel_volume
    scores = evaluate(labels, truth, 2 * len(BONES), voxel)
    any_bone = evaluate((labels > 0).astype(np.uint8), (truth > 0).astype(np.uint8), 1, voxel)
    crossed = (labels > 0) & (truth > 0) & ((labels > len(BONES)) != (truth > len(BONES)))
    return Result(
        folder.name,
        [float(v) for v in scores.dsc],
        [float(v) for v in scores.volume_error_cm3],
        float(any_bone.dsc[0]),
        int(np.count_nonzero(crossed)),
        seconds,
    )


def table(results: list[Result]) -> str:
    """Mean and SD a bone as Markdown, beside the report's figures (real scans, another test)."""
    dsc = np.array([r.dsc for r in results]).reshape(len(results), 2, len(BONES))
    error = np.array([r.volume_error_cm3 for r in results]).reshape(len(results), 2, len(BONES))
    lines = [
        "| bone | DSC | volume error cm3 | report's DSC (real scans) | report's volume error cm3 |",
        "|---|---|---|---|---|",
    ]
    for b, bone in enumerate(BONES):
        d, e = dsc[..., b].ravel(), error[..., b].ravel()
        lines.append(
            f"| {bone} | {np.nanmean(d):.3f} ± {np.nanstd(d, ddof=1):.3f} "
            f"| {e.mean():.1f} ± {e.std(ddof=1):.1f} | {REPORT[bone][0]} | {REPORT[bone][1]} |"
        )
    lines.append(f"| any bone | {np.mean([r.any_bone_dsc for r in results]):.3f} | | | |")
    return "\n".join(lines)


@command
def main(given: Sequence[str] | None = None) -> None:
    """Run a set and print its table."""
    parser = parser_of(__doc__)
    parser.add_argument("--set", choices=SETS, default="ordinary")
    parser.add_argument("--model", default="default")
    parser.add_argument("--precision", default="auto", help="auto, fp32, fp16 or int8")
    parser.add_argument("--scans", type=Path, help="keep the scans here")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--make-only", action="store_true", help="make the scans and stop")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as temporary:
        base = (arguments.scans or Path(temporary)) / arguments.set
        if arguments.make_only:
            for config in configurations(arguments.set):
                keep_scan(config, base / name_of(config))
            return
        runner = Runner(arguments.model, precision=arguments.precision)
        results = []
        for config in configurations(arguments.set):
            results.append(score(config, runner, base / name_of(config)))
            print(results[-1], flush=True)
    model = f"model {runner.spec.name} in {runner.precision}"
    print(f"\nSynthetic scans, {arguments.set} set, {len(results)} scans, {model}\n")
    print(table(results))
    print(f"\nvoxels on the wrong side: {sum(r.wrong_side_voxels for r in results)}")
    write_figures(arguments.json, [vars(r) for r in results])


def name_of(config: PhantomConfig) -> str:
    """Return the name of a scan's folder."""
    return f"subject{config.subject}-{config.stature_cm:.0f}cm"


if __name__ == "__main__":
    sys.exit(main())
