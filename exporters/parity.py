"""The gate: what ONNX Runtime computes from the file must be what the framework computes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from seg_core.errors import MissingPackageError, ModelError, install_hint

Float32Array = npt.NDArray[np.float32]

LEAST_LABELLED = 100
"""Labelled pixels of which a share is told; fewer are taken for as many."""
TIE = 1e-5
"""Of the largest logit: two that are nearer to each other are as good as equal, and either label is right."""


@dataclass(frozen=True)
class Tolerance:
    """How far the two may be apart.

    Parameters
    ----------
    logits : float
        Greatest difference of a logit, relative to the greatest logit's size.
    labels : float
        Share of pixels whose greatest class differs: those where two classes are all but equal.
    labelled : float
        The same, of those pixels alone that either calls something other than background; by default any.
    """

    logits: float = 1e-4
    labels: float = 1e-4
    labelled: float = 1.0


ROUNDING = Tolerance(logits=0.05, labels=0.01, labelled=0.01)
"""What weights in 16 bits may change of a network.

One in a hundred labelled pixels is a DSC of 0.995, what a twin's labels must have to be taken
(`seg_core.precision.LEAST_AGREEMENT`); of all pixels bones are so few that one could get lost in a hundredth.
Measured: at most 0.003 of labelled pixels; logits by 0.001, of networks that learned next to nothing 0.009.
"""


@dataclass(frozen=True)
class Parity:
    """How far they are apart; units as in `Tolerance`."""

    logits: float
    labels: float
    labelled: float


@dataclass(frozen=True, eq=False)
class Reference:
    """The framework's logits for the samples, float32 (n, classes + 1, *space).

    Parameters
    ----------
    trained : ndarray
        Of the network as it was trained.
    folded, rounded : ndarray, optional
        Where the file's weights are rounded: of the network in the form that the file has, before its weights
        are rounded and after it.
    """

    trained: Float32Array
    folded: Float32Array | None = None
    rounded: Float32Array | None = None


def prove(
    model: onnx.ModelProto, samples: Float32Array, reference: Reference, tolerance: Tolerance
) -> tuple[Parity, Parity]:
    """Run the file on samples and compare with the network as it was trained.

    Where the file's weights are rounded each step is compared by itself, so that what rounding may change
    hides no mistake: folding and translation are held to ``tolerance``, all together to `ROUNDING`.

    Parameters
    ----------
    model : ModelProto
        Finished file.
    samples : ndarray of float32
        Input images in the network's layout.
    reference : Reference
        What the framework says of them.
    tolerance : Tolerance
        What is let through.

    Returns
    -------
    parity : Parity
        How far the file is from the framework's network with the weights that the file holds.
    difference : Parity
        How far it is from the network as it was trained.

    Raises
    ------
    ModelError
        If logits or labels differ by more, or are not finite.
    """
    trained, folded, rounded = reference.trained, reference.folded, reference.rounded
    if folded is None or rounded is None:
        parity = check(model, samples, trained, tolerance)
        return parity, parity
    _refuse(compare(folded, trained), tolerance, "the network and its copy without BatchNorms differ")
    logits, labels = _infer(model, samples, rounded)
    parity = _checked(compare(logits, rounded, labels), tolerance)
    difference = compare(logits, trained, labels)
    fix = "export it with weights in float32; nothing was written"
    _refuse(difference, ROUNDING, "weights in 16 bits change what the network computes", fix)
    return parity, difference


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
    logits, labels = _infer(model, samples, reference)
    return _checked(compare(logits, reference, labels, _class_axis(samples, reference)), tolerance)


def compare(
    logits: Float32Array, reference: Float32Array, labels: npt.NDArray[Any] | None = None, axis: int = 1
) -> Parity:
    """Return how far logits are from others of the same shape, classes on ``axis``.

    Parameters
    ----------
    logits, reference : ndarray of float32
        Where one is not finite, neither is how far they are apart.
    labels : ndarray of integers, optional
        The greatest classes, where they are known.
    axis : int
        Of the classes.
    """
    labels, wanted = logits.argmax(axis) if labels is None else labels, reference.argmax(axis)
    labelled = np.count_nonzero((labels > 0) | (wanted > 0))
    largest = max(float(np.abs(reference).max()), 1e-6)
    with np.errstate(invalid="ignore"):  # what is not finite is refused
        furthest = float(np.abs(logits - reference).max())
        chosen = np.take_along_axis(reference, np.expand_dims(labels, axis), axis)
        differing = np.count_nonzero(reference.max(axis, keepdims=True) - chosen > TIE * largest)
    return Parity(
        furthest / largest,
        float(differing / wanted.size),
        float(differing / max(labelled, LEAST_LABELLED)),
    )


def _infer(
    model: onnx.ModelProto, samples: Float32Array, reference: Float32Array
) -> tuple[Float32Array, npt.NDArray[Any]]:
    """Return ONNX Runtime's logits, of the reference's shape, and labels."""
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
    return logits, labels


def _class_axis(samples: Float32Array, reference: Float32Array) -> int:
    """1 where the logits' rows and columns are the last axes, as the image's are, else 3."""
    return 1 if reference.shape[2:] == samples.shape[2:] else 3


def _checked(found: Parity, tolerance: Tolerance) -> Parity:
    _refuse(found, tolerance, "ONNX Runtime and the framework differ")
    return found


def _refuse(
    found: Parity,
    tolerance: Tolerance,
    what: str,
    fix: str = "report this network; nothing was written",
) -> None:
    """Refuse what is further apart, or no number."""
    pairs = [(getattr(found, name), getattr(tolerance, name)) for name in ("logits", "labels", "labelled")]
    if not all(value <= limit for value, limit in pairs):
        raise ModelError(
            f"{what}: logits {found.logits:.2g}, labels {found.labels:.2%}"
            f" ({found.labelled:.2%} of what is not background)",
            f"at most {tolerance.logits:.2g}, {tolerance.labels:.2%} ({tolerance.labelled:.2%})",
            fix,
        )
