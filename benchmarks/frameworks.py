"""What `benchmarks.backends` measures: one network in every runtime and framework, from slices to classes."""

import io
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import ModelError, UsageError
from seg_core.intensity import normalised_input
from seg_core.model_spec import ModelSpec
from seg_core.precision import twin_path
from seg_core.prepare import plan_slices, prepare_slices
from seg_core.report import sha256
from seg_core.runner import Runner, model_path
from seg_core.scan import read_scan
from seg_core.upsample import greatest_classes

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]
Infer = Callable[[Float32Array], Uint8Array]
"""Images (n, channels, rows, columns), as many as the batch -> classes (n, *size)."""

BASE = "ONNX Runtime CPU fp32"


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

    @property
    def shape(self) -> tuple[int, ...]:
        """The slices'."""
        return tuple(np.load(self.file, mmap_mode="r").shape)

    def facts(self) -> dict[str, Any]:
        """Return what is done, by which an earlier run is known to have done the same."""
        return asdict(self.work) | {
            "sha256": sha256(self.work.path),
            "images": list(self.shape),
            "size": list(self.size),
        }


def prepare_apart(work: Work, file: Path) -> Prepared:
    """As `prepare`, by a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(prepare, work, file).result()


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


def _runner(device: str, precision: str, given: Prepared, batch: int) -> Infer:
    # One batch is given at a time: it has all cores, as in every other backend.
    runner = Runner(given.work.path, device, precision=precision, at_once=1)  # type: ignore[arg-type]
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
    model.reshape({"image": [batch, *given.shape[1:]]})  # as it is fastest
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


def _torch_network(given: Prepared) -> Any:
    """Return the file's network in PyTorch."""
    from trainers.model_file import network_of, read_model
    from trainers.torch.from_model import fill
    from trainers.torch.network import build_network

    spec, weights = read_model(given.work.path)
    name = given.work.network or network_of(spec)
    network = build_network(name, len(spec.classes) + 1, spec.channels).eval()
    fill(network, weights, given.work.path)
    return network


def _torch(kind: str, given: Prepared, batch: int) -> Infer:
    import torch

    network = _torch_network(given)
    if kind == "compiled":
        network = torch.compile(network)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32

    def logits(images: Float32Array) -> Float32Array:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=kind == "bf16"):
            found: Float32Array = network(torch.from_numpy(images)).float().numpy()
        return found

    return _finished(logits, given)


def _nnunet(given: Prepared, batch: int) -> Infer:
    """nnU-Net's own predictor around the file's network: 2d, a patch a slice, without mirroring."""
    import torch

    network = _torch_network(given)
    with redirect_stdout(io.StringIO()):  # it speaks of folders and devices
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=given.shape[2:])
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=len(given.spec.classes) + 1)

    def logits(images: Float32Array) -> Float32Array:
        found = predictor.predict_sliding_window_return_logits(torch.from_numpy(images).transpose(0, 1))
        return np.ascontiguousarray(found.transpose(0, 1).float().numpy())

    return _finished(logits, given)


def _totalsegmentator(given: Prepared, batch: int) -> Infer:
    raise UsageError("TotalSegmentator runs the networks that it downloads, and no other")


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
    "nnU-Net's predictor": _nnunet,
    "TotalSegmentator": _totalsegmentator,
    "Keras": _keras,
}
OTHER_WEIGHTS = ("Keras",)
"""Those whose weights are not the file's: their labels are not compared."""
