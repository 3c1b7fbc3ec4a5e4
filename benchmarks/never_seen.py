"""Accuracy on looks from physics: the bundled file, from DICOM to labels.

Frozen before the network was trained for it, and not eased afterwards: measured subjects 23, 24 and 25 at the
stature of 7, 10 and 14 years and adult, scanned in the five looks of `benchmarks.looks`. Those are computed
from tissue parameters and signal equations, and share no figure with the drawing that training uses; bodies
around the bones come from the same code. Six scans a look, slices 1, 3 and 6 mm apart; seeds from
``FIRST_SEED`` on, which no training uses.

None of these scans was trained on, but their scores decided what network 7's training drew: small people, and
a look as X-rays see it. CT-like is no longer a look whose like no training drew.

    python -m benchmarks.never_seen --scans DIR --json FILE [--look t1]
    python -m benchmarks.never_seen --from FILE

Tables by bone and side: DSC, HD95 (mm), volume error (cm3), and the DSC of any bone, which tells finding from
naming; then mean DSC by look and by stature. Stature and distance of slices are tied in this set (138 and
174 cm, and subject 25, at 6 mm alone): what slices do cannot be told from what people do. Synthetic scans;
the anatomies are scaled adults.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks.command import command, parser_of, write_figures
from benchmarks.looks import LOOKS, ScannerLook, keep_scan
from seg_core.errors import UsageError
from seg_core.labels import BONES, sided_labels
from seg_core.metrics import evaluate
from seg_core.nifti import read_labels
from seg_core.runner import Runner
from seg_core.scan import read_scan
from seg_core.segment import SegmentOptions, segment
from seg_core.surface_distance import surface_distances
from trainers.phantom import PhantomConfig

FIRST_SEED = 910_000
TITLES = {
    "water_dixon": "water Dixon",
    "t1": "T1",
    "pd_fat_suppressed": "proton density, fat suppressed",
    "low_field_in_phase": "in phase at low field, noisy",
    "ct": "CT-like",
}
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


def summaries(scores: Sequence[Score]) -> str:
    """Mean DSC as Markdown: a table with a row a look, then one with a row a stature, over the looks."""
    statures = {scan_name(config): f"{config.stature_cm:.0f} cm" for config in people(next(iter(LOOKS)))}
    looks: dict[str, list[Score]] = {}
    sizes: dict[str, list[Score]] = {}
    for one in scores:
        looks.setdefault(TITLES[one.look], []).append(one)
        sizes.setdefault(statures[one.scan], []).append(one)
    return f"{means('look', looks)}\n\n{means('stature', sizes)}"


def means(what: str, groups: Mapping[str, Sequence[Score]]) -> str:
    """Mean DSC as Markdown, a row a group of scans: each bone over both sides, all four, any bone."""
    lines = [f"| {what} | {' | '.join(BONES)} | mean | any bone |", "|---" * (len(BONES) + 3) + "|"]
    for name, scores in groups.items():
        bones = np.array([s.dsc for s in scores]).reshape(-1, len(BONES)).mean(axis=0)
        values = [*bones, bones.mean(), np.mean([s.any_bone_dsc for s in scores])]
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |")
    return "\n".join(lines)


def read_figures(path: Path) -> tuple[str, list[Score]]:
    """Return which model it was and its scores, as ``--json`` kept them.

    Raises
    ------
    UsageError
        If the file holds none.
    """
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(known, list):  # as earlier versions wrote them
            known = {"model": "model not noted", "scores": known}
        return known["model"], [Score(**one) for one in known["scores"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} holds no scores: {error}", "a file that --json wrote") from error


def show(model: str, looks: Iterable[list[Score]]) -> list[Score]:
    """Print what was scored, the table of each look as soon as it is there, and the means; return all."""
    print(f"Synthetic scans, looks from physics, {model}", flush=True)
    every: list[Score] = []
    for own in looks:
        print(f"\n{table(own[0].look, own)}", flush=True)
        every += own
    print(f"\n{summaries(every)}")
    return every


def made(look: str, scans: Path) -> Iterator[Path]:
    """Yield the folders of a look's scans, made where they are not there yet."""
    for config in people(look):
        folder = scans / look / scan_name(config)
        make(config, LOOKS[look], folder)
        yield folder


@command
def main(given: Sequence[str] | None = None) -> None:
    """Run the looks and print their tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--look", choices=LOOKS, action="append", help="only this one; may be repeated")
    parser.add_argument("--model", default="default")
    parser.add_argument("--precision", default="auto", help="auto, fp32, fp16 or int8")
    parser.add_argument("--scans", type=Path, help="keep the scans here")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--from", type=Path, dest="kept", help="only print what --json wrote here")
    parser.add_argument("--make-only", action="store_true", help="make the scans and stop")
    arguments = parser.parse_args(given)
    if arguments.kept:
        model, scores = read_figures(arguments.kept)
        show(model, (list(own) for _, own in groupby(scores, key=lambda one: one.look)))
        return
    looks = arguments.look or LOOKS
    with tempfile.TemporaryDirectory() as temporary:
        scans = arguments.scans or Path(temporary)
        if arguments.make_only:
            for look in looks:
                list(made(look, scans))
            return
        runner = Runner(arguments.model, precision=arguments.precision)
        model = f"model {runner.spec.name} in {runner.precision}, sha256 {runner.fingerprint[:12]}"
        every = show(model, ([score(look, runner, folder) for folder in made(look, scans)] for look in looks))
    write_figures(arguments.json, {"model": model, "scores": [asdict(one) for one in every]})


if __name__ == "__main__":
    sys.exit(main())
