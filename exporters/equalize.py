"""Channels of one tensor brought to like ranges, so that one scale of 8 bits suits them all.

A channel may be made smaller by any factor if what reads it makes up for that: ReLU, sums and maxima pass it
on. The factor shares the differences between activations and the weights that read them (Xiao et al.,
SmoothQuant, ICML 2023; Nagel et al., Data-free quantization through weight equalization, ICCV 2019).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from exporters.onnx_graph import INPUT
from exporters.rewrite import Graph, moves

Float32Array = npt.NDArray[np.float32]

PASSING = ("Relu", "Add", "MaxPool")
MOST = 16.0
"""Greatest factor."""


def equalize(model: onnx.ModelProto, slices: Sequence[Float32Array]) -> None:
    """Bring channels to like ranges, in place; the same logits but for rounding.

    Parameters
    ----------
    model : ModelProto
        A bare graph, as `exporters.rewrite.rewrite` gives it.
    slices : sequence of ndarray of float32, each (1, channels, rows, columns)
        On which ranges are measured.
    """
    graph = Graph(model.graph)
    groups = [group for group in _groups(graph) if _scalable(graph, group)]
    read = {node.input[0] for group in groups for node in _convolutions(graph, group, reading=True)}
    greatest = _greatest(model, sorted(read), slices)
    for group in groups:
        readers = _convolutions(graph, group, reading=True)
        weights = [graph.constants[node.input[1]] for node in readers]
        of_weights = np.max([np.abs(weight).max(axis=(0, 2, 3)) for weight in weights], axis=0)
        of_values = np.max([greatest[node.input[0]] for node in readers], axis=0)
        factor = np.sqrt(np.maximum(of_values, 1e-6) / np.maximum(of_weights, 1e-6))
        alive = of_values > 0
        factor = factor / np.exp(np.log(factor[alive]).mean()) if alive.any() else np.ones_like(factor)
        factor = np.where(alive, np.clip(factor, 1 / MOST, MOST), 1.0)
        _scale(graph, group, factor)
    graph.written()


def _groups(graph: Graph) -> list[set[str]]:
    """Return the sets of tensors whose channels are the same."""
    groups: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.op_type in PASSING or (moves(node) and node.op_type not in ("Shape", "Reshape", "Slice")):
            names = {*node.input, *node.output}
        elif moves(node) and node.op_type in ("Reshape", "Slice"):
            names = {node.input[0], *node.output}
        else:
            continue
        names = {name for name in names if name not in graph.constants}
        joined = set().union(names, *(groups[name] for name in names if name in groups))
        groups |= dict.fromkeys(joined, joined)
    for node in graph.nodes:
        if node.op_type == "Conv":
            groups.setdefault(node.output[0], {node.output[0]})
    return list({id(group): group for group in groups.values()}.values())


def _convolutions(graph: Graph, group: set[str], reading: bool) -> list[onnx.NodeProto]:
    """Return the convolutions that read a group, or write it."""
    convolutions = [node for node in graph.nodes if node.op_type == "Conv"]
    return [node for node in convolutions if (node.input[0] if reading else node.output[0]) in group]


def _scalable(graph: Graph, group: set[str]) -> bool:
    """Whether only convolutions write a group from outside, and only they read it."""
    ends = {INPUT, *(output.name for output in graph.graph.output)}
    if group & ends:
        return False
    for node in graph.nodes:
        inside = node.op_type in PASSING or moves(node)
        touched = group & {*node.input, *node.output}
        if touched and not inside and node.op_type != "Conv":
            return False
        if touched and node.op_type == "Conv" and any(a.name == "group" and a.i != 1 for a in node.attribute):
            return False
    readers = _convolutions(graph, group, reading=True)
    return bool(readers) and bool(_convolutions(graph, group, reading=False))


def _greatest(
    model: onnx.ModelProto, names: Sequence[str], slices: Sequence[Float32Array]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the greatest size of each channel (channels,) of tensors over slices."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: dict[str, npt.NDArray[np.float64]] = {}
    for image in slices:
        for name, values in zip(names, session.run(list(names), {INPUT: image}), strict=True):
            sizes = np.abs(values).max(axis=(0, 2, 3)).astype(np.float64)
            found[name] = np.maximum(found[name], sizes) if name in found else sizes
    return found


def _scale(graph: Graph, group: set[str], factor: npt.NDArray[np.float64]) -> None:
    """Divide what writes a group by factors (channels,), multiply what reads it."""
    for node in _convolutions(graph, group, reading=True):
        weight = graph.constants[node.input[1]] * factor[:, None, None]
        node.input[1] = graph.constant(weight, np.float32)
    for node in _convolutions(graph, group, reading=False):
        weight = graph.constants[node.input[1]]
        own = np.tile(factor, len(weight) // len(factor))  # four parts that will be woven into pixels
        node.input[1] = graph.constant(weight / own[:, None, None, None], np.float32)
        if len(node.input) > 2:
            node.input[2] = graph.constant(graph.constants[node.input[2]] / own, np.float32)
