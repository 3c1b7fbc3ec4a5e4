"""Exact rewrites of a network's graph that leave less to compute, or what integers compute faster.

In exact arithmetic each gives the same logits, or, of a head in float, logits less background's, which are
the same labels and probabilities; in float they differ by rounding. They are for a twin in 8 bits
(`exporters.quantize`) on ONNX Runtime's CPU provider, whose integer convolutions keep channels last: there a
nearest upsampling and a wide stride are slow, and few channels are as slow as sixteen.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from exporters.onnx_graph import INPUT, LOGITS, strip_labels
from seg_core.model_spec import ModelSpec

FloatArray = npt.NDArray[np.float32]

PREFIX = "rewritten."
"""Names of what is new begin with it."""
WIDTH = 16
"""Channels that an integer convolution computes at once."""
FEW = 4
"""Up to as many input channels a wide stride is better taken by moving pixels into channels."""


class Graph:
    """A graph that is being rewritten: nodes by the tensors that they make, constants by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes = list(graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        names = [node.name for node in graph.node] + [tensor.name for tensor in graph.initializer]
        numbers = (re.match(rf"{re.escape(PREFIX)}\w+\.(\d+)", name) for name in names)
        self._count = max((int(number[1]) for number in numbers if number), default=0)

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def takers(self, tensor: str) -> list[onnx.NodeProto]:
        """Return the nodes that take a tensor."""
        return [node for node in self.nodes if tensor in node.input]

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Keep a constant; return its name."""
        self._count += 1
        name = f"{PREFIX}constant.{self._count}"
        self.constants[name] = np.ascontiguousarray(value, dtype)
        return name

    def node(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> onnx.NodeProto:
        """Make a node that is not in the graph yet."""
        self._count += 1
        name = f"{PREFIX}{op}.{self._count}"
        return helper.make_node(op, inputs, [output or name], name=name, **attributes)

    def replace(self, node: onnx.NodeProto, others: Sequence[onnx.NodeProto]) -> None:
        """Put nodes in the place of one; the last one makes its tensor."""
        place = self.nodes.index(node)
        self.nodes[place : place + 1] = others

    def written(self) -> None:
        """Write it back, without what nothing takes."""
        wanted, kept = {output.name for output in self.graph.output}, []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                kept.append(node)
                wanted |= set(node.input)
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(reversed(kept))
        self.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in wanted
        )


def rewrite(model: onnx.ModelProto, spec: ModelSpec, float_head: bool = False) -> onnx.ModelProto:
    """Rewrite the graph of a network of slices.

    Parameters
    ----------
    model : ModelProto
        A model file as `exporters.onnx_graph.finish` makes it, channels first. Left alone.
    spec : ModelSpec
        Its description. Where each channel holds the same slice, the rewritten graph looks at one alone.
    float_head : bool
        Whether the last convolution stays in float. Then its logits are given less background's where that is
        less to compute; in 8 bits they would be rounded more coarsely.

    Returns
    -------
    ModelProto
        The bare graph, ``image`` to ``logits``, weights in float32.
    """
    bare = strip_labels(model)
    graph = Graph(bare.graph)
    unpack_weights(graph)
    doubled = set(_doubled(bare, spec))
    if spec.channel_fill == "repeat":
        _one_channel(graph)
    for node in list(graph.nodes):
        if node.op_type == "Conv" and spec.grid.multiple % 2 == 0:  # else blocks of two may not fit
            _strides_to_channels(graph, node)
    for node in list(graph.nodes):
        if node.op_type == "Conv":
            _upsampled_convolution(graph, node, doubled)
    for node in list(graph.nodes):
        if node.op_type == "Resize" and node.output[0] in doubled:
            graph.replace(node, _channels_last(graph, node.input[0], node.output[0], _repeated))
    if float_head:
        _less_background(graph, len(spec.classes) + 1)
    _pad_head(graph)
    graph.written()
    return bare


MOVES = ("Transpose", "Split", "Slice", "Unsqueeze", "Concat", "Reshape", "Shape")
"""What only moves pixels, between a first and a last transposition; and the shapes that it needs."""


def moves(node: onnx.NodeProto) -> bool:
    """Whether a node of a rewritten graph moves pixels without computing."""
    return node.name.startswith(PREFIX) and node.op_type in MOVES


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def unpack_weights(graph: Graph) -> None:
    """Make weights that are stored in 16 bit constants of 32."""
    for node in list(graph.nodes):
        if node.op_type == "Cast" and node.input[0] in graph.constants:
            graph.constants[node.output[0]] = graph.constants[node.input[0]].astype(np.float32)
            graph.nodes.remove(node)


def _doubled(bare: onnx.ModelProto, spec: ModelSpec) -> Iterator[str]:
    """Give the tensors of nearest upsamplings to exactly twice the rows and columns, tried at two sizes."""
    resizes = [node for node in bare.graph.node if node.op_type == "Resize" and _nearest(node)]
    if not resizes:
        return
    probed = onnx.ModelProto()
    probed.CopyFrom(bare)
    names = [name for node in resizes for name in (node.input[0], node.output[0])]
    known = {output.name for output in probed.graph.output}
    probed.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    same = dict.fromkeys((node.output[0] for node in resizes), True)
    for factors in ((1, 2), (3, 1)):
        size = [spec.grid.multiple * factor for factor in factors]
        found = session.run(names, {INPUT: np.zeros((1, spec.channels, *size), np.float32)})
        for node, before, after in zip(resizes, found[::2], found[1::2], strict=True):
            same[node.output[0]] &= tuple(2 * n for n in before.shape[2:]) == after.shape[2:]
    yield from (name for name, twice in same.items() if twice)


def _nearest(node: onnx.NodeProto) -> bool:
    """Whether each pixel of an upsampling by two is the one in which it lies."""
    found = attributes(node)
    mode = found.get("coordinate_transformation_mode", b"half_pixel"), found.get("nearest_mode", b"")
    return found.get("mode", b"nearest") == b"nearest" and mode in (
        (b"asymmetric", b"floor"),
        (b"half_pixel", b"round_prefer_floor"),
        (b"half_pixel", b""),
    )


def _one_channel(graph: Graph) -> None:
    """Look at one of equal channels where only convolutions look: their weights add up."""
    takers = [node for node in graph.takers(INPUT) if node.op_type != "Shape"]
    if not all(node.op_type == "Conv" and attributes(node).get("group", 1) == 1 for node in takers):
        return
    bounds = [graph.constant([n]) for n in (0, 1, 1)]
    single = graph.node("Slice", INPUT, *bounds)
    graph.nodes.insert(0, single)
    for node in takers:
        node.input[0] = single.output[0]
        weight = graph.constants[node.input[1]].sum(axis=1, keepdims=True, dtype=np.float64)
        node.input[1] = graph.constant(weight, np.float32)


def _strides_to_channels(graph: Graph, node: onnx.NodeProto) -> None:
    """Make a convolution of few channels with stride 2 one without, of the pixels of each 2 x 2 block.

    Tap t - p of a kernel that begins p before the pixel is 2 u + a: pixel a of the block u further on.
    """
    found, weight = attributes(node), graph.constants.get(node.input[1])
    if weight is None or weight.ndim != 4 or weight.shape[1] > FEW or found.get("group", 1) != 1:
        return
    pads, size = found.get("pads", [0] * 4), weight.shape[2]
    plain = found.get("dilations", [1, 1]) == [1, 1] and len(set(pads)) == 1 and weight.shape[3] == size
    if found.get("strides") != [2, 2] or not plain or size != 2 * pads[0] + 1:
        return
    first, last = -pads[0] // 2, pads[0] // 2
    outputs, channels = weight.shape[:2]
    taps = last - first + 1
    moved = np.zeros((outputs, 2, 2, channels, taps, taps), np.float32)
    for r in range(size):
        for c in range(size):
            (u, a), (v, b) = divmod(r - pads[0], 2), divmod(c - pads[0], 2)
            moved[:, a, b, :, u - first, v - first] = weight[:, :, r, c]
    blocks = graph.node("SpaceToDepth", node.input[0], blocksize=2)
    inputs = [blocks.output[0], graph.constant(moved.reshape(outputs, -1, taps, taps), np.float32)]
    pads = [-first, -first, last, last]
    conv = graph.node(
        "Conv", *inputs, *node.input[2:], output=node.output[0], kernel_shape=[taps, taps], pads=pads
    )
    graph.replace(node, [blocks, conv])


def _upsampled_convolution(graph: Graph, node: onnx.NodeProto, doubled: set[str]) -> None:
    """Rewrite a 3 x 3 convolution of something upsampled, alone or first in a concatenation.

    The part of what is concatenated becomes a convolution of its own, to which the other is added.
    """
    found, weight = attributes(node), graph.constants.get(node.input[1])
    if weight is None or weight.shape[2:] != (3, 3) or found.get("group", 1) != 1:
        return
    plain = found.get("strides", [1, 1]) == [1, 1] and found.get("dilations", [1, 1]) == [1, 1]
    if not plain or found.get("pads") != [1, 1, 1, 1]:
        return
    source, rest = node.input[0], None
    maker = graph.maker(source)
    if maker is not None and maker.op_type == "Concat" and len(maker.input) == 2:
        source, rest = maker.input[0], maker.input[1]
        maker = graph.maker(source)
    if maker is None or source not in doubled:
        return
    if rest is None:
        takers = graph.takers(node.output[0])
        activated = len(takers) == 1 and takers[0].op_type == "Relu"  # which pixels may be moved after
        output = takers[0].output[0] if activated else node.output[0]
        nodes = _before(graph, maker.input[0], weight, node.input[2:], output)
        if activated:
            graph.nodes.remove(takers[0])
            relu = graph.node("Relu", nodes[0].output[0])
            nodes[1].input[0] = relu.output[0]
            nodes.insert(1, relu)
        graph.replace(node, nodes)
        return
    split = _channels_of(graph, maker.input[0])
    if split is None:
        return
    upsampled = _before(graph, maker.input[0], weight[:, :split], node.input[2:], "")
    inputs = [rest, graph.constant(weight[:, split:], np.float32)]
    beside = graph.node("Conv", *inputs, kernel_shape=[3, 3], pads=[1] * 4)
    total = graph.node("Add", upsampled[-1].output[0], beside.output[0], output=node.output[0])
    graph.replace(node, [*upsampled, beside, total])


def _channels_of(graph: Graph, tensor: str) -> int | None:
    """Return how many channels a tensor has; None where no convolution tells."""
    node = graph.maker(tensor)
    while node is not None and node.op_type in ("Relu", "Add", "MaxPool"):
        node = graph.maker(node.input[0])
    if node is None or node.op_type != "Conv":
        return None
    return int(graph.constants[node.input[1]].shape[0])


def _before(
    graph: Graph, source: str, weight: FloatArray, bias: Sequence[str], output: str
) -> list[onnx.NodeProto]:
    """Make a 3 x 3 convolution after an upsampling by two 2 x 2 convolutions before it.

    Of the pixels (a, b) of each 2 x 2 block the taps fall on two pixels a row and column: for a = 0 the first
    tap on the one before and two on its own, for a = 1 two on its own and one on the next. All four are one
    convolution whose rows and columns are one more than the source's.
    """
    outputs, channels = weight.shape[:2]
    joined = np.zeros((2, 2, outputs, channels, 2, 2))
    for a, b, r, c in np.ndindex(2, 2, 3, 3):
        joined[a, b, :, :, (r + 1 - a) // 2, (c + 1 - b) // 2] += weight[:, :, r, c]
    inputs = [source, graph.constant(joined.reshape(4 * outputs, channels, 2, 2), np.float32)]
    if bias:
        inputs.append(graph.constant(np.tile(graph.constants[bias[0]], 4), np.float32))
    conv = graph.node("Conv", *inputs, kernel_shape=[2, 2], pads=[1] * 4)
    return [conv, *_channels_last(graph, conv.output[0], output, _interleaved)]


def _channels_last(graph: Graph, source: str, output: str, move: Any) -> list[onnx.NodeProto]:
    """Move pixels with channels last, between two transpositions that the runtime joins with its own."""
    last = graph.node("Transpose", source, perm=[0, 2, 3, 1])
    moved = move(graph, last.output[0])
    first = graph.node("Transpose", moved[-1].output[0], output=output, perm=[0, 3, 1, 2])
    return [last, *moved, first]


def _interleaved(graph: Graph, source: str) -> list[onnx.NodeProto]:
    """(n, h + 1, w + 1, 4 c) -> (n, 2 h, 2 w, c): pixel (a, b) of a block is part 2 a + b, (a, b) further."""
    parts = graph.node("Split", source, axis=3, num_outputs=4)
    del parts.output[:]
    parts.output.extend(f"{parts.name}.{n}" for n in range(4))
    shifted = [_shifted(graph, name, divmod(n, 2)) for n, name in enumerate(parts.output)]
    return [parts, *shifted, *_woven(graph, [node.output[0] for node in shifted])]


def _shifted(graph: Graph, source: str, shift: tuple[int, int]) -> onnx.NodeProto:
    """Leave out the last row and column, or the first where the shift is 1."""
    ends = [_END if s else -1 for s in shift]
    return graph.node("Slice", source, *(graph.constant(v) for v in (list(shift), ends, [1, 2])))


_END = np.iinfo(np.int64).max


def _repeated(graph: Graph, source: str) -> list[onnx.NodeProto]:
    """(n, h, w, c) -> (n, 2 h, 2 w, c), each pixel four times."""
    return _woven(graph, [source] * 4)


def _woven(graph: Graph, parts: Sequence[str]) -> list[onnx.NodeProto]:
    """Weave four (n, h, w, c) into (n, 2 h, 2 w, c): a concatenation of channels, and one of lines."""
    pairs = [graph.node("Concat", *parts[n : n + 2], axis=3) for n in (0, 2)]
    if parts[:2] == parts[2:]:
        pairs = [pairs[0], pairs[0]]
    # (n, h, w, 2 c) of two kinds of lines -> (n, h, 2, w, 2 c), of which (n, 2 h, 2 w, c) is another reading.
    axis = graph.constant([2])
    lines = [graph.node("Unsqueeze", node.output[0], axis) for node in pairs]
    both = graph.node("Concat", *(node.output[0] for node in lines), axis=2)
    shape = graph.node("Shape", parts[0])
    doubled = graph.node("Mul", shape.output[0], graph.constant([1, 2, 2, 1]))
    woven = graph.node("Reshape", both.output[0], doubled.output[0])
    unique = {node.name: node for node in (*pairs, *lines)}
    return [*unique.values(), both, shape, doubled, woven]


def _less_background(graph: Graph, classes: int) -> None:
    """Have the last convolution give the other classes less background, where sixteen outputs fewer will do.

    Zeros for background are put in front at the end, which is sooner than to spread them as well: after the
    convolution each class may become blocks of pixels, as `exporters.blocks` writes it.
    """
    spread, conv = None, graph.maker(LOGITS)
    if conv is not None and conv.op_type == "ConvTranspose":
        spread, conv = conv, graph.maker(conv.input[0])
    if conv is None or conv.op_type != "Conv" or attributes(conv).get("group", 1) != 1:
        return
    stored = [graph.constants[name] for name in conv.input[1:] if name in graph.constants]
    count = len(stored[0]) if len(stored) == len(conv.input) - 1 else 0
    block = count // classes
    saved = -(-count // WIDTH) > -(-(count - block) // WIDTH)
    spreads = spread is None or _by_itself(graph, spread, classes)
    if not saved or not spreads or graph.takers(LOGITS):
        return
    others = [graph.constant(_less_first(value, block), np.float32) for value in stored]
    nodes = [graph.node("Conv", conv.input[0], *others, **attributes(conv))]
    if spread is not None:
        taps = graph.constant(graph.constants[spread.input[1]][block:], np.float32)
        shape = attributes(spread) | {"group": classes - 1}
        nodes.append(graph.node("ConvTranspose", nodes[0].output[0], taps, **shape))
    zeros = graph.constant([0, 1, 0, 0, 0, 0, 0, 0])
    nodes.append(graph.node("Pad", nodes[-1].output[0], zeros, output=LOGITS))
    graph.replace(conv if spread is None else spread, nodes)


def _less_first(value: FloatArray, block: int) -> FloatArray:
    """(n block, ...) -> ((n - 1) block, ...): each block but the first, less the first."""
    blocks = value.reshape(-1, block, *value.shape[1:])
    return (blocks[1:] - blocks[:1]).reshape(-1, *value.shape[1:])


def _by_itself(graph: Graph, node: onnx.NodeProto, classes: int) -> bool:
    """Whether a transposed convolution spreads the channels of each class by themselves, and all alike."""
    taps = graph.constants.get(node.input[1])
    if taps is None or len(node.input) > 2 or attributes(node).get("group", 1) != classes:
        return False
    blocks = taps.reshape(classes, -1)
    return bool((blocks == blocks[0]).all())


def _pad_head(graph: Graph) -> None:
    """Give the last convolution a multiple of sixteen outputs, of which the first are kept."""
    node = graph.maker(LOGITS)
    while node is not None and node.op_type != "Conv":
        node = graph.maker(node.input[0])
    if node is None or attributes(node).get("group", 1) != 1:
        return
    weight = graph.constants[node.input[1]]
    count = len(weight)
    more = -count % WIDTH
    if not more:
        return
    node.input[1] = graph.constant(np.pad(weight, [(0, more), (0, 0), (0, 0), (0, 0)]), np.float32)
    if len(node.input) > 2:
        node.input[2] = graph.constant(np.pad(graph.constants[node.input[2]], (0, more)), np.float32)
    output = node.output[0]
    node.output[0] = f"{node.name}.padded"
    bounds = [graph.constant([n]) for n in (0, count, 1)]
    kept = graph.node("Slice", node.output[0], *bounds, output=output)
    graph.nodes.insert(graph.nodes.index(node) + 1, kept)
