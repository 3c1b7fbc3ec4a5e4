import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from seg_core.labels import BONES
from seg_core.model_spec import METADATA_KEY
from seg_core.runner import Runner

PATH = Path(__file__).resolve().parent.parent / "seg_core" / "models" / "default.onnx"


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(PATH)


def test_it_is_small_enough_to_ship_and_has_a_card() -> None:
    assert PATH.stat().st_size <= 50e6
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
    content = PATH.read_bytes()
    for trace in (b"site-packages", b"/home/", b"/Users/", b"/work/", b"/tmp/", b"stack_trace"):
        assert trace not in content


def test_its_labels_do_not_depend_on_the_batch() -> None:
    runner = Runner("default", device="cpu", threads=1)
    images = np.random.default_rng(0).random((5, 3, 64, 128), dtype=np.float32)
    together = runner.run(images, (128, 256), confidence=True)
    alone = [runner.run(images[n : n + 1], (128, 256), confidence=True) for n in range(len(images))]
    assert np.array_equal(together.labels, np.concatenate([one.labels for one in alone]))
    assert np.array_equal(together.confidence, np.concatenate([one.confidence for one in alone]))
    assert np.array_equal(
        together.labels, Runner("default", device="cpu", threads=2).run(images, (128, 256)).labels
    )
