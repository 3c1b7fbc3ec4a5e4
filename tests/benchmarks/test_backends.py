import json
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing import Pipe
from threading import Thread

import numpy as np
import pytest

from benchmarks import backends, frameworks
from benchmarks.against import check_same, failures, read_earlier, slower
from benchmarks.backends import (
    Result,
    Row,
    _answer,
    _asked,
    _batch,
    _serve,
    _take_turns,
    _Worker,
    as_markdown,
    chosen,
    run,
)
from benchmarks.frameworks import BACKENDS, BASE, Work, prepare, prepare_apart
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


GONE = "TotalSegmentator"
ASKED = [BASE, "ONNX Runtime CPU int8", "OpenVINO fp32"]


@pytest.fixture(scope="module")
def result(given):
    return run(given, ASKED, [1, 3], rounds=2)


def test_every_backend_is_measured_or_named(result):
    names = {row.backend for row in result.rows} | set(result.missing)
    assert names == set(ASKED)
    assert "no int8 twin" in result.missing["ONNX Runtime CPU int8"]
    keys = [(row.backend, row.batch) for row in result.rows]
    assert len(set(keys)) == len(keys)
    assert set(keys) >= {(BASE, 1), (BASE, 3)}
    (base,) = [row for row in result.rows if (row.backend, row.batch) == (BASE, 1)]
    assert base.ratio == Spread(1, 1, 1)
    assert all(row.cold_s > 0 and row.peak_gb > 0.03 for row in result.rows)


def test_labels_are_compared(result):
    for row in result.rows:
        assert row.same_labels > 0.999
        assert row.least_dsc > 0.99
        assert (row.same_labels, row.least_dsc) == (1, 1) or row.backend != BASE


def test_totalsegmentator_is_named_with_the_reason(given):
    with pytest.raises(UsageError, match="networks that it downloads"):
        BACKENDS[GONE](given, 1)


def test_the_table_names_all(result):
    text = as_markdown(result)
    assert f"| {BASE} | 3 |" in text
    assert "- ONNX Runtime CPU int8: not here:" in text


def test_a_prepared_scan_is_the_same_apart(given, tmp_path):
    apart = prepare_apart(given.work, tmp_path / "slices.npy")
    assert apart.facts() == given.facts()
    assert np.array_equal(np.load(apart.file), np.load(given.file))


def test_every_batch_size_has_a_process_of_its_own(given, monkeypatch):
    started = []

    @contextmanager
    def start(given, keys, result):
        started.append(keys)
        if (GONE, 1) in keys:
            result.missing[GONE] = "no such thing"
        held = {key: _Worker(None, 1.0, [1.0], 10**9 * len(started), [1.0], [1.0]) for key in keys}
        yield {key: worker for key, worker in held.items() if key[0] != GONE}

    told(monkeypatch, *[answer(np.ones((5, 2, 2), np.uint8))] * 8)
    monkeypatch.setattr(backends, "_started", start)
    rows = run(given, ["Keras", GONE], [4, 2], rounds=1).rows
    assert started == [
        [(BASE, 1), ("Keras", 1), (GONE, 1)],
        [(BASE, 1), (BASE, 4), ("Keras", 4)],
        [(BASE, 1), (BASE, 2), ("Keras", 2)],
    ]
    assert [(row.backend, row.batch) for row in rows] == [
        (name, batch) for batch in (1, 4, 2) for name in (BASE, "Keras")
    ]


def figures(**rows):
    """Figures of a run as JSON holds them: a ratio a backend, whose slices take ten times as many ms."""
    work = {"sha256": "1", "network": "", "images": [5, 3, 64, 64], "size": [64, 64]}
    work |= {"backends": ["base", *rows, "other"], "batches": [1, 4]}

    def row(name, ratio):
        spread = {"low": ratio * 0.98, "median": ratio, "high": ratio * 1.02}
        milliseconds = {key: value * 10 for key, value in spread.items()}
        return {"backend": name, "batch": 4, "ratio": spread, "slice_ms": milliseconds}

    made = [row(name, ratio) for name, ratio in rows.items()]
    return {"machine": {"processor": "one"}, "work": work, "rows": made, "missing": {}}


def test_a_ratio_that_got_worse_is_noticed_though_the_clock_says_nothing():
    earlier, now = figures(one=0.5, two=0.7), figures(one=0.6, two=0.7)
    now["rows"][0]["slice_ms"] = earlier["rows"][0]["slice_ms"]  # of a faster machine, or a quieter one
    lines = slower(now, earlier)
    assert lines == failures(lines) == ["slower: one, batch 4: ratio 0.5 to 0.6"]
    assert slower(earlier, now) == []
    assert slower(now, earlier, by=1.3) == []
    now["rows"][0]["ratio"]["low"] = 0.4  # within the quartiles
    assert slower(now, earlier) == []


def test_time_that_got_worse_with_that_of_the_base_is_noticed():
    earlier, now = figures(one=0.5), figures(one=0.5)
    now["rows"][0]["slice_ms"] = figures(one=0.6)["rows"][0]["slice_ms"]
    assert slower(now, earlier) == ["slower: one, batch 4: ms a slice 5 to 6"]
    earlier["machine"]["processor"] = "another"
    assert slower(now, earlier)[0] == "another machine: another"


def test_backends_that_vanished_are_named_and_fail_where_they_were_asked_for():
    earlier, now = figures(one=0.5, two=0.7, three=0.7), figures(two=0.7)
    now["work"]["backends"] = ["two", "three"]
    now["missing"] = {"three, batch 4": "the process of three ended"}
    lines = slower(now, earlier)
    assert lines == ["not asked for: one, batch 4", "gone: three, batch 4: the process of three ended"]
    assert failures(lines) == lines[1:]


@pytest.mark.parametrize("key", ["sha256", "network", "images", "size"])
def test_other_work_is_not_compared(key):
    earlier = figures(one=0.5)
    check_same(earlier, earlier["work"])
    with pytest.raises(UsageError, match="another work") as raised:
        check_same(earlier, earlier["work"] | {key: "something else"})
    assert "something else" in raised.value.expected
    assert raised.value.fix


def test_what_is_compared_with_is_read_before_anything_is_measured(
    given, result, tmp_path, monkeypatch, capsys
):
    def measure(*_):
        raise AssertionError("measured first")

    monkeypatch.setattr(backends, "run", measure)
    work, file = given.work, tmp_path / "backends.json"
    command = ["bench", work.model, "--scan", work.scan, "--slices", "5", "--against", str(file)]
    assert lls(command) == 2
    assert "cannot be read" in capsys.readouterr().err
    for text in (
        "[]",
        "{",
        "{}",
        json.dumps(figures() | {"work": {}}),
        json.dumps(figures() | {"rows": [1]}),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match="holds no figures"):
            read_earlier(file)
    made = json.loads(json.dumps(asdict(result)))
    file.write_text(json.dumps(made | {"work": made["work"] | {"sha256": "another"}}))
    assert lls(command) == 2
    assert "the earlier run had another work: the model's sha256 'another'" in capsys.readouterr().err
    file.write_text(json.dumps(made))
    assert read_earlier(file) == made
    monkeypatch.setattr(backends, "run", lambda *_: result)
    assert lls(command) == 0
    assert "nothing got slower" in capsys.readouterr().out
    slow = replace(result.rows[0], slice_ms=Spread(1e6, 1e6, 1e6))
    monkeypatch.setattr(backends, "run", lambda *_: replace(result, rows=[slow, *result.rows[1:]]))
    assert lls(command) == 8  # another one than any error's
    assert f"slower: {BASE}, batch 1: ms a slice" in capsys.readouterr().out


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
        monkeypatch.setattr(frameworks, name, refuse)
    here, there = Pipe()
    process = Thread(target=_serve, args=(there, "OpenVINO fp32", given, 2))
    process.start()
    assert set(here.recv()) == {"cold_s"}
    here.send(True)
    assert here.recv()["labels"].shape == (5, *given.size)
    here.close()
    process.join()


def told(monkeypatch, *rounds):
    """Let each worker of ``{BASE} 1`` and another one say these labels, one round after the other."""
    answers = iter(rounds)
    monkeypatch.setattr(backends, "_answer", lambda *_, **__: next(answers))


def answer(labels, seconds=3.0):
    return {"seconds": seconds, "labels": labels, "peak": 2_000_000_000}


def test_time_is_that_of_a_slice_computed(monkeypatch):
    told(monkeypatch, *[answer(np.ones((5, 2, 2), np.uint8))] * 2)
    workers = {(BASE, 1): _Worker(None, 0.5), ("x", 3): _Worker(None, 1.5)}
    base, other = _take_turns(workers, Result({}, {}), 1, 1).values()
    assert base == Row(BASE, 1, Spread(600, 600, 600), Spread(1, 1, 1), 0.5, 2.0, 1.0, 1.0)  # of five
    assert (other.slice_ms.median, other.ratio.median) == (500.0, pytest.approx(5 / 6))  # of twice three


@pytest.mark.parametrize("wrong_round", [0, 1])
def test_a_bone_that_is_lost_in_any_round_is_told_though_hardly_a_pixel_differs(monkeypatch, wrong_round):
    base = np.zeros((5, 100, 100), np.uint8)
    base[0, :50, :50], base[0, 60:64, 60] = 1, 2
    lost = np.where(base == 2, 0, base).astype(np.uint8)
    rounds = [answer(base), answer(base)] * 2
    rounds[2 * wrong_round + 1] = answer(lost)
    told(monkeypatch, *rounds)
    workers = {(BASE, 1): _Worker(None, 1), ("x", 1): _Worker(None, 1)}
    row = _take_turns(workers, Result({}, {}), 2, 4)["x", 1]
    assert row.same_labels == pytest.approx(1 - 4 / 50000)
    assert row.least_dsc == 0
    machine = {"processor": "", "cores": 1}
    table = as_markdown(Result(machine, {"slices": 5, "rounds": 2}, [row]))
    assert "| 99.9920% | 0.0000 |" in table


def test_other_weights_have_no_labels_to_compare(monkeypatch):
    (name,) = frameworks.OTHER_WEIGHTS
    told(monkeypatch, *[answer(np.zeros((1, 2, 2), np.uint8))] * 2)
    base, row = _take_turns(
        {(BASE, 1): _Worker(None, 1), (name, 1): _Worker(None, 1)}, Result({}, {}), 1, 4
    ).values()
    assert (row.same_labels, row.least_dsc) == (None, None)
    assert (base.same_labels, base.least_dsc) == (1.0, None)  # there is no bone


def test_a_process_that_ended_is_named_and_the_base_is_an_error():
    result = Result({}, {})
    for batch, ask in ((1, False), (4, True)):
        here, there = Pipe()
        there.close()
        assert _answer(here, ("PyTorch eager", batch), result, ask) == {}
        with pytest.raises(LlsError, match="ended"):
            _answer(here, (BASE, batch), result, ask)
    ended = "the process of PyTorch eager ended"
    assert result.missing == {"PyTorch eager": ended, "PyTorch eager, batch 4": ended}
    here, there = Pipe()
    there.send({"missing": ModelError("no model", "one")})
    with pytest.raises(ModelError, match="no model"):
        _answer(here, (BASE, 1), result)


def test_nnunets_own_predictor_finds_the_same_classes(given, monkeypatch, capsys):
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    pytest.importorskip("nnunetv2", reason="nnunetv2 is in the extra dev")
    images = np.load(given.file)
    channels, classes = images.shape[1], len(given.spec.classes) + 1
    network = torch.nn.Conv2d(channels, classes, 3, padding=1)
    monkeypatch.setattr(frameworks, "_torch_network", lambda _: network)
    found = BACKENDS["nnU-Net's predictor"](given, 2)(images[:2])
    assert found.shape == (2, *given.size)
    plain = BACKENDS["PyTorch eager"](given, 2)(images[:2])
    assert len(np.unique(plain)) > 1
    assert (found == plain).mean() > 0.99  # logits are added in half precision
    assert capsys.readouterr().out == ""


def test_a_scan_or_network_that_cannot_be_measured_has_its_exit_code(
    make_onnx, make_spec, tmp_path, work, capsys
):
    assert lls(["bench", work.model, "--scan", str(tmp_path / "none")]) == 3
    assert lls(["bench", str(tmp_path / "none.onnx"), "--scan", work.scan]) == 5
    patches = tmp_path / "patches.onnx"
    patches.write_bytes(make_onnx(make_spec(patch=(8, 8, 8))))
    assert lls(["bench", str(patches), "--scan", work.scan]) == 2
    assert "a network of patches" in capsys.readouterr().err
