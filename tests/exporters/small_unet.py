"""A small U-Net as exporters write it, with random weights: what the rewrites look for, in all its forms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.blocks import rewrite_blocks
from exporters.onnx_graph import finish, strip_labels
from exporters.rewrite import Graph, unpack_weights
from seg_core.model_spec import Grid, ModelSpec, Normalisation

SCALES = np.array([1, 1, 2, 2], np.float32)


class Writer:
    """Collects nodes and weights."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Any] = {"scales": SCALES, "two": np.array([2, 2], np.int64)}

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def conv(self, x: str, shape: Sequence[int], name: str = "", relu: bool = True, **attributes: Any) -> str:
        weight, bias = f"w{len(self.constants)}", f"b{len(self.constants)}"
        self.constants[weight] = self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        self.constants[bias] = self.rng.normal(0, 0.1, shape[0]).astype(np.float32)
        pad = [shape[2] // 2] * 4
        y = self.add("Conv", x, weight, bias, name=name, kernel_shape=shape[2:], pads=pad, **attributes)
        return self.add("Relu", y) if relu else y

    def double(self, x: str, dynamic: bool) -> str:
        """Upsample by two; with sizes computed from the tensor's own, as PyTorch's exporter does."""
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if not dynamic:
            return self.add("Resize", x, "", "scales", **how)
        size = self.add("Mul", self.add("Shape", x, start=2), "two")
        sizes = self.add("Concat", self.add("Shape", x, end=2), size, axis=0)
        return self.add("Resize", x, "", "", sizes, **how)


def small_unet(spec: ModelSpec, seed: int = 0, dynamic: bool = True, blocks: bool = False) -> onnx.ModelProto:
    """Return a model file: stem with stride 2, residual block, two upsamplings, one beside a skip, a head.

    With ``blocks`` the encoder sees 2 x 2 pixels as channels, and the head's channels become pixels.
    """
    w, classes, c = Writer(seed), len(spec.classes) + 1, spec.channels
    x = "image"
    if blocks:
        x, c = w.add("SpaceToDepth", x, blocksize=2), 4 * c
    stem = w.conv(x, (8, c, 7, 7), strides=[2, 2])
    down = w.add("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inner = w.conv(w.conv(down, (8, 8, 3, 3)), (8, 8, 3, 3), relu=False)
    deep = w.add("Relu", w.add("Add", inner, down))
    joined = w.add("Concat", w.double(deep, dynamic), stem, axis=1)
    middle = w.conv(joined, (16, 16, 3, 3))
    top = w.conv(w.double(middle, dynamic), (8, 16, 3, 3))
    if blocks:
        head = w.conv(top, (4 * classes, 8, 3, 3), relu=False)
        w.add("DepthToSpace", head, name="logits", blocksize=2, mode="CRD")
    else:
        w.conv(top, (classes, 8, 3, 3), name="logits", relu=False)
    return finished(w, spec)


def with_blocks_as_exported(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Return a model file of `small_unet` with the blocks of its head as PyTorch's networks get them."""
    bare = strip_labels(model)
    graph = Graph(bare.graph)
    unpack_weights(graph)
    graph.written()
    rewrite_blocks(bare, spec.channels)
    return finish(bare, spec)


def finished(w: Writer, spec: ModelSpec) -> onnx.ModelProto:
    """Return the model file of what was written."""
    image, logits = ["n", spec.channels, "rows", "columns"], ["n", len(spec.classes) + 1, "rows", "columns"]
    graph = helper.make_graph(
        w.nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
        [numpy_helper.from_array(value, name) for name, value in w.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return finish(model, spec, "float16")


def small_spec(**changes: Any) -> ModelSpec:
    """Return the description of `small_unet`."""
    settings: dict[str, Any] = {
        "grid": Grid("spacing", spacing_mm=(4.0, 4.0), multiple=8),
        "normalisation": Normalisation("divide", high=255.0),
    }
    return ModelSpec("small", ("tibia", "femur", "fibula", "pelvis"), **(settings | changes))
