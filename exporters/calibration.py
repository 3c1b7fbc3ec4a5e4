"""In which range 8 bits represent each tensor of a network best."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from exporters.onnx_graph import INPUT

Float32Array = npt.NDArray[np.float32]
Ranges = dict[str, tuple[float, float]]

BINS, STEPS = 2048, 256
SHARES = np.linspace(0.2, 1.0, 81)
"""Of the whole range, which are tried."""


def best_ranges(model: onnx.ModelProto, names: Sequence[str], slices: Sequence[Float32Array]) -> Ranges:
    """Return for each tensor the range that 8 bits over calibration slices represent with the least error.

    A wide range keeps rare great values, a narrow one has finer steps: of shares of the whole range that with
    the least mean square of both errors, estimated from a histogram.

    Parameters
    ----------
    model : ModelProto
        A bare graph, ``image`` to ``logits``.
    names : sequence of str
        Tensors in float32 that are no constants.
    slices : sequence of ndarray of float32, each (1, channels, rows, columns)
        One after the other is run, twice; the tensors of one are in memory.

    Returns
    -------
    dict of str to (low, high)
        With low <= 0 <= high.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {output.name for output in exposed.graph.output} | {INPUT}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    extremes = dict.fromkeys(names, (0.0, 0.0))
    for image in slices:
        for name, values in _tensors(session, names, image).items():
            low, high = extremes[name]
            extremes[name] = min(low, float(values.min())), max(high, float(values.max()))
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for image in slices:
        for name, values in _tensors(session, names, image).items():
            counts[name] += np.histogram(values, BINS, extremes[name])[0]
    return {name: _best(counts[name], extremes[name]) for name in names}


def _tensors(
    session: onnxruntime.InferenceSession, names: Sequence[str], image: Float32Array
) -> Mapping[str, Float32Array]:
    outputs = [name for name in names if name != INPUT]
    found = dict(zip(outputs, session.run(outputs, {INPUT: image}), strict=True))
    return found | ({INPUT: image} if INPUT in names else {})


def _best(counts: npt.NDArray[np.int64], extremes: tuple[float, float]) -> tuple[float, float]:
    """Choose among shares of a range by the histogram of values in it."""
    low, high = extremes
    if low == high:
        return low, high
    edges = np.linspace(low, high, BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    errors = []
    for share in SHARES:
        beyond = np.maximum(middles - high * share, 0) + np.maximum(low * share - middles, 0)
        step = (high - low) * share / (STEPS - 1)
        errors.append(float((counts * np.where(beyond > 0, beyond**2, step**2 / 12)).sum()))
    share = float(SHARES[int(np.argmin(errors))])
    return low * share, high * share
