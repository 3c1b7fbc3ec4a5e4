"""One network on one scan in every runtime and framework: time, start, memory, labels.

    python -m benchmarks.backends --model MODEL --scan SCAN -o OUT     # the same as `lls bench`

Every backend has a process of its own for each batch size, so that its memory is its own; they take turns, so
that whatever else the machine does meets all of them alike. Slices are prepared once, by another process, so
that neither start nor memory of a backend holds that. Time is from prepared slices to classes on the scan's
pixels. What is not installed, or cannot run here, is named. ``--against`` compares with an earlier run: where
something got slower, or is gone, the exit code is 8.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.against import check_same, failures, read_earlier, slower
from benchmarks.command import command, parser_of, write_figures
from benchmarks.frameworks import (
    BACKENDS,
    BASE,
    OTHER_WEIGHTS,
    Float32Array,
    Prepared,
    Uint8Array,
    Work,
    prepare_apart,
)
from benchmarks.timing import Spread, machine
from seg_core.errors import LlsError, MissingPackageError, QualityError
from seg_core.metrics import evaluate
from seg_core.report import peak_memory

PACKAGES = ("onnxruntime", "openvino", "torch", "nnunetv2", "keras", "tensorflow", "numpy")
Key = tuple[str, int]
"""A backend and a batch size."""


@dataclass(frozen=True)
class Row:
    """What a backend took with a batch size.

    Parameters
    ----------
    backend : str
    batch : int
    slice_ms : Spread
        A slice, in milliseconds.
    ratio : Spread
        To `BASE` with a batch of 1, round by round.
    cold_s : float
        From nothing to the classes of the first batch.
    peak_gb : float or None
        Greatest resident memory of its process, in 10^9 bytes; None where the system is silent.
    same_labels : float or None
        Share of pixels, the background's too, of the same class as `BASE`'s, in the worst round; None: the
        weights are others.
    least_dsc : float or None
        DSC of the worst bone against those of `BASE`, in the worst round; None also without any bone.
    """

    backend: str
    batch: int
    slice_ms: Spread
    ratio: Spread
    cold_s: float
    peak_gb: float | None
    same_labels: float | None
    least_dsc: float | None


@dataclass
class Result:
    """The machine, what was done, the rows; who is missing."""

    machine: Mapping[str, Any]
    work: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def _serve(pipe: Connection, name: str, given: Prepared, batch: int) -> None:
    """Run a backend in a process of its own: whenever it is asked, all slices, timed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    images = np.load(given.file, mmap_mode="r")
    begun = time.perf_counter()
    try:
        infer = BACKENDS[name](given, batch)
        infer(_batch(images, 0, batch))
        pipe.send({"cold_s": time.perf_counter() - begun})
    except (ImportError, LlsError) as error:
        pipe.send({"missing": error})
        return
    for _ in _asked(pipe):
        begun = time.perf_counter()
        labels = [infer(_batch(images, n, batch)) for n in range(0, len(images), batch)]
        seconds = time.perf_counter() - begun
        found = np.concatenate(labels)[: len(images)]
        pipe.send({"seconds": seconds, "labels": found, "peak": peak_memory()})


def _asked(pipe: Connection) -> Iterator[object]:
    """Yield whatever is asked, until the other end is closed."""
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


def _batch(images: Float32Array, start: int, batch: int) -> Float32Array:
    """Return a batch, filled up at the end with the first slices."""
    return np.ascontiguousarray(np.take(images, range(start, start + batch), axis=0, mode="wrap"))


def run(given: Prepared, names: Sequence[str], batches: Sequence[int] = (1,), rounds: int = 3) -> Result:
    """Measure backends in turn, one batch size after the other, each time beside `BASE` with a batch of 1.

    Parameters
    ----------
    given : Prepared
        What they do.
    names : sequence of str
        Of ``BACKENDS``; `BASE` is always among those that run.
    batches : sequence of int
        Slices a call; 1 is always among them.
    rounds : int
        How often each runs over all slices; medians are compared.

    Raises
    ------
    LlsError
        If `BASE` cannot run.
    """
    names = list(dict.fromkeys((BASE, *names)))
    batches = list(dict.fromkeys((1, *batches)))
    asked = {"rounds": rounds, "batches": batches, "backends": names}
    result = Result(machine(*PACKAGES), given.facts() | asked)
    for batch in batches:
        wanted = [(name, batch) for name in names if name not in result.missing]
        with _started(given, list(dict.fromkeys([(BASE, 1), *wanted])), result) as workers:
            rows = _take_turns(workers, result, rounds, len(given.spec.classes))
        result.rows += [rows[key] for key in wanted if key in rows]
    return result


@dataclass
class _Worker:
    """A backend's process, and what it has said so far; labels as compared with those of `BASE`."""

    pipe: Connection
    cold_s: float
    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    same: list[float] = field(default_factory=list)
    dsc: list[float] = field(default_factory=list)

    def add(self, found: Mapping[str, Any], base: Uint8Array, bones: int) -> None:
        """Keep a round's answer."""
        self.seconds.append(found["seconds"])
        self.peak = found["peak"]
        self.same.append(float(np.mean(found["labels"] == base)))
        dsc = evaluate(found["labels"], base, bones, 1.0).dsc
        self.dsc += dsc[~np.isnan(dsc)].tolist()


@contextmanager
def _started(given: Prepared, keys: Sequence[Key], result: Result) -> Iterator[dict[Key, _Worker]]:
    """Start processes, one after the other, and end them; those that have nothing to run become missing."""
    context = multiprocessing.get_context("spawn")
    processes: list[tuple[Any, Connection]] = []
    workers: dict[Key, _Worker] = {}
    try:
        for name, batch in keys:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, name, given, batch), daemon=True)
            process.start()
            there.close()
            processes.append((process, here))
            if found := _answer(here, (name, batch), result):
                workers[name, batch] = _Worker(here, found["cold_s"])
        yield workers
    finally:
        for process, pipe in processes:
            pipe.close()
            process.join(10)
            process.terminate()


def _answer(pipe: Connection, key: Key, result: Result, ask: bool = False) -> dict[str, Any]:
    """Ask for a round, or only listen, and return the answer; keep why a backend that has none is missing.

    Raises
    ------
    LlsError
        If that is `BASE`, with which all are compared.
    """
    name, batch = key
    try:
        if ask:
            pipe.send(True)
        found: dict[str, Any] = pipe.recv()
    except (EOFError, OSError):
        found = {"missing": LlsError(f"the process of {name} ended")}
    error = found.get("missing")
    if error is None:
        return found
    if name == BASE:
        raise error
    fix = f" ({error.fix})" if isinstance(error, MissingPackageError) and error.fix else ""
    result.missing[name if batch == 1 else f"{name}, batch {batch}"] = (
        " ".join(str(error).splitlines()[:1]) + fix
    )
    return {}


def _take_turns(workers: dict[Key, _Worker], result: Result, rounds: int, bones: int) -> dict[Key, Row]:
    """Return a row each; a backend that ends on the way becomes a missing one. `BASE` comes first."""
    for _ in range(rounds):
        for key in list(workers):
            found = _answer(workers[key].pipe, key, result, ask=True)
            if not found:
                workers.pop(key)
                continue
            if key == (BASE, 1):
                base = found["labels"]
            workers[key].add(found, base, bones)
    count = len(base)
    base_s = np.array(workers[BASE, 1].seconds) / count
    return {key: _row(key, worker, count, base_s) for key, worker in workers.items()}


def _row(key: Key, worker: _Worker, count: int, base_s: npt.NDArray[np.float64]) -> Row:
    name, batch = key
    times = np.array(worker.seconds) / (-(-count // batch) * batch)  # the last batch is filled up
    compared = name not in OTHER_WEIGHTS
    return Row(
        name,
        batch,
        Spread.of(times * 1000),
        Spread.of(times / base_s),
        worker.cold_s,
        None if worker.peak is None else round(worker.peak / 1e9, 3),
        min(worker.same) if compared else None,
        min(worker.dsc, default=None) if compared else None,
    )


def as_markdown(result: Result) -> str:
    """Return the rows as a table, the fastest first, and who is missing."""
    lines = [
        f"{result.machine['processor']}, {result.machine['cores']} cores; {result.work['slices']} slices a"
        f" round, medians of {result.work['rounds']} rounds in turns (quartiles).",
        "",
        f"| backend | batch | time, {BASE} = 1 | start s | peak GB | same labels | least DSC of a bone |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(result.rows, key=lambda row: row.ratio.median):
        cells = [
            row.backend,
            str(row.batch),
            f"{row.ratio.median:.2f} ({row.ratio.low:.2f} to {row.ratio.high:.2f})",
            f"{row.cold_s:.1f}",
            "-" if row.peak_gb is None else f"{row.peak_gb:.2f}",
            "-" if row.same_labels is None else f"{row.same_labels:.4%}",
            "-" if row.least_dsc is None else f"{row.least_dsc:.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {name}: not here: {why}" for name, why in result.missing.items())]
    return "\n".join(lines).rstrip() + "\n"


def draw(result: Result, path: Path) -> None:
    """Draw the ratios as bars with their quartiles."""
    from matplotlib.figure import Figure

    rows = sorted(result.rows, key=lambda row: -row.ratio.median)
    figure = Figure((8, 0.4 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    medians = [row.ratio.median for row in rows]
    spread = [[r.ratio.median - r.ratio.low for r in rows], [r.ratio.high - r.ratio.median for r in rows]]
    axes.barh([f"{row.backend}, batch {row.batch}" for row in rows], medians, xerr=spread, color="#4878a8")
    axes.set_xlabel(f"time a slice, {BASE} = 1")
    figure.savefig(path, dpi=120)


def write(result: Result, folder: Path) -> None:
    """Write ``backends.json``, ``backends.md`` and, where Matplotlib is installed, ``backends.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_figures(folder / "backends.json", asdict(result))
    (folder / "backends.md").write_text(as_markdown(result), encoding="utf-8")
    try:
        draw(result, folder / "backends.png")
    except ImportError:
        print("no plot: Matplotlib is not installed", file=sys.stderr)


def chosen(words: Sequence[str]) -> list[str]:
    """Return the backends whose names contain one of the words; all without a word."""
    return [n for n in BACKENDS if not words or any(word.lower() in n.lower() for word in words)]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; return 8 where something got slower, or is gone, since an earlier run."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--scan", required=True)
    parser.add_argument("--slices", type=int, default=Work.slices)
    parser.add_argument("--network", default=Work.network, help="of the frameworks")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", nargs="*", default=[], help="part of a name")
    parser.add_argument("--against", type=Path, help="backends.json of an earlier run on this machine")
    parser.add_argument("-o", "--out", type=Path, help="folder for JSON, Markdown and plot")
    options = parser.parse_args(arguments)
    work = Work(options.model, options.scan, options.slices, options.network)
    earlier = read_earlier(options.against) if options.against else None
    with tempfile.TemporaryDirectory(prefix="lls-bench-") as folder:
        given = prepare_apart(work, Path(folder) / "slices.npy")
        if earlier is not None:
            check_same(earlier, given.facts())
        result = run(given, chosen(options.backend), options.batch, options.rounds)
    print(as_markdown(result))
    if options.out:
        write(result, options.out)
    if earlier is None:
        return 0
    lines = slower(asdict(result), earlier)
    print("\n".join(lines) or "nothing got slower")
    return QualityError.exit_code if failures(lines) else 0


if __name__ == "__main__":
    sys.exit(command(main)())
