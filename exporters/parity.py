"""The gate: what ONNX Runtime computes from the file must be what the framework computes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from seg_core.errors import MissingPackageError, ModelError, install_hint

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tolerance:
    """How far the two may be apart.

    Parameters
    ----------
    logits : float
        Greatest difference of a logit, relative to the greatest logit's size.
    labels : float
        Share of pixels whose greatest class differs: those where two classes are all but equal.
    """

    logits: float = 1e-4
    labels: float = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far they are apart; units as in `Tolerance`."""

    logits: float
    labels: float


def check(
    model: onnx.ModelProto, samples: Float32Array, reference: Float32Array, tolerance: Tolerance
) -> Parity:
    """Run the file on samples and compare with the framework's logits.

    Parameters
    ----------
    model : ModelProto
        Finished file.
    samples : ndarray of float32
        Input images in the network's layout.
    reference : ndarray of float32
        The framework's logits for them, classes on the axis where the network has channels.
    tolerance : Tolerance
        What is let through.

    Raises
    ------
    ModelError
        If logits or labels differ by more, or are not finite.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("ONNX Runtime is not installed", fix=install_hint("cpu")) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    axis = _class_axis(samples, reference)
    if samples.ndim == 5:  # patches: the file gives no labels
        logits = session.run(["logits"], {"image": samples})[0]
        labels = logits.argmax(axis)
    else:
        rows, columns = (reference.shape[i] for i in range(1, 4) if i != axis)
        feed: dict[str, Any] = {"image": samples, "size": np.array([rows, columns], np.int64)}
        logits, labels = session.run(["logits", "labels"], feed)
    if logits.shape != reference.shape or not np.isfinite(logits).all() or not np.isfinite(reference).all():
        raise ModelError(f"logits of {logits.shape}, finite or not", f"finite ones of {reference.shape}")
    found = Parity(
        float(np.abs(logits - reference).max() / max(np.abs(reference).max(), 1e-6)),
        float(np.mean(labels != reference.argmax(axis))),
    )
    if found.logits > tolerance.logits or found.labels > tolerance.labels:
        raise ModelError(
            f"ONNX Runtime and the framework differ: logits {found.logits:.2g}, labels {found.labels:.2%}",
            f"at most {tolerance.logits:.2g} and {tolerance.labels:.2%}",
            "report this network; nothing was written",
        )
    return found


def _class_axis(samples: Float32Array, reference: Float32Array) -> int:
    """1 where the logits' rows and columns are the last axes, as the image's are, else 3."""
    return 1 if reference.shape[2:] == samples.shape[2:] else 3
