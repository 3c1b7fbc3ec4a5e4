"""Runs any network from its ONNX file and the description inside it."""

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seg_core.errors import (
    DeviceError,
    MemoryLimitError,
    MissingPackageError,
    ModelError,
    UsageError,
    install_hint,
)
from seg_core.model_spec import METADATA_KEY, ModelSpec
from seg_core.precision import FASTEST, STALE, Precision, check_precision, twin_path, why_not
from seg_core.upsample import greatest_classes

Device = Literal["auto", "cpu", "cuda", "openvino"]
Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_RUNTIMES = {"cpu": "onnxruntime", "cuda": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}
_EXTRAS = {"cpu": "cpu", "cuda": "gpu", "openvino": "openvino"}
_BATCH = {"cpu": 1, "cuda": 16, "openvino": 4}
_DTYPES = {"image": "tensor(float)", "logits": "tensor(float)"}
_DTYPES |= {"labels": "tensor(uint8)", "confidence": "tensor(uint8)", "size": "tensor(int64)"}
_NO_MEMORY = re.compile("failed to allocate|bad_alloc|out of memory", re.IGNORECASE)


@dataclass(frozen=True)
class Inference:
    """What a network says about slices.

    Parameters
    ----------
    labels : ndarray of uint8, (n, rows, columns)
        Classes.
    confidence : ndarray of uint8, (n, rows, columns), or None
        255 times the probability of the chosen class.
    """

    labels: Uint8Array
    confidence: Uint8Array | None


class Runner:
    """A network, ready to run.

    Parameters
    ----------
    model : Path, str or bytes
        The file, its content, or ``"default"``: the network that comes with lls.
    device : {"auto", "cpu", "cuda", "openvino"}
        Where to compute; ``auto`` takes the best that the installed runtime offers and can start.
    threads : int, optional
        Of the runtime on a CPU; its own choice by default.
    precision : {"auto", "fp32", "fp16", "int8"}
        In what to compute: ``auto`` takes the file's twin in what the device computes fastest, where one lies
        beside it (``<name>.int8.onnx``) whose labels agree; else the file itself (`seg_core.precision`).

    Attributes
    ----------
    spec : ModelSpec
        What the file says about itself.
    device : str
        Where it runs: ``cpu``, ``cuda`` or ``openvino``.
    fingerprint : str
        sha256 of the file that runs: the twin's where it was taken.
    precision : str
        ``fp32``, ``fp16`` or ``int8``.
    why : str
        Why it is that one.
    batch : int
        Slices or patches a call of the runtime. Always as many, the last ones padded, so that results do not
        depend on how many a caller gives.

    Raises
    ------
    MissingPackageError
        If no ONNX Runtime is installed, or two that overwrite each other.
    ModelError
        If the file is not there, is no ONNX, too new for the runtime, or lacks our description or outputs.
    DeviceError
        If the device that was asked for is not there.
    """

    def __init__(
        self,
        model: Path | str | bytes,
        device: Device = "auto",
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        if device != "auto" and device not in _PROVIDERS:
            raise UsageError(f"device {device!r}", f"auto, {', '.join(_PROVIDERS)}")
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads", "1 or more")
        check_precision(precision)
        runtime = _import_runtime()
        self._open = partial(_open, runtime, device=device, threads=threads)
        self.name, data = _read(model)
        self.fingerprint = hashlib.sha256(data).hexdigest()
        first = next(iter(_wanted(device, runtime.get_available_providers())), "cpu")
        path = None if isinstance(model, bytes) else model_path(model)
        auto = precision == "auto"
        wanted = FASTEST[first] if auto else precision
        if precision == "fp32" or not self._take_twin(path, wanted, auto):
            self._session, self.device = self._open(path or data, name=self.name)
            self.spec = _read_spec(self._session, self.name)
            self._say_precision(precision)
            if auto and self.spec.twin is None and FASTEST[self.device] != wanted:  # the first did not start
                self._take_twin(path, FASTEST[self.device], auto)
        self.batch = _BATCH[self.device] if self.spec.patch is None else 1
        _check_graph(self._session, self.spec, self.name)

    def _take_twin(self, path: Path | None, precision: str, auto: bool) -> bool:
        """Open the twin of a file in place of it; whether it was taken."""
        twin = twin_path(path, precision) if path else None
        if twin is None or not twin.is_file():
            self.why = f"there is no {precision} twin beside the file"
            return False
        name, data = _read(twin)
        try:
            session, device = self._open(twin, name=name)
            spec = _read_spec(session, name)
        except ModelError as error:
            if not auto:
                raise
            self.why = f"{name} was left alone: {error.found}"
            return False
        reason = why_not(spec, self.fingerprint)
        if auto and (reason or FASTEST[device] != precision):
            self.why = f"{name} was left alone: {reason or f'not for {device}'}"
            return False
        if reason == STALE:
            raise ModelError(f"{name}: {reason}", f"a twin of {self.name}", "make it again with lls export")
        self.why = "the fastest here whose labels agree" if auto else "that was asked for"
        self._session, self.device, self.spec = session, device, spec
        self.name, self.fingerprint, self.precision = name, hashlib.sha256(data).hexdigest(), precision
        return True

    def _say_precision(self, asked: str) -> None:
        """Say in what the file itself computes; refuse it where something else was asked for."""
        self.precision = self.spec.twin.precision if self.spec.twin else "fp32"
        if asked not in ("auto", self.precision):
            fix = (
                f"lls export {self.name} --precision {asked} -o {twin_path(Path(self.name), asked)}, or fp32"
            )
            raise ModelError(
                f"{self.name} computes in {self.precision}, and there is no {asked} twin beside the file",
                asked,
                "name the file that it was made from" if asked == "fp32" else fix,
            )
        if self.spec.twin is not None:
            self.why = "the file itself is in that"
        elif asked == "fp32":
            self.why = "that was asked for"

    def run(self, images: Float32Array, size: tuple[int, int], confidence: bool = False) -> Inference:
        """Find the class of each pixel.

        Parameters
        ----------
        images : ndarray of float32, (n, channels, rows, columns)
            Prepared slices, whatever the file's own layout; n may be 0.
        size : tuple of int
            (rows, columns) of the labels.
        confidence : bool
            Whether to return it.

        Raises
        ------
        UsageError
            If the images do not fit the network, or it is one of patches, which gives logits only.
        ModelError
            If the runtime fails, or gives logits that are no finite numbers.
        MemoryLimitError
            If it has no memory.
        """
        if self.spec.patch is not None:
            raise UsageError(f"labels of slices from {self.spec.name}", "logits of patches")
        if self.device == "cuda":  # computes the whole graph sooner than it hands logits over
            parts = self._run(["labels", "confidence"], images, size)
            found = [np.concatenate(p) if p else np.empty((0, *size), np.uint8) for p in parts]
            # The greatest of up to 256 probabilities rounds to 1 or more: only what is no number becomes 0.
            if not found[1].min(initial=1):
                raise self._no_numbers()
            return Inference(found[0], found[1] if confidence else None)
        done: list[Future[tuple[Uint8Array, Uint8Array | None]]] = []
        with ThreadPoolExecutor(1) as pool:  # while the next batch is inferred
            for (logits,) in self._blocks(["logits"], images, (1, 1)):
                first = self._channels_first(logits)
                done.append(pool.submit(self._classes, first, size, confidence))
        empty = np.empty((0, *size), np.uint8)
        pairs = [future.result() for future in done]
        labels = np.concatenate([empty, *(pair[0] for pair in pairs)])
        sure = [pair[1] for pair in pairs if pair[1] is not None]
        return Inference(labels, np.concatenate([empty, *sure]) if confidence else None)

    def _classes(
        self, logits: Float32Array, size: tuple[int, int], confidence: bool
    ) -> tuple[Uint8Array, Uint8Array | None]:
        self._check_numbers(logits)
        return greatest_classes(logits, size, self.spec.temperature, confidence)

    def _check_numbers(self, logits: Float32Array) -> None:
        with np.errstate(all="ignore"):
            if not np.isfinite(logits.sum()):
                raise self._no_numbers()

    def _no_numbers(self) -> ModelError:
        fix = "train it again" if self.precision == "fp32" else "--precision fp32, or train it again"
        return ModelError(f"{self.name} gives logits that are no finite numbers", fix=fix)

    def logits(self, images: Float32Array) -> Float32Array:
        """Return the network's own output, float32 (n, classes + 1, *space), on the images' grid.

        Errors as in `run`.

        Parameters
        ----------
        images : ndarray of float32, (n, channels, *space)
            Prepared slices, or patches of a network that has them.
        """
        # Every output is computed, asked for or not: labels of one pixel cost nothing.
        parts = self._run(["logits"], images, (1, 1))[0]
        for part in parts:
            self._check_numbers(part)
        if not parts:
            return np.empty((0, len(self.spec.classes) + 1, *images.shape[2:]), np.float32)
        return self._channels_first(np.concatenate(parts))

    def _channels_first(self, logits: Float32Array) -> Float32Array:
        return logits if self.spec.layout == "NCHW" else np.ascontiguousarray(np.moveaxis(logits, 3, 1))

    def _run(self, outputs: list[str], images: Float32Array, size: tuple[int, int]) -> list[list[Any]]:
        parts = [list(part) for part in zip(*self._blocks(outputs, images, size), strict=True)]
        return parts or [[] for _ in outputs]

    def _blocks(
        self, outputs: list[str], images: Float32Array, size: tuple[int, int]
    ) -> Iterator[list[npt.NDArray[Any]]]:
        """Give the outputs batch by batch."""
        self._check_images(images, size)
        if self.spec.layout == "NHWC":
            images = np.ascontiguousarray(np.moveaxis(images, 1, 3))
        for start in range(0, len(images), self.batch):
            block = images[start : start + self.batch]
            count = len(block)
            if count < self.batch:
                padded = np.zeros((self.batch, *block.shape[1:]), np.float32)
                padded[:count] = block
                block = padded
            feed = {"image": np.ascontiguousarray(block)}
            if self.spec.patch is None:
                feed["size"] = np.array(size, np.int64)
            try:
                found = self._session.run(outputs, feed)
            except Exception as error:  # the runtime's errors share no base class of its own
                if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
                    raise MemoryLimitError(
                        f"no memory to infer {block.shape}", fix="close other programs, or a smaller scan"
                    ) from error
                raise ModelError(f"{self.name}: the network failed on {block.shape}: {error}") from error
            yield [array[:count] for array in found]

    def _check_images(self, images: Float32Array, size: tuple[int, int]) -> None:
        patch, axes = self.spec.patch, 4 if self.spec.patch is None else 5
        wanted = (self.spec.channels, *(patch or images.shape[2:]))
        if images.dtype != np.float32 or images.ndim != axes or images.shape[1:] != wanted:
            raise UsageError(
                f"images {images.dtype} {images.shape}",
                f"float32 (n, {self.spec.channels}, {patch or 'rows, columns'})",
            )
        if patch is not None:
            return
        multiple = self.spec.grid.multiple
        if any(n < 1 or n % multiple for n in images.shape[2:]) or min(size) < 1:
            raise UsageError(
                f"images {images.shape[2:]}, labels {size}", f"images in multiples of {multiple}"
            )


def default_model() -> Path:
    """Return where the network that comes with lls lies.

    Raises
    ------
    ModelError
        If this installation has none.
    """
    path = Path(__file__).parent / "models" / "default.onnx"
    if not path.is_file():
        raise ModelError("this installation has no default network", fix="name a file with --model")
    return path


def model_path(model: Path | str) -> Path:
    """Return the file that is meant: ``default`` is the network that comes with lls.

    Raises
    ------
    ModelError
        If that is meant and this installation has none.
    """
    return default_model() if model == "default" else Path(model)


def _read(model: Path | str | bytes) -> tuple[str, bytes]:
    if isinstance(model, bytes):
        return "the model", model
    path = model_path(model)
    try:
        return path.name, path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}",
            "an ONNX file",
            "check the path; the network that comes with lls is called default",
        ) from error


def installed_runtimes() -> dict[str, str]:
    """Return the packages of ONNX Runtime that are installed, with their versions: one, if all is well."""
    found = {}
    for name in _RUNTIMES.values():
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.distribution(name).version
    return found


def offered_devices() -> list[str]:
    """Return the devices that the installed ONNX Runtime offers, the best first; they may not start.

    Raises
    ------
    MissingPackageError
        If no ONNX Runtime is installed, or two that overwrite each other.
    """
    return _wanted("auto", _import_runtime().get_available_providers())


def _import_runtime() -> Any:
    """Import ONNX Runtime after looking whether several of its packages lie in one folder."""
    installed = list(installed_runtimes())
    if len(installed) > 1:
        raise MissingPackageError(
            f"{' and '.join(installed)} are installed into the same folder and overwrite each other",
            "one of them",
            f"pip uninstall {' '.join(installed)}, then install the one that you want",
        )
    try:
        with _no_telemetry():
            import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"ONNX Runtime cannot be imported: {error}",
            fix=f"{install_hint('cpu')} (or gpu, or openvino)",
        ) from error
    return onnxruntime


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep ONNX Runtime from telling its makers of its use, unless the user has chosen.

    Its official packages do since 1.32, and look at this variable when they are imported.
    """
    name = "ORT_DISABLE_TELEMETRY"
    chosen = name in os.environ
    if not chosen:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if not chosen:
            del os.environ[name]


def _wanted(device: str, offered: list[str]) -> list[str]:
    """Return the devices to try, the best first."""
    if device != "auto":
        return [device]
    return [d for d in ("cuda", "openvino", "cpu") if _PROVIDERS[d] in offered]


def _open(runtime: Any, source: Path | bytes, device: str, threads: int | None, name: str) -> tuple[Any, str]:
    """Start a session, which keeps bytes but no file's; return it with the device that it runs on."""
    offered = runtime.get_available_providers()
    for candidate in _wanted(device, offered):
        provider = _PROVIDERS[candidate]
        if provider not in offered:
            raise DeviceError(
                f"device {candidate}: the installed ONNX Runtime offers {', '.join(offered)}",
                fix=f"{install_hint(_EXTRAS[candidate])}, into a new environment, or --device auto",
            )
        session = _session(runtime, source, candidate, threads, name)
        # A provider that cannot start falls back to the CPU with a line in a log.
        if session is not None and session.get_providers()[0] == provider:
            return session, candidate
    raise DeviceError(
        f"device {device}: its provider did not start",
        fix="check the driver and its libraries (CUDA and cuDNN for cuda), or --device cpu",
    )


def _session(runtime: Any, source: Path | bytes, device: str, threads: int | None, name: str) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, and said by us
    if threads is not None:
        options.intra_op_num_threads = threads
    settings: dict[str, dict[str, str]] = {
        "cpu": {},
        # The default search tries every algorithm anew for each shape, which costs seconds. TF32, which is on
        # by default, multiplies float32 with 10 bits after the point.
        "cuda": {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"},
        # Else float32 networks are computed in bfloat16 where the processor can.
        "openvino": {"device_type": "CPU", "precision": "ACCURACY"},
    }
    if device == "cuda" and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()
    providers = [(_PROVIDERS[device], settings[device])]
    try:
        return runtime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # the runtime's errors share no base class of its own
        if device != "cpu" and _session(runtime, source, "cpu", threads, name) is not None:
            return None  # the file is good: it is the device that fails
        raise ModelError(
            f"{name} cannot be opened as ONNX: {str(error).splitlines()[0]}",
            f"a file that ONNX Runtime {runtime.__version__} reads: IR 10, opset 17 or 18",
            "export the model again",
        ) from error


def _read_spec(session: Any, name: str) -> ModelSpec:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ModelError(
            f"{name} is an ONNX file without a description of lls",
            f"JSON under the metadata key {METADATA_KEY}",
            "export it with lls",
        )
    return ModelSpec.from_json(text)


def _check_graph(session: Any, spec: ModelSpec, name: str) -> None:
    """Compare names, types and channels with what the description says."""
    patched = spec.patch is not None
    inputs = {i.name: i for i in session.get_inputs()}
    inputs |= {i.name: i for i in session.get_overridable_initializers()}
    outputs = {o.name: o for o in session.get_outputs()}
    wanted_inputs = {"image"} if patched else {"image", "size"}
    wanted_outputs = {"logits"} if patched else {"logits", "labels", "confidence"}
    for found, wanted in ((inputs, wanted_inputs), (outputs, wanted_outputs)):
        if set(found) != wanted:
            raise ModelError(f"{name} has {sorted(found)}", f"{sorted(wanted)}", "export it with lls")
        for key in wanted:
            if found[key].type != _DTYPES[key]:
                raise ModelError(f"{name}: {key} is {found[key].type}", _DTYPES[key], "export it with lls")
    axes, axis = 5 if patched else 4, 1 if spec.layout == "NCHW" or patched else 3
    for tensor, count in ((inputs["image"], spec.channels), (outputs["logits"], len(spec.classes) + 1)):
        shape = tensor.shape
        fits = len(shape) == axes and shape[axis] == count
        if not fits or (patched and tuple(shape[2:]) != spec.patch):
            raise ModelError(
                f"{name}: {tensor.name} is {shape}",
                f"{axes} axes, {count} channels on axis {axis}" + f", then {spec.patch}" * patched,
                "export it with lls",
            )
        free = [shape[0]] if patched else [n for place, n in enumerate(shape) if place != axis]
        if any(isinstance(n, int) for n in free):
            numbers = "any number of images" + ", rows and columns" * (not patched)
            raise ModelError(f"{name}: {tensor.name} is {shape}", numbers, "export it with lls")
