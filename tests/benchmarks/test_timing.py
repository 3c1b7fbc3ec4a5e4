import numpy as np
import pytest

from benchmarks.timing import Spread, Timings, machine, take_turns


def test_actions_take_turns_and_each_begins_a_round():
    calls = []
    actions = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = take_turns(actions, rounds=4, at_least=0)
    assert "".join(calls) == "aabbcc" + "abc" + "bca" + "cab" + "abc"
    assert {name: taken.shape for name, taken in timings.seconds.items()} == dict.fromkeys("abc", (4,))
    assert all((taken >= 0).all() for taken in timings.seconds.values())


def test_a_slow_action_is_measured_in_the_first_round_alone():
    timings = take_turns({"quick": lambda: None, "slow": lambda: sum(range(1000))}, 3, at_least=0, slow=0)
    assert [len(taken) for taken in timings.seconds.values()] == [1, 1]
    timings = Timings({"quick": np.array([1.0, 9.0]), "slow": np.array([5.0])})
    assert timings.ratio("slow", "quick") == Spread(5.0, 5.0, 5.0)


def test_ratios_compare_within_a_round():
    timings = Timings({"ours": np.array([1.0, 10.0, 2.0]), "peer": np.array([3.0, 30.0, 5.0])})
    assert timings.ratio("peer", "ours") == Spread(2.75, 3.0, 3.0)
    assert timings.spread("ours").median == 2.0
    assert timings.as_json()["peer"] == {"low": 4.0, "median": 5.0, "high": 17.5, "least": 3.0}


def test_an_action_that_fails_is_not_measured():
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        take_turns({"fail": fail})


def test_the_machine_names_versions_and_what_is_missing():
    found = machine("numpy", "no-such-package")
    assert found["packages"] == {"numpy": np.__version__, "no-such-package": None}
    assert found["cores"] >= 1
    assert found["memory_gb"] >= 1
    assert found["processor"]
