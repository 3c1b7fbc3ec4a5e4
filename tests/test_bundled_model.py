import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from seg_core.labels import BONES
from seg_core.model_spec import METADATA_KEY
from seg_core.precision import LEAST_AGREEMENT, Precision, multiplies_bytes, twin_path
from seg_core.runner import Runner

PATH = Path(__file__).resolve().parent.parent / "seg_core" / "models" / "default.onnx"
TWIN = twin_path(PATH, "int8")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(PATH)


def test_it_is_small_enough_to_ship_and_has_a_card() -> None:
    assert PATH.stat().st_size <= 50e6
    assert PATH.stat().st_size + TWIN.stat().st_size <= 80e6
    card = PATH.with_suffix(".md").read_text(encoding="utf-8")
    for word in ("synthetic", "research", "Limits", "benchmarks.accuracy"):
        assert word in card


def test_it_follows_the_contract(model: onnx.ModelProto) -> None:
    assert model.ir_version == 10
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    weights = {i.name for i in model.graph.initializer}
    assert [i.name for i in model.graph.input if i.name not in weights] == ["image"]
    assert [o.name for o in model.graph.output] == ["logits", "labels", "confidence"]


def test_it_describes_itself(model: onnx.ModelProto) -> None:
    raw = json.loads({p.key: p.value for p in model.metadata_props}[METADATA_KEY])
    assert raw["classes"] == list(BONES)
    assert "synthetic" in raw["provenance"]["training_data"]
    assert "research" in raw["provenance"]["intended_use"]
    assert raw["provenance"]["samples_seen"] > 10_000


def test_it_tells_no_path_of_the_machine_that_made_it() -> None:
    for content in (PATH.read_bytes(), TWIN.read_bytes()):
        for trace in (b"site-packages", b"/home/", b"/Users/", b"/work/", b"/tmp/", b"stack_trace"):
            assert trace not in content


def test_its_twin_in_8_bits_is_of_this_file_and_agrees_in_every_bone() -> None:
    file, twin = (Runner("default", device="cpu", precision=precision) for precision in ("fp32", "int8"))
    assert twin.spec.twin is not None
    assert (twin.spec.twin.of, twin.spec.twin.precision) == (file.fingerprint, "int8")
    assert set(twin.spec.twin.agreement) == set(BONES)
    assert min(twin.spec.twin.agreement.values()) >= LEAST_AGREEMENT
    assert twin.spec.twin.slices >= 24
    assert replace(twin.spec, twin=None) == file.spec
    assert Runner("default", device="cpu").precision == ("int8" if multiplies_bytes() else "fp32")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_its_labels_do_not_depend_on_the_batch(precision: Precision) -> None:
    runner = Runner("default", device="cpu", threads=1, precision=precision)
    images = np.random.default_rng(0).random((5, 3, 64, 128), dtype=np.float32)
    together = runner.run(images, (128, 256), confidence=True)
    alone = [runner.run(images[n : n + 1], (128, 256), confidence=True) for n in range(len(images))]
    assert np.array_equal(together.labels, np.concatenate([one.labels for one in alone]))
    assert np.array_equal(together.confidence, np.concatenate([one.confidence for one in alone]))
    runner.batch = 4  # as a GPU's, and with other companions
    reverse = runner.run(images[::-1].copy(), (128, 256), confidence=True)
    assert np.array_equal(together.labels, reverse.labels[::-1])
    assert np.array_equal(together.confidence, reverse.confidence[::-1])
    for threads, at_once in ((2, 4), (8, 4), (2, 1)):
        more = Runner("default", device="cpu", threads=threads, precision=precision, at_once=at_once)
        assert np.array_equal(together.labels, more.run(images, (128, 256)).labels)


def test_a_gpus_way_to_labels_is_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the graph gives labels and confidence, on a CPU the core computes them of its logits."""
    runner = Runner("default", device="cpu", precision="fp32")
    images = np.random.default_rng(0).random((2, 3, 64, 128), dtype=np.float32)
    expected = runner.run(images, (128, 256), confidence=True)
    monkeypatch.setattr(runner, "device", "cuda")
    found = runner.run(images, (128, 256), confidence=True)
    assert np.array_equal(found.labels, expected.labels)
    assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 1
    assert runner.run(images, (128, 256)).confidence is None
    assert runner.run(images[:0], (128, 256), confidence=True).labels.shape == (0, 128, 256)
