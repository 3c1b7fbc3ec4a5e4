"""Accuracy on looks from physics: the bundled file, from DICOM to labels.

Frozen before the network was trained for it, and not eased afterwards: measured subjects 23, 24 and 25 at the
stature of 7, 10 and 14 years and adult, scanned in the five looks of `benchmarks.looks`. Those are computed
from tissue parameters and signal equations, and share no figure with the drawing that training uses; bodies
around the bones come from the same code. Six scans a look, slices 1, 3 and 6 mm apart; seeds from
``FIRST_SEED`` on, which no training uses.

None of these scans was trained on, but their scores decided what network 7's training drew: small people, and
a look as X-rays see it. CT-like is no longer a look whose like no training drew.

    python -m benchmarks.never_seen --scans DIR --json FILE [--look t1]

Tables by bone and side: DSC, HD95 (mm), volume error (cm3), and the DSC of any bone, which tells finding from
naming. Synthetic scans; the anatomies are scaled adults.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.command import command, parser_of, write_figures
from benchmarks.looks import LOOKS, ScannerLook, keep_scan
from seg_core.labels import BONES, sided_labels
from seg_core.metrics import evaluate
from seg_core.nifti import read_labels
from seg_core.runner import Runner
from seg_core.scan import read_scan
from seg_core.segment import SegmentOptions, segment
from seg_core.surface_distance import surface_distances
from trainers.phantom import PhantomConfig

FIRST_SEED = 910_000
# Subject, stature (7, 10, 14 years, adult) in cm, distance of slices in mm.
PEOPLE = (
    (23, 122.0, 3.0),
    (24, 122.0, 1.0),
    (25, 138.0, 6.0),
    (23, 162.0, 1.0),
    (24, 162.0, 3.0),
    (25, 174.0, 6.0),
)


@dataclass(frozen=True)
class Score:
    """One scan's figures, a value for each of the 8 labels where it is a list."""

    look: str
    scan: str
    dsc: list[float]
    hd95_mm: list[float]
    volume_error_cm3: list[float]
    any_bone_dsc: float


def people(look: str) -> Iterator[PhantomConfig]:
    """Yield who is scanned in a look, and where the slices lie."""
    chosen, first = LOOKS[look], FIRST_SEED + 100 * list(LOOKS).index(look)
    for number, (subject, stature, slice_mm) in enumerate(PEOPLE):
        yield PhantomConfig(
            seed=first + number,
            subject=subject,
            stature_cm=stature,
            size=chosen.size,
            pixel_mm=chosen.pixel_mm,
            slice_mm=slice_mm,
            trunk_mm=60.0,
        )


def scan_name(config: PhantomConfig) -> str:
    """Return the name of a scan's folder."""
    return f"subject{config.subject}-{config.stature_cm:.0f}cm-{config.slice_mm:.0f}mm"


def make(config: PhantomConfig, look: ScannerLook, folder: Path) -> None:
    """Write the scan with its truth where it is not there yet; refuse another's."""
    keep_scan(config, folder, look)


def score(look: str, runner: Runner, folder: Path) -> Score:
    """Segment one scan from its DICOM files and compare with the truth."""
    truth = read_labels(folder / "labels.nii.gz").array
    scan = read_scan(folder / "dicom")
    options = SegmentOptions(laterality=scan.laterality)
    labels = segment(scan.volume, runner, options).labels.array
    geometry = scan.volume.geometry
    scores = evaluate(labels, truth, 2 * len(BONES), geometry.voxel_volume)
    any_bone = evaluate((labels > 0).astype(np.uint8), (truth > 0).astype(np.uint8), 1, geometry.voxel_volume)
    distances = surface_distances(labels, truth, 2 * len(BONES), geometry.voxel_sizes)
    return Score(
        look,
        folder.name,
        [float(v) for v in scores.dsc],
        [float(v) for v in distances.hd95_mm],
        [float(v) for v in scores.volume_error_cm3],
        float(any_bone.dsc[0]),
    )


def table(look: str, scores: list[Score]) -> str:
    """Means and SDs of a look as Markdown, a row a bone and side."""
    lines = [f"| {look} | DSC | HD95 mm | volume error cm3 |", "|---|---|---|---|"]
    columns = [
        np.array([getattr(s, name) for s in scores]) for name in ("dsc", "hd95_mm", "volume_error_cm3")
    ]
    for value, name in sided_labels(BONES).items():
        cells = " | ".join(_mean(column[:, value - 1]) for column in columns)
        lines.append(f"| {name.replace('_', ' ')} | {cells} |")
    lines.append(f"| any bone | {_mean(np.array([s.any_bone_dsc for s in scores]))} | | |")
    return "\n".join(lines)


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    """Mean and SD of those that are numbers; how many are none is said, since a missed bone has no HD95."""
    known = values[np.isfinite(values)]
    if not len(known):
        return "none"
    missing = f" ({len(values) - len(known)} none)" if len(known) < len(values) else ""
    return f"{known.mean():.3f} ± {known.std(ddof=min(1, len(known) - 1)):.3f}{missing}"


@command
def main(given: Sequence[str] | None = None) -> None:
    """Run the looks and print their tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--look", choices=LOOKS, action="append", help="only this one; may be repeated")
    parser.add_argument("--model", default="default")
    parser.add_argument("--precision", default="auto", help="auto, fp32, fp16 or int8")
    parser.add_argument("--scans", type=Path, help="keep the scans here")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--make-only", action="store_true", help="make the scans and stop")
    arguments = parser.parse_args(given)
    every: list[Score] = []
    with tempfile.TemporaryDirectory() as temporary:
        for look in arguments.look or LOOKS:
            folders = []
            for config in people(look):
                folders.append((arguments.scans or Path(temporary)) / look / scan_name(config))
                make(config, LOOKS[look], folders[-1])
            if arguments.make_only:
                continue
            runner = Runner(arguments.model, precision=arguments.precision)
            every += [score(look, runner, folder) for folder in folders]
            print(f"\n{table(look, every[-len(folders) :])}", flush=True)
    write_figures(arguments.json, [asdict(s) for s in every])


if __name__ == "__main__":
    sys.exit(main())
