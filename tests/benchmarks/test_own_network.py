"""From phantoms to a table, by the commands of a user; small."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks import own_network
from benchmarks.report.sheet import SMOKE
from seg_core.errors import UsageError
from seg_core.metrics import Scores
from seg_core.nifti import write_label_table, write_labels
from trainers.phantom import PhantomConfig


def scores(dsc):
    return Scores(*([np.array(dsc)] * len(Scores.__dataclass_fields__)))


def test_each_trainer_goes_from_phantoms_to_scores_and_is_done_once(tmp_path, capfd):
    arguments = ["-o", str(tmp_path), "--smoke"]
    assert own_network.main(arguments) == 0
    text = (tmp_path / "own-network-smoke.md").read_text(encoding="utf-8")
    out = capfd.readouterr().out
    assert text in out
    assert text.startswith(SMOKE)
    found = json.loads((tmp_path / "own-network-smoke.json").read_text())
    assert {trainer: [len(dsc) for dsc in scans] for trainer, scans in found.items()} == {
        "torch": [8],
        "keras": [8],
    }
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"smoke"}
    assert out.count("lls phantom") == 2
    assert out.count("lls segment") == 2
    assert own_network.main([*arguments, "--trainer", "torch"]) == 0
    out = capfd.readouterr().out
    assert next(line for line in text.splitlines() if line.startswith("| torch")) in out
    assert "lls phantom" not in out
    assert "lls segment" not in out


def test_a_command_that_fails_ends_it_with_its_exit_code(tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "data").write_text("no folder")
    assert own_network.main(["-o", str(tmp_path), "--smoke", "--trainer", "nobody"]) != 0
    assert not (tmp_path / "own-network-smoke.md").exists()


@pytest.mark.parametrize(
    ("dsc", "smoke", "code"), [((0.86, 0.85), False, 0), ((0.9, 0.84), False, 1), ((0.1, 0.1), True, 0)]
)
def test_less_than_was_wanted_is_a_failure(dsc, smoke, code, tmp_path, monkeypatch):
    models = dict(zip(own_network.TRAINERS, dsc, strict=True))
    monkeypatch.setattr(own_network, "make_networks", lambda setting: models)
    monkeypatch.setattr(own_network, "scored", lambda setting, model: [scores([model] * 8)] * 2)
    assert own_network.main(["-o", str(tmp_path), *["--smoke"] * smoke]) == code
    text = (tmp_path / f"own-network{'-smoke' * smoke}.md").read_text(encoding="utf-8")
    assert f"| {dsc[1]:.3f} | 0.85 |" in text


def test_another_scan_is_not_taken_for_the_one_that_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(own_network, "lls", lambda *arguments, **options: None)
    person = tmp_path / "smoke" / "people" / "person1"
    other = PhantomConfig(seed=own_network.FIRST_SEED + 1, size=64, pixel_mm=7.5, slice_mm=20.0)
    (tmp_path / "ordinary" / "subject23-122cm").mkdir(parents=True)
    person.mkdir(parents=True)
    for folder in (person, tmp_path / "ordinary" / "subject23-122cm"):
        (folder / "phantom.json").write_text(json.dumps({"config": asdict(other)}))
    assert own_network.main(["-o", str(tmp_path), "--smoke"]) == 2
    assert "person1 holds another scan" in capsys.readouterr().err
    with pytest.raises(UsageError, match="subject23-122cm holds another scan"):
        list(own_network.unseen_scans(own_network.Setting(tmp_path)))


def test_a_row_is_the_mean_over_scans_and_sides():
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
        (found,) = own_network.scored(setting, model)
        assert np.nanmin(found.dsc) == 1
    assert done == ["segment", "segment"]
