"""One network on one scan in every runtime and framework: time, start, memory, labels.

    python -m benchmarks.backends --model MODEL --scan SCAN -o OUT     # the same as `lls bench`

Every backend has a process of its own, so that its memory is its own; they take turns, so that whatever else
the machine does meets all of them alike. Slices are prepared once, by another process, so that neither start
nor memory of a backend holds that. Time is from prepared slices to classes on the scan's pixels. What is not
installed, or cannot run here, is named.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.command import command, parser_of, write_figures
from benchmarks.timing import Spread, machine
from seg_core.errors import LlsError, MissingPackageError, ModelError, UsageError
from seg_core.intensity import normalised_input
from seg_core.model_spec import ModelSpec
from seg_core.precision import twin_path
from seg_core.prepare import plan_slices, prepare_slices
from seg_core.report import peak_memory
from seg_core.runner import Runner, model_path
from seg_core.scan import read_scan
from seg_core.upsample import greatest_classes

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]
Infer = Callable[[Float32Array], Uint8Array]
"""Images (n, channels, rows, columns), as many as the batch -> classes (n, *size)."""

BASE = "ONNX Runtime CPU fp32"
PACKAGES = ("onnxruntime", "openvino", "torch", "keras", "tensorflow", "numpy")


@dataclass(frozen=True)
class Work:
    """What every backend does.

    Parameters
    ----------
    model : str
        The model file in float32, or ``default``.
    scan : str
        The scan.
    slices : int
        How many of its slices, evenly spread.
    network : str
        Name of the network's architecture in the trainers, for the frameworks; by default the file's own in
        PyTorch, the report's in Keras.
    """

    model: str
    scan: str
    slices: int = 8
    network: str = ""

    @property
    def path(self) -> Path:
        """The model file."""
        return model_path(self.model)

    def prepared(self, runner: Runner) -> tuple[Float32Array, tuple[int, int]]:
        """Return slices (n, channels, rows, columns) and the size of their labels."""
        volume = read_scan(Path(self.scan)).volume
        plan = plan_slices(volume.geometry, runner.spec)
        array, window = normalised_input(volume.array, runner.spec.normalisation)
        count = min(self.slices, plan.slices)
        slices = np.linspace(0, plan.slices - 1, count).round().astype(np.int64)
        return prepare_slices(array, plan, window, slices), plan.frame


@dataclass(frozen=True)
class Prepared:
    """What a backend's process is given.

    Parameters
    ----------
    work : Work
    file : Path
        The slices, float32 (n, channels, rows, columns), as NumPy writes them.
    size : tuple of int
        (rows, columns) of their labels.
    spec : ModelSpec
        The model's.
    """

    work: Work
    file: Path
    size: tuple[int, int]
    spec: ModelSpec


def prepare(work: Work, file: Path) -> Prepared:
    """Write what all backends are given.

    Raises
    ------
    LlsError
        If the scan or the model cannot be read, or it is a network of patches.
    """
    runner = Runner(work.path, "cpu", precision="fp32")
    if runner.spec.patch is not None:
        raise UsageError(f"{runner.name}, a network of patches", "a network of slices")
    images, size = work.prepared(runner)
    np.save(file, images)
    return Prepared(work, file, size, runner.spec)


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
    """

    backend: str
    batch: int
    slice_ms: Spread
    ratio: Spread


@dataclass
class Result:
    """The machine, what was done, the rows; a backend's start, memory and labels; who is missing."""

    machine: Mapping[str, Any]
    work: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)
    cold_s: dict[str, float] = field(default_factory=dict)
    peak_gb: dict[str, float] = field(default_factory=dict)
    same_labels: dict[str, float | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def _runner(device: str, precision: str, given: Prepared, batch: int) -> Infer:
    runner = Runner(given.work.path, device, precision=precision)  # type: ignore[arg-type]
    runner.batch = batch
    return lambda images: runner.run(images, given.size, confidence=True).labels


def _finished(logits: Callable[[Float32Array], Float32Array], given: Prepared) -> Infer:
    """Turn a function that gives logits into one that gives classes, as the runner does."""
    return lambda images: greatest_classes(logits(images), given.size, given.spec.temperature)[0]


def _openvino(precision: str, given: Prepared, batch: int) -> Infer:
    import openvino

    work = given.work
    path = work.path if precision == "fp32" else twin_path(work.path, precision)
    if not path.is_file():
        raise ModelError(f"there is no {precision} twin beside the file")
    core = openvino.Core()
    model = core.read_model(path)
    shape = np.load(given.file, mmap_mode="r").shape
    model.reshape({"image": [batch, *shape[1:]]})  # as it is fastest
    # Else float32 is computed in bfloat16 where the processor can.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    size = np.array([1, 1], np.int64)

    def logits(images: Float32Array) -> Float32Array:
        feed = {name: images if name == "image" else size for name in _names(compiled.inputs)}
        found: Float32Array = request.infer(feed)["logits"]
        return found

    return _finished(logits, given)


def _names(ports: Sequence[Any]) -> list[str]:
    return [port.get_any_name() for port in ports]


def _torch(kind: str, given: Prepared, batch: int) -> Infer:
    import torch

    from trainers.model_file import network_of, read_model
    from trainers.torch.from_model import fill
    from trainers.torch.network import build_network

    spec, weights = read_model(given.work.path)
    name = given.work.network or network_of(spec)
    network = build_network(name, len(spec.classes) + 1, spec.channels).eval()
    fill(network, weights, given.work.path)
    if kind == "compiled":
        network = torch.compile(network)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32

    def logits(images: Float32Array) -> Float32Array:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=kind == "bf16"):
            found: Float32Array = network(torch.from_numpy(images)).float().numpy()
        return found

    return _finished(logits, given)


def _keras(given: Prepared, batch: int) -> Infer:
    """Keras' network of the same name, with random weights, which take as long as others."""
    import tensorflow as tf

    from trainers.keras.engine import KerasEngine
    from trainers.model_file import channel_settings, network_of
    from trainers.registry import get_config

    name = given.work.network or network_of(given.spec)
    config = get_config("keras", name, device="cpu", **channel_settings(given.spec))
    engine = KerasEngine(config, given.spec.classes)
    network = tf.function(partial(engine.network, training=False))

    def logits(images: Float32Array) -> Float32Array:
        with tf.device(engine.device):
            found = network(np.ascontiguousarray(np.moveaxis(images, 1, 3))).numpy()
        return np.ascontiguousarray(np.moveaxis(found, 3, 1), np.float32)

    return _finished(logits, given)


BACKENDS: Mapping[str, Callable[[Prepared, int], Infer]] = {
    BASE: partial(_runner, "cpu", "fp32"),
    "ONNX Runtime CPU int8": partial(_runner, "cpu", "int8"),
    "ONNX Runtime OpenVINO fp32": partial(_runner, "openvino", "fp32"),
    "ONNX Runtime OpenVINO int8": partial(_runner, "openvino", "int8"),
    "ONNX Runtime CUDA fp32": partial(_runner, "cuda", "fp32"),
    "ONNX Runtime CUDA fp16": partial(_runner, "cuda", "fp16"),
    "OpenVINO fp32": partial(_openvino, "fp32"),
    "OpenVINO int8": partial(_openvino, "int8"),
    "PyTorch eager": partial(_torch, "eager"),
    "PyTorch compiled": partial(_torch, "compiled"),
    "PyTorch bf16": partial(_torch, "bf16"),
    "Keras": _keras,
}
OTHER_WEIGHTS = ("Keras",)
"""Those whose weights are not the file's: their labels are not compared."""


def _serve(pipe: Connection, name: str, given: Prepared) -> None:
    """Run a backend in a process of its own: for every batch size that comes, all slices, timed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    known: dict[int, Infer] = {}
    images = np.load(given.file, mmap_mode="r")
    begun = time.perf_counter()
    try:
        known[1] = BACKENDS[name](given, 1)
        known[1](_batch(images, 0, 1))
        pipe.send({"cold_s": time.perf_counter() - begun})
    except (ImportError, LlsError) as error:
        pipe.send({"missing": error})
        return
    for batch in _asked(pipe):
        if batch not in known:
            known[batch] = BACKENDS[name](given, batch)
            known[batch](_batch(images, 0, batch))
        begun = time.perf_counter()
        labels = [known[batch](_batch(images, n, batch)) for n in range(0, len(images), batch)]
        seconds = time.perf_counter() - begun
        found = np.concatenate(labels)[: len(images)]
        pipe.send({"seconds": seconds, "labels": found, "peak": peak_memory()})


def _asked(pipe: Connection) -> Iterator[int]:
    """Yield the batch sizes that are asked for, until the other end is closed."""
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


def _batch(images: Float32Array, start: int, batch: int) -> Float32Array:
    """Return a batch, filled up at the end with the first slices."""
    return np.ascontiguousarray(np.take(images, range(start, start + batch), axis=0, mode="wrap"))


def run(work: Work, names: Sequence[str], batches: Sequence[int] = (1,), rounds: int = 3) -> Result:
    """Measure backends in turn.

    Parameters
    ----------
    work : Work
        What they do.
    names : sequence of str
        Of ``BACKENDS``; `BASE` is always among those that run.
    batches : sequence of int
        Slices a call.
    rounds : int
        How often each runs over all slices; medians are compared.

    Raises
    ------
    LlsError
        If the scan or the model cannot be read, or `BASE` cannot run.
    """
    names = list(dict.fromkeys((BASE, *names)))
    batches = list(dict.fromkeys((1, *batches)))
    result = Result(machine(*PACKAGES), asdict(work) | {"rounds": rounds, "batches": batches})
    context = multiprocessing.get_context("spawn")
    workers: dict[str, tuple[Any, Connection]] = {}
    with tempfile.TemporaryDirectory(prefix="lls-bench-") as folder:
        with ProcessPoolExecutor(1, context) as pool:
            given = pool.submit(prepare, work, Path(folder) / "slices.npy").result()
        try:
            for name in names:
                here, there = context.Pipe()
                worker = context.Process(target=_serve, args=(there, name, given), daemon=True)
                worker.start()
                there.close()
                workers[name] = worker, here
                if found := _answer(here, name, result):
                    result.cold_s[name] = found["cold_s"]
            pipes = {name: workers[name][1] for name in result.cold_s}
            _take_turns(result, pipes, batches, rounds)
        finally:
            for worker, pipe in workers.values():
                pipe.close()
                worker.join(10)
                worker.terminate()
    return result


def _answer(pipe: Connection, name: str, result: Result, batch: int | None = None) -> dict[str, Any]:
    """Ask for a batch size, if any, and return the answer; of a backend that has none say why it is missing.

    Raises
    ------
    LlsError
        If that is `BASE`, with which all are compared.
    """
    try:
        if batch is not None:
            pipe.send(batch)
        found: dict[str, Any] = pipe.recv()
    except (EOFError, OSError):
        found = {"missing": LlsError(f"the process of {name} ended")}
    error = found.get("missing")
    if error is None:
        return found
    if name == BASE:
        raise error
    fix = f" ({error.fix})" if isinstance(error, MissingPackageError) and error.fix else ""
    result.missing[name] = " ".join(str(error).splitlines()[:1]) + fix
    return {}


def _take_turns(result: Result, pipes: dict[str, Connection], batches: Sequence[int], rounds: int) -> None:
    """Fill in rows, peaks and labels; a backend that ends on the way becomes a missing one."""
    seconds: dict[tuple[str, int], list[float]] = {}
    labels: dict[str, Uint8Array] = {}
    for _ in range(rounds):
        for batch in batches:
            for name in list(pipes):
                found = _answer(pipes[name], name, result, batch)
                if not found:
                    pipes.pop(name)
                    continue
                seconds.setdefault((name, batch), []).append(found["seconds"])
                labels[name] = found["labels"]
                result.peak_gb[name] = round((found["peak"] or 0) / 1e9, 3)
    count = len(labels[BASE])
    base = np.array(seconds[BASE, 1]) / count
    for (name, batch), taken in seconds.items():
        if len(taken) == rounds:
            times = np.array(taken) / (-(-count // batch) * batch)  # the last batch is filled up
            result.rows.append(Row(name, batch, Spread.of(times * 1000), Spread.of(times / base)))
    for name, found in labels.items():
        compared = name not in OTHER_WEIGHTS
        result.same_labels[name] = float(np.mean(found == labels[BASE])) if compared else None


def as_markdown(result: Result) -> str:
    """Return the rows as a table, the fastest first, and who is missing."""
    lines = [
        f"{result.machine['processor']}, {result.machine['cores']} cores; {result.work['slices']} slices a"
        f" round, medians of {result.work['rounds']} rounds in turns (quartiles).",
        "",
        f"| backend | batch | time, {BASE} = 1 | start s | peak GB | same labels |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(result.rows, key=lambda row: row.ratio.median):
        same = result.same_labels[row.backend]
        cells = [
            row.backend,
            str(row.batch),
            f"{row.ratio.median:.2f} ({row.ratio.low:.2f} to {row.ratio.high:.2f})",
            f"{result.cold_s[row.backend]:.1f}",
            f"{result.peak_gb[row.backend]:.2f}",
            "-" if same is None else f"{same:.4%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {name}: not here: {why}" for name, why in result.missing.items())]
    return "\n".join(lines).rstrip() + "\n"


def slower(result: Result, earlier: Mapping[str, Any], by: float = 1.1) -> list[str]:
    """Say what got slower than an earlier run, in ratios to `BASE`, beyond the quartiles of both."""
    lines = []
    if earlier["machine"]["processor"] != result.machine["processor"]:
        lines.append(f"another machine: {earlier['machine']['processor']}")
    known = {(row["backend"], row["batch"]): row for row in earlier["rows"]}
    for row in result.rows:
        old = known.get((row.backend, row.batch))
        if old is None:
            continue
        for what, new, before in (
            ("ratio", row.ratio, Spread(**old["ratio"])),
            ("ms a slice", row.slice_ms, Spread(**old["slice_ms"])),
        ):
            if new.median > by * before.median and new.low > before.high:
                change = f"{before.median:.3g} to {new.median:.3g}"
                lines.append(f"slower: {row.backend}, batch {row.batch}: {what} {change}")
    return lines


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
    """Measure, print, write; return 1 where something got slower."""
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
    result = run(work, chosen(options.backend), options.batch, options.rounds)
    print(as_markdown(result))
    if options.out:
        write(result, options.out)
    if not options.against:
        return 0
    lines = slower(result, json.loads(options.against.read_text(encoding="utf-8")))
    print("\n".join(lines) or "nothing got slower")
    return int(any(line.startswith("slower") for line in lines))


if __name__ == "__main__":
    sys.exit(command(main)())
