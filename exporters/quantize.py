"""A model file's twin in fewer bits: 8-bit integers for CPUs, 16-bit floats for CUDA.

Integers: static; weights have a scale an output channel (signed), activations one a tensor (unsigned: what
processors with VNNI multiply at once), from their least and greatest values on calibration slices. Before
that the graph is rewritten (`exporters.rewrite`); after it pixels are moved as bytes. All that is of slices:
networks of patches have twins in 16-bit floats alone.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from onnxruntime import ExecutionOrder, InferenceSession, SessionOptions
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from exporters.onnx_graph import INPUT, finish, strip_labels, write
from exporters.rewrite import Graph, moves, rewrite, unpack_weights
from seg_core.errors import ModelError, UsageError
from seg_core.model_spec import ModelSpec, Twin
from seg_core.precision import twin_path
from seg_core.runner import Runner

Float32Array = npt.NDArray[np.float32]

COMPUTED = ("Conv", "Relu", "Add", "MaxPool", "Concat")
"""What is computed in integers."""
LEAST_SLICES, SLICES = 8, 24
"""Of all scans together, and of each."""
LEAST_PATCHES, PATCHES = 1, 8
"""The same of a network of patches."""
LEAST_PIXELS = 100
"""Of a class in either file's labels: of fewer its agreement is not told."""


@dataclass(frozen=True)
class TwinExport:
    """How to make a twin.

    Parameters
    ----------
    precision : {"int8", "fp16"}
        In what it computes.
    keep_last : int
        How many of the last convolutions of an ``int8`` twin stay in float32; more for a network whose labels
        suffer.
    """

    precision: Literal["int8", "fp16"] = "int8"
    keep_last: int = 0


@dataclass(frozen=True)
class ExportedTwin:
    """What was written: the file, its sha256, and the DSC of each class seen against the file in float32."""

    path: Path
    sha256: str
    agreement: Mapping[str, float]


def export_twin(
    source: Path, path: Path, slices: Sequence[Float32Array], request: TwinExport | None = None
) -> ExportedTwin:
    """Write a model file's twin, with its agreement in the description.

    Of integers every second slice calibrates and the others are compared, of 16-bit floats all: labels on the
    network's own pixels.

    Parameters
    ----------
    source : Path
        A model file in float32 (its weights may be stored in 16 bits); for ``int8`` of a network of slices.
    path : Path
        The file; replaced if it is there. The runner looks for ``<name>.int8.onnx`` beside ``<name>.onnx``.
    slices : sequence of ndarray of float32, each (1, channels, *space)
        Prepared as the network wants them; eight or more slices, or patches.
    request : TwinExport, optional

    Raises
    ------
    UsageError
        If the slices are too few, the file is the source itself, or ``keep_last`` is negative.
    ModelError
        If the source is no model file, a twin itself or, for ``int8``, one of patches, cannot be rewritten or
        quantised, or has values that 16 bits do not hold.
    OutputError
        If the file cannot be written.
    """
    request = request or TwinExport()
    if request.keep_last < 0:
        raise UsageError(f"{request.keep_last} last convolutions", "0 or more")
    if path.exists() and path.samefile(source):
        raise UsageError(
            f"{path} is the network itself", f"another file: {twin_path(source, request.precision)}"
        )
    runner = Runner(source, "cpu", precision="fp32", at_once=1)
    spec = runner.spec
    check_source(source.name, spec, request.precision)
    least = LEAST_SLICES if spec.patch is None else LEAST_PATCHES
    if len(slices) < least:
        kind = "slices" if spec.patch is None else "patches"
        raise UsageError(f"{len(slices)} {kind}", f"{least} or more to calibrate on and to compare")
    model = onnx.load_from_string(source.read_bytes())
    if request.precision == "int8":
        bare, compared = _in_integers(model, spec, slices[::2], request.keep_last), slices[1::2]
    else:
        bare, compared = _in_halves(model, slices), slices
    agreement = _agreement(runner, finish(bare, spec).SerializeToString(), compared)
    twin = Twin(request.precision, runner.fingerprint, agreement, len(compared))
    return ExportedTwin(path, write(finish(bare, replace(spec, twin=twin)), path), agreement)


def check_source(name: str, spec: ModelSpec, precision: str) -> None:
    """Refuse a model file of which there is no twin in a precision.

    Raises
    ------
    ModelError
        If it is a twin itself, has channels last or, for ``int8``, is of patches.
    """
    if spec.twin is not None or spec.layout != "NCHW":
        raise ModelError(f"{name}: a network with channels last, or a twin", "a file as lls export makes it")
    if spec.patch is not None and precision == "int8":
        raise ModelError(
            f"{name}: int8 of a network of patches", "one of slices", "make an fp16 twin, which CUDA computes"
        )


def _agreement(runner: Runner, twin: bytes, slices: Sequence[Float32Array]) -> dict[str, float]:
    """Return the DSC between two files, over all slices, of each class that they show."""
    other = Runner(twin, "cpu", at_once=1)
    names = runner.spec.classes
    common, both = np.zeros(len(names) + 1), np.zeros(len(names) + 1)
    for image in slices:
        pair = [_labels(one, image).ravel() for one in (runner, other)]
        common += np.bincount(pair[0][pair[0] == pair[1]], minlength=len(names) + 1)
        both += sum(np.bincount(labels, minlength=len(names) + 1) for labels in pair)
    seen = (n for n in range(1, len(names) + 1) if both[n] >= 2 * LEAST_PIXELS)
    return {names[n - 1]: round(float(2 * common[n] / both[n]), 5) for n in seen}


def _labels(runner: Runner, image: Float32Array) -> npt.NDArray[np.integer]:
    """Return the classes (1, *space) of a slice or patch on its own pixels."""
    if runner.spec.patch is not None:
        return runner.logits(image).argmax(1)
    return runner.run(image, (image.shape[2], image.shape[3])).labels


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives the runtime's quantiser one slice after the other."""

    def __init__(self, slices: Sequence[Float32Array]) -> None:
        self._slices = iter(slices)

    def get_next(self) -> dict[str, Float32Array] | None:
        image = next(self._slices, None)
        return None if image is None else {INPUT: image}


def _in_integers(
    model: onnx.ModelProto, spec: ModelSpec, slices: Sequence[Float32Array], keep_last: int
) -> onnx.ModelProto:
    """Return the bare graph in integers."""
    bare = rewrite(model, spec, float_head=keep_last > 0)
    del bare.metadata_props[:]
    # Says that the graph needs no preparation, about which a warning is printed otherwise.
    bare.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    nodes = list(bare.graph.node)
    places = [n for n, node in enumerate(nodes) if node.op_type == "Conv"]
    end = [*places, len(nodes)][-1 - min(keep_last, len(places))]
    left = [node.name for n, node in enumerate(nodes) if moves(node) or n >= end]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        try:
            quantize_static(
                bare,
                path,
                _Reader(slices),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(COMPUTED),
                nodes_to_exclude=left,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        except Exception as error:  # the runtime's errors share no base class of its own
            raise ModelError(f"{spec.name} cannot be computed in integers: {error}") from error
        result = onnx.load_from_string(path.read_bytes())
    _move_bytes(result)
    return result


def _move_bytes(model: onnx.ModelProto) -> None:
    """Move pixels before they become floats again, and quantise what was moved no second time."""
    graph = Graph(model.graph)
    ends = {output.name for output in model.graph.output}
    scales: dict[str, Sequence[str]] = {}  # of moved tensors: scale and zero point
    for node in list(graph.nodes):
        if not moves(node) or ends & set(node.output):
            continue
        for n, name in enumerate(node.input):
            maker = graph.maker(name)
            if maker is not None and maker.op_type == "DequantizeLinear" and name not in graph.constants:
                node.input[n] = maker.input[0]
                scales[maker.input[0]] = maker.input[1:]
        if node.op_type != "Shape" and node.input[0] in scales:
            scales |= dict.fromkeys(node.output, scales[node.input[0]])
    for node in list(graph.nodes):
        if not (moves(node) and node.output[0] in scales):
            continue
        for taker in graph.takers(node.output[0]):
            if taker.op_type == "QuantizeLinear":
                for back in graph.takers(taker.output[0]):
                    back.input[:] = [node.output[0], *scales[node.output[0]]]
            elif not moves(taker) and taker.op_type != "DequantizeLinear":
                back = graph.node("DequantizeLinear", node.output[0], *scales[node.output[0]])
                graph.nodes.insert(graph.nodes.index(taker), back)
                taker.input[list(taker.input).index(node.output[0])] = back.output[0]
    graph.written()


def _in_halves(model: onnx.ModelProto, slices: Sequence[Float32Array]) -> onnx.ModelProto:
    """Return the bare graph in 16-bit floats, with inputs and outputs in 32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    bare = strip_labels(model)
    graph = Graph(bare.graph)
    unpack_weights(graph)
    graph.written()
    _check_halves(bare, slices)
    halves = OnnxModel(convert_float_to_float16(bare, keep_io_types=True))
    halves.topological_sort()
    return halves.model


def _check_halves(bare: onnx.ModelProto, slices: Sequence[Float32Array]) -> None:
    """Refuse a network with values beyond 16-bit floats; a CPU computes them in 32, and would not show it."""
    options = SessionOptions()
    options.execution_order = ExecutionOrder.PRIORITY_BASED  # extremes at once, so that tensors are let go
    told = _with_extremes(bare).SerializeToString()
    session = InferenceSession(told, options, providers=["CPUExecutionProvider"])
    most = float(np.finfo(np.float16).max)
    for image in slices:
        greatest = float(np.abs(session.run(None, {INPUT: image})).max())
        if not greatest < most:
            raise ModelError(
                f"the network's values reach {greatest:.3g}",
                f"below {most:g}, the greatest of 16 bits",
                "leave it in float32; of slices there are int8 twins",
            )


def _with_extremes(bare: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that gives the greatest and the least of each tensor of floats that it computes."""
    told = onnx.shape_inference.infer_shapes(bare)
    known = (*told.graph.value_info, *told.graph.output)
    floats = {item.name for item in known if item.type.tensor_type.elem_type == TensorProto.FLOAT}
    nodes, ends = [], []
    for node in told.graph.node:
        nodes.append(node)
        for name in floats.intersection(node.output):
            for op in ("ReduceMax", "ReduceMin"):
                ends.append(f"{name}.{op}")
                nodes.append(onnx.helper.make_node(op, [name], ends[-1:], keepdims=0))
    del told.graph.node[:], told.graph.output[:]
    told.graph.node.extend(nodes)
    told.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, ends))
    return told
