import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from exporters.onnx_graph import finish, with_background, with_mean, with_temperature, write
from exporters.options import ExportOptions
from exporters.parity import Tolerance, check
from exporters.torch import export, fold_batchnorm
from seg_core.errors import ModelError, OutputError, UsageError
from seg_core.model_spec import METADATA_KEY, Grid, ModelSpec
from seg_core.runner import Runner

SPEC = ModelSpec(
    "small", ("tibia", "femur"), grid=Grid("size", (32, 64)), provenance={"licence": "Apache-2.0"}
)
SAMPLES = np.random.default_rng(0).random((3, 3, 32, 64), dtype=np.float32)


class Small(torch.nn.Module):
    """Two levels with BatchNorm, a skip and an upsampling, as the real one."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.down = torch.nn.Sequential(
            torch.nn.Conv2d(8, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        )
        self.head = torch.nn.Conv2d(16, 3, 1)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        y = torch.nn.functional.interpolate(self.down(x), scale_factor=2.0, mode="nearest")
        return self.head(torch.cat([x, y], 1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = Small()
    with torch.no_grad():
        for _ in range(20):  # statistics of BatchNorm that are not 0 and 1
            network(torch.rand(4, 3, 32, 64) * 2)
    return network.eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    return export(network, SPEC, path, SAMPLES)


def test_the_file_computes_what_the_framework_computes(network, exported):
    runner = Runner(exported.path, "cpu")
    for shape in ((1, 3, 32, 32), (5, 3, 96, 64)):
        images = np.random.default_rng(1).random(shape, dtype=np.float32)
        with torch.inference_mode():
            logits = network(torch.from_numpy(images)).numpy()
        assert np.abs(runner.logits(images) - logits).max() < 1e-5
        same = runner.run(images, shape[2:]).labels == logits.argmax(1)
        assert same.mean() > 0.999
    assert exported.parity.logits < 1e-5
    assert exported.difference == exported.parity


def test_labels_come_from_upsampled_logits(network, exported):
    with torch.inference_mode():
        logits = network(torch.from_numpy(SAMPLES))
        up = torch.nn.functional.interpolate(logits, (80, 150), mode="bilinear", align_corners=False)
    found = Runner(exported.path, "cpu").run(SAMPLES, (80, 150), confidence=True)
    assert (found.labels == up.argmax(1).numpy()).mean() > 0.999
    assert np.abs(found.confidence - 255 * up.softmax(1).amax(1).numpy()).max() < 0.6


def test_the_file_describes_itself_and_nothing_else(exported):
    model = onnx.load(exported.path)
    assert model.ir_version == 10
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert [p.key for p in model.metadata_props] == [METADATA_KEY]
    assert ModelSpec.from_json(model.metadata_props[0].value) == SPEC
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}
    content = exported.path.read_bytes()
    for word in (b".py", b"/site-packages", b"Traceback", b"pytorch"):
        assert word not in content
    assert not any(item.metadata_props for item in (*model.graph.node, *model.graph.input, model.graph))


def test_the_same_bytes_twice(network, exported, tmp_path):
    again = export(network, SPEC, tmp_path / "other.onnx", SAMPLES)
    assert again.sha256 == exported.sha256
    assert again.path.read_bytes() == exported.path.read_bytes()


EXPORT = """
import pathlib, runpy, sys
import torch
from exporters.torch import export

torch.set_num_threads(1)
mine, folder = runpy.run_path(sys.argv[1]), pathlib.Path(sys.argv[2])
network = mine["Small"]().eval()
network.load_state_dict(torch.load(folder / "weights.pt"))
export(network, mine["SPEC"], folder / "again.onnx", mine["SAMPLES"])
"""


def test_the_same_bytes_in_another_process_with_another_order_of_hashes(network, exported, tmp_path):
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    command = [sys.executable, "-c", EXPORT, __file__, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    assert hashlib.sha256((tmp_path / "again.onnx").read_bytes()).hexdigest() == exported.sha256


def test_float16_weights_halve_the_file_and_stay_exact(network, exported, tmp_path):
    half = export(network, SPEC, tmp_path / "half.onnx", SAMPLES, ExportOptions("float16"))
    assert half.parity.logits < 1e-5
    assert 1e-6 < half.difference.logits < 1e-2
    saved = exported.path.stat().st_size - half.path.stat().st_size
    weights = sum(p.numel() for p in network.parameters() if p.ndim > 1)
    assert saved > weights  # two bytes each, less what the casts take
    assert half.sha256 != exported.sha256


def test_the_gate_refuses_another_network(network, exported):
    model = onnx.load(exported.path)
    with torch.inference_mode():
        logits = network(torch.from_numpy(SAMPLES)).numpy()
    check(model, SAMPLES, logits, Tolerance())
    with pytest.raises(ModelError, match="differ"):
        check(model, SAMPLES, logits + 0.1 * logits.std(), Tolerance())
    swapped = logits[:, [1, 0, 2]]
    with pytest.raises(ModelError, match="differ"):
        check(model, SAMPLES, swapped, Tolerance(logits=1e9))
    with pytest.raises(ModelError, match="finite"):
        check(model, SAMPLES, logits * np.float32(np.nan), Tolerance())


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_a_wrong_fold_is_refused(network, weights, tmp_path, monkeypatch):
    def wrong(network, samples):
        folded = fold_batchnorm(network, samples)
        with torch.no_grad():
            folded.conv1.bias += 0.002  # changes fewer labels than rounding may
        return folded

    monkeypatch.setattr("exporters.torch.fold_batchnorm", wrong)
    with pytest.raises(ModelError, match="differ"):
        export(network, SPEC, tmp_path / "x.onnx", SAMPLES, ExportOptions(weights))
    assert list(tmp_path.iterdir()) == []


class Close(torch.nn.Module):
    """Two classes whose weights are one and the same number in 16 bits."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.head.weight[:] = torch.tensor([0.1, 1.0, 1.0004])[:, None, None, None]
            self.head.bias[:] = torch.tensor([0.0, 0.0006, 0.0])

    def forward(self, x):
        return self.head(x)


def test_a_network_that_16_bits_change_is_refused_in_them_alone(tmp_path):
    close = Close().eval()
    dark_or_bright = np.where(SAMPLES[:, :1] > 0.5, 0.8, 0.2).astype(np.float32).repeat(3, axis=1)
    export(close, SPEC, tmp_path / "x.onnx", dark_or_bright)
    with pytest.raises(ModelError, match=r"16 bits change .* labels [4-9]\d"):
        export(close, SPEC, tmp_path / "half.onnx", dark_or_bright, ExportOptions("float16"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


class Volumes(torch.nn.Module):
    """A network of patches with what such ones are made of."""

    def __init__(self):
        super().__init__()
        self.down = torch.nn.Sequential(
            torch.nn.Conv3d(1, 6, 3, padding=1), torch.nn.InstanceNorm3d(6, affine=True), torch.nn.LeakyReLU()
        )
        self.deep = torch.nn.Sequential(torch.nn.Conv3d(6, 8, 3, 2, 1), torch.nn.BatchNorm3d(8))
        self.up = torch.nn.ConvTranspose3d(8, 6, 2, 2)
        self.head = torch.nn.Conv3d(12, 3, 1)

    def forward(self, x):
        x = self.down(x)
        return self.head(torch.cat([x, self.up(self.deep(x))], 1))


def test_a_network_of_patches_with_float16_weights(tmp_path):
    torch.manual_seed(0)
    network = Volumes().eval()
    spec = replace(SPEC, channels=1, patch=(4, 16, 16))
    samples = np.random.default_rng(0).random((2, 1, *spec.patch), dtype=np.float32)
    done = export(network, spec, tmp_path / "half.onnx", samples, ExportOptions("float16"))
    assert done.parity.logits < 1e-5
    assert 1e-6 < done.difference.logits < 1e-2
    types = {t.data_type for t in onnx.load(done.path).graph.initializer if len(t.dims) == 5}
    assert types == {onnx.TensorProto.FLOAT16}
    with torch.inference_mode():
        logits = network(torch.from_numpy(samples)).numpy()
    found = Runner(done.path, "cpu", 1).logits(samples)
    apart = np.abs(found - logits).max() / np.abs(logits).max()
    assert apart == pytest.approx(done.difference.logits, rel=1e-3)
    assert len(np.unique(logits.argmax(1))) > 1
    assert np.mean(found.argmax(1) != logits.argmax(1)) == pytest.approx(done.difference.labels, abs=1e-4)


def test_nothing_is_written_when_the_gate_refuses(network, tmp_path):
    with pytest.raises(ModelError, match="differ"):
        export(network, SPEC, tmp_path / "x.onnx", SAMPLES, ExportOptions(tolerance=Tolerance(logits=0.0)))
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused(network, tmp_path):
    path = tmp_path / "x.onnx"
    for spec, samples in (
        (replace(SPEC, layout="NHWC"), SAMPLES),
        (SPEC, SAMPLES[:1]),
        (SPEC, SAMPLES[:, :2]),
        (SPEC, SAMPLES.astype(float)),
    ):
        with pytest.raises(UsageError):
            export(network, spec, path, samples)
    with pytest.raises(ModelError, match="classes"):
        export(network, replace(SPEC, classes=("tibia",)), path, SAMPLES)
    with pytest.raises(ModelError, match="inputs"):
        finish(onnx.ModelProto(), SPEC)
    assert not path.exists()


def test_a_folder_that_is_not_there_is_made_if_it_can_be(exported, tmp_path):
    model = onnx.load(exported.path)
    assert write(model, tmp_path / "new" / "x.onnx") == exported.sha256
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write(model, tmp_path / "file" / "x.onnx")


def test_folding_keeps_the_function_and_the_original(network):
    folded = fold_batchnorm(network, SAMPLES)
    kinds = [type(m).__name__ for m in folded.modules()]
    assert "BatchNorm2d" not in kinds
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    x = torch.from_numpy(SAMPLES)
    with torch.inference_mode():
        assert float((folded(x) - network(x)).abs().max()) < 1e-5


def test_neighbours_that_are_not_used_as_such_are_not_folded():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)
            self.bn = torch.nn.BatchNorm2d(3)

        def forward(self, x):
            return self.conv(self.bn(x))

    odd = Odd().eval()
    odd.bn.running_mean += 0.5
    x = torch.from_numpy(SAMPLES)
    with torch.inference_mode():
        assert float((fold_batchnorm(odd, SAMPLES)(x) - odd(x)).abs().max()) < 1e-6


def test_a_fold_that_is_almost_right_is_no_fold(tmp_path):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)
            self.bn = torch.nn.BatchNorm2d(3)
            self.bn.running_mean += 0.0005

        def forward(self, x):
            return self.conv(self.bn(x))

    torch.manual_seed(0)
    odd = Odd().eval()
    done = export(odd, SPEC, tmp_path / "odd.onnx", SAMPLES)
    assert done.difference.logits < 1e-6
    assert "BatchNormalization" in {node.op_type for node in onnx.load(done.path).graph.node}


class Blocks(torch.nn.Module):
    """Pixels come out as blocks of 2 x 2 channels, as of the network of fine pixels."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x):
        return torch.nn.functional.pixel_shuffle(self.head(torch.nn.functional.pixel_unshuffle(x, 2)), 2)


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("kind", [Small, Blocks])
def test_background_is_raised_in_the_last_bias(tmp_path, kind, weights):
    torch.manual_seed(1)
    path = tmp_path / "a.onnx"
    export(kind().eval(), SPEC, path, SAMPLES, ExportOptions(weights))
    given = onnx.load(path)
    raised = with_background(given, 0.5)
    before, after = (Runner(m.SerializeToString(), "cpu", 1) for m in (given, raised))
    expected = before.logits(SAMPLES)
    expected[:, 0] += 0.5
    np.testing.assert_allclose(after.logits(SAMPLES), expected, atol=1e-5)
    assert after.spec.provenance == before.spec.provenance | {"background_logit": 0.5}
    assert [n.op_type for n in raised.graph.node] == [n.op_type for n in given.graph.node]
    assert given == onnx.load(path)


def test_the_mean_of_a_network_and_what_it_became(tmp_path):
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        export(Blocks().eval(), SPEC, tmp_path / "a.onnx", SAMPLES, ExportOptions("float32"))
        models.append(onnx.load(tmp_path / "a.onnx"))
    earlier = with_temperature(models[1], 3.0)  # said after training, as who is magnified
    mean = with_mean(models[0], earlier, 0.7)
    theirs, ours, found = (
        {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
        for m in (models[1], models[0], mean)
    )
    weights = [name for name, value in ours.items() if value.dtype.kind == "f" and value.ndim]
    assert any("weight" in name for name in weights)
    for name in weights:
        np.testing.assert_allclose(found[name], 0.7 * ours[name] + 0.3 * theirs[name], atol=1e-6)
    spec = Runner(mean.SerializeToString(), "cpu", 1).spec
    assert spec == replace(SPEC, provenance=spec.provenance)
    assert spec.provenance["share_of_last_training"] == 0.7
    with pytest.raises(UsageError, match="a share of"):
        with_mean(models[0], earlier, 1.1)
    torch.manual_seed(1)
    export(Small().eval(), SPEC, tmp_path / "b.onnx", SAMPLES, ExportOptions("float32"))
    with pytest.raises(ModelError, match="other layers"):
        with_mean(models[0], onnx.load(tmp_path / "b.onnx"), 0.5)


def test_background_is_not_raised_where_no_bias_ends_the_network(tmp_path):
    bare = torch.nn.Conv2d(3, 3, 1, bias=False).eval()
    export(bare, SPEC, tmp_path / "a.onnx", SAMPLES)
    with pytest.raises(ModelError, match="bias"):
        with_background(onnx.load(tmp_path / "a.onnx"), 0.5)
