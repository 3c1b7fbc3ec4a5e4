"""Runs any network from its ONNX file and the description inside it."""

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from seg_core.ahead import Begun
from seg_core.errors import MemoryLimitError, ModelError, UsageError
from seg_core.model_spec import METADATA_KEY, ModelSpec
from seg_core.precision import FASTEST, STALE, Precision, check_precision, twin_path, why_not
from seg_core.runtime import PROVIDERS, import_runtime, open_session, wanted_devices
from seg_core.threads import cores
from seg_core.upsample import greatest_classes

Device = Literal["auto", "cpu", "cuda", "openvino"]
Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]
T = TypeVar("T")

_BATCH = {"cpu": 1, "cuda": 16, "openvino": 4}
_AT_ONCE = 4
"""Batches that a CPU infers at once at most: each takes memory."""
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
        Of the processor that infer; all by default. A network of patches has them all for one patch.
    precision : {"auto", "fp32", "fp16", "int8"}
        In what to compute: ``auto`` takes the file's twin in what the device computes fastest, where one lies
        beside it (``<name>.int8.onnx``) whose labels agree; else the file itself (`seg_core.precision`).
    at_once : int
        Batches of slices that a CPU infers side by side at most, the threads shared among them; 1 where one
        slice shall be there as soon as may be.

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
    at_once : int
        Batches that are inferred side by side: threads do not wait for one another so.

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
        at_once: int = _AT_ONCE,
    ) -> None:
        if device != "auto" and device not in PROVIDERS:
            raise UsageError(f"device {device!r}", f"auto, {', '.join(PROVIDERS)}")
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads", "1 or more")
        if at_once < 1:
            raise UsageError(f"{at_once} at once", "1 or more")
        check_precision(precision)
        runtime = import_runtime()
        self._open = partial(open_session, runtime, device=device)
        self._threads, self.at_once = threads, min(threads or cores(), at_once)
        self.name, data = _read(model)
        self.fingerprint = hashlib.sha256(data).hexdigest()
        first = next(iter(wanted_devices(device, runtime.get_available_providers())), "cpu")
        path = None if isinstance(model, bytes) else model_path(model)
        auto = precision == "auto"
        wanted = FASTEST[first] if auto else precision
        if precision == "fp32" or not self._take_twin(path, wanted, auto):
            self._session, self.device, self.spec = self._start(path or data, self.name)
            self._say_precision(precision)
            if auto and self.spec.twin is None and FASTEST[self.device] != wanted:  # the first did not start
                self._take_twin(path, FASTEST[self.device], auto)
        slices = self.spec.patch is None
        self.batch = _BATCH[self.device] if slices else 1
        if not slices or self.device != "cpu":
            self.at_once = 1
        self._pool = ThreadPoolExecutor(self.at_once)
        _check_graph(self._session, self.spec, self.name)

    def _start(self, source: Path | bytes, name: str) -> tuple[Any, str, ModelSpec]:
        """Start a session: its device and description with it.

        Slices side by side leave the runtime no more threads than are left over; a patch has them all.
        """
        threads: dict[str, int | None] = dict.fromkeys(PROVIDERS, self._threads)
        left = (self._threads or cores()) - self.at_once
        # Where the runtime itself chooses, several share what it takes.
        beside = threads | {"cpu": 1 if left <= 0 else self._threads and left + 1}
        session, device = self._open(source, threads=beside, name=name)
        spec = _read_spec(session, name)
        if device == "cpu" and spec.patch is not None and beside != threads:
            del session  # before there are two of them
            session, device = self._open(source, threads=threads, name=name)
        return session, device, spec

    def _take_twin(self, path: Path | None, precision: str, auto: bool) -> bool:
        """Open the twin of a file in place of it; whether it was taken."""
        twin = twin_path(path, precision) if path else None
        if twin is None or not twin.is_file():
            self.why = f"there is no {precision} twin beside the file"
            return False
        name, data = _read(twin)
        try:
            session, device, spec = self._start(twin, name)
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
        return self.begin(images, size, confidence).result()

    def begin(
        self, images: Float32Array, size: tuple[int, int], confidence: bool = False
    ) -> Begun[Inference]:
        """As `run`, for who has other work meanwhile; slices that are begun later are inferred later."""
        if self.spec.patch is not None:
            raise UsageError(f"labels of slices from {self.spec.name}", "logits of patches")
        graph = self.device == "cuda"  # computes the whole of it sooner than it hands logits over
        names = ["labels", "confidence"] if graph else ["logits"]

        def infer(block: npt.NDArray[np.float32]) -> tuple[Uint8Array, Uint8Array | None]:
            found = self._call(names, block, size if graph else (1, 1))
            return self._checked(*found) if graph else self._classes(found[0], size, confidence)

        return Begun(self._blocks(infer, images, size), lambda parts: _joined(parts, size, confidence))

    def _checked(self, labels: Uint8Array, confidence: Uint8Array) -> tuple[Uint8Array, Uint8Array]:
        # The greatest of up to 256 probabilities rounds to 1 or more: only what is no number becomes 0.
        if not confidence.min(initial=1):
            raise self._no_numbers()
        return labels, confidence

    def _classes(
        self, logits: Float32Array, size: tuple[int, int], confidence: bool
    ) -> tuple[Uint8Array, Uint8Array | None]:
        first = self._channels_first(self._numbers(logits))
        return greatest_classes(first, size, self.spec.temperature, confidence)

    def _numbers(self, logits: Float32Array) -> Float32Array:
        with np.errstate(all="ignore"):
            if not np.isfinite(logits.sum()):
                raise self._no_numbers()
        return logits

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
        def infer(block: Float32Array) -> Float32Array:
            return self._numbers(self._call(["logits"], block, (1, 1))[0])

        parts = Begun(self._blocks(infer, images, (1, 1)), list[Float32Array]).result()
        if not parts:
            return np.empty((0, len(self.spec.classes) + 1, *images.shape[2:]), np.float32)
        return self._channels_first(np.concatenate(parts))

    def _channels_first(self, logits: Float32Array) -> Float32Array:
        return logits if self.spec.layout == "NCHW" else np.ascontiguousarray(np.moveaxis(logits, 3, 1))

    def _blocks(
        self, infer: Callable[[Float32Array], T], images: Float32Array, size: tuple[int, int]
    ) -> list[Future[T]]:
        """Begin to infer images, a batch after the other."""
        self._check_images(images, size)
        if self.spec.layout == "NHWC":
            images = np.ascontiguousarray(np.moveaxis(images, 1, 3))
        starts = range(0, len(images), self.batch)
        return [self._pool.submit(infer, images[start : start + self.batch]) for start in starts]

    def _call(self, outputs: list[str], block: Float32Array, size: tuple[int, int]) -> list[Any]:
        """Infer a batch, or what there is of one."""
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
        return [array[:count] for array in found]

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


def _joined(
    parts: list[tuple[Uint8Array, Uint8Array | None]], size: tuple[int, int], confidence: bool
) -> Inference:
    """Put batches together; there may be none."""
    empty = np.empty((0, *size), np.uint8)
    labels = np.concatenate([empty, *(part[0] for part in parts)])
    sure = [part[1] for part in parts if part[1] is not None]
    return Inference(labels, np.concatenate([empty, *sure]) if confidence else None)


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
