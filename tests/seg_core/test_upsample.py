import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.onnx_graph import finish
from seg_core.errors import UsageError
from seg_core.upsample import greatest_classes


@pytest.fixture(scope="module")
def graph_labels(make_spec):
    """What ONNX Runtime makes of logits with the nodes that a model file has."""
    import onnxruntime
    from onnx import helper

    def run(logits, size, temperature):
        classes = logits.shape[1]
        names = tuple("abcdefgh"[: classes - 1])
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node("Identity", ["image"], ["logits"])],
            "g",
            [value("image", 1, ["n", classes, "h", "w"])],
            [value("logits", 1, ["n", classes, "h", "w"])],
        )
        spec = make_spec(classes=names, channels=classes, temperature=temperature)
        model = finish(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), spec)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(["labels", "confidence"], {"image": logits, "size": np.array(size, np.int64)})

    return run


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    classes=st.integers(2, 6),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    spread=st.sampled_from([0.5, 3.0, 20.0]),
)
def test_it_is_what_the_graph_of_a_model_file_gives(
    graph_labels, seed, classes, shape, size, temperature, spread
):
    logits = np.random.default_rng(seed).normal(0, spread, (2, classes, *shape)).astype(np.float32)
    labels, confidence = greatest_classes(logits, size, temperature)
    expected, certainty = graph_labels(logits, size, temperature)
    # Where two classes are all but equal, rounding decides.
    assert np.array_equal(labels[confidence > 255 / 2 + 1], expected[confidence > 255 / 2 + 1])
    assert np.mean(labels != expected) < 0.02
    assert np.abs(confidence.astype(int) - certainty).max() <= 1


def test_images_do_not_influence_each_other():
    logits = np.random.default_rng(0).normal(0, 4, (3, 5, 8, 8)).astype(np.float32)
    labels, confidence = greatest_classes(logits, (20, 12))
    for n in range(3):
        one = greatest_classes(logits[n : n + 1], (20, 12))
        assert np.array_equal(labels[n : n + 1], one[0])
        assert np.array_equal(confidence[n : n + 1], one[1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_same_grid_gives_what_interpolating_gives(temperature):
    logits = np.random.default_rng(0).normal(0, 3, (2, 5, 24, 17)).astype(np.float32)
    labels, confidence = greatest_classes(logits, (24, 17), temperature)
    # Midway between two equal rows lies the same value, and there it is interpolated.
    expected, certainty = greatest_classes(np.repeat(logits, 2, axis=2), (24, 17), temperature)
    assert np.array_equal(labels, expected)
    assert np.array_equal(confidence, certainty)
    assert len(np.unique(confidence)) > 100


def test_on_the_same_grid_neighbours_do_not_count():
    logits = np.zeros((1, 2, 3, 3), np.float32)
    logits[0, 1] = [[3e38, -3e38, 3e38], [-3e38, 3e38, -3e38], [3e38, -3e38, 3e38]]  # their gap is infinite
    labels, _ = greatest_classes(logits, (3, 3))
    assert np.array_equal(labels[0], logits[0, 1] > 0)


def test_of_equal_logits_the_lower_class():
    labels, confidence = greatest_classes(np.zeros((1, 4, 2, 2), np.float32), (4, 4))
    assert not labels.any()
    assert (confidence == 64).all()
    assert greatest_classes(np.zeros((0, 4, 2, 2), np.float32), (4, 4), confidence=False)[1] is None


@pytest.mark.parametrize(
    ("logits", "size", "temperature"),
    [
        (np.zeros((1, 4, 2, 2)), (4, 4), 1.0),
        (np.zeros((4, 2, 2), np.float32), (4, 4), 1.0),
        (np.zeros((1, 1, 2, 2), np.float32), (4, 4), 1.0),
        (np.zeros((1, 4, 2, 2), np.float32), (0, 4), 1.0),
        (np.zeros((1, 4, 2, 2), np.float32), (4, 4), 0.0),
    ],
)
def test_what_makes_no_sense_is_refused(logits, size, temperature):
    with pytest.raises(UsageError):
        greatest_classes(logits, size, temperature)
