"""Peak memory of `lls segment` on the longest scan: 1015 slices of 512 x 512, 1.5 mm apart, from DICOM.

    python -m benchmarks.memory --model MODEL

The scan is synthetic (``lls phantom``). Scan and segmentation are made by processes of their own, so that
only the segmentation is measured; more than 1.2 GB is a failure. ``--scan`` keeps the scan for another run,
``--slices`` makes a shorter one. Linux and macOS only.
"""

import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

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


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return 1 above the limit."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--slices", type=int, default=Load.slices)
    parser.add_argument("--size", type=int, default=Load.size, help="rows and columns")
    parser.add_argument("--limit", type=float, default=LIMIT_GB, help="in GB (10^9 bytes)")
    parser.add_argument("--scan", type=Path, help="keep the scan in this folder, or take it from there")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    load = Load(options.slices, options.size, Load.pixel_mm * Load.size / options.size)
    with tempfile.TemporaryDirectory() as temporary:
        scan = options.scan or Path(temporary) / "scan"
        if not scan.is_dir():
            make_scan(load, scan)
        files = sum(1 for _ in (scan / "dicom").iterdir())
        if files != load.slices:
            parser.error(f"{scan} holds {files} slices, not {load.slices}")
        peak = measure(scan / "dicom", options.model, Path(temporary) / "out", options.precision)
    what = f"{load.slices} slices of {load.size} x {load.size}"
    print(f"{what}: peak {peak.gigabytes:.2f} GB (limit {options.limit:g}), {peak.cpu_seconds:.0f} s of CPU")
    write_figures(options.json, {"load": asdict(load), **asdict(peak)})
    return int(peak.gigabytes > options.limit)


if __name__ == "__main__":
    sys.exit(main())
