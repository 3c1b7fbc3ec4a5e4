"""What every exporter does to its graph: labels of any size, description, 16-bit weights, a clean file."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from seg_core.errors import ModelError, UsageError
from seg_core.model_spec import METADATA_KEY, ModelSpec
from seg_core.output import output_error, whole_file

IR_VERSION, OPSET = 10, 18
INPUT, LOGITS, LABELS, CONFIDENCE, SIZE = "image", "logits", "labels", "confidence", "size"
DEFAULT_SIZE = (512, 512)
"""Rows and columns of ``labels`` when the caller feeds no ``size``: the report's slices."""


def finish(model: onnx.ModelProto, spec: ModelSpec, weights: str = "float32") -> onnx.ModelProto:
    """Make a network's bare graph a model file of lls.

    Parameters
    ----------
    model : ModelProto
        Input ``image``, output ``logits`` with classes at the axis that ``spec.layout`` says. Left alone.
    spec : ModelSpec
        Its description.
    weights : {"float32", "float16"}
        Type in which weights are stored; computing is in float32 either way.

    Returns
    -------
    ModelProto
        Of a network of slices, with the further outputs ``labels`` and ``confidence`` (255 times the
        probability of the class, at the description's temperature), uint8 (n, rows, columns). The optional
        input ``size`` (int64: rows, columns) gives their size. A network of patches has ``logits`` alone.

    Raises
    ------
    ModelError
        If the graph has other inputs or outputs, or does not pass ONNX's own checker.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = [i.name for i in result.graph.input], [o.name for o in result.graph.output]
    if names != ([INPUT], [LOGITS]):
        raise ModelError(f"a graph with inputs {names[0]} and outputs {names[1]}", f"{INPUT} and {LOGITS}")
    if weights not in ("float32", "float16"):
        raise ModelError(f"weights of type {weights!r}", "float32 or float16")
    _strip(result)
    if weights == "float16":
        _store_float16(result.graph)
    if spec.patch is None:
        _add_labels(result.graph, spec)
    result.ir_version = IR_VERSION
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", OPSET))
    result.metadata_props.add(key=METADATA_KEY, value=spec.to_json())
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:  # the checker and shape inference raise different kinds
        raise ModelError(f"the exported graph is not valid ONNX: {error}") from error
    return result


def with_temperature(model: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """Return a model file whose confidence is computed at another temperature; logits and labels stay.

    Parameters
    ----------
    model : ModelProto
        As `finish` makes it. Left alone.
    temperature : float
        See `seg_core.model_spec.ModelSpec`.

    Raises
    ------
    ModelError
        If the model has no description, or the temperature is not positive.
    """
    spec = replace(_description(model), temperature=temperature)
    return finish(strip_labels(model), spec)


def with_background(model: onnx.ModelProto, logit: float) -> onnx.ModelProto:
    """Return a model file that calls less of a scan a bone: its last bias holds a number more for background.

    Slices drawn by class (`trainers.batches.Draw`) teach a network that bones are frequent.

    Parameters
    ----------
    model : ModelProto
        As `finish` makes it, of a network that ends in a convolution. Left alone.
    logit : float
        Added to the logits of background; noted in the description's provenance.

    Raises
    ------
    ModelError
        If the model has no description, or no convolution with a bias at its end.
    """
    spec = _description(model)
    result = strip_labels(model)
    made = {name: node for node in result.graph.node for name in node.output}
    last = made.get(LOGITS)
    while last is not None and last.op_type != "Conv":
        last = made.get(last.input[0])
    stored = [t for t in result.graph.initializer if last and list(last.input[2:]) == [t.name]]
    if not stored:
        raise ModelError("a network whose last bias is not to be found", "one that ends in a convolution")
    bias = numpy_helper.to_array(stored[0]).reshape(len(spec.classes) + 1, -1).copy()  # blocks a class
    bias[0] += logit
    stored[0].CopyFrom(numpy_helper.from_array(bias.ravel(), stored[0].name))
    return finish(result, replace(spec, provenance=dict(spec.provenance) | {"background_logit": logit}))


def with_mean(model: onnx.ModelProto, earlier: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """Return a model file whose weights are the mean of a training's and of those that it began with.

    Between the two lie networks that keep what the earlier one knew and know most of what was learned since
    (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022).

    Parameters
    ----------
    model, earlier : ModelProto
        As `finish` makes them, of one network. Left alone.
    share : float
        Of ``model`` in the mean, 0 to 1; noted in the provenance, which is ``model``'s without its score.

    Raises
    ------
    UsageError
        If the share is another number.
    ModelError
        If one has no description, or their graphs are not the same.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"a share of {share}", "0 to 1")
    spec, before = _description(model), _description(earlier)
    bare, other = strip_labels(model), strip_labels(earlier)
    theirs = {tensor.name: numpy_helper.to_array(tensor) for tensor in other.graph.initializer}
    ours = {tensor.name: numpy_helper.to_array(tensor) for tensor in bare.graph.initializer}
    same = {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in theirs.items()}
    # How confidence is scaled and who is magnified is said afterwards, and changes no layer.
    alike = replace(spec, provenance={}, temperature=1, usual_mm={}) == replace(
        before, provenance={}, temperature=1, usual_mm={}
    )
    if not same or not alike or list(bare.graph.node) != list(other.graph.node):
        raise ModelError("two networks of other layers, weights or descriptions", "one and what it became")
    for tensor in bare.graph.initializer:
        mine, its = ours[tensor.name], theirs[tensor.name]
        if mine.dtype.kind == "f":
            mean = share * mine.astype(np.float64) + (1 - share) * its.astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(mean.astype(mine.dtype), tensor.name))
    facts = {key: value for key, value in spec.provenance.items() if key != "validation_dsc"}
    return finish(bare, replace(spec, provenance=facts | {"share_of_last_training": share}))


def _description(model: onnx.ModelProto) -> ModelSpec:
    known = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in known:
        raise ModelError("an ONNX file without a description of lls", fix="export it with lls")
    return ModelSpec.from_json(known[METADATA_KEY])


def strip_labels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model file without what `finish` added: the bare graph, and the description."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    graph = bare.graph
    for items in (graph.node, graph.initializer, graph.input, graph.output):
        kept = [item for item in items if not _ours(item.name)]
        del items[:]
        items.extend(kept)
    return bare


def _ours(name: str) -> bool:
    """Whether `finish` gave this name to what it added."""
    return name.startswith("lls.") or name in (SIZE, LABELS, CONFIDENCE)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what exporters leave behind: stack traces, paths, names of tools, shapes of every tensor."""
    for name in ("producer_name", "producer_version", "domain", "doc_string", "metadata_props"):
        model.ClearField(name)
    graph = model.graph
    graph.name = "network"
    del graph.value_info[:]
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def _store_float16(graph: onnx.GraphProto) -> None:
    """Store tensors of two and more axes as float16, each cast back when the session starts."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name = tensor.name
        half = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(half).all():
            raise ModelError(f"weights {name} beyond float16's range", fix="export with float32 weights")
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.float16"))
        casts.append(
            helper.make_node("Cast", [f"{name}.float16"], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


class _Builder:
    """Adds nodes and constants whose names begin with ``lls.``."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.count = 0

    def constant(self, value: Any, dtype: Any) -> str:
        self.count += 1
        name = f"lls.constant.{self.count}"
        self.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.count += 1
        name = f"lls.{op}.{self.count}"
        self.graph.node.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name


def _add_labels(graph: onnx.GraphProto, spec: ModelSpec) -> None:
    """Append upsampling, the greatest class and its probability.

    ONNX Runtime computes every output, asked for or not. Measured for a slice of 512 x 896 on one core:
    upsampling 10 ms, greatest class 1 ms, its probability 2 ms. Who wants only logits feeds a ``size`` of one
    pixel.
    """
    b = _Builder(graph)
    graph.initializer.append(numpy_helper.from_array(np.array(DEFAULT_SIZE, np.int64), SIZE))
    graph.input.append(helper.make_tensor_value_info(SIZE, TensorProto.INT64, [2]))
    logits = LOGITS if spec.layout == "NCHW" else b.node("Transpose", LOGITS, perm=[0, 3, 1, 2])
    shape = b.node("Concat", b.node("Shape", logits, end=2), SIZE, axis=0)
    up = b.node("Resize", logits, "", "", shape, mode="linear", coordinate_transformation_mode="half_pixel")
    greatest = b.node("ArgMax", up, axis=1, keepdims=0)
    axis = b.constant([1], np.int64)
    # The greatest softmax: 1 / sum of exp(logit - greatest); on this axis Softmax itself is ten times slower.
    below = b.node("Sub", up, b.node("ReduceMax", up, axis, keepdims=1))
    if spec.temperature != 1:
        below = b.node("Div", below, b.constant(spec.temperature, np.float32))
    exponent = b.node("Exp", below)
    probability = b.node("Div", b.constant(255, np.float32), b.node("ReduceSum", exponent, axis, keepdims=0))
    for name, source in ((LABELS, greatest), (CONFIDENCE, b.node("Round", probability))):
        graph.node.append(
            helper.make_node("Cast", [source], [name], name=f"lls.{name}", to=TensorProto.UINT8)
        )
        graph.output.append(
            helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", "out_rows", "out_columns"])
        )


def write(model: onnx.ModelProto, path: Path) -> str:
    """Write a model beside its place, rename it, and return its sha256; the same bytes for the same model.

    Its folder is made where it is missing.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    data = model.SerializeToString(deterministic=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, path.parent) from error
    with whole_file(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()
