import json
from dataclasses import replace
from multiprocessing import Pipe

import numpy as np
import pytest

from benchmarks.backends import BACKENDS, BASE, Work, _asked, _batch, as_markdown, chosen, run, slower
from benchmarks.timing import Spread
from seg_core.errors import UsageError
from seg_core.nifti import write_volume
from seg_core.runner import Runner


@pytest.fixture(scope="module")
def work(make_legs, tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "legs.nii.gz"
    write_volume(path, make_legs()[0])
    return Work(str(tiny_model), str(path), slices=5)


@pytest.fixture(scope="module")
def result(work):
    return run(work, [BASE, "ONNX Runtime CPU int8", "OpenVINO fp32"], [1, 3], rounds=2)


def test_every_backend_is_measured_or_named(result):
    names = {row.backend for row in result.rows} | set(result.missing)
    assert names == {BASE, "ONNX Runtime CPU int8", "OpenVINO fp32"}
    assert "no int8 twin" in result.missing["ONNX Runtime CPU int8"]
    assert {(row.backend, row.batch) for row in result.rows} >= {(BASE, 1), (BASE, 3)}
    (base,) = [row for row in result.rows if (row.backend, row.batch) == (BASE, 1)]
    assert base.ratio == Spread(1, 1, 1)
    assert set(result.peak_gb) == set(result.cold_s) == set(result.same_labels)


def test_labels_are_compared(result):
    assert result.same_labels[BASE] == 1
    assert all(same > 0.999 for same in result.same_labels.values())


def test_the_table_names_all(result):
    text = as_markdown(result)
    assert f"| {BASE} | 3 |" in text
    assert "- ONNX Runtime CPU int8: not here:" in text


def test_what_got_slower(result):
    from dataclasses import asdict

    earlier = json.loads(json.dumps(asdict(result)))
    assert slower(result, earlier) == []
    for row in earlier["rows"]:
        row["slice_ms"] = {key: value / 100 for key, value in row["slice_ms"].items()}
    lines = slower(result, earlier)
    assert len(lines) == len(result.rows)
    assert all("ms a slice" in line for line in lines)
    earlier["machine"]["processor"] = "another"
    assert "another machine" in slower(result, earlier)[0]


def test_words_choose_backends():
    assert chosen([]) == list(BACKENDS)
    assert chosen(["int8"]) == [name for name in BACKENDS if "int8" in name]


def test_the_last_batch_is_filled_up():
    images = np.arange(5, dtype=np.float32)[:, None]
    assert _batch(images, 3, 4)[:, 0].tolist() == [3, 4, 0, 1]


def test_a_backends_process_ends_where_nothing_more_is_asked():
    here, there = Pipe()
    here.send(2)
    here.close()
    assert list(_asked(there)) == [2]


def test_keras_has_the_networks_channels_or_says_that_it_lacks_the_network(work):
    pytest.importorskip("keras", reason="the extra keras is not installed")
    images, _ = work.prepared(Runner(work.path, "cpu", precision="fp32"))
    found = BACKENDS["Keras"](replace(work, network="unet-mobilenetv2"), 1)(images[:1])
    assert found.shape == images[:1, 0].shape
    with pytest.raises(UsageError, match="unet-resnet34-fine"):
        BACKENDS["Keras"](replace(work, network="unet-resnet34-fine"), 1)
