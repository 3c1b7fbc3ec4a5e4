"""The smoke setting, with networks of a few weights."""

import pytest
import torch

from benchmarks import never_seen, transfer
from benchmarks.report.sheet import SMOKE
from trainers.torch import engine
from trainers.torch.baseline import BaselineUNet


@pytest.fixture
def counted(monkeypatch):
    """Make the trained network tiny; count steps and segmented scans."""
    done, learn, threads = {"steps": 0, "scans": 0}, engine.TorchEngine.step, torch.get_num_threads()

    def step(self, *arguments):
        done["steps"] += 1
        return learn(self, *arguments)

    def score(*arguments):
        done["scans"] += 1
        return never_seen.score(*arguments)

    monkeypatch.setattr(engine, "build_network", lambda name, c, n, *_: BaselineUNet(c, n, (2, 4)))
    monkeypatch.setattr(engine.TorchEngine, "step", step)
    monkeypatch.setattr(transfer, "score", score)
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)
    torch.set_num_threads(1)
    yield done
    torch.set_num_threads(threads)


def test_both_networks_are_scored_and_once(tiny_model, counted, tmp_path, capsys):
    arguments = ["-o", str(tmp_path), "--model", str(tiny_model), "--smoke", "--device", "cpu"]
    assert transfer.main(arguments) == 0
    assert counted["steps"] > 0
    assert counted["scans"] == 2 * 4
    text = (tmp_path / "transfer-smoke.md").read_text()
    assert text in capsys.readouterr().out
    assert SMOKE in text
    assert "3 people of the first population taught it" in text
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| " in line
    ]
    assert [row[0] for row in rows[1:]] == 5 * [transfer.ONLY_FIRST] + 5 * [transfer.BUNDLED]
    assert [row[5] for row in rows[1:5]] == ["0.23", "0.32", "0.08", "0.03"]
    counted.update(steps=0, scans=0)
    assert transfer.main(arguments) == 0
    assert counted == {"steps": 0, "scans": 0}
    assert (tmp_path / "transfer-smoke.md").read_text() == text


def test_rows_are_means_over_people_and_sides():
    nan = float("nan")
    dsc = [[0.9, 0.8, 0.7, 0.6, 0.7, 0.6, 0.5, 0.4], [0.8] * 8]
    scores = [
        never_seen.Score("x", str(n), values, [1.0] * 7 + [nan], [2.0] * 8, 0.9)
        for n, values in enumerate(dsc)
    ]
    lines = list(transfer.rows(transfer.ONLY_FIRST, scores))
    assert lines[0] == "| first population only | tibia | 0.800 ± 0.082 | 1.0 ± 0.0 | 2.0 ± 0.0 | 0.23 |"
    assert "| pelvis | 0.650 ± 0.191 | 1.0 ± 0.0 (2 none) |" in lines[3]
    assert lines[4].startswith("| first population only | any bone | 0.900 |")
    assert next(transfer.rows(transfer.BUNDLED, scores)).endswith("|  |")
