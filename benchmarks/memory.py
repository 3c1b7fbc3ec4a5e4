"""Peak memory of `lls segment` on the longest scan: 1015 slices of 512 x 512, 1.5 mm apart, from DICOM.

    python -m benchmarks.memory --model MODEL
    python -m benchmarks.memory --slices 200 431 700 1015 --picture FILE.png

The scan is synthetic (``lls phantom``). Scan and segmentation are made by processes of their own, so that
only the segmentation is measured; more than 1.2 GB is a failure. ``--slices`` makes others, of the same body
in fewer and thicker slices: of three or more the straight lines through memory and time are told, and how
far a scan is from them. Time is the processor's, which other programs disturb less. ``--scan`` keeps the
scans for another run. Linux and macOS only.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression

from benchmarks.command import parser_of, write_figures

LIMIT_GB = 1.2


# A process's peak begins with that of the one that started it, so a small one stands between.
_WATCH = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime, used.ru_stime)
sys.exit(code)
"""


@dataclass(frozen=True)
class Load:
    """The scan to segment: slices, rows and columns, and their distances in mm."""

    slices: int = 1015
    size: int = 512
    pixel_mm: float = 0.9375
    slice_mm: float = 1.5


@dataclass(frozen=True)
class Peak:
    """What a segmentation took: greatest resident memory, processor seconds."""

    gigabytes: float
    cpu_seconds: float


@dataclass(frozen=True)
class Line:
    """The straight line nearest to what scans of several lengths took (least squares).

    Parameters
    ----------
    start : float
        At no slices.
    slope : float
        A slice.
    worst : float
        The greatest distance of a scan from the line, as a share of the line there.
    """

    start: float
    slope: float
    worst: float

    @classmethod
    def through(cls, slices: Sequence[int], taken: Sequence[float]) -> "Line":
        """Return the line of at least two lengths."""
        slope, start = linear_regression(slices, taken)
        away = [abs(y / (start + slope * x) - 1) for x, y in zip(slices, taken, strict=True)]
        return cls(start, slope, max(away))


def make_scan(load: Load, folder: Path, seed: int = 900_500) -> None:
    """Write a synthetic scan into a folder that is not there yet."""
    command = [sys.executable, "-m", "cli", "phantom", "-o", str(folder), "--seed", str(seed)]
    command += ["--slices", str(load.slices), "--size", str(load.size)]
    command += ["--spacing", str(load.pixel_mm), "--slice-spacing", str(load.slice_mm)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(scan: Path, model: str, out: Path, precision: str = "auto") -> Peak:
    """Segment a scan in a process of its own and return what that took.

    The caller's own memory counts as the child's until the child starts its program: keep it small.

    Raises
    ------
    RuntimeError
        If the segmentation fails.
    """
    command = [sys.executable, "-m", "cli", "segment", str(scan), "-o", str(out), "--model", model, "-q"]
    command += ["--precision", precision]
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, *command], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"lls segment ended with {done.returncode}")
    peak, user, system = map(float, done.stdout.split()[-3:])
    unit = 1 if sys.platform == "darwin" else 1024
    return Peak(peak * unit / 1e9, user + system)


def load_of(slices: int, size: int = Load.size) -> Load:
    """Return the same body, as much of it as the longest scan shows, in other slices and pixels."""
    return Load(slices, size, Load.pixel_mm * Load.size / size, Load.slice_mm * Load.slices / slices)


def lines_through(peaks: Mapping[int, Peak]) -> dict[str, Line]:
    """Return the lines of memory and time by the number of slices; none of fewer than three scans."""
    if len(peaks) < 3:
        return {}
    return {
        name: Line.through(list(peaks), [getattr(peak, name) for peak in peaks.values()])
        for name in ("gigabytes", "cpu_seconds")
    }


def as_markdown(peaks: Mapping[int, Peak], lines: Mapping[str, Line]) -> str:
    """Return a row a scan, and the lines."""
    rows = ["| slices | peak GB | s of CPU |", "|---|---|---|"]
    rows += [f"| {n} | {peak.gigabytes:.3f} | {peak.cpu_seconds:.1f} |" for n, peak in peaks.items()]
    for name, unit in (("gigabytes", "GB"), ("cpu_seconds", "s")):
        if line := lines.get(name):
            off = f"a scan is at most {line.worst:.1%} off"
            rows.append(f"\n{unit}: {line.start:.3g} + {line.slope:.3g} a slice; {off}")
    return "\n".join(rows)


def draw(peaks: Mapping[int, Peak], lines: Mapping[str, Line], path: Path) -> None:
    """Draw memory and time over the number of slices, with their lines."""
    from matplotlib.figure import Figure

    figure = Figure((8, 3.5), layout="constrained")
    ends = [0, max(peaks)]
    labels = {"gigabytes": "peak memory, GB", "cpu_seconds": "s of CPU"}
    for axes, (name, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        axes.plot(list(peaks), [getattr(peak, name) for peak in peaks.values()], "o", color="#4878a8")
        if line := lines.get(name):
            axes.plot(ends, [line.start + line.slope * n for n in ends], color="#b04a3a", lw=1)
        axes.set(xlabel="slices", ylabel=label, xlim=(0, None), ylim=(0, None))
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return 1 above the limit."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--slices", type=int, nargs="+", default=[Load.slices], help="of a scan or of several"
    )
    parser.add_argument("--size", type=int, default=Load.size, help="rows and columns")
    parser.add_argument("--limit", type=float, default=LIMIT_GB, help="in GB (10^9 bytes)")
    parser.add_argument(
        "--scan",
        type=Path,
        help="keep the scan in this folder, or take it from there; SCAN/SLICES of several",
    )
    parser.add_argument("--picture", type=Path, help="draw memory and time over the number of slices here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    loads = [load_of(slices, options.size) for slices in sorted(set(options.slices))]
    peaks: dict[int, Peak] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for load in loads:
            scan = options.scan or Path(temporary) / "scan"
            scan = scan / str(load.slices) if len(loads) > 1 else scan
            if not scan.is_dir():
                make_scan(load, scan)
            files = sum(1 for _ in (scan / "dicom").iterdir())
            if files != load.slices:
                parser.error(f"{scan} holds {files} slices, not {load.slices}")
            out = Path(temporary) / f"out-{load.slices}"
            peak = peaks[load.slices] = measure(scan / "dicom", options.model, out, options.precision)
            what = f"{load.slices} slices of {load.size} x {load.size}: peak {peak.gigabytes:.2f} GB"
            print(f"{what} (limit {options.limit:g}), {peak.cpu_seconds:.0f} s of CPU", flush=True)
    lines = lines_through(peaks)
    if len(peaks) > 1:
        print(f"\n{as_markdown(peaks, lines)}")
    if options.picture:
        draw(peaks, lines, options.picture)
    runs = [{"load": asdict(load), **asdict(peaks[load.slices])} for load in loads]
    figures = {"scans": runs, "lines": {name: asdict(line) for name, line in lines.items()}}
    write_figures(options.json, figures)
    return int(any(peak.gigabytes > options.limit for peak in peaks.values()))


if __name__ == "__main__":
    sys.exit(main())
