import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from exporters.onnx_graph import finish
from exporters.rewrite import WIDTH, rewrite
from seg_core.model_spec import Grid
from seg_core.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
from small_unet import small_spec, small_unet

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
