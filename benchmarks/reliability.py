"""Does confidence mean what it says? Of voxels with a confidence of 0.9, nine in ten should be right.

    python -m benchmarks.reliability curve --scans DIR --picture FILE.png --json FILE [--look t1]
    python -m benchmarks.reliability fit --validation CACHE --model FILE --out FILE

`curve` segments the scans of `benchmarks.never_seen` from their DICOM files and counts, of all voxels that
are called a bone, how many are that bone, whatever the side, by confidence. The expected calibration error is
the mean distance of the two over ten bins of equal width, weighed by voxels (Naeini et al., AAAI 2015).
`fit` finds the temperature that makes a training's validation slices most likely, over pixels that the
network calls bone (Guo et al., ICML 2017), and writes the model file with it; labels stay as they are. The
slices are changed as those of a training by ``AUGMENTATION``, the same every time: on slices without blur,
shading and noise the network is right more often than on scans, and the temperature comes out too low. The
file itself is fitted, in float32; its twins in fewer bits are of the earlier file and are left alone
henceforth: make them again (``lls export FILE --precision int8``).
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from benchmarks import never_seen
from benchmarks.command import command, parser_of, write_figures
from benchmarks.looks import LOOKS
from seg_core.errors import UsageError
from seg_core.labels import IGNORED
from seg_core.nifti import read_labels
from seg_core.runner import Runner, model_path
from seg_core.scan import read_scan
from seg_core.segment import SegmentOptions, segment
from trainers.augment import AUGMENTATIONS, augment
from trainers.batches import columns
from trainers.curves import draw_reliability

BINS = 10
BATCH = 4
AUGMENTATION, SEED = AUGMENTATIONS["fine"], 0
TWINS = "then make its twins again with lls export --precision"
TEMPERATURES = (0.1, 20.0)
Counts = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]


def tally(
    labels: npt.NDArray[np.uint8],
    confidence: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.uint8],
    classes: int,
) -> Counts:
    """Count the voxels that are called a bone, and those of them that are right.

    Parameters
    ----------
    labels, confidence, truth : ndarray of uint8, any shape
        Bones by side, 255 times the probability, true bones by side.
    classes : int
        Number of bones; a right and a left one are the same here.

    Returns
    -------
    ndarray of int64, (classes, 256, 2)
        By bone and confidence: voxels, and right ones.
    """
    called = labels > 0
    bone, true = ((a[called].astype(np.int64) - 1) % classes for a in (labels, truth))
    right = (truth[called] > 0) & (bone == true)
    places = (bone * 256 + confidence[called]) * 2 + right
    wrong_right = np.bincount(places, minlength=classes * 512).reshape(classes, 256, 2)
    return np.stack([wrong_right.sum(axis=2), wrong_right[:, :, 1]], axis=2)


def reliability(counts: Counts) -> Array:
    """Return mean confidence, share of right voxels, and voxels of each bin that has any, (bins, 3).

    Parameters
    ----------
    counts : ndarray of int64, (256, 2)
        Voxels and right ones by confidence.
    """
    value = np.arange(256) / 255
    number = np.minimum((value * BINS).astype(np.int64), BINS - 1)
    voxels, right = (np.bincount(number, counts[:, n], BINS) for n in (0, 1))
    said = np.bincount(number, counts[:, 0] * value, BINS)
    some = voxels > 0
    return np.column_stack([said[some] / voxels[some], right[some] / voxels[some], voxels[some]])


def calibration_error(counts: Counts) -> float:
    """Return the expected calibration error of counts (256, 2); NaN without a voxel."""
    said, right, voxels = reliability(counts).T
    return float(np.abs(said - right) @ voxels / voxels.sum()) if voxels.size else float("nan")


def table(counts: Mapping[str, Counts]) -> str:
    """Return a row a bone as Markdown: mean confidence, share right, expected calibration error."""
    lines = ["| bone | voxels | mean confidence | share right | calibration error |", "|---|---|---|---|---|"]
    for name, own in counts.items():
        voxels, right = own.sum(axis=0)
        if not voxels:
            lines.append(f"| {name} | 0 | none | none | none |")
            continue
        said = own[:, 0] @ np.arange(256) / 255 / voxels
        error = calibration_error(own)
        lines.append(f"| {name} | {voxels} | {said:.3f} | {right / voxels:.3f} | {error:.3f} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Fit:
    """A temperature and the mean negative logarithm of the truth's probability without and with it."""

    temperature: float
    before: float
    after: float


def fit_temperature(logits: Array, truth: npt.NDArray[np.int64]) -> Fit:
    """Find the temperature that makes the truth most likely.

    Parameters
    ----------
    logits : ndarray, (n, classes + 1)
        Of pixels.
    truth : ndarray of int64, (n,)
        Their true classes.

    Raises
    ------
    UsageError
        If there is no pixel.
    """
    if not len(truth):
        raise UsageError("no pixel that the network calls bone", "slices that show bones")
    own = logits[np.arange(len(truth)), truth]

    def surprise(temperature: float) -> float:
        return float(np.mean(logsumexp(logits / temperature, axis=1) - own / temperature))

    low, high = np.log(TEMPERATURES)
    best = minimize_scalar(lambda t: surprise(float(np.exp(t))), bounds=(low, high), method="bounded")
    temperature = round(float(np.exp(best.x)), 4)
    return Fit(temperature, surprise(1.0), surprise(temperature))


def called_bone(runner: Runner, validation: Path, slices: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return logits (n, classes + 1) and true classes (n,) of changed slices' pixels that are called bone."""
    from exporters.run import validation_slices

    images, labels = validation_slices(validation, runner.spec, slices)
    seeds = columns(SEED, np.arange(len(images)))
    # Channels that repeat a slice have one noise, as in training.
    distinct = 1 if runner.spec.channel_fill == "repeat" else runner.spec.channels
    found: list[Array] = []
    truth: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(images), BATCH):
        own = slice(start, start + BATCH)
        seen, true = augment(images[own, :distinct], labels[own], seeds[own], AUGMENTATION)
        logits = np.moveaxis(runner.logits(seen.repeat(runner.spec.channels // distinct, axis=1)), 1, 3)
        kept = (logits.argmax(axis=3) > 0) & (true != IGNORED)
        found.append(logits[kept].astype(np.float64))
        truth.append(true[kept].astype(np.int64))
    return np.concatenate(found), np.concatenate(truth)


def scan_counts(runner: Runner, folder: Path) -> Counts:
    """Segment one scan from its DICOM files and count."""
    scan = read_scan(folder / "dicom")
    options = SegmentOptions(confidence=True, laterality=scan.laterality)
    found = segment(scan.volume, runner, options)
    if found.confidence is None:
        raise UsageError("a segmentation without confidence", "one")
    truth = read_labels(folder / "labels.nii.gz").array
    return tally(found.labels.array, found.confidence.array, truth, len(runner.spec.classes))


def curve(chosen: argparse.Namespace) -> None:
    """Segment the scans, print the table, draw the picture, write the counts."""
    runner = Runner(chosen.model, precision=chosen.precision)
    counts = np.zeros((len(runner.spec.classes), 256, 2), np.int64)
    with tempfile.TemporaryDirectory() as temporary:
        for look in chosen.look or LOOKS:
            for number, config in enumerate(never_seen.people(look)):
                folder = (chosen.scans or Path(temporary)) / look / never_seen.scan_name(config)
                if chosen.people is not None and number >= chosen.people:
                    break
                never_seen.make(config, LOOKS[look], folder)
                counts += scan_counts(runner, folder)
    bones = dict(zip(runner.spec.classes, counts, strict=True)) | {"any": counts.sum(axis=0)}
    model = f"model {runner.spec.name} in {runner.precision}, temperature {runner.spec.temperature:g}"
    print(f"{model}\n\n{table(bones)}")
    curves = {name: reliability(own) for name, own in bones.items() if own.any()}
    if chosen.picture:
        draw_reliability(curves, chosen.picture)
    write_figures(chosen.json, {name: own.tolist() for name, own in curves.items()})


def fit(chosen: argparse.Namespace) -> None:
    """Fit the temperature, say what it brings, and write the model with it."""
    path = model_path(chosen.model)
    # A twin computes other logits, and it is the file that gets the temperature.
    runner = Runner(path, precision="fp32")
    found = fit_temperature(*called_bone(runner, chosen.validation, chosen.slices))
    print(
        f"temperature {found.temperature:g}: the truth's mean -log probability over pixels that are called "
        f"bone falls from {found.before:.4f} to {found.after:.4f}"
    )
    if chosen.out:
        import onnx

        from exporters.onnx_graph import with_temperature, write

        digest = write(with_temperature(onnx.load(path), found.temperature), chosen.out)
        print(f"{chosen.out}: sha256 {digest}; {TWINS}")


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do it."""
    parser = parser_of(__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("curve", help="how often confidence is right")
    one.add_argument("--look", choices=LOOKS, action="append", help="only this one; may be repeated")
    one.add_argument("--people", type=int, help="only so many scans a look")
    one.add_argument("--precision", default="auto", help="auto, fp32, fp16 or int8")
    one.add_argument("--scans", type=Path, help="keep the scans here")
    one.add_argument("--picture", type=Path, help="draw the curves here")
    one.add_argument("--json", type=Path, help="write the curves here")
    one.set_defaults(run=curve)
    other = commands.add_parser("fit", help="find the temperature")
    other.add_argument("--validation", type=Path, required=True, help="a cache of slices")
    other.add_argument("--slices", type=int, default=200, help="how many of them, evenly spread")
    other.add_argument("--out", type=Path, help=f"write the model with its temperature here; {TWINS}")
    other.set_defaults(run=fit)
    for each in (one, other):
        each.add_argument("--model", default="default")
    chosen = parser.parse_args(arguments)
    chosen.run(chosen)


if __name__ == "__main__":
    sys.exit(main())
