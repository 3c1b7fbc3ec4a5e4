"""The gate's steps: what each is held to, and what is told of them."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.onnx_graph import finish
from exporters.parity import ROUNDING, Parity, Reference, Tolerance, check, compare, prove
from seg_core.errors import ModelError
from seg_core.model_spec import Grid, ModelSpec

SPEC = ModelSpec("one", ("tibia", "femur"), channels=1, grid=Grid("size", (16, 16), multiple=1))
SAMPLES = np.random.default_rng(0).random((2, 1, 16, 16), dtype=np.float32)
WEIGHTS = np.array([-1.0, 2.0, 1.99], np.float32)
"""Logits a class of a pixel of brightness 1; of one of brightness 0 they are 0.5, 0, 0."""


def logits_of(weights):
    return (weights[None, :, None, None] * SAMPLES + np.array([0.5, 0, 0])[:, None, None]).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """A file that computes `logits_of(WEIGHTS)`."""
    values = {"w": WEIGHTS[:, None, None, None], "b": np.array([0.5, 0, 0], np.float32)}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["logits"])],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "rows", "columns"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, "rows", "columns"])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return finish(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), SPEC)


@pytest.fixture
def reference():
    logits = logits_of(WEIGHTS)
    return Reference(logits, logits, logits)


def test_differences_are_told_of_all_pixels_and_of_those_that_either_labels():
    wanted = np.zeros((1, 2, 40, 50), np.float32)
    wanted[:, 0] = 4
    wanted[:, 1, :4] = 5  # 200 pixels of 2000 have a label
    found = wanted.copy()
    found[:, 1, 0, :10] = 3  # of which ten lose theirs
    found[:, 1, 9, :5] = 4.5  # and five others get one
    assert compare(found, wanted) == Parity(4.5 / 5, 15 / 2000, 15 / 205)
    assert compare(np.moveaxis(found, 1, 3), np.moveaxis(wanted, 1, 3), axis=3) == compare(found, wanted)
    labels = wanted.argmax(1)
    labels[0, 0, 0] = 0
    assert compare(found, wanted, labels).labels == 1 / 2000


def test_of_equal_logits_either_label_is_right():
    wanted = np.ones((1, 2, 40, 50), np.float32)
    found = wanted.copy()
    found[:, 1, :4] += np.float32(3e-6)
    assert compare(found, wanted).labels == 0
    wanted[:, 0, :, :10] += np.float32(5e-5)
    assert compare(found, wanted).labels == 40 / 2000


def test_of_few_labelled_pixels_a_single_one_is_no_great_share():
    wanted = np.zeros((1, 2, 40, 50), np.float32)
    wanted[:, 0] = 1
    found = wanted.copy()
    found[:, 1, 0, :3] = 2
    assert compare(found, wanted).labelled == 3 / 100


def test_the_same_network_passes_and_both_differences_are_next_to_nothing(model, reference):
    assert len(np.unique(reference.trained.argmax(1))) == 2  # else the labels said nothing
    parity, difference = prove(model, SAMPLES, Reference(reference.trained), Tolerance())
    assert parity == difference
    assert prove(model, SAMPLES, reference, Tolerance()) == (parity, difference)
    assert parity == check(model, SAMPLES, reference.trained, Tolerance())
    assert parity.logits < 1e-6


def test_a_file_is_compared_with_what_was_trained(model, reference):
    other = logits_of(WEIGHTS * np.float32(1.001))
    with pytest.raises(ModelError, match="ONNX Runtime and the framework differ"):
        prove(model, SAMPLES, Reference(other), Tolerance())


def test_what_rounding_may_change_hides_no_other_mistake(model, reference):
    little = logits_of(WEIGHTS * np.float32(1.001))
    with pytest.raises(ModelError, match="copy without BatchNorms"):
        prove(model, SAMPLES, replace(reference, trained=little), Tolerance())
    with pytest.raises(ModelError, match="ONNX Runtime and the framework differ"):
        prove(model, SAMPLES, replace(reference, rounded=little), Tolerance())
    parity, difference = prove(model, SAMPLES, Reference(little, little, reference.rounded), Tolerance())
    assert parity.logits < 1e-6
    assert 5e-4 < difference.logits < ROUNDING.logits
    assert difference.labelled <= ROUNDING.labelled


@pytest.mark.parametrize(
    "trained",
    [
        logits_of(WEIGHTS) * np.float32(1.06),  # the same labels
        logits_of(np.array([-1.0, 2.0, 2.01], np.float32)),  # almost the same logits
    ],
)
def test_rounding_that_changes_too_much_is_refused(model, reference, trained):
    with pytest.raises(ModelError, match="weights in 16 bits change") as raised:
        prove(model, SAMPLES, Reference(trained, trained, reference.rounded), Tolerance())
    assert "weights in float32" in raised.value.fix


@pytest.mark.parametrize("name", ["trained", "folded", "rounded"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_at_every_step(model, reference, name, value):
    logits = reference.trained.copy()
    logits[0, 1, 3, 3] = value
    with pytest.raises(ModelError):
        prove(model, SAMPLES, replace(reference, **{name: logits}), Tolerance(logits=1e9, labels=1.0))


def test_a_file_of_another_shape_is_refused(model, reference):
    with pytest.raises(ModelError, match="logits of"):
        check(model, SAMPLES, reference.trained[:, :2], Tolerance())
