"""DenseUNets: their encoder is DenseNet's, and the hybrid sees what it should."""

import pytest
import torch

from seg_core.errors import UsageError
from trainers.torch import denseunet
from trainers.torch.denseunet import (
    DenseEncoder,
    DenseUNet,
    HDenseUNet,
    Width,
    h_denseunet,
)
from trainers.torch.network import build_network
from trainers.torch.nnunet import nnunet_3d
from trainers.torch.pretrained import torchvision_operators

SLICES, VOLUME = Width((2, 1, 2, 1), 4, 8, (6, 5, 8, 7, 6)), Width((1, 2, 1, 1), 3, 4, (9, 4, 5, 4, 6))


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(name="small", scope="module")
def small_hybrid():
    torch.manual_seed(0)
    network = HDenseUNet(3, 1, SLICES, VOLUME)
    for _ in range(3):  # statistics that are not 0 and 1
        network(torch.rand(2, 1, 8, 32, 64))
    return network.eval()


def test_the_encoder_computes_what_torchvisions_densenet_computes():
    torchvision_operators()
    from torchvision.models import DenseNet

    torch.manual_seed(0)
    peer = DenseNet(growth_rate=4, block_config=(2, 1, 3), num_init_features=6)
    peer.features(torch.rand(4, 3, 64, 32))
    own = DenseEncoder(2, 3, Width((2, 1, 3), 4, 6, ()))
    own.load_state_dict(peer.features.state_dict(prefix="features."))
    x = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        found, wanted = own.eval()(x), torch.relu(peer.eval().features(x))
    assert torch.allclose(found[-1], wanted, atol=1e-5)
    assert [f.shape[1] for f in found] == own.channels
    assert [tuple(f.shape[2:]) for f in found] == [(32, 16), (16, 8), (8, 4), (4, 2)]


def test_its_size_is_the_published_one():
    with torch.device("meta"):
        network = DenseUNet(3, 3, denseunet.SLICES)
    # torchvision's documentation: 28,681,000 for DenseNet-161, whose classifier has 1000 classes.
    assert parameters(network.encoder) + 1000 * 2208 + 1000 == 28_681_000
    assert network.encoder.channels == [96, 384, 768, 2112, 2208]
    # The decoder, from the paper's widths; the only features whose number differs are the third block's.
    expected = 2112 * 2208 + 2208 + 64 * 3 + 3
    for a, b in ((2208, 768), (768, 384), (384, 96), (96, 96), (96, 64)):
        expected += 9 * a * b + b + 2 * b
    assert parameters(network) - parameters(network.encoder) == expected


def test_the_volumes_encoder_halves_slices_twice_and_pixels_five_times():
    with torch.device("meta"):
        found = HDenseUNet(3, 1, denseunet.SLICES, denseunet.VOLUME).volume.encoder(
            torch.zeros(1, 4, 12, 224, 224, device="meta")
        )
    assert [tuple(f.shape[1:]) for f in found] == [
        (96, 6, 112, 112), (192, 3, 56, 56), (224, 3, 28, 28), (496, 3, 14, 14), (504, 3, 7, 7)
    ]  # fmt: skip


def test_each_slice_is_seen_with_its_neighbours(small):
    seen = []
    handle = small.slices.features.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 1, 4, 32, 32)
    with torch.no_grad():
        small(x)
    handle.remove()
    expected = [
        torch.stack([x[n, 0, max(k - 1, 0)], x[n, 0, k], x[n, 0, min(k + 1, 3)]])
        for n in range(2)
        for k in range(4)
    ]
    assert torch.equal(seen[0], torch.stack(expected))


def test_the_volumes_part_sees_the_slices_probabilities(small):
    seen = []
    handle = small.volume.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 1, 8, 32, 64)
    with torch.no_grad():
        logits = small(x)
        one = small.slices(torch.cat([x[1, :, 2], x[1, :, 3], x[1, :, 4]])[None])
    handle.remove()
    assert logits.shape == (2, 3, 8, 32, 64)
    assert torch.equal(seen[0][:, :1], x)
    assert torch.allclose(seen[0][1, 1:, 3], one[0].softmax(0), atol=1e-5)


def test_both_parts_learn_and_the_slices_count_half():
    torch.manual_seed(0)
    network = HDenseUNet(3, 1, SLICES, VOLUME).train()
    hybrid, slices = network(torch.rand(2, 1, 4, 32, 32))
    assert hybrid.shape == slices.shape == (2, 3, 4, 32, 32)
    slices.sum().backward()
    assert network.volume.steps[0][0].weight.grad is None
    assert float(network.encoder.features["conv0"].weight.grad.abs().sum()) > 0
    network(torch.rand(2, 1, 4, 32, 32))[0].sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_volumes_are_never_computed_in_bfloat16_on_a_cpu(small):
    nnunet = nnunet_3d(3, 1, (8, 8, 8)).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for network, x in ((small, torch.rand(1, 1, 4, 32, 32)), (nnunet, torch.rand(1, 1, 8, 8, 8))):
            assert network(x).dtype == torch.float32
        assert small.slices(torch.rand(1, 3, 32, 32)).dtype == torch.bfloat16


def test_patches_that_cannot_be_halved_often_enough():
    for patch in ((6, 32, 32), (8, 48, 32), (8, 32, 16)):
        with pytest.raises(UsageError, match="multiples"):
            h_denseunet(3, 1, patch)


def test_both_begin_with_a_densenets_weights(tmp_path):
    encoder = DenseEncoder(2, 3, denseunet.SLICES)
    path = tmp_path / "densenet161.pth"
    torch.save(encoder.state_dict(), path)
    found = h_denseunet(3, 1, (4, 32, 32), str(path)).encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in encoder.state_dict().items())
    grey = build_network("denseunet-161", 3, 1, str(path)).encoder.features["conv0"].weight
    torch.testing.assert_close(grey, encoder.features["conv0"].weight.sum(1, keepdim=True))
