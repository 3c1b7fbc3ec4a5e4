import json
from dataclasses import replace
from multiprocessing import Pipe
from threading import Thread

import numpy as np
import pytest

from benchmarks import backends
from benchmarks.backends import (
    BACKENDS,
    BASE,
    Result,
    Work,
    _answer,
    _asked,
    _batch,
    _serve,
    _take_turns,
    as_markdown,
    chosen,
    prepare,
    run,
    slower,
)
from benchmarks.timing import Spread
from cli.main import run as lls
from seg_core.errors import LlsError, ModelError, UsageError
from seg_core.nifti import write_volume


@pytest.fixture(scope="module")
def work(make_legs, tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "legs.nii.gz"
    write_volume(path, make_legs()[0])
    return Work(str(tiny_model), str(path), slices=5)


@pytest.fixture(scope="module")
def given(work, tmp_path_factory):
    return prepare(work, tmp_path_factory.mktemp("given") / "slices.npy")


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


def test_keras_has_the_networks_channels_or_says_that_it_lacks_the_network(given):
    pytest.importorskip("keras", reason="the extra keras is not installed")
    images = np.load(given.file)
    other = replace(given, work=replace(given.work, network="unet-mobilenetv2"), size=(96, 80))
    found = BACKENDS["Keras"](other, 1)(images[:1])
    assert found.shape == (1, 96, 80)  # the scan's pixels, not the network's
    assert found.dtype == np.uint8
    with pytest.raises(UsageError, match="unet-resnet34-fine"):
        BACKENDS["Keras"](replace(given, work=replace(given.work, network="unet-resnet34-fine")), 1)


def test_a_backends_process_opens_and_reads_nothing_else(given, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")

    def refuse(*_, **__):
        raise AssertionError("prepared again")

    for name in ("Runner", "read_scan"):
        monkeypatch.setattr(backends, name, refuse)
    here, there = Pipe()
    process = Thread(target=_serve, args=(there, "OpenVINO fp32", given))
    process.start()
    assert set(here.recv()) == {"cold_s"}
    here.send(2)
    assert here.recv()["labels"].shape == (5, *given.size)
    here.close()
    process.join()


def test_time_is_that_of_a_slice_computed(monkeypatch):
    answer = {"seconds": 3.0, "labels": np.zeros((5, 2, 2), np.uint8), "peak": 0}
    monkeypatch.setattr(backends, "_answer", lambda *_: answer)
    result = Result({}, {})
    _take_turns(result, {BASE: None}, [1, 3], 1)
    assert [row.slice_ms.median for row in result.rows] == [600.0, 500.0]  # of five, and of twice three
    assert result.rows[1].ratio.median == pytest.approx(5 / 6)


def test_a_process_that_ended_is_named_and_the_base_is_an_error():
    result = Result({}, {})
    for batch in (None, 1):
        here, there = Pipe()
        there.close()
        assert _answer(here, "PyTorch eager", result, batch) == {}
        with pytest.raises(LlsError, match="ended"):
            _answer(here, BASE, result, batch)
    assert result.missing == {"PyTorch eager": "the process of PyTorch eager ended"}
    here, there = Pipe()
    there.send({"missing": ModelError("no model", "one")})
    with pytest.raises(ModelError, match="no model"):
        _answer(here, BASE, result)


def test_a_scan_or_network_that_cannot_be_measured_has_its_exit_code(
    make_onnx, make_spec, tmp_path, work, capsys
):
    assert lls(["bench", work.model, "--scan", str(tmp_path / "none")]) == 3
    assert lls(["bench", str(tmp_path / "none.onnx"), "--scan", work.scan]) == 5
    patches = tmp_path / "patches.onnx"
    patches.write_bytes(make_onnx(make_spec(patch=(8, 8, 8))))
    assert lls(["bench", str(patches), "--scan", work.scan]) == 2
    assert "a network of patches" in capsys.readouterr().err
