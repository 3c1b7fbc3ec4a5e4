import json

import pytest

from benchmarks.kernels.__main__ import ROWS, main
from benchmarks.kernels.row import Figures, Goal, Peers, Row, measure

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the peers


@pytest.mark.parametrize("name", ROWS)
def test_a_row_runs_and_its_answers_are_equal(name, tmp_path, capsys):
    assert main([name, "--small", "--rounds", "1", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    printed = capsys.readouterr().out
    assert figures["rows"]
    for row in figures["rows"]:
        assert row["agreed"] in printed
        assert row["share"][1] > 0
        assert f"| {row['name']} |" in printed
    assert figures["machine"]["cores"] >= 1


def test_a_row_that_is_not_there():
    with pytest.raises(SystemExit):
        main(["nothing"])


def test_a_row_without_any_peer_is_not_measured(monkeypatch, capsys):
    def gone():
        raise ImportError

    monkeypatch.setattr("benchmarks.kernels.denoise.PIECES", {"one": gone, "another": gone})
    monkeypatch.setattr("benchmarks.kernels.denoise.HOLES", {"one": gone})
    assert main(["denoise", "--small", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "### denoise pieces: not measured, without one, another" in printed
    assert "### denoise holes: not measured, without one" in printed


def row(ours=lambda: 1, peer=lambda: 1):
    def agree(answers):
        assert len(set(answers.values())) == 1, answers
        return "All equal."

    peers = Peers()
    peers.add("peer", lambda: peer)
    peers.add("missing", lambda: __import__("no_such_package"))
    return Row("row", "nothing", ours, Goal(0.5), peers, agree)


def test_another_answer_is_no_figure():
    with pytest.raises(AssertionError, match="peer"):
        measure(row(peer=lambda: 2), 1)


def test_a_missing_peer_is_named():
    figures = measure(row(), 1)
    assert isinstance(figures, Figures)
    assert figures.as_json()["missing"] == ["missing"]
    assert "| missing | not installed | |" in figures.as_markdown()
