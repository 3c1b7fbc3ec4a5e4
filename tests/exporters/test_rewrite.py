import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from exporters.onnx_graph import finish
from exporters.rewrite import WIDTH, rewrite
from seg_core.model_spec import Grid
from seg_core.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
from small_unet import small_spec, small_unet, with_blocks_as_exported

NEIGHBOURS = {"channel_fill": "neighbours", "neighbour_mm": 10.0}


def images(spec, n=2, shape=(48, 64), seed=0):
    rng = np.random.default_rng(seed)
    count = 1 if spec.channel_fill == "repeat" else spec.channels
    found = rng.random((n, count, *shape), dtype=np.float32)
    return np.ascontiguousarray(np.broadcast_to(found, (n, spec.channels, *shape)))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("channels", "blocks"),
    [
        ({"channels": 3}, False),
        ({"channels": 1}, False),
        ({"channels": 3, **NEIGHBOURS}, False),
        ({"channels": 3, **NEIGHBOURS}, True),
    ],
)
def test_the_rewritten_graph_gives_the_same_logits(channels, blocks, dynamic, seed):
    spec = small_spec(grid=Grid("spacing", spacing_mm=(4.0, 4.0), multiple=16), **channels)
    model = small_unet(spec, seed, dynamic, blocks)
    before = model.SerializeToString(deterministic=True)
    other = finish(rewrite(model, spec), spec)
    assert model.SerializeToString(deterministic=True) == before
    x = images(spec, seed=seed)
    expected, found = Runner(before, "cpu").logits(x), Runner(other.SerializeToString(), "cpu").logits(x)
    assert np.abs(expected).max() > 0.1
    assert np.allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def kernels(model, graph_input=None):
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return [constants[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]


def test_what_was_rewritten():
    spec = small_spec()
    model = small_unet(spec)
    bare = rewrite(model, spec)
    counts = Counter(node.op_type for node in bare.graph.node)
    assert counts["Resize"] == 0
    assert counts["SpaceToDepth"] == 1
    found = kernels(bare)
    assert found[0] == (8, 4, 4, 4)  # the stem: one channel, its pixels in fours
    assert (4 * 16, 8, 2, 2) in found  # before the upsampling
    assert (16, 8, 3, 3) in found  # of what it was concatenated with
    assert (4 * 8, 16, 2, 2) in found
    assert found[-1] == (WIDTH, 8, 3, 3)


def test_channels_that_differ_are_all_looked_at():
    spec = small_spec(channels=5, **NEIGHBOURS)
    assert kernels(rewrite(small_unet(spec), spec))[0] == (8, 5, 7, 7)


def test_an_upsampling_that_is_none_by_two_stays():
    spec = small_spec()
    model = small_unet(spec, dynamic=False)
    resize = next(node for node in model.graph.node if node.op_type == "Resize")
    next(a for a in resize.attribute if a.name == "nearest_mode").s = b"ceil"
    bare = rewrite(model, spec)
    assert sum(node.op_type == "Resize" for node in bare.graph.node) == 1
    x = images(spec)
    other = Runner(finish(bare, spec).SerializeToString(), "cpu").logits(x)
    assert np.allclose(other, Runner(model.SerializeToString(), "cpu").logits(x), atol=1e-4)


@pytest.mark.parametrize(
    ("bones", "blocks", "outputs", "less"),
    [
        (4, True, 16, True),  # of 20, for which 32 would be computed
        (8, True, 32, True),
        (16, False, 16, True),
        (3, True, 16, False),
        (5, True, 32, False),
        (4, False, 16, False),
    ],
)
def test_the_head_gives_bones_less_background_where_that_is_less_to_compute(bones, blocks, outputs, less):
    spec = replace(small_spec(temperature=1.5), classes=tuple(f"bone {n}" for n in range(bones)))
    model = small_unet(spec, blocks=blocks)
    if blocks:
        model = with_blocks_as_exported(model, spec)
    bare = rewrite(model, spec, float_head=True)
    assert kernels(bare)[-1][0] == outputs
    runners = [Runner(m.SerializeToString(), "cpu") for m in (model, finish(bare, spec))]
    x = images(spec)
    expected, found = (runner.logits(x) for runner in runners)
    assert (found[:, 0] == 0).all() == less
    tiny = 1e-5 * np.abs(expected).max()
    assert tiny > 1e-6
    assert np.allclose(found - found[:, :1], expected - expected[:, :1], rtol=0, atol=2 * tiny)
    margin = np.diff(np.sort(expected, axis=1)[:, -2:], axis=1)[:, 0] > 4 * tiny
    assert margin.mean() > 0.99
    assert np.array_equal(found.argmax(1)[margin], expected.argmax(1)[margin])
    first, second = (runner.run(x, (96, 100), confidence=True) for runner in runners)
    assert np.mean(first.labels != second.labels) < 1e-3
    assert np.abs(first.confidence.astype(int) - second.confidence).max() <= 1


def other_taps(model):
    taps = next(node for node in model.graph.node if node.op_type == "ConvTranspose").input[1]
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == taps)
    values = onnx.numpy_helper.to_array(stored).copy()
    values[-1] *= 2
    stored.CopyFrom(onnx.numpy_helper.from_array(values, taps))


def other_bias(model):
    bias = np.arange(5, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "bias"))
    next(node for node in model.graph.node if node.op_type == "ConvTranspose").input.append("bias")


def read_on(model):
    model.graph.node.append(onnx.helper.make_node("Exp", ["logits"], ["more"]))


@pytest.mark.parametrize("change", [other_taps, other_bias, read_on])
def test_a_head_that_tells_more_than_classes_alike_stays(change):
    spec = small_spec()
    model = with_blocks_as_exported(small_unet(spec, blocks=True), spec)
    change(model)
    bare = rewrite(model, spec, float_head=True)
    assert kernels(bare)[-1][0] == 2 * WIDTH
    expected = Runner(model.SerializeToString(), "cpu").logits(images(spec))
    found = Runner(finish(bare, spec).SerializeToString(), "cpu").logits(images(spec))
    assert np.allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
