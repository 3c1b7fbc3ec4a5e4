import numpy as np
import pytest

from benchmarks.starting import FIRST, HELP, LIMITS, SECOND, actions, more
from benchmarks.timing import Spread, Timings


def test_the_second_run_finds_the_kernels_of_the_first(tmp_path, tiny_model):
    made = actions(tmp_path, str(tiny_model))
    assert {name for pair in LIMITS.items() for name in (pair[0], pair[1][0])} <= made.keys()
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
