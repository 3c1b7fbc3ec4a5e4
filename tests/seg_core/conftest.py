"""A network whose labels are known: each class is a band of intensity."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.onnx_graph import finish
from seg_core.model_spec import Denoise, Grid, ModelSpec, Normalisation

CLASSES = ("tibia", "femur", "fibula", "pelvis")


@pytest.fixture(name="band_spec")
def band_spec_fixture():
    """Return the function that describes the network of bands; keywords change its description."""
    return make_spec


@pytest.fixture(name="band_model")
def band_model_fixture():
    """Return the function that makes the network's file as bytes, from a description or its changes."""
    return make_model


@pytest.fixture(name="band_graph")
def band_graph_fixture():
    """Return the function that makes the bare graph of a description."""
    return band_graph


def make_spec(**changes: Any) -> ModelSpec:
    settings: dict[str, Any] = {
        "grid": Grid("size", (32, 64)),
        "normalisation": Normalisation("divide", high=100.0),
        "channels": 3,
        "denoise": Denoise(fraction=0.0, minimum_pixels=0, volume_fraction=0.0),
    }
    return ModelSpec("bands", CLASSES, **(settings | changes))


def band_graph(spec: ModelSpec, channel: int = 1) -> onnx.ModelProto:
    """Class c where the channel is nearest to 0.2 c; a 1 x 1 convolution: -(x - m)^2 + x^2 = 2 m x - m^2."""
    middle = 0.2 * np.arange(len(spec.classes) + 1, dtype=np.float32)
    weights = np.zeros((len(middle), spec.channels, 1, 1), np.float32)
    weights[:, channel, 0, 0] = 2 * middle * 100
    constants = {"w": weights, "b": -(middle**2) * 100}
    conv = helper.make_node("Conv", ["image" if spec.layout == "NCHW" else "x", "w", "b"], ["y"])
    nodes = [conv, helper.make_node("Identity", ["y"], ["logits"])]
    image, logits = ["n", spec.channels, "r", "c"], ["n", len(middle), "r", "c"]
    if spec.layout == "NHWC":
        nodes = [
            helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]),
            conv,
            helper.make_node("Transpose", ["y"], ["logits"], perm=[0, 2, 3, 1]),
        ]
        image, logits = ["n", "r", "c", spec.channels], ["n", "r", "c", len(middle)]
    graph = helper.make_graph(
        nodes,
        "bands",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def make_model(spec: ModelSpec | None = None, **changes: Any) -> bytes:
    spec = spec or make_spec(**changes)
    data: bytes = finish(band_graph(spec), spec).SerializeToString(deterministic=True)
    return data
