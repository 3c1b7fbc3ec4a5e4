"""In which precision a network is computed: the fastest whose labels agree with float32."""

from pathlib import Path
from typing import Literal

from seg_core.errors import UsageError
from seg_core.model_spec import ModelSpec

Precision = Literal["auto", "fp32", "fp16", "int8"]

FASTEST = {"cpu": "int8", "openvino": "int8", "cuda": "fp16"}
"""What each device computes fastest, if there is a file for it."""
LEAST_AGREEMENT = 0.995
"""DSC of every class against float32 below which ``auto`` leaves a twin alone."""
STALE = "it was made from another file"
DOT_PRODUCTS = ("avx512vnni", "avxvnni", "dotprod")
"""Processors with one of these multiply 8-bit integers exactly; others clip sums of two products."""


def check_precision(precision: str) -> None:
    """Refuse a precision that nothing is known of.

    Raises
    ------
    UsageError
        If it is another word.
    """
    if precision not in ("auto", "fp32", *sorted(set(FASTEST.values()))):
        raise UsageError(f"precision {precision!r}", "auto, fp32, fp16 or int8")


def twin_path(model: Path, precision: str) -> Path:
    """Return where the twin of a model file lies: ``default.onnx`` -> ``default.int8.onnx``."""
    return model.with_suffix(f".{precision}.onnx")


def multiplies_bytes() -> bool:
    """Whether this processor has instructions for 8-bit integers."""
    from llvmlite import binding

    return any(binding.get_host_cpu_features().get(name, False) for name in DOT_PRODUCTS)


def why_not(spec: ModelSpec, of: str) -> str:
    """Return why ``auto`` leaves a twin alone; nothing where it takes it.

    Parameters
    ----------
    spec : ModelSpec
        The twin's.
    of : str
        sha256 of the file in float32.
    """
    if spec.twin is None or spec.twin.of != of:
        return STALE
    unseen = [name for name in spec.classes if name not in spec.twin.agreement]
    if unseen:
        return f"its labels of {', '.join(unseen)} were never compared with fp32"
    name, least = min(spec.twin.agreement.items(), key=lambda item: item[1])
    if least < LEAST_AGREEMENT:
        return f"its labels agree too little with fp32: DSC {least:.4f} of {name}, below {LEAST_AGREEMENT}"
    if spec.twin.precision == "int8" and not multiplies_bytes():
        return "this processor has no instructions for 8-bit integers"
    return ""
