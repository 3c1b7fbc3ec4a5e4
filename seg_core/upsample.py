"""Classes on the scan's pixels from logits on the network's, without an array of all classes there."""

from math import inf

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Chebyshev, Polynomial

from seg_core.errors import UsageError
from seg_core.kernel import kernel

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]

_LEAST, _PARTS = np.float32(-20), np.float32(1 / 16)
_POWERS = tuple(
    Chebyshev.interpolate(np.exp, 6, domain=[float(_LEAST * _PARTS), 0])
    .convert(kind=Polynomial)
    .coef.astype(np.float32)
)
"""Of a polynomial that is exp from a sixteenth of ``_LEAST``, below which a class counts nothing, to 0."""


def greatest_classes(
    logits: Float32Array, size: tuple[int, int], temperature: float = 1.0, confidence: bool = True
) -> tuple[Uint8Array, Uint8Array | None]:
    """Interpolate logits and take the greatest: what a model file's ``labels`` and ``confidence`` do.

    The outer edges of the two grids coincide (ONNX's Resize, linear, half_pixel). Of two equal logits the
    lower class is taken.

    Parameters
    ----------
    logits : ndarray of float32, (n, classes, rows, columns)
        Two classes or more; n may be 0.
    size : tuple of int
        (rows, columns) of the result.
    temperature : float
        Logits are divided by it where their probability is computed.
    confidence : bool
        Whether to return it.

    Returns
    -------
    labels : ndarray of uint8, (n, *size)
    confidence : ndarray of uint8, (n, *size), or None
        255 times the probability of the class, rounded.

    Raises
    ------
    UsageError
        If the logits are of another type or shape, or the size or temperature is not positive.
    """
    if logits.dtype != np.float32 or logits.ndim != 4 or not 2 <= logits.shape[1] <= 256:
        raise UsageError(f"logits {logits.dtype} {logits.shape}", "float32 (n, 2 to 256, rows, columns)")
    if min(*size, *logits.shape[2:]) < 1 or not 0 < temperature < inf:
        raise UsageError(f"{logits.shape[2:]} to {size} at temperature {temperature}", "positive numbers")
    labels = np.empty((len(logits), *size), np.uint8)
    certainty = np.empty(labels.shape if confidence else (0, 1, 1), np.uint8)
    rows, columns = (_between(n, wanted) for n, wanted in zip(logits.shape[2:], size, strict=True))
    inverse = np.float32(1 / temperature)
    _greatest(np.ascontiguousarray(logits), rows, columns, inverse, labels, certainty)
    return labels, certainty if confidence else None


def _between(source: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float32Array]:
    """Return for each target pixel (target,) the two source pixels around it and the weight of the second."""
    place = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, source - 1), (place - low).astype(np.float32)


@kernel
def _greatest(logits, rows, columns, inverse, labels, confidence):  # type: ignore[no-untyped-def]
    images, classes, height, width = logits.shape
    (above, below, down), (left, right, across) = rows, columns
    same = labels.shape[1] == height and labels.shape[2] == width
    line = np.empty(width, np.float32)
    values = np.empty((classes, labels.shape[2]), np.float32)
    # Not two rows of one array: numba does not vectorise loops over those.
    best = np.empty(labels.shape[2], np.float32)
    total = np.empty(labels.shape[2], np.float32)
    p0, p1, p2, p3, p4, p5, p6 = _POWERS
    for n in range(images):
        for r in range(labels.shape[1]):
            a, b, v = above[r], below[r], down[r]
            label = labels[n, r]
            for k in range(classes):
                value = values[k]
                if same:  # nothing to interpolate: every weight is 0
                    for c in range(width):
                        value[c] = logits[n, k, r, c]
                    continue
                for c in range(width):
                    line[c] = logits[n, k, a, c] + (logits[n, k, b, c] - logits[n, k, a, c]) * v
                for c in range(label.size):
                    value[c] = line[left[c]] + (line[right[c]] - line[left[c]]) * across[c]
            for c in range(label.size):
                label[c] = 0
                best[c] = values[0, c]
                total[c] = 0
            for k in range(1, classes):
                value = values[k]
                for c in range(label.size):
                    greater = value[c] > best[c]
                    label[c] = k if greater else label[c]
                    best[c] = value[c] if greater else best[c]
            if confidence.shape[0]:
                certain = confidence[n, r]
                for k in range(classes):
                    value = values[k]
                    for c in range(label.size):
                        # exp to 1e-5 of it, which neither branches nor calls, so that the loop is vectorised
                        x = (value[c] - best[c]) * inverse
                        x = (x if x > _LEAST else _LEAST) * _PARTS
                        power = p0 + x * (p1 + x * (p2 + x * (p3 + x * (p4 + x * (p5 + x * p6)))))
                        power *= power
                        power *= power
                        power *= power
                        total[c] += power * power
                for c in range(label.size):
                    certain[c] = np.uint8(np.int32(np.float32(255) / total[c] + np.float32(0.5)))
