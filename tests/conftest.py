import json

import numpy as np
import pytest
from hypothesis import settings

from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import BONES, sided_labels
from seg_core.model_spec import Denoise, Grid, ModelSpec, Normalisation

# A busy machine is no failure: no test has a clock in it.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Grey values of the made-up legs; `tiny_model` tells them apart.
GREY = {"muscle": 20, "tibia": 70, "femur": 120, "fibula": 170, "pelvis": 220}


def tiny_spec(**changes):
    """A network that sees a bone by its grey value."""
    facts = {
        "name": "tiny",
        "classes": BONES,
        "channels": 1,
        "grid": Grid(kind="size", size=(64, 64), multiple=1),
        "normalisation": Normalisation(kind="divide", high=255.0),
        "denoise": Denoise(fraction=0.1, minimum_pixels=2),
        "provenance": {"intended_use": "tests"},
    }
    return ModelSpec(**facts | changes)


def tiny_onnx(spec, metadata=True, grey=GREY):
    """Bytes of an ONNX model whose logits fall with the distance from each class's grey value."""
    import onnx
    from onnx import TensorProto, helper

    from exporters.onnx_graph import finish

    classes = len(spec.classes) + 1
    centres = np.array([0, *(grey.get(name, 250) for name in spec.classes)], np.float32) / 255
    centres[0] = GREY["muscle"] / 255 / 2
    # -(x - c)^2 = 2 c x - c^2 - x^2, and x^2 is the same for all classes: a convolution with one tap.
    space = ["h", "w"] if spec.patch is None else list(spec.patch)
    taps = [1] * len(space)
    weights = np.zeros((classes, spec.channels, *taps), np.float32)
    weights[:, 0] = (400 * centres).reshape(classes, *taps)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"], kernel_shape=taps)],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", spec.channels, *space])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes, *space])],
        [
            helper.make_tensor("weight", TensorProto.FLOAT, weights.shape, weights.ravel()),
            helper.make_tensor("bias", TensorProto.FLOAT, [classes], -200 * centres**2),
        ],
    )
    model = finish(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), spec)
    if not metadata:
        del model.metadata_props[:]
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def make_spec():
    """`tiny_spec`, for tests that want another description."""
    return tiny_spec


@pytest.fixture(scope="session")
def make_onnx():
    """`tiny_onnx`, for tests that want to damage a model."""
    return tiny_onnx


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Path of a model file that segments `legs` exactly, in a millisecond a slice."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny_onnx(tiny_spec()))
    return path


def make_legs(shape=(64, 64, 40), spacing=(4.0, 4.0, 25.0), sides=(1, -1)):
    """Two made-up legs on an LPS grid: the scan (uint8) and its true labels.

    The femur ends where the pelvis begins; the fibula is lateral to the tibia; air around, muscle between.
    """
    size = np.array(shape) * spacing
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = size[0] / 2 + 30, size[1] / 2 - 12, -700
    geometry = Geometry(shape, affine)
    x, y, z = np.moveaxis(geometry.to_world(np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    x, y, z = x - 30 - spacing[0] / 2, y + 12 - spacing[1] / 2, (z + 700) / size[2]
    image, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for side in sides:
        r = np.hypot(x - side * 60, y)
        image[(r < 54) & (z > 0.02)] = GREY["muscle"]
    for side in sides:
        r = np.hypot(x - side * 60, y)
        places = {
            "tibia": (r < 17) & (z > 0.06) & (z < 0.37),
            "femur": (r < 19) & (z > 0.38) & (z < 0.76),
            "fibula": (np.hypot(x - side * 92, y + 10) < 9) & (z > 0.06) & (z < 0.35),
            "pelvis": (r < 21) & (z > 0.78) & (z < 0.95),
        }
        for value, bone in enumerate(BONES, 1):
            image[places[bone]] = GREY[bone]
            labels[places[bone]] = value + (0 if side == 1 else 4)
    image, labels = np.asfortranarray(image), np.asfortranarray(labels)
    return Volume(image, geometry), LabelMap(labels, geometry, sided_labels(BONES))


@pytest.fixture(scope="session", name="make_legs")
def make_legs_fixture():
    """`make_legs`, for tests that want other ones."""
    return make_legs


@pytest.fixture(scope="session")
def legs():
    """A scan of two legs and its true labels, see `make_legs`."""
    return make_legs()


@pytest.fixture
def read_json():
    """Parse the JSON in a file."""
    return lambda path: json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def cuda_that_does_not_start(monkeypatch):
    """ONNX Runtime of a machine without a working driver: offers CUDA, then computes on the CPU."""
    import onnxruntime

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda d, o, providers: session(d, o, providers=["CPUExecutionProvider"]),
    )
