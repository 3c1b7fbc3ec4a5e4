import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import starting
from benchmarks.starting import CORE, EMBED, FIRST, HELP, LIMITS, NUMPY, PYTHON, SECOND, actions, more
from benchmarks.timing import Spread, Timings


def test_the_second_run_finds_the_kernels_of_the_first(tmp_path, tiny_model):
    made = actions(tmp_path, str(tiny_model))
    assert {name for pair in LIMITS.items() for name in (pair[0], pair[1][0]) if name} <= made.keys()
    made[HELP]()
    made[FIRST]()
    assert not (tmp_path / "kernels").exists()
    made[SECOND]()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kernels").rglob("*.nbc")}
    assert kept
    made[SECOND]()
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "kernels").rglob("*.nbc")}


def test_a_failure_gives_no_figure(tmp_path):
    with pytest.raises(Exception, match="returned non-zero exit status 5"):
        actions(tmp_path, str(tmp_path / "none.onnx"))[SECOND]()


def test_what_one_takes_more_than_another_is_of_the_same_round():
    timings = Timings({"a": np.array([1.0, 12.0, 3.0]), "b": np.array([0.5, 10.0, 2.0])})
    assert more(timings, "a", "b") == Spread(0.75, 1.0, 1.5)
    assert more(timings, "a", None) == timings.spread("a")


def test_what_the_readmes_program_imports_is_measured(tmp_path, tiny_model, monkeypatch, capsys):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert set(re.findall(r"^from (\S+) import", code, re.MULTILINE)) == set(
        EMBED.removeprefix("import ").split(", ")
    )
    made = actions(tmp_path, str(tiny_model))
    made[EMBED]()
    taken(monkeypatch, dict.fromkeys(made, 0.2))
    assert starting.main([]) == 0
    printed = capsys.readouterr().out
    assert f"| {EMBED} | 0.20 | import numpy | 0.00 (0.00 to 0.00) |  |" in printed
    assert f"| {HELP} | 0.20 | nothing: in all | 0.20 (0.20 to 0.20) | 0.25 |" in printed


def taken(monkeypatch, seconds):
    timings = Timings({name: np.array([value]) for name, value in seconds.items()})
    monkeypatch.setattr(starting, "take_turns", lambda *_, **__: timings)


@pytest.mark.parametrize(
    ("name", "seconds", "code"),
    [
        (HELP, 0.26, 1),  # in all, however long Python itself takes
        (FIRST, 5.19, 0),
        (FIRST, 5.21, 1),
        (CORE, 0.26, 1),
        (EMBED, 60.0, 0),
    ],
)
def test_beyond_a_limit_is_a_failure(monkeypatch, capsys, name, seconds, code):
    names = (PYTHON, NUMPY, CORE, HELP, EMBED, FIRST, SECOND)
    taken(monkeypatch, dict.fromkeys(names, 0.2) | {name: seconds})
    assert starting.main([]) == code
    assert (f"beyond its limit: {name}\n" == capsys.readouterr().err) == bool(code)
