import hashlib
import os
import subprocess
import sys
import time
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from seg_core.errors import DeviceError, MemoryLimitError, MissingPackageError, ModelError, UsageError
from seg_core.model_spec import METADATA_KEY, Grid
from seg_core.runner import Runner


def random_images(n, channels=3, shape=(32, 64), seed=0):
    return np.random.default_rng(seed).random((n, channels, *shape), dtype=np.float32)


def nearest_class(images):
    """The class of each pixel of the band network: the middle channel, rounded to steps of 0.2."""
    return np.clip(np.rint(images[:, 1] * 5), 0, 4).astype(np.uint8)


def test_labels_are_those_that_the_network_was_made_for(band_model):
    images = random_images(5)
    found = Runner(band_model(), "cpu").run(images, (32, 64))
    edge = np.abs(images[:, 1] * 5 % 1 - 0.5) < 1e-4  # between two classes rounding decides
    assert np.array_equal(found.labels[~edge], nearest_class(images)[~edge])
    assert found.labels.dtype == np.uint8
    assert found.confidence is None


def test_confidence_is_the_probability_of_the_chosen_class(band_model):
    runner, images = Runner(band_model(), "cpu"), random_images(3)
    found = runner.run(images, (32, 64), confidence=True)
    logits = runner.logits(images).astype(np.float64)
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    probability = (exponent / exponent.sum(1, keepdims=True)).max(1)
    assert np.abs(found.confidence - 255 * probability).max() <= 0.5 + 1e-3
    assert np.array_equal(found.labels, logits.argmax(1))


@pytest.fixture(scope="module")
def runners(tiny_model):
    made = {threads: Runner(tiny_model, "cpu", threads) for threads in (1, 2, 8)}
    assert [runner.at_once for runner in made.values()] == [1, 2, 4]  # of 8, the runtime has 5 for each
    return made | {"alone": Runner(tiny_model, "cpu", 2, at_once=1)}


@settings(deadline=None, max_examples=10)
@given(n=st.integers(0, 9), cut=st.integers(0, 9), threads=st.sampled_from([1, 2, 8, "alone"]))
def test_results_do_not_depend_on_how_many_are_given_at_once(runners, n, cut, threads):
    images = random_images(n, channels=1)
    whole = runners[1].run(images, (50, 70), confidence=True)
    parts = [runners[threads].run(part, (50, 70), confidence=True) for part in (images[:cut], images[cut:])]
    assert np.array_equal(whole.labels, np.concatenate([p.labels for p in parts]))
    assert np.array_equal(whole.confidence, np.concatenate([p.confidence for p in parts]))


def test_channels_last_gives_the_same(band_model):
    images = random_images(5)
    first, last = (Runner(band_model(layout=layout), "cpu") for layout in ("NCHW", "NHWC"))
    assert np.array_equal(first.run(images, (40, 80)).labels, last.run(images, (40, 80)).labels)
    assert np.array_equal(first.logits(images), last.logits(images))


def test_size_is_optional_in_the_file(band_model):
    session = onnxruntime.InferenceSession(band_model(), providers=["CPUExecutionProvider"])
    images = random_images(2)
    assert session.run(["labels"], {"image": images})[0].shape == (2, 512, 512)
    fed = session.run(["labels"], {"image": images, "size": np.array([33, 7])})[0]
    assert fed.shape == (2, 33, 7)


def test_upsampling_maps_edges_to_edges(band_model):
    # A step between two columns stays in the middle at any size.
    images = np.zeros((1, 3, 32, 64), np.float32)
    images[..., 32:] = 0.8
    labels = Runner(band_model(), "cpu").run(images, (32, 640)).labels[0]
    assert not labels[:, :315].any()
    assert (labels[:, 325:] == 4).all()
    assert np.array_equal((labels == 0).sum(1), (labels == 4).sum(1))


def test_facts_of_the_file(band_model, band_spec, tmp_path, capfd):
    data = band_model()
    (tmp_path / "bands.onnx").write_bytes(data)
    runner = Runner(tmp_path / "bands.onnx")
    assert runner.spec == band_spec()
    assert runner.fingerprint == hashlib.sha256(data).hexdigest()
    assert runner.device == "cpu"
    runner.run(random_images(1), (8, 8))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("data", [b"", b"not a network", b"\x08\x0a\x12" + bytes(50)])
def test_a_file_that_is_no_onnx_is_refused(data):
    with pytest.raises(ModelError, match="cannot be opened as ONNX"):
        Runner(data)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        Runner(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        Runner(tmp_path)


def changed(data, change):
    model = onnx.load_from_string(data)
    change(model)
    return model.SerializeToString()


def set_opset(model):
    model.opset_import[0].version = 99


def set_description(model):
    model.metadata_props[0].value = "{"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.ClearField("metadata_props"), "without a description"),
        (set_description, "cannot be read"),
        (set_opset, "cannot be opened"),
        (lambda m: m.graph.output.pop(), "has \\['labels', 'logits'\\]"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(band_model, change, message):
    with pytest.raises(ModelError, match=message):
        Runner(changed(band_model(), change), "cpu")


def test_a_description_of_other_channels_or_classes_is_refused(band_model, band_spec):
    for other in (band_spec(channels=5), band_spec(layout="NHWC")):

        def describe(model, other=other):
            model.metadata_props[0].value = other.to_json()

        with pytest.raises(ModelError, match="image is"):
            Runner(changed(band_model(), describe), "cpu")


def test_a_foreign_network_is_refused():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["b"])],
        "g",
        [value("a", 1, [1])],
        [value("b", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ModelError, match=METADATA_KEY):
        Runner(model.SerializeToString(), "cpu")


@pytest.mark.parametrize("device", ["cuda", "openvino"])
def test_a_device_that_is_not_there_is_an_error(band_model, device):
    if {"cuda": "CUDA", "openvino": "OpenVINO"}[device] + "ExecutionProvider" in (
        onnxruntime.get_available_providers()
    ):
        pytest.skip(f"this ONNX Runtime offers {device}")
    with pytest.raises(DeviceError, match=device):
        Runner(band_model(), device)
    assert Runner(band_model(), "auto").device == "cpu"


def test_a_provider_that_falls_back_silently_is_an_error(band_model, cuda_that_does_not_start):
    with pytest.raises(DeviceError, match="did not start"):
        Runner(band_model(), "cuda")
    assert Runner(band_model(), "auto").device == "cpu"


def test_two_runtimes_in_one_folder_are_named(band_model, monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(version="1"))
    with pytest.raises(MissingPackageError, match="pip uninstall onnxruntime onnxruntime-gpu"):
        Runner(band_model())


def test_nobody_is_told_that_a_network_runs(band_model, tmp_path):
    home, model = tmp_path / "home", tmp_path / "m.onnx"
    home.mkdir()
    model.write_bytes(band_model())
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        environment[name] = str(home)
    program = (
        "import os, sys; from seg_core.runner import Runner; Runner(sys.argv[1], 'cpu');"
        "print('ORT_DISABLE_TELEMETRY' in os.environ)"
    )
    command = [sys.executable, "-c", program, str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"  # the program's own surroundings are left alone
    assert list(home.rglob("*")) == []  # where the runtime would keep an identifier and what it sends


def test_no_runtime_names_the_extras(band_model, monkeypatch):
    data = band_model()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"\.\[cpu\]"):
        Runner(data)


@pytest.mark.parametrize(
    ("images", "size"),
    [
        (np.zeros((1, 2, 32, 64), np.float32), (8, 8)),
        (np.zeros((1, 3, 32, 64)), (8, 8)),
        (np.zeros((3, 32, 64), np.float32), (8, 8)),
        (np.zeros((1, 3, 33, 64), np.float32), (8, 8)),
        (np.zeros((1, 3, 32, 64), np.float32), (0, 8)),
    ],
)
def test_images_that_do_not_fit_are_refused(band_model, images, size):
    with pytest.raises(UsageError):
        Runner(band_model(), "cpu").run(images, size)


def test_a_file_of_one_size_is_refused(band_model):
    def fix(model):
        for place, size in ((2, 32), (3, 64)):
            model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = size

    with pytest.raises(ModelError, match="rows and columns"):
        Runner(changed(band_model(), fix), "cpu")


def test_logits_that_are_no_numbers_are_no_background(band_model):
    runner = Runner(band_model(), "cpu")
    images = np.zeros((1, 3, 32, 64), np.float32)
    images[0, 0, 3, 4] = np.nan
    with pytest.raises(ModelError, match="no finite numbers"):
        runner.run(images, (32, 64))


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_labels_made_in_the_graph_are_not_taken_from_what_is_no_number(band_model, value, confidence):
    runner = Runner(band_model(), "cpu")
    runner.device = "cuda"  # where labels come from the graph
    images = random_images(3)
    expected = nearest_class(images)
    found = runner.run(images, (32, 64), confidence)
    assert (found.labels != expected).mean() < 1e-3  # between two classes rounding decides
    assert (found.confidence is not None) == confidence
    assert runner.run(images[:0], (32, 64)).labels.shape == (0, 32, 64)
    images[2, 1, 3, 4] = value
    with pytest.raises(ModelError, match="no finite numbers"):
        runner.run(images, (32, 64), confidence)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_logits_of_patches_are_numbers(make_onnx, make_spec, precision):
    runner = Runner(make_onnx(make_spec(patch=(4, 8, 8))), "cpu")
    runner.precision = precision
    images = random_images(2, 1, (4, 8, 8))
    assert np.isfinite(runner.logits(images)).all()
    images[1, 0, 1, 2, 3] = np.nan
    with pytest.raises(ModelError, match="no finite numbers") as raised:
        runner.logits(images)
    assert ("--precision fp32" in raised.value.fix) == (precision == "fp16")


def test_float32_on_cuda_is_float32(band_model, monkeypatch):
    asked, session = {}, onnxruntime.InferenceSession

    def start(data, options, providers):
        asked.update(providers)
        return session(data, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    with pytest.raises(DeviceError, match="did not start"):
        Runner(band_model(), "cuda")
    assert asked["CUDAExecutionProvider"]["use_tf32"] == "0"  # else 10 bits after the point


def test_after_an_error_no_batch_begins(band_model, monkeypatch):
    runner, asked = Runner(band_model(), "cpu", threads=1), []

    def run(outputs, feed):
        asked.append(feed)
        time.sleep(0.02)
        raise MemoryError

    monkeypatch.setattr(runner, "_session", SimpleNamespace(run=run))
    for infer in (lambda images: runner.run(images, (32, 64)), runner.logits):
        asked.clear()
        with pytest.raises(MemoryLimitError):
            infer(np.zeros((40, 3, 32, 64), np.float32))
        runner._pool.submit(int).result()
        assert len(asked) < 40


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Failed to allocate memory for 9 bytes")])
def test_no_memory_is_said_as_such(band_model, monkeypatch, error):
    runner = Runner(band_model(), "cpu")

    def run(outputs, feed):
        raise error

    monkeypatch.setattr(runner, "_session", SimpleNamespace(run=run))
    with pytest.raises(MemoryLimitError, match="no memory"):
        runner.run(np.zeros((1, 3, 32, 64), np.float32), (32, 64))


def test_options_that_make_no_sense(band_model):
    with pytest.raises(UsageError, match="device"):
        Runner(band_model(), "tpu")
    with pytest.raises(UsageError, match="threads"):
        Runner(band_model(), threads=0)


def test_other_grids_are_described(band_model):
    spec = Runner(band_model(grid=Grid("spacing", spacing_mm=(2.0, 1.5))), "cpu").spec
    assert spec.grid == Grid("spacing", spacing_mm=(2.0, 1.5))
