import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from exporters.blocks import rewrite_blocks
from exporters.torch import _graph

MOVED = {"Transpose", "DepthToSpace", "SpaceToDepth", "ConvTranspose"}


class Blocks(torch.nn.Module):
    """Sees blocks of pixels as channels, twice, and gives classes as blocks, as the bundled network."""

    def __init__(self, factor, classes=3):
        super().__init__()
        self.factor = factor
        self.first = torch.nn.Conv2d(3 * factor**2, 8, 3, 2, 1)
        self.last = torch.nn.Conv2d(8 + 3 * factor**2, classes * factor**2, 3, padding=1)

    def forward(self, image):
        x = torch.nn.functional.pixel_unshuffle(image, self.factor)
        coarse = torch.nn.functional.interpolate(torch.relu(self.first(x)), scale_factor=2.0)
        return torch.nn.functional.pixel_shuffle(self.last(torch.cat([coarse, x], 1)), self.factor)


def logits(model, images):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(["logits"], {"image": images})[0]


@pytest.mark.parametrize(
    ("factor", "kinds"), [(2, {"SpaceToDepth", "ConvTranspose"}), (4, {"Transpose", "ConvTranspose"})]
)
def test_the_same_values_to_the_bit_at_any_size(factor, kinds):
    torch.manual_seed(0)
    network, rng = Blocks(factor).eval(), np.random.default_rng(0)
    before = _graph(network, rng.random((2, 3, 32, 64), dtype=np.float32))
    after = copy.deepcopy(before)
    rewrite_blocks(after, 3)
    onnx.checker.check_model(after)
    # Only blocks of 2 x 2 pixels are gathered otherwise.
    assert {node.op_type for node in before.graph.node} & MOVED == {"Transpose", "DepthToSpace"}
    assert {node.op_type for node in after.graph.node} & MOVED == kinds
    for shape in ((1, 3, 32, 32), (3, 3, 96, 64)):
        images = rng.normal(size=shape).astype(np.float32)
        found = logits(after, images)
        assert np.array_equal(found, logits(before, images))
        with torch.inference_mode():
            assert np.abs(found - network(torch.from_numpy(images)).numpy()).max() < 1e-5


def test_a_graph_without_blocks_stays_as_it_is():
    network = torch.nn.Conv2d(3, 12, 3, padding=1).eval()
    before = _graph(network, np.zeros((2, 3, 32, 64), np.float32))
    after = copy.deepcopy(before)
    rewrite_blocks(after, 3)
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in before.graph.node]
