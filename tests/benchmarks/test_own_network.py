"""From phantoms to a table, by the commands of a user; small."""

import json
import shutil

import numpy as np

from benchmarks import own_network
from benchmarks.report.sheet import SMOKE
from seg_core.metrics import Scores
from seg_core.nifti import write_label_table, write_labels


def test_it_goes_from_phantoms_to_scores_and_is_done_once(tmp_path, capfd):
    arguments = ["-o", str(tmp_path), "--smoke", "--trainer", "torch"]
    assert own_network.main(arguments) == 0
    text = (tmp_path / "own-network-smoke.md").read_text()
    out = capfd.readouterr().out
    assert text in out
    assert text.startswith(SMOKE)
    assert len(json.loads((tmp_path / "own-network-smoke.json").read_text())["torch"]) == 1
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"smoke"}
    assert "lls phantom" in out
    assert "lls segment" in out
    assert own_network.main(arguments) == 0
    out = capfd.readouterr().out
    assert text in out
    assert "lls phantom" not in out
    assert "lls segment" not in out


def test_a_command_that_fails_ends_it_with_its_exit_code(tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "data").write_text("no folder")
    assert own_network.main(["-o", str(tmp_path), "--smoke", "--trainer", "nobody"]) != 0
    assert not (tmp_path / "own-network-smoke.md").exists()


def test_a_row_is_the_mean_over_scans_and_sides():
    def scores(dsc):
        return Scores(*([np.array(dsc)] * len(Scores.__dataclass_fields__)))

    results = {"torch": [scores([0.9, 0.8, 0.7, 0.6, 0.7, 0.6, 0.5, np.nan]), scores([0.8] * 8)]}
    assert list(own_network.rows(results))[2] == (
        "| torch | 0.800 ± 0.082 | 0.750 ± 0.100 | 0.700 ± 0.141 | 0.733 ± 0.115 | 0.746 | 0.85 |"
    )


def test_a_network_that_was_trained_again_is_scored_again(tmp_path, legs, monkeypatch):
    setting, model, done = own_network.Setting(tmp_path, smoke=True), tmp_path / "torch.onnx", []
    person = setting.home / "people" / "person2"
    person.mkdir(parents=True)
    write_labels(person / "labels.nii.gz", legs[1])
    write_label_table(person / "labels.json", legs[1].labels)

    def lls(command, scan, option, folder, *rest):
        done.append(command)
        folder.mkdir(parents=True)
        for end in (".nii.gz", ".json"):
            shutil.copy(person / f"labels{end}", folder / f"scan_dseg{end}")

    monkeypatch.setattr(own_network, "lls", lls)
    for content in (b"first", b"first", b"second"):
        model.write_bytes(content)
        (scores,) = own_network.scored(setting, model)
        assert np.nanmin(scores.dsc) == 1
    assert done == ["segment", "segment"]
