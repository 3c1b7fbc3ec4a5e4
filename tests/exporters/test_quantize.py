import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto

from cli.export import export as export_command
from exporters.quantize import TwinExport, export_twin
from exporters.scans import scan_patches, scan_slices
from seg_core import precision
from seg_core.errors import ModelError, UsageError
from seg_core.model_spec import METADATA_KEY, ModelSpec, Twin
from seg_core.nifti import write_volume
from seg_core.precision import STALE, why_not
from seg_core.runner import Runner
from seg_core.segment import segment

sys.path.insert(0, str(Path(__file__).parent))
from small_unet import Writer, finished, small_spec, small_unet, with_blocks_as_exported


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    path.write_bytes(small_unet(small_spec()).SerializeToString(deterministic=True))
    return path


@pytest.fixture(scope="module")
def slices(make_legs):
    return list(scan_slices([make_legs()[0]], small_spec(), 16))


@pytest.fixture(scope="module")
def twin(source, slices):
    return export_twin(source, source.with_name("small.int8.onnx"), slices)


def test_the_twin_agrees_and_says_of_which_file_it_is(source, slices, twin):
    runner = Runner(twin.path, "cpu")
    assert runner.spec.twin == Twin(
        "int8", hashlib.sha256(source.read_bytes()).hexdigest(), twin.agreement, 8
    )
    assert replace(runner.spec, twin=None) == small_spec()
    assert (runner.precision, runner.fingerprint) == ("int8", twin.sha256)
    assert set(twin.agreement) == {"tibia", "femur", "pelvis"}  # of the fibula these labels hardly show any
    expected = Runner(source, "cpu", precision="fp32")
    x = np.concatenate(slices)
    assert np.mean(runner.run(x, (64, 64)).labels == expected.run(x, (64, 64)).labels) > 0.95
    logits = expected.logits(x)
    assert np.abs(runner.logits(x) - logits).mean() < 0.05 * np.abs(logits).max()


EXPORT = """
import pathlib, sys
import numpy
from exporters.quantize import TwinExport, export_twin

source, slices, path, precision = sys.argv[1:]
slices = list(numpy.load(slices))
print(export_twin(pathlib.Path(source), pathlib.Path(path), slices, TwinExport(precision)).sha256)
"""


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_same_bytes_in_another_process_with_another_order_of_hashes(source, slices, precision, tmp_path):
    made = export_twin(source, tmp_path / "here.onnx", slices, TwinExport(precision))
    np.save(tmp_path / "slices.npy", np.stack(slices))
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    files = [str(source), str(tmp_path / "slices.npy"), str(tmp_path / "there.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, *files, precision],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    assert done.stdout.split()[-1] == made.sha256


def test_any_number_of_slices_of_any_size(twin):
    runner = Runner(twin.path, "cpu")
    x = np.random.default_rng(0).random((3, 3, 24, 40), dtype=np.float32)
    whole = runner.run(x, (24, 40)).labels
    assert np.array_equal(whole, np.concatenate([runner.run(one[None], (24, 40)).labels for one in x]))


def test_the_runtime_computes_in_integers_and_moves_bytes(twin, tmp_path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(twin.path), options, providers=["CPUExecutionProvider"])
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert counts["QLinearConv"] == 7
    assert counts["Conv"] + counts["FusedConv"] == 0
    assert counts["QLinearAdd"] == 2
    assert counts["QuantizeLinear"] == 1
    assert counts["QLinearConcat"] == 0


@pytest.mark.parametrize("keep_last", [0, 1, 3, 7, 100])
def test_the_last_convolutions_stay_in_float32(source, slices, tmp_path, keep_last):
    made = export_twin(source, tmp_path / "t.onnx", slices, TwinExport(keep_last=keep_last))
    model = onnx.load(made.path)
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    kept = [node.input[1] in weights for node in model.graph.node if node.op_type == "Conv"]
    assert sum(kept) == min(keep_last, len(kept))
    assert kept[-1] == (keep_last > 0)


@pytest.mark.parametrize("keep_last", [0, 1])
def test_a_head_in_float_gives_bones_less_background(slices, tmp_path, keep_last):
    spec, request = small_spec(), TwinExport(keep_last=keep_last)
    source = with_blocks_as_exported(small_unet(spec, blocks=True), spec)
    (tmp_path / "blocks.onnx").write_bytes(source.SerializeToString(deterministic=True))
    made = export_twin(tmp_path / "blocks.onnx", tmp_path / "t.onnx", slices, request)
    x = np.concatenate(slices)
    expected = Runner(tmp_path / "blocks.onnx", "cpu", precision="fp32").logits(x)
    found = Runner(made.path, "cpu").logits(x)
    assert (found[:, 0] == 0).all() == (keep_last > 0)
    less = expected - expected[:, :1]
    assert np.abs(found - found[:, :1] - less).mean() < 0.02 * np.abs(less).max()


def test_halves(source, slices, tmp_path):
    made = export_twin(source, tmp_path / "small.fp16.onnx", slices, TwinExport("fp16"))
    runner = Runner(made.path, "cpu")
    assert (runner.precision, runner.spec.twin.slices) == ("fp16", len(slices))  # none is kept to calibrate
    assert min(made.agreement.values()) > 0.99
    types = {t.data_type for t in onnx.load(made.path).graph.initializer if len(t.dims) == 4}
    assert types == {onnx.TensorProto.FLOAT16}


PATCH = (8, 24, 16)


@pytest.fixture(scope="module")
def patches(make_spec, make_onnx, tmp_path_factory):
    """A model file of a network of patches."""
    path = tmp_path_factory.mktemp("model") / "patches.onnx"
    path.write_bytes(make_onnx(make_spec(patch=PATCH)))
    return path


def test_halves_of_a_network_of_patches(patches, make_legs, tmp_path):
    scan, _ = make_legs()
    spec = Runner(patches, "cpu").spec
    samples = list(scan_patches([scan], spec, 8))
    made = export_twin(patches, tmp_path / "patches.fp16.onnx", samples, TwinExport("fp16"))
    types = {t.data_type for t in onnx.load(made.path).graph.initializer if len(t.dims) == 5}
    assert types == {TensorProto.FLOAT16}
    (tmp_path / "patches.onnx").write_bytes(patches.read_bytes())
    runner = Runner(tmp_path / "patches.onnx", "cpu", precision="fp16")
    assert (runner.precision, runner.fingerprint) == ("fp16", made.sha256)
    assert runner.spec == replace(spec, twin=Twin("fp16", Runner(patches).fingerprint, made.agreement, 8))
    assert set(made.agreement) == set(spec.classes)
    assert min(made.agreement.values()) > 0.99
    found = segment(scan, runner).labels.array
    assert np.mean(found == segment(scan, Runner(patches, "cpu")).labels.array) > 0.999
    assert len(np.unique(found)) == 9


def test_of_patches_there_is_no_twin_in_integers(patches, make_legs, tmp_path, monkeypatch):
    samples = list(scan_patches([make_legs()[0]], Runner(patches, "cpu").spec, 8))
    with pytest.raises(ModelError, match="int8 of a network of patches"):
        export_twin(patches, tmp_path / "t.onnx", samples)
    with pytest.raises(UsageError, match="0 patches"):
        export_twin(patches, tmp_path / "t.onnx", [], TwinExport("fp16"))
    monkeypatch.setattr("exporters.scans.drawn_scans", lambda: pytest.fail("work was begun"))
    arguments = [str(patches), "--precision", "int8", "-o", str(tmp_path / "t.onnx")]
    done = CliRunner().invoke(export_command, arguments)
    assert "make an fp16 twin" in str(done.exception)
    assert not (tmp_path / "t.onnx").exists()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_network_that_halves_cannot_hold_is_refused(source, slices, tmp_path, sign):
    model = onnx.load(source)
    stem = next(node for node in model.graph.node if node.op_type == "Relu")
    taker = next(node for node in model.graph.node if stem.output[0] in node.input)
    for name, inputs in (("up", (stem.output[0], "much")), ("down", ("up", "little"))):
        model.graph.node.append(onnx.helper.make_node("Mul", inputs, [name], name=name))
    taker.input[list(taker.input).index(stem.output[0])] = "down"
    for name, value in (("much", sign * 1e7), ("little", sign * 1e-7)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    nodes = list(model.graph.node)
    place = nodes.index(stem) + 1
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *nodes[-2:], *nodes[place:-2]])
    onnx.save(model, tmp_path / "loud.onnx")
    Runner(tmp_path / "loud.onnx", "cpu", precision="fp32")
    with pytest.raises(ModelError, match="values reach"):
        export_twin(tmp_path / "loud.onnx", tmp_path / "loud.fp16.onnx", slices, TwinExport("fp16"))


def test_a_network_of_any_size_has_a_twin_of_any_size(slices, tmp_path):
    spec = small_spec(grid=replace(small_spec().grid, multiple=1))
    w = Writer(0)
    stem = w.conv("image", (8, 3, 3, 3), strides=[2, 2])
    size = w.add("Concat", w.add("Shape", stem, end=2), w.add("Shape", "image", start=2), axis=0)
    w.conv(w.add("Resize", stem, "", "", size, mode="nearest"), (5, 8, 3, 3), name="logits", relu=False)
    (tmp_path / "any.onnx").write_bytes(finished(w, spec).SerializeToString())
    made = export_twin(tmp_path / "any.onnx", tmp_path / "any.int8.onnx", slices)
    odd = np.random.default_rng(0).random((1, 3, 33, 35), dtype=np.float32)
    assert Runner(made.path, "cpu").run(odd, (33, 35)).labels.shape == (1, 33, 35)


def test_what_cannot_become_a_twin_is_refused(source, slices, twin, tmp_path):
    with pytest.raises(UsageError, match="3 slices"):
        export_twin(source, tmp_path / "t.onnx", slices[:3])
    with pytest.raises(ModelError, match="computes in int8"):
        export_twin(twin.path, tmp_path / "t.onnx", slices)
    with pytest.raises(UsageError, match="-1 last"):
        export_twin(source, tmp_path / "t.onnx", slices, TwinExport(keep_last=-1))
    before = source.read_bytes()
    with pytest.raises(UsageError, match="the network itself"):
        export_twin(source, source, slices)
    assert source.read_bytes() == before
    assert not (tmp_path / "t.onnx").exists()


def test_from_the_command_line(source, make_legs, tmp_path):
    write_volume(tmp_path / "legs.nii.gz", make_legs()[0])
    out = tmp_path / "small.int8.onnx"
    arguments = [str(source), "-o", str(out), "--precision", "int8", "--scan", str(tmp_path / "legs.nii.gz")]
    done = CliRunner().invoke(export_command, [*arguments, "--json"], catch_exceptions=False)
    written = json.loads(done.stdout)
    assert written["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    known = {e.key: e.value for e in onnx.load(out).metadata_props}
    assert ModelSpec.from_json(known[METADATA_KEY]).twin.agreement == written["agreement"]


def test_patches_from_the_command_line(patches, make_legs, tmp_path):
    write_volume(tmp_path / "legs.nii.gz", make_legs()[0])
    out = tmp_path / "patches.fp16.onnx"
    arguments = [str(patches), "-o", str(out), "--precision", "fp16", "--scan", str(tmp_path / "legs.nii.gz")]
    done = CliRunner().invoke(export_command, [*arguments, "--json"], catch_exceptions=False)
    written = json.loads(done.stdout)
    assert set(written["agreement"]) == set(small_spec().classes)
    spec = Runner(out, "cpu").spec
    assert (spec.twin.slices, spec.twin.agreement) == (8, written["agreement"])


class TestWhichIsTaken:
    """`auto` and what is asked for."""

    @pytest.fixture
    def folder(self, source, twin, tmp_path):
        (tmp_path / "small.onnx").write_bytes(source.read_bytes())
        return tmp_path

    @pytest.fixture
    def place(self, folder, twin, monkeypatch):
        """Puts a twin with another agreement, or of another file, beside the file."""
        monkeypatch.setattr(precision, "multiplies_bytes", lambda: True)

        def put(**changes):
            model = onnx.load(twin.path)
            spec = ModelSpec.from_json(model.metadata_props[0].value)
            facts = {"agreement": dict.fromkeys(spec.classes, 0.999)} | changes
            model.metadata_props[0].value = replace(spec, twin=replace(spec.twin, **facts)).to_json()
            onnx.save(model, folder / "small.int8.onnx")
            return folder / "small.onnx"

        return put

    def test_auto_takes_a_twin_that_agrees(self, place):
        runner = Runner(place(), "cpu")
        assert (runner.precision, runner.name) == ("int8", "small.int8.onnx")
        assert Runner(place(), "cpu", precision="fp32").precision == "fp32"

    def test_auto_leaves_one_that_does_not(self, place):
        runner = Runner(place(agreement=dict.fromkeys(small_spec().classes, 1.0) | {"tibia": 0.9949}), "cpu")
        assert runner.precision == "fp32"
        assert "0.9949 of tibia" in runner.why
        seen = {name: 1.0 for name in small_spec().classes if name != "fibula"}
        for agreement in (seen, {}):
            runner = Runner(place(agreement=agreement), "cpu")
            assert runner.precision == "fp32"
            assert "fibula" in runner.why
        assert Runner(place(agreement={"tibia": 0.9}), "cpu", precision="int8").precision == "int8"

    def test_a_twin_of_another_file_is_left_alone_or_refused(self, place):
        assert STALE in Runner(place(of="0" * 64), "cpu").why
        with pytest.raises(ModelError, match="another file"):
            Runner(place(of="0" * 64), "cpu", precision="int8")

    def test_without_instructions_for_bytes(self, place, monkeypatch):
        monkeypatch.setattr(precision, "multiplies_bytes", lambda: False)
        runner = Runner(place(), "cpu")
        assert runner.precision == "fp32"
        assert "instructions" in runner.why

    def test_without_a_twin(self, folder):
        assert Runner(folder / "small.onnx", "cpu").precision == "fp32"
        for name in ("int8", "fp16"):
            with pytest.raises(ModelError, match=f"no {name} twin"):
                Runner(folder / "small.onnx", "cpu", precision=name)
        with pytest.raises(UsageError, match="precision"):
            Runner(folder / "small.onnx", "cpu", precision="int4")

    def test_a_twin_by_itself(self, twin):
        assert Runner(twin.path, "cpu", precision="int8").precision == "int8"
        with pytest.raises(ModelError, match="computes in int8"):
            Runner(twin.path, "cpu", precision="fp32")

    def test_a_damaged_twin_is_left_alone(self, folder):
        (folder / "small.int8.onnx").write_bytes(b"half")
        runner = Runner(folder / "small.onnx", "cpu")
        assert runner.precision == "fp32"
        assert "cannot be opened" in runner.why
        with pytest.raises(ModelError, match="cannot be opened"):
            Runner(folder / "small.onnx", "cpu", precision="int8")

    def test_where_the_first_device_does_not_start(self, place, cuda_that_does_not_start):
        runner = Runner(place())
        assert (runner.device, runner.precision) == ("cpu", "int8")

    def test_a_file_without_a_twin_of_its_own_is_stale(self):
        assert why_not(small_spec(), "") == STALE
