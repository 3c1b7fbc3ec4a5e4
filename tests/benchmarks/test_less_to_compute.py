import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import less_to_compute
from benchmarks.accuracy import configurations
from benchmarks.less_to_compute import drawn, main
from seg_core.errors import UsageError
from seg_core.geometry import LabelMap
from seg_core.labels import BONES, IGNORED, plain_labels
from seg_core.nifti import write_label_table, write_labels, write_volume


def test_it_says_what_views_bring_and_that_labels_stay(make_legs, make_spec, make_onnx, tmp_path, capsys):
    from seg_core.model_spec import Grid

    model = tmp_path / "tiny.onnx"
    model.write_bytes(make_onnx(make_spec(grid=Grid("size", (64, 64), multiple=8))))
    scan, truth = make_legs((128, 128, 200), (4.0, 4.0, 5.0))
    write_volume(tmp_path / "legs.nii.gz", scan)
    write_labels(tmp_path / "labels.nii.gz", truth)
    write_label_table(tmp_path / "labels.json", truth.labels)
    assert (
        main([str(tmp_path / "legs.nii.gz"), "--model", str(model), "--json", str(tmp_path / "out.json")])
        == 0
    )
    (less,) = json.loads((tmp_path / "out.json").read_text())
    assert 0 < less["share"] < 0.75
    assert len(less["dsc"]) == 8
    assert set(less["dsc"].values()) == {1.0}
    assert set(less["change"].values()) == {0.0}
    assert "against the truth +0.0000 to +0.0000" in capsys.readouterr().out


def test_the_first_runs_count_nowhere_and_each_begins_every_second_time(legs, monkeypatch):
    order = []

    def segment(volume, runner, options):
        order.append(options.whole_frame)
        seconds = 100.0 if len(order) < 3 else 4.0 if options.whole_frame else 1.0
        times = dict.fromkeys(("range", "views", "infer"), seconds)
        return SimpleNamespace(seconds=times, labels=legs[1], share=0.5)

    monkeypatch.setattr(less_to_compute, "segment", segment)
    monkeypatch.setattr(less_to_compute, "read_scan", lambda path: SimpleNamespace(volume=None))
    found = less_to_compute.compare(less_to_compute.Path("scan"), None, 2)
    assert order == [True, False, False, True, True, False]
    assert found.time == 0.25


def test_views_are_compared_with_the_truth_too(monkeypatch, legs, tmp_path):
    truth = legs[1]
    less = LabelMap(np.where(truth.array == 1, 0, truth.array).astype(np.uint8), truth.geometry, truth.labels)
    write_labels(tmp_path / "labels.nii.gz", truth)
    write_label_table(tmp_path / "labels.json", truth.labels)

    def segment(volume, runner, options):
        labels = truth if options.whole_frame else less
        return SimpleNamespace(
            seconds=dict.fromkeys(("range", "views", "infer"), 1.0), labels=labels, share=1
        )

    monkeypatch.setattr(less_to_compute, "segment", segment)
    monkeypatch.setattr(less_to_compute, "read_scan", lambda path: SimpleNamespace(volume=None))
    found = less_to_compute.compare(tmp_path / "dicom", None)
    assert found.change["right_tibia"] == -1
    assert found.change["left_tibia"] == 0


def test_a_bone_that_one_of_the_two_invents_counts_and_other_names_do_not(legs):
    truth = legs[1]
    bare = replace(truth, array=np.where(truth.array == 3, 0, truth.array).astype(np.uint8))
    assert less_to_compute._change(truth, bare, bare)["right_fibula"] == -1  # views invent one
    assert less_to_compute._change(bare, truth, bare)["right_fibula"] == 1
    unsided = replace(truth, labels=plain_labels(BONES), array=(truth.array > 0).astype(np.uint8))
    assert less_to_compute._change(unsided, unsided, truth) == {}
    doubtful = truth.array.copy()
    doubtful[truth.array == 3] = IGNORED
    assert less_to_compute._change(truth, bare, replace(truth, array=doubtful)).get("right_fibula") is None


@pytest.mark.parametrize(
    ("precision", "dsc", "code"), [("int8", 0.9985, 1), ("int8", 0.9991, 0), ("fp32", 0.9985, 1)]
)
def test_8_bits_are_held_to_the_same_limit(monkeypatch, capsys, precision, dsc, code):
    runner = SimpleNamespace(name="a network", precision=precision)
    monkeypatch.setattr(less_to_compute, "Runner", lambda *_, **__: runner)
    found = less_to_compute.Less("scan", 0.5, 0.5, {"fibula": dsc, "tibia": 1.0})
    monkeypatch.setattr(less_to_compute, "compare", lambda *_: found)
    assert main(["scan"]) == code
    assert "at least 0.999\n" in capsys.readouterr().out


def test_a_kept_scan_is_the_one_that_is_asked_for(tmp_path):
    asked, other = list(configurations("ordinary"))[:2]
    scan = tmp_path / "ordinary-0"
    scan.mkdir()
    (scan / "phantom.json").write_text(json.dumps({"config": asdict(asked)}))
    assert next(drawn(tmp_path)) == scan / "dicom"
    (scan / "phantom.json").write_text(json.dumps({"config": asdict(other)}))
    with pytest.raises(UsageError, match="ordinary-0 holds another scan"):
        next(drawn(tmp_path))
