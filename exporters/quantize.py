"""A model file's twin in fewer bits: 8-bit integers for CPUs, 16-bit floats for CUDA.

Integers: static; weights have a scale an output channel (signed), activations one a tensor (unsigned: what
processors with VNNI multiply at once), from their least and greatest values on calibration slices. Before
that the graph is rewritten (`exporters.rewrite`); after it pixels are moved as bytes.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime import InferenceSession
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
from seg_core.geometry import Volume
from seg_core.intensity import normalised_input
from seg_core.model_spec import ModelSpec, Twin
from seg_core.precision import twin_path
from seg_core.prepare import plan_slices, prepare_slices
from seg_core.runner import Runner

Float32Array = npt.NDArray[np.float32]

COMPUTED = ("Conv", "Relu", "Add", "MaxPool", "Concat")
"""What is computed in integers."""
LEAST_SLICES, SLICES = 8, 24
"""Of all scans together, and of each."""
LEAST_PIXELS = 100
"""Of a class in either file's labels: of fewer its agreement is not told."""
SEED = 700_000
"""Of the first drawn scan; no training and no benchmark draws from here on."""


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


def scan_slices(volumes: Iterable[Volume], spec: ModelSpec, count: int) -> Iterator[Float32Array]:
    """Prepare evenly spread slices of scans, as the runner does.

    Parameters
    ----------
    volumes : iterable of Volume
        One is in memory at a time.
    spec : ModelSpec
        Of the network.
    count : int
        Slices a scan; all where there are fewer.

    Yields
    ------
    ndarray of float32, (1, channels, rows, columns)
        Rows and columns may be others for each scan.
    """
    for volume in volumes:
        plan = plan_slices(volume.geometry, spec)
        array, window = normalised_input(volume.array, spec.normalisation)
        slices = np.unique(np.linspace(0, plan.slices - 1, min(count, plan.slices)).round().astype(np.int64))
        for number in slices:
            yield prepare_slices(array, plan, window, number[None])


def drawn_scans(count: int = 4) -> Iterator[Volume]:
    """Draw scans of people whom no training and no benchmark draws.

    Raises
    ------
    MissingPackageError
        If the shape model is not installed (the extra ``phantom``).
    """
    from trainers.phantom import make_phantom
    from trainers.synthetic import draw_phantom_config

    for seed in range(SEED, SEED + count):
        yield make_phantom(draw_phantom_config(seed)).volume


def export_twin(
    source: Path, path: Path, slices: Sequence[Float32Array], request: TwinExport | None = None
) -> ExportedTwin:
    """Write a model file's twin, with its agreement in the description.

    Every second slice calibrates, the others are compared: labels on the network's own pixels.

    Parameters
    ----------
    source : Path
        A model file of a network of slices, in float32 (its weights may be stored in 16 bits).
    path : Path
        The file; replaced if it is there. The runner looks for ``<name>.int8.onnx`` beside ``<name>.onnx``.
    slices : sequence of ndarray of float32, each (1, channels, rows, columns)
        Prepared as the network wants them; eight or more.
    request : TwinExport, optional

    Raises
    ------
    UsageError
        If the slices are too few, the file is the source itself, or ``keep_last`` is negative.
    ModelError
        If the source is no model file, one of patches or a twin itself, cannot be rewritten or quantised, or
        has values that 16 bits do not hold.
    OutputError
        If the file cannot be written.
    """
    request = request or TwinExport()
    if len(slices) < LEAST_SLICES:
        raise UsageError(f"{len(slices)} slices", f"{LEAST_SLICES} or more to calibrate on")
    if request.keep_last < 0:
        raise UsageError(f"{request.keep_last} last convolutions", "0 or more")
    if path.exists() and path.samefile(source):
        raise UsageError(
            f"{path} is the network itself", f"another file: {twin_path(source, request.precision)}"
        )
    runner = Runner(source, "cpu", precision="fp32")
    spec = runner.spec
    if spec.patch is not None or spec.twin is not None or spec.layout != "NCHW":
        raise ModelError(f"{source.name}: a network of patches, channels last or a twin", "one of slices")
    model = onnx.load_from_string(source.read_bytes())
    make = _in_integers if request.precision == "int8" else _in_halves
    bare = make(model, spec, slices[::2], request)
    compared = slices[1::2]
    agreement = _agreement(runner, finish(bare, spec).SerializeToString(), compared)
    twin = Twin(request.precision, runner.fingerprint, agreement, len(compared))
    return ExportedTwin(path, write(finish(bare, replace(spec, twin=twin)), path), agreement)


def _agreement(runner: Runner, twin: bytes, slices: Sequence[Float32Array]) -> dict[str, float]:
    """Return the DSC between two files, over all slices, of each class that they show."""
    other = Runner(twin, "cpu")
    names = runner.spec.classes
    common, both = np.zeros(len(names) + 1), np.zeros(len(names) + 1)
    for image in slices:
        size = image.shape[2], image.shape[3]
        pair = [one.run(image, size).labels.ravel() for one in (runner, other)]
        common += np.bincount(pair[0][pair[0] == pair[1]], minlength=len(names) + 1)
        both += sum(np.bincount(labels, minlength=len(names) + 1) for labels in pair)
    seen = (n for n in range(1, len(names) + 1) if both[n] >= 2 * LEAST_PIXELS)
    return {names[n - 1]: round(float(2 * common[n] / both[n]), 5) for n in seen}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives the runtime's quantiser one slice after the other."""

    def __init__(self, slices: Sequence[Float32Array]) -> None:
        self._slices = iter(slices)

    def get_next(self) -> dict[str, Float32Array] | None:
        image = next(self._slices, None)
        return None if image is None else {INPUT: image}


def _in_integers(
    model: onnx.ModelProto, spec: ModelSpec, slices: Sequence[Float32Array], request: TwinExport
) -> onnx.ModelProto:
    """Return the bare graph in integers."""
    bare = rewrite(model, spec)
    del bare.metadata_props[:]
    # Says that the graph needs no preparation, about which a warning is printed otherwise.
    bare.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    nodes = list(bare.graph.node)
    places = [n for n, node in enumerate(nodes) if node.op_type == "Conv"]
    end = [*places, len(nodes)][-1 - min(request.keep_last, len(places))]
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


def _in_halves(
    model: onnx.ModelProto, spec: ModelSpec, slices: Sequence[Float32Array], request: TwinExport
) -> onnx.ModelProto:
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
    told = onnx.ModelProto()
    told.CopyFrom(bare)
    names = {name for node in bare.graph.node for name in node.output} - {o.name for o in bare.graph.output}
    told.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in sorted(names))
    session = InferenceSession(told.SerializeToString(), providers=["CPUExecutionProvider"])
    most = float(np.finfo(np.float16).max)
    for image in slices:
        found = session.run(None, {INPUT: image})
        greatest = max(float(np.abs(v).max()) for v in found if v.dtype == np.float32 and v.size)
        if not greatest < most:
            raise ModelError(
                f"the network's values reach {greatest:.3g}",
                f"below {most:g}, the greatest of 16 bits",
                "leave it in float32, or make an int8 twin",
            )
