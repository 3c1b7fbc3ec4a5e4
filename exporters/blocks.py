"""Blocks of pixels into channels and back, by what ONNX Runtime does fastest: the same values, to the bit.

PyTorch's exporter writes the first as a transposition of six axes and the second as DepthToSpace. Each takes
as long as several convolutions in 8 bits; SpaceToDepth takes a twelfth of the one, a transposed convolution
with weights of 1 and 0 a sixth of the other (slices of 512 x 512, three channels in and five out, two cores).
"""

import numpy as np
import onnx

from exporters.onnx_graph import INPUT
from exporters.rewrite import Graph, attributes

UNSHUFFLE = [0, 1, 3, 5, 2, 4]
"""The transposition of (n, channels, rows, 2, columns, 2)."""


def rewrite_blocks(model: onnx.ModelProto, channels: int) -> None:
    """Rewrite both in place, where they are there.

    Parameters
    ----------
    model : ModelProto
        As PyTorch's exporter leaves it.
    channels : int
        Of the image.
    """
    graph = Graph(model.graph)
    for node in list(graph.nodes):
        if node.op_type == "Transpose" and attributes(node).get("perm") == UNSHUFFLE:
            _gather(graph, node, channels)
        elif node.op_type == "DepthToSpace" and attributes(node).get("mode") == b"CRD":
            _spread(graph, node)
    graph.written()


def _gather(graph: Graph, node: onnx.NodeProto, channels: int) -> None:
    """Take blocks of 2 x 2 pixels of the image by SpaceToDepth, whose channels come in another order."""
    source, last = graph.maker(node.input[0]), node
    while source is not None and source.op_type == "Reshape" and source.input[0] != INPUT:
        source = graph.maker(source.input[0])
    while len(takers := _readers(graph, last)) == 1 and takers[0].op_type == "Reshape":
        last = takers[0]
    seen = [graph.constants.get(taker.input[1]) for taker in takers if taker.op_type == "Conv"]
    blocks = any(weight is not None and weight.shape[1] == 4 * channels for weight in seen)
    if source is None or source.op_type != "Reshape" or not blocks:
        return
    moved = graph.node("SpaceToDepth", INPUT, blocksize=2)
    order = graph.constant(np.arange(4 * channels).reshape(4, channels).T.ravel())
    graph.replace(last, [moved, graph.node("Gather", moved.output[0], order, output=last.output[0], axis=1)])


def _readers(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return what takes a node's pixels, and not its shape alone."""
    return [taker for taker in graph.takers(node.output[0]) if taker.op_type != "Shape"]


def _spread(graph: Graph, node: onnx.NodeProto) -> None:
    """Make blocks of pixels of a convolution's channels: each a transposed convolution's only tap."""
    size, maker = attributes(node)["blocksize"], graph.maker(node.input[0])
    weight = graph.constants.get(maker.input[1]) if maker is not None and maker.op_type == "Conv" else None
    if weight is None:
        return
    taps = np.eye(size**2, dtype=np.float32).reshape(size**2, 1, size, size)
    groups = len(weight) // size**2
    inputs = node.input[0], graph.constant(np.tile(taps, (groups, 1, 1, 1)), np.float32)
    shape = {"kernel_shape": [size] * 2, "strides": [size] * 2}
    graph.replace(node, [graph.node("ConvTranspose", *inputs, output=node.output[0], group=groups, **shape)])
