"""From phantoms to a table, by the commands of a user; small."""

import json

import numpy as np

from benchmarks import own_network
from benchmarks.report.sheet import SMOKE
from seg_core.metrics import Scores


def test_it_goes_from_phantoms_to_scores_and_is_done_once(tmp_path, capfd):
    arguments = ["-o", str(tmp_path), "--smoke", "--trainer", "torch"]
    assert own_network.main(arguments) == 0
    text = (tmp_path / "own-network-smoke.md").read_text()
    out = capfd.readouterr().out
    assert text in out
    assert text.startswith(SMOKE)
    assert len(json.loads((tmp_path / "own-network-smoke.json").read_text())["torch"]) == 1
    assert "lls phantom" in out
    assert "lls segment" in out
    assert own_network.main(arguments) == 0
    out = capfd.readouterr().out
    assert text in out
    assert "lls phantom" not in out
    assert "lls segment" not in out


def test_a_command_that_fails_ends_it_with_its_exit_code(tmp_path):
    (tmp_path / "data").write_text("no folder")
    assert own_network.main(["-o", str(tmp_path), "--smoke", "--trainer", "nobody"]) != 0
    assert not (tmp_path / "own-network-smoke.md").exists()


def test_a_row_is_the_mean_over_scans_and_sides():
    def scores(dsc):
        return Scores(*([np.array(dsc)] * len(Scores.__dataclass_fields__)))

    results = {"torch": [scores([0.9, 0.8, 0.7, 0.6, 0.7, 0.6, 0.5, np.nan]), scores([0.8] * 8)]}
    assert list(own_network.rows(results))[2] == (
        "| torch | 0.800 ± 0.071 | 0.750 ± 0.087 | 0.700 ± 0.122 | 0.733 ± 0.094 | 0.746 | 0.85 |"
    )
