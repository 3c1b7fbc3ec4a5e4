"""ONNX Runtime's packages, devices and sessions."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from seg_core.errors import DeviceError, MissingPackageError, ModelError, install_hint

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_RUNTIMES = {"cpu": "onnxruntime", "cuda": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}
_EXTRAS = {"cpu": "cpu", "cuda": "gpu", "openvino": "openvino"}


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
    return wanted_devices("auto", import_runtime().get_available_providers())


def import_runtime() -> Any:
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


def wanted_devices(device: str, offered: list[str]) -> list[str]:
    """Return the devices to try, the best first."""
    if device != "auto":
        return [device]
    return [d for d in ("cuda", "openvino", "cpu") if PROVIDERS[d] in offered]


def open_session(
    runtime: Any, source: Path | bytes, device: str, threads: Mapping[str, int | None], name: str
) -> tuple[Any, str]:
    """Start a session, which keeps bytes but no file's; return it with the device that it runs on.

    Threads go by device; without a number they are the runtime's own choice.
    """
    offered = runtime.get_available_providers()
    for candidate in wanted_devices(device, offered):
        provider = PROVIDERS[candidate]
        if provider not in offered:
            raise DeviceError(
                f"device {candidate}: the installed ONNX Runtime offers {', '.join(offered)}",
                fix=f"{install_hint(_EXTRAS[candidate])}, into a new environment, or --device auto",
            )
        session = _session(runtime, source, candidate, threads[candidate], name)
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
    options.enable_mem_pattern = False  # frames differ in size: a plan for each would be kept
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
    providers = [(PROVIDERS[device], settings[device])]
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
