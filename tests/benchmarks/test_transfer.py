"""The smoke setting, with networks of a few weights."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import never_seen, transfer
from benchmarks.report.sheet import SMOKE
from benchmarks.report.study import Setting, Study
from benchmarks.report.table4 import SECOND
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


def test_scores_are_kept_for_the_file_that_runs(tmp_path, monkeypatch):
    """A twin is taken for the file of the same name, and labels otherwise."""
    study, fingerprints = Study("4", Setting(tmp_path, subjects=1), SECOND), iter("aab")
    done = []

    def score(name, runner, folder):
        done.append(runner.fingerprint[0])
        return never_seen.Score(name, "one", [0.5], [1.0], [1.0], 0.5)

    monkeypatch.setattr(
        transfer, "Runner", lambda model: SimpleNamespace(fingerprint=64 * next(fingerprints))
    )
    monkeypatch.setattr(transfer, "score", score)
    monkeypatch.setattr(transfer, "scan", lambda person, folder: folder)
    for _ in range(3):
        transfer.scored("a name", tmp_path / "same.onnx", study)
    assert done == ["a", "b"]
