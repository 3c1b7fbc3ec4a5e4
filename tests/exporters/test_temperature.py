import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from exporters.onnx_graph import finish, with_temperature
from seg_core.errors import ModelError
from seg_core.model_spec import METADATA_KEY, ModelSpec
from seg_core.runner import Runner

IMAGES = np.random.default_rng(0).random((2, 1, 64, 64), dtype=np.float32)
SIZE = (50, 70)


def given(make_onnx, make_spec, **changes):
    return onnx.load_from_string(make_onnx(make_spec(**changes)))


def ran(model):
    return Runner(model.SerializeToString(), "cpu", 1).run(IMAGES, SIZE, confidence=True)


def test_a_temperature_softens_confidence_and_changes_no_label(make_onnx, make_spec):
    plain, soft = (ran(given(make_onnx, make_spec, temperature=t)) for t in (1.0, 3.0))
    assert np.array_equal(soft.labels, plain.labels)
    assert (soft.confidence <= plain.confidence).all()
    logits = Runner(make_onnx(make_spec()), "cpu", 1).logits(IMAGES).astype(np.float64) / 3
    same_size = Runner(make_onnx(make_spec(temperature=3.0)), "cpu", 1).run(IMAGES, (64, 64), True)
    share = np.exp(logits - logits.max(1, keepdims=True))
    expected = 255 / share.sum(axis=1)
    assert np.abs(same_size.confidence - expected).max() < 0.51


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_a_file_is_given_another_temperature(band_model_of, layout, weights):
    graph, spec = band_model_of(layout)
    model = finish(graph, spec, weights)
    changed = with_temperature(model, 2.5)
    expected = finish(graph, replace(spec, temperature=2.5), weights)
    assert [node.op_type for node in changed.graph.node] == [node.op_type for node in expected.graph.node]
    known = {entry.key: entry.value for entry in changed.metadata_props}
    assert ModelSpec.from_json(known[METADATA_KEY]) == replace(spec, temperature=2.5)
    again = with_temperature(changed, 1.0)
    assert len(again.graph.node) == len(model.graph.node)
    images = np.random.default_rng(1).random((2, 3, 32, 64), dtype=np.float32)
    runs = [
        Runner(m.SerializeToString(), "cpu", 1).run(images, SIZE, True)
        for m in (model, changed, expected, again)
    ]
    for found, same in ((runs[1], runs[2]), (runs[3], runs[0])):
        assert np.array_equal(found.labels, same.labels)
        assert np.array_equal(found.confidence, same.confidence)
    assert not np.array_equal(runs[0].confidence, runs[1].confidence)


@pytest.fixture(name="band_model_of")
def band_model_of_fixture():
    """A bare graph with a convolution, and its description, in a layout."""
    from onnx import TensorProto, helper, numpy_helper

    def make(layout):
        spec = ModelSpec("bands", ("tibia", "femur"), layout=layout)
        weights = np.random.default_rng(2).normal(0, 4, (3, 3, 1, 1)).astype(np.float32)
        last = ["r", "c"]
        nodes = [helper.make_node("Conv", ["image", "w"], ["logits"], name="conv")]
        image, logits = ["n", 3, *last], ["n", 3, *last]
        if layout == "NHWC":
            nodes = [
                helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]),
                helper.make_node("Conv", ["x", "w"], ["y"]),
                helper.make_node("Transpose", ["y"], ["logits"], perm=[0, 2, 3, 1]),
            ]
            image, logits = ["n", *last, 3], ["n", *last, 3]
        graph = helper.make_graph(
            nodes,
            "bands",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
            [numpy_helper.from_array(weights, "w")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), spec

    return make


def test_what_has_no_temperature_is_refused(make_onnx, make_spec):
    model = given(make_onnx, make_spec)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ModelError, match="temperature"):
            with_temperature(model, wrong)
    del model.metadata_props[:]
    with pytest.raises(ModelError, match="without a description"):
        with_temperature(model, 2.0)


def test_files_from_before_temperatures_have_none(make_spec):
    known = json.loads(make_spec().to_json())
    assert known.pop("temperature") == 1.0
    assert ModelSpec.from_json(json.dumps(known)).temperature == 1.0
