"""A whole `lls segment`, DICOM in to files out: its steps, its profile, and the network alone beside it.

    python -m benchmarks.whole_job --model MODEL --scan SCAN -o OUT

The job runs twice, the first time unmeasured. Before and after them some of the scan's slices are run through
the file in float32 at full frame, on ONNX Runtime's CPU provider alone, side by side on all cores; the job's
time is a ratio to the median of that times the number of slices.
Without a scan one of 431 slices of 512 x 512 is drawn (as many as the report's scans have in the mean).
``profile.png`` shows processor and memory over time. Linux only.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.command import command, parser_of, write_figures
from benchmarks.memory import Load, make_scan
from benchmarks.timing import machine

SLICES, SAMPLES, ROUNDS, EVERY_S = 431, 8, 4, 0.05
GOAL = 0.25
"""The job's time as a share of the network's alone."""


@dataclass(frozen=True)
class Sample:
    """A moment of the job: seconds since its start, seconds of processor, resident memory in GB."""

    time_s: float
    cpu_s: float
    memory_gb: float


@dataclass(frozen=True)
class Job:
    """What the job took.

    Parameters
    ----------
    wall_s, cpu_s : float
        Of the whole process, from its start.
    steps : dict of str to float
        Seconds by the report file; those of ``segment`` are also given by part, which overlap.
    share_of_pixels : float
        That the network computed.
    precision : str
        In what.
    profile : list of Sample
    """

    wall_s: float
    cpu_s: float
    steps: dict[str, float]
    share_of_pixels: float
    precision: str
    profile: list[Sample]


def network_seconds(model: str, scan: Path, samples: int = SAMPLES) -> list[float]:
    """Return the seconds that the file in float32 takes for a slice of a scan, at full frame, in rounds."""
    from benchmarks.backends import Work
    from seg_core.runner import Runner

    runner = Runner(Work(model, "").path, "cpu", precision="fp32")
    samples = -(-samples // runner.at_once) * runner.at_once  # so that no core is without a slice
    images, _ = Work(model, str(scan), samples).prepared(runner)
    runner.logits(images)  # the first ones also set it up
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        runner.logits(images)
        taken.append((time.perf_counter() - begun) / len(images))
    return taken


def run_job(scan: Path, model: str, precision: str, out: Path) -> Job:
    """Run `lls segment` in a process of its own, and watch it.

    Raises
    ------
    RuntimeError
        If it fails.
    """
    command = [sys.executable, "-m", "cli", "segment", str(scan), "-o", str(out), "--model", model, "-q"]
    command += ["--precision", precision, "--name", "job"]
    begun, profile = time.perf_counter(), []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if (found := _look(process.pid)) is not None:
            profile.append(Sample(round(time.perf_counter() - begun, 3), *found))
        time.sleep(EVERY_S)
    wall = time.perf_counter() - begun
    if process.returncode:
        raise RuntimeError(f"lls segment ended with {process.returncode}")
    report = json.loads((out / "job_report.json").read_text(encoding="utf-8"))
    steps = {step["step"]: step["seconds"] for step in report["steps"]}
    share = _parameters(report, "segment: infer").get("share_of_pixels", 1.0)
    precision = report["device"]["precision"]
    return Job(wall, profile[-1].cpu_s if profile else 0.0, steps, share, precision, profile)


def _parameters(report: dict[str, Any], step: str) -> dict[str, Any]:
    return next((s["parameters"] for s in report["steps"] if s["step"] == step), {})


def _look(pid: int) -> tuple[float, float] | None:
    """Return processor seconds and memory of a process; None where it has just ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), round(pages * os.sysconf("SC_PAGE_SIZE") / 1e9, 4)


def draw(job: Job, path: Path) -> None:
    """Draw cores at work and memory over time."""
    from matplotlib.figure import Figure

    times = np.array([s.time_s for s in job.profile])
    cpu = np.array([s.cpu_s for s in job.profile])
    width = max(1, len(times) // 100)
    cores = (cpu[width:] - cpu[:-width]) / np.maximum(times[width:] - times[:-width], 1e-9)
    figure = Figure((9, 4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(times[width:], cores, color="#4878a8", alpha=0.6, label="cores at work")
    axes.set(xlabel="seconds", ylabel="cores at work", ylim=(0, None), xlim=(0, job.wall_s))
    memory = axes.twinx()
    memory.plot(times, [s.memory_gb for s in job.profile], color="#b04a3a", label="memory")
    memory.set(ylabel="resident memory, GB", ylim=(0, None))
    figure.savefig(path, dpi=110)


def as_markdown(job: Job, slices: int, network_s: float) -> str:
    """Return the steps as shares of the network's time at full frame in float32."""
    lines = [
        f"{slices} slices, network in {job.precision}, {job.share_of_pixels:.2f} of the pixels. Time as a",
        "share of the network alone in float32 at full frame on the same slices:",
        "",
        "| step | share |",
        "|---|---|",
        f"| whole `lls segment` | **{job.wall_s / network_s:.3f}** |",
    ]
    lines += [f"| {step} | {seconds / network_s:.3f} |" for step, seconds in job.steps.items()]
    started = job.wall_s - sum(s for name, s in job.steps.items() if ":" not in name)
    return "\n".join([*lines, f"| starting, opening the model, ending | {started / network_s:.3f} |"]) + "\n"


@command
def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; return 1 above the goal."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "int8", "fp16"])
    parser.add_argument("--scan", type=Path, help="folder of DICOM; one is drawn by default")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("-o", "--out", type=Path, help="folder for whole_job.json, .md and profile.png")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        scan = options.scan
        if scan is None:
            make_scan(Load(SLICES, slice_mm=2.5), Path(temporary) / "scan")
            scan = Path(temporary) / "scan" / "dicom"
        taken = network_seconds(options.model, scan, options.samples)
        run_job(scan, options.model, options.precision, Path(temporary) / "first")  # fills caches
        job = run_job(scan, options.model, options.precision, Path(temporary) / "out")
        report = json.loads((Path(temporary) / "out" / "job_report.json").read_text(encoding="utf-8"))
        taken += network_seconds(options.model, scan, options.samples)
    slices = report["scan"]["shape"][2]
    network_s = median(taken) * slices
    text = as_markdown(job, slices, network_s)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        facts = {"machine": machine("onnxruntime", "numpy"), "slices": slices, "network_s": network_s}
        write_figures(options.out / "whole_job.json", facts | asdict(job))
        (options.out / "whole_job.md").write_text(text, encoding="utf-8")
        draw(job, options.out / "profile.png")
    return int(job.wall_s / network_s > GOAL)


if __name__ == "__main__":
    sys.exit(main())
