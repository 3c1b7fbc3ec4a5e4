"""Less to compute, the same labels: views of the body against the whole frame, on drawn scans or given ones.

    python -m benchmarks.less_to_compute --model MODEL [SCAN...]

For each scan: the DSC of every bone against the labels of the whole frame, the share of pixels that the
network computed, and of its time; runs take turns. Where the truth lies beside the scan (`labels.nii.gz`),
how much nearer to it or farther from it views are than the whole frame. Without scans the first of each
subject of `benchmarks.accuracy`, ordinary and hard, is drawn. Less than `WANTED` in a bone is a failure, in
any precision, though rounding in 8 bits alone may make it less (`slice_inference.ROUNDED`).
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.accuracy import TESTS, configurations
from benchmarks.command import command, parser_of, write_figures
from benchmarks.looks import keep_scan
from seg_core.geometry import LabelMap
from seg_core.metrics import evaluate, leave_unknown
from seg_core.nifti import read_labels
from seg_core.runner import Runner
from seg_core.scan import read_scan
from seg_core.segment import Segmentation, SegmentOptions, segment

WANTED = 0.999
"""DSC of every bone against the whole frame."""


@dataclass(frozen=True)
class Less:
    """What views of the body bring in one scan.

    Parameters
    ----------
    scan : str
    share : float
        Of the pixels.
    time : float
        Of the seconds that range, views and inference take.
    dsc : dict of str to float
        A bone and side against the whole frame; those that neither has are left out.
    change : dict of str to float
        DSC against the truth, less the whole frame's; empty where there is no truth.
    """

    scan: str
    share: float
    time: float
    dsc: dict[str, float]
    change: dict[str, float] = field(default_factory=dict)


def compare(path: Path, runner: Runner, repetitions: int = 1) -> Less:
    """Segment a scan both ways in turn, the first time unmeasured; each begins every second time."""
    volume = read_scan(path).volume
    seconds: dict[bool, list[float]] = {True: [], False: []}
    found: dict[bool, Segmentation] = {}
    for n in range(repetitions + 1):
        for whole in (False, True) if n % 2 else (True, False):
            found[whole] = segment(volume, runner, SegmentOptions(whole_frame=whole))
            took = sum(found[whole].seconds[step] for step in ("range", "views", "infer"))
            seconds[whole] += [took] if n else []
    less, whole_labels = found[False].labels, found[True].labels
    dsc, beside = _dsc(less, whole_labels), path.parent / "labels.nii.gz"
    change = _change(less, whole_labels, read_labels(beside)) if beside.is_file() else {}
    name = path.parent.name if path.name == "dicom" else path.name
    return Less(name, found[False].share, median(seconds[False]) / median(seconds[True]), dsc, change)


def _change(less: LabelMap, whole: LabelMap, truth: LabelMap) -> dict[str, float]:
    """Return the DSC against the truth, less the whole frame's; nothing where labels mean other bones."""
    if less.labels != whole.labels or not less.labels.items() <= truth.labels.items():
        return {}
    ours, theirs = (_dsc(*leave_unknown(labels, truth)) for labels in (less, whole))
    # A bone that neither these labels nor the truth have is right.
    return {bone: ours.get(bone, 1.0) - theirs.get(bone, 1.0) for bone in {**theirs, **ours}}


def _dsc(labels: LabelMap, others: LabelMap) -> dict[str, float]:
    """Return the DSC of each bone and side that one of the two has."""
    names, scores = {**others.labels, **labels.labels}, evaluate(labels, others).dsc
    return {names[n]: float(value) for n, value in enumerate(scores, 1) if not np.isnan(value)}


def line(less: Less) -> str:
    """Say what views bring in one scan."""
    bone, dsc = min(less.dsc.items(), key=lambda item: item[1], default=("no bone", 1.0))
    text = f"{less.scan}: {less.share:.2f} of the pixels, {less.time:.2f} of the time"
    text += f", least DSC {dsc:.4f} ({bone})"
    if not less.change:
        return text
    changes = less.change.values()
    return f"{text}; against the truth {min(changes):+.4f} to {max(changes):+.4f}"


def drawn(folder: Path) -> Iterator[Path]:
    """Draw scans into a folder, those that are not there, and give their DICOM.

    Raises
    ------
    UsageError
        If another scan is there.
    """
    for name in TESTS:
        for number in (0, 4, 8):
            scan = keep_scan(list(configurations(name))[number], folder / f"{name}-{number}")
            yield scan / "dicom"


@command
def main(arguments: list[str] | None = None) -> int:
    """Compare, print, and return 1 where a bone changed."""
    parser = parser_of(__doc__)
    parser.add_argument("scan", nargs="*", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--scans", type=Path, help="keep the drawn scans in this folder, or take them there")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    runner, done = Runner(options.model, precision=options.precision), []
    print(f"{runner.name} in {runner.precision}, at least {WANTED}")
    with tempfile.TemporaryDirectory() as temporary:
        for path in options.scan or drawn(options.scans or Path(temporary)):
            done.append(compare(path, runner, options.repetitions))
            print(line(done[-1]), flush=True)
    write_figures(options.json, [asdict(less) for less in done])
    return int(any(value < WANTED for less in done for value in less.dsc.values()))


if __name__ == "__main__":
    sys.exit(main())
