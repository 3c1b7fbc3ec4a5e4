import pytest

from benchmarks import accuracy, less_to_compute, never_seen, whole_job
from benchmarks.command import command, parser_of, write_figures
from benchmarks.degradations import __main__ as degradations
from benchmarks.real_legs import __main__ as real_legs
from seg_core.errors import ScanError


def test_help_is_the_modules_words_as_they_stand():
    words = "What it measures.\n\n    python -m benchmarks.some --json FILE\n\nMore."
    text = parser_of(words, "benchmarks.some").format_help()
    assert words in text
    assert text.startswith("usage: python -m benchmarks.some")


def test_figures_are_written_where_a_file_is_named(tmp_path, read_json):
    write_figures(None, {"dsc": 0.9})
    assert not list(tmp_path.iterdir())
    write_figures(tmp_path / "figures.json", {"dsc": 0.9})
    assert read_json(tmp_path / "figures.json") == {"dsc": 0.9}


def test_an_error_of_ours_is_told_and_others_are_not(capsys):
    def fail(error):
        raise error

    assert command(lambda: None)() == 0
    assert command(lambda: 1)() == 1
    assert command(fail)(ScanError("no scan", "one")) == 3
    assert capsys.readouterr().err == "error: no scan\nexpected: one\n"
    with pytest.raises(ZeroDivisionError):
        command(fail)(ZeroDivisionError())


@pytest.mark.parametrize("module", [accuracy, never_seen, real_legs, less_to_compute])
def test_a_precision_that_is_not_there_is_said(module, tmp_path, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(never_seen, "make", lambda *_: None)
    place = ["--data" if module is real_legs else "--scans", str(tmp_path)]
    assert module.main([*place, "--model", str(tiny_model), "--precision", "fp16"]) == 5
    assert "there is no fp16 twin" in capsys.readouterr().err


@pytest.mark.parametrize("module", [degradations, whole_job])
def test_a_model_that_is_not_there_is_said(module, tmp_path, capsys):
    place = ["-o", str(tmp_path)] if module is degradations else ["--scan", str(tmp_path)]
    assert module.main([*place, "--model", str(tmp_path / "none.onnx")]) == 5
    assert "error: " in capsys.readouterr().err
