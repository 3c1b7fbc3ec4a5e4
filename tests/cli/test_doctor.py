import json
from importlib import metadata
from types import SimpleNamespace

import onnxruntime

from cli.main import run


def test_it_says_what_runs_and_what_is_taken(tiny_model, capsys):
    assert run(["doctor", str(tiny_model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    choices = {(c["device"], c["precision"]): c for c in found["choices"]}
    assert choices["cpu", "fp32"]["possible"]
    assert not choices["cpu", "int8"]["possible"]
    assert "no int8 twin" in choices["cpu", "int8"]["detail"]
    assert found["taken"][:2] == ["cpu", "fp32"]
    assert "no int8 twin" in found["taken"][2]
    offered = onnxruntime.get_available_providers()
    assert choices["cuda", "fp32"]["possible"] <= ("CUDAExecutionProvider" in offered)
    assert found["problems"] == []


def test_in_words(tiny_model, capsys):
    assert run(["doctor", str(tiny_model)]) == 0
    text = capsys.readouterr().out
    assert "auto takes cpu in fp32" in text
    assert "onnxruntime" in text


def test_packages_that_overwrite_each_other_are_named(tiny_model, capsys, monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(version="1.2"))
    assert run(["doctor", str(tiny_model)]) == 6
    output = capsys.readouterr()
    assert "onnxruntime-gpu 1.2" in output.out
    assert "pip uninstall" in output.err
    assert "auto takes" not in output.out


def test_no_model(capsys):
    from cli.main import run

    assert run(["doctor", "nowhere.onnx"]) == 5
    assert "cannot be read" in capsys.readouterr().err
