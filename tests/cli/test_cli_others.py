import csv
import json
import sys

import nibabel
import numpy as np
import pytest

from cli.console import JsonProgress, Progress, table
from seg_core.geometry import Geometry, LabelMap
from seg_core.labels import BONES, sided_labels
from seg_core.nifti import write_label_table, write_labels


def test_inspect_says_what_is_taken(lls, scan, dicom):
    code, out, _ = lls("inspect", dicom)
    assert code == 0
    assert "taken: 1 (the only series)" in out
    assert "64 x 64 x 40" in out
    code, out, _ = lls("inspect", scan, "--json")
    found = json.loads(out)
    assert (code, found["kind"], found["taken"]) == (0, "nifti", 1)
    assert found["series"][0]["orientation"] == "LPS"


def test_inspect_of_two_series_and_of_the_slices_order(lls, dicom, legs, tmp_path):
    from seg_core.geometry import Volume
    from seg_core.nifti import write_volume
    from trainers.dicom_writer import SeriesInfo, write_series

    volume = Volume(legs[0].array.astype(np.int16), legs[0].geometry)
    fat = SeriesInfo("legs", number=2, description="t1 dixon fat", image_type=("ORIGINAL", "PRIMARY", "FAT"))
    write_series(dicom, volume, fat)
    (dicom / "notes.txt").write_text("not an image")
    out = lls("inspect", dicom)[1]
    assert "> 1   t1 dixon axial water" in out
    assert "  2   t1 dixon fat" in out
    assert "taken: 1 (the water series among 2 stacks)" in out
    assert "passed over: 1 file\n" in out
    assert "as --hip-slice counts: 0 (feet) to 39 (head)" in out
    turned = np.diag([1.0, 1.0, -1.0, 1.0])
    turned[2, 3] = 39
    upside_down = Volume(legs[0].array[:, :, ::-1], Geometry((64, 64, 40), legs[0].geometry.affine @ turned))
    write_volume(tmp_path / "down.nii.gz", upside_down)
    assert "as --hip-slice counts: 0 (head) to 39 (feet)" in lls("inspect", tmp_path / "down.nii.gz")[1]


def test_inspect_says_where_series_of_one_description_lie(lls, dicom, legs, tmp_path):
    from seg_core.geometry import Volume
    from trainers.dicom_writer import SeriesInfo, write_series

    volume = Volume(
        legs[0].array[:, :, :20].astype(np.int16), legs[0].geometry.window((0, 0, 0), (64, 64, 20))
    )
    assert "(in " not in lls("inspect", dicom)[1]
    for place in ("late", "later/still"):
        write_series(dicom / place, volume, SeriesInfo("legs", number=2 + len(place)))
    out = lls("inspect", dicom)[1]
    assert "t1 dixon axial water (in late)" in out
    assert "t1 dixon axial water (in later/still)" in out
    assert "t1 dixon axial water (in .)" in out
    folders = [entry["folder"] for entry in json.loads(lls("inspect", dicom, "--json")[1])["series"]]
    assert sorted(folders) == [".", "late", "later/still"]


def test_inspect_says_why_none_is_taken(lls, dicom, legs):
    from seg_core.geometry import Volume
    from trainers.dicom_writer import SeriesInfo, write_series

    volume = Volume(legs[0].array.astype(np.int16), legs[0].geometry)
    write_series(dicom, volume, SeriesInfo("legs", number=2))
    code, out, err = lls("inspect", dicom)
    assert (code, err) == (0, "")
    assert "none is taken" in out
    assert "--series" in out
    assert json.loads(lls("inspect", dicom, "--json")[1])["taken"] is None
    assert lls("inspect", dicom, "--series", "2")[1].count("taken: 2") == 1


def test_convert_keeps_values_and_place(lls, dicom, legs, tmp_path):
    code, out, _ = lls("convert", dicom, "-o", tmp_path / "leg.nii.gz")
    assert code == 0
    assert "64 x 64 x 40" in out
    image = nibabel.load(tmp_path / "leg.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), legs[0].array)
    np.testing.assert_allclose(image.affine, legs[0].geometry.affine, atol=1e-4)


def test_convert_makes_the_folder_and_leaves_none_that_it_does_not_need(lls, scan, tmp_path):
    assert lls("convert", scan, "-o", tmp_path / "a" / "b" / "leg.nii")[0] == 0
    assert nibabel.load(tmp_path / "a" / "b" / "leg.nii").shape == (64, 64, 40)
    assert lls("convert", tmp_path / "none", "-o", tmp_path / "c" / "leg.nii")[0] == 3
    assert not (tmp_path / "c").exists()
    (tmp_path / "file").write_text("mine")
    assert lls("convert", scan, "-o", tmp_path / "file" / "leg.nii")[0] == 10


def test_convert_refuses_what_it_cannot_write(lls, scan, tmp_path):
    (tmp_path / "old.nii.gz").write_text("mine")
    assert lls("convert", scan, "-o", tmp_path / "old.nii.gz")[0] == 10
    assert lls("convert", scan, "-o", tmp_path / "leg.mha")[0] == 2
    assert (tmp_path / "old.nii.gz").read_text() == "mine"
    assert lls("convert", scan, "-o", tmp_path / "old.nii.gz", "--overwrite")[0] == 0
    assert nibabel.load(tmp_path / "old.nii.gz").shape == (64, 64, 40)


def test_info_shows_the_description(lls, tiny_model, tmp_path):
    code, out, _ = lls("info", tiny_model)
    assert code == 0
    assert "1 tibia, 2 femur, 3 fibula, 4 pelvis" in out
    found = json.loads(lls("info", tiny_model, "--json")[1])
    assert found["description"]["name"] == "tiny"
    assert len(found["sha256"]) == 64
    assert lls("info", tmp_path / "none.onnx")[0] == 5


def test_info_names_every_file_of_a_network(lls):
    found = json.loads(lls("info", "--json")[1])
    taken = [entry for entry in found["files"] if entry["taken"]]
    assert [(entry["file"], entry["precision"]) for entry in found["files"]] == [
        ("default.onnx", "fp32"),
        ("default.int8.onnx", "int8"),
    ]
    assert [(entry["file"], entry["sha256"]) for entry in taken] == [(found["file"], found["sha256"])]
    out = lls("info")[1]
    assert all(entry["file"] in out and entry["sha256"] in out for entry in found["files"])


@pytest.fixture
def prediction(legs, tmp_path):
    """The truth without the left fibula, and with half of the right femur."""
    labels = legs[1]
    array = labels.array.copy(order="F")
    array[array == 7] = 0
    femur = np.argwhere(array == 2)
    array[tuple(femur[: len(femur) // 2].T)] = 0
    write_labels(tmp_path / "pred.nii.gz", LabelMap(array, labels.geometry, labels.labels))
    return tmp_path / "pred.nii.gz"


def test_evaluate_one_pair(lls, scan_files, prediction, tmp_path):
    truth = scan_files / "truth.nii.gz"
    code, out, _ = lls("evaluate", prediction, truth, "--csv", tmp_path / "s.csv", "--json")
    assert code == 0
    bones = {bone["name"]: bone for bone in json.loads(out)["pairs"][0]["bones"]}
    assert bones["right_tibia"]["dsc"] == 1
    assert bones["left_fibula"]["dsc"] == 0
    assert bones["right_femur"]["dsc"] == pytest.approx(2 / 3, abs=0.01)
    error = bones["right_femur"]["true_cm3"] - bones["right_femur"]["predicted_cm3"]
    assert bones["right_femur"]["volume_error_cm3"] == pytest.approx(error)
    with open(tmp_path / "s.csv", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == list(bones)
    assert "right_femur" in lls("evaluate", prediction, truth)[1]


def test_evaluate_compares_no_value_that_has_two_names(lls, prediction, legs, tmp_path):
    names, truth = legs[1].labels, tmp_path / "truth.nii.gz"
    write_labels(truth, legs[1])
    write_label_table(tmp_path / "pred.json", names)
    write_label_table(tmp_path / "truth.json", names | {1: "Right tibia"})
    assert lls("evaluate", prediction, truth)[0] == 0
    write_label_table(tmp_path / "truth.json", {1: "Right tibia"})
    write_label_table(tmp_path / "pred.json", {2: "right_femur"})
    bones = json.loads(lls("evaluate", prediction, truth, "--json")[1])["pairs"][0]["bones"]
    assert [bone["name"] for bone in bones][:3] == ["Right tibia", "right_femur", "label_3"]
    write_label_table(tmp_path / "pred.json", names)
    write_label_table(tmp_path / "truth.json", names | {1: "left_tibia"})
    code, _, err = lls("evaluate", prediction, truth)
    assert code == 2
    assert "1 is right_tibia in pred.nii.gz and left_tibia in truth.nii.gz" in err


def test_evaluate_compares_a_mask_of_one_bone_with_that_bone(lls, prediction, legs, tmp_path):
    labels = legs[1]
    mask = LabelMap((labels.array == 2).astype(np.uint8), labels.geometry, {})
    write_labels(tmp_path / "right_femur.nii.gz", mask)
    write_label_table(tmp_path / "pred.json", labels.labels)
    code, out, err = lls("evaluate", prediction, tmp_path / "right_femur.nii.gz", "--json")
    (pair,) = json.loads(out)["pairs"]
    assert (code, err, pair["warnings"]) == (0, "", [])
    assert [(bone["name"], bone["label"]) for bone in pair["bones"]] == [("right_femur", 2)]
    assert pair["bones"][0]["dsc"] == pytest.approx(2 / 3, abs=0.01)


def test_evaluate_says_which_names_it_assumed(lls, prediction, scan_files):
    code, out, err = lls("evaluate", prediction, scan_files / "truth.nii.gz", "--json")
    assert code == 0
    assert "warning: pred.nii.gz has no table of names (pred.json): 1 as right_tibia" in err
    assert len(json.loads(out)["pairs"][0]["warnings"]) == 2


def test_evaluate_gives_an_odd_value_no_name_and_takes_none_away(lls, scan_files, legs, tmp_path):
    labels = legs[1]
    array = labels.array.copy(order="F")
    array[0, 0, 0] = 77
    write_labels(tmp_path / "odd.nii.gz", LabelMap(array, labels.geometry, labels.labels))
    out = lls("evaluate", tmp_path / "odd.nii.gz", scan_files / "truth.nii.gz", "--json")[1]
    names = [bone["name"] for bone in json.loads(out)["pairs"][0]["bones"]]
    assert names == [*sided_labels(BONES).values(), "label_77"]


def test_evaluate_several_pairs_gives_mean_and_sd(lls, scan_files, prediction):
    truth = scan_files / "truth.nii.gz"
    code, out, _ = lls("evaluate", prediction, truth, truth, truth, "--json")
    summary = {bone["name"]: bone for bone in json.loads(out)["summary"]}
    assert code == 0
    assert summary["left_fibula"]["dsc_mean"] == pytest.approx(0.5)
    assert summary["left_fibula"]["dsc_sd"] == pytest.approx(np.std([0, 1], ddof=1))
    assert summary["left_fibula"]["subjects"] == 2
    assert "mean and standard deviation over 2 pairs" in lls("evaluate", prediction, truth, truth, truth)[1]


def test_evaluate_leaves_out_what_nobody_knows(lls, legs, prediction, tmp_path):
    labels = legs[1]
    array = labels.array.copy(order="F")
    array[array > 4] = 255
    array[: array.shape[0] // 8] = 255
    write_labels(tmp_path / "partial.nii.gz", LabelMap(array, labels.geometry, labels.labels))
    code, out, _ = lls("evaluate", prediction, tmp_path / "partial.nii.gz", "--json")
    bones = {bone["name"]: bone for bone in json.loads(out)["pairs"][0]["bones"]}
    assert code == 0
    assert bones["right_tibia"]["dsc"] == 1
    assert bones["right_femur"]["dsc"] == pytest.approx(2 / 3, abs=0.01)
    assert bones["left_tibia"]["true_cm3"] == bones["left_tibia"]["predicted_cm3"] == 0
    assert all(bone["label"] != 255 for bone in bones.values())


def test_evaluate_surfaces(lls, scan_files, prediction, tmp_path):
    truth = scan_files / "truth.nii.gz"
    arguments = ("evaluate", prediction, truth, truth, truth, "--surface")
    code, out, _ = lls(*arguments, "--csv", tmp_path / "s.csv", "--json")
    found = json.loads(out)
    bones = {bone["name"]: bone for bone in found["pairs"][0]["bones"]}
    assert code == 0
    assert bones["right_tibia"]["hd95_mm"] == bones["right_tibia"]["assd_mm"] == 0
    assert bones["left_fibula"]["hd95_mm"] is None
    assert bones["right_femur"]["hd95_mm"] > bones["right_femur"]["assd_mm"] > 0
    summary = {bone["name"]: bone for bone in found["summary"]}["right_femur"]
    assert summary["assd_mean_mm"] == pytest.approx(bones["right_femur"]["assd_mm"] / 2)
    with open(tmp_path / "s.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["hd95_mm"] for row in rows if row["name"] == "left_fibula"] == ["", "0.0"]
    text = lls(*arguments)[1]
    assert text.count("HD95") == 3
    assert f"{bones['right_femur']['hd95_mm']:.2f} mm" in text
    assert "HD95" not in lls("evaluate", prediction, truth)[1]


def test_evaluate_refuses_other_grids_and_odd_files(lls, scan_files, legs, tmp_path):
    labels = legs[1]
    moved = labels.geometry.window((1, 0, 0), labels.geometry.shape)
    write_labels(tmp_path / "moved.nii.gz", LabelMap(labels.array, moved, labels.labels))
    truth = scan_files / "truth.nii.gz"
    assert lls("evaluate", tmp_path / "moved.nii.gz", truth)[0] == 4
    assert lls("evaluate", truth)[0] == 2
    assert lls("evaluate", truth, tmp_path / "none.nii.gz")[0] == 3
    code, _, err = lls("evaluate", scan_files, truth)
    assert (code, f"{scan_files} is a folder" in err) == (3, True)
    (tmp_path / "s.csv").write_text("mine")
    assert lls("evaluate", truth, truth, "--csv", tmp_path / "s.csv")[0] == 10
    assert (tmp_path / "s.csv").read_text() == "mine"


def test_phantom_refuses_bad_choices(lls, tmp_path):
    assert lls("phantom", "-o", tmp_path / "p", "--subject", "26")[0] == 2
    for flag, value in (("--size", "2"), ("--slices", "0"), ("--seed", "-1"), ("--spacing", "-1")):
        assert lls("phantom", "-o", tmp_path / "p", flag, value)[0] == 2
    assert lls("phantom", "-o", tmp_path / "p", "--bones", tmp_path / "none")[0] in (2, 3)
    assert not (tmp_path / "p").exists()


def test_phantom_and_demo_refuse_a_folder_before_they_draw(lls, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.phantom.make_phantom", lambda *_: pytest.fail("drawn"))
    (tmp_path / "d" / "scan").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    for place in ("d", "file", "file/p"):
        assert lls("phantom", "-o", tmp_path / place, "--overwrite")[0] == 10
    assert lls("demo", "-o", tmp_path / "d", "--model", tiny_model, "-q")[0] == 10


def test_demo_without_a_model_makes_nothing(lls, tmp_path):
    assert lls("demo", "-o", tmp_path / "d", "--model", tmp_path / "none.onnx")[0] == 5
    assert not (tmp_path / "d").exists()


def test_demo_leaves_what_it_says(lls, tiny_model, tmp_path, monkeypatch):
    for name, value in (("_SIZE", 64), ("_PIXEL_MM", 7.5), ("_SLICE_MM", 16.0)):
        monkeypatch.setattr(f"cli.demo.{name}", value)
    code, out, err = lls("demo", "-o", tmp_path / "d", "--model", tiny_model, "-q")
    assert code == 0, err
    paths = [line.split(":", 1)[1].split()[0] for line in out.splitlines() if line.startswith("the ")]
    assert paths[:2] == [
        str(tmp_path / "d" / "results" / "demo_preview.png"),
        str(tmp_path / "d" / "results"),
    ]
    assert "right_femur" in out
    assert "DSC" in out
    found = nibabel.load(tmp_path / "d" / "results" / "demo_dseg.nii.gz")
    truth = nibabel.load(tmp_path / "d" / "scan" / "labels.nii.gz")
    assert found.shape == truth.shape
    np.testing.assert_allclose(found.affine, truth.affine, atol=1e-3)
    assert len(list((tmp_path / "d" / "scan" / "dicom").iterdir())) == truth.shape[2]
    code, _, err = lls("demo", "-o", tmp_path / "d", "--model", tiny_model, "-q")
    assert (code, "--name" in err) == (10, False)
    assert "add --overwrite, or choose another folder with -o" in err


def test_an_unknown_command(lls):
    code, _, err = lls("segmnet")
    assert code == 2
    assert "segmnet" in err


class Terminal:
    """A stream that collects what is written."""

    def __init__(self, terminal, encoding="utf-8"):
        self.text, self._terminal, self.encoding = "", terminal, encoding

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self._terminal


@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", "━"), ("ascii", "#")])
def test_a_bar_on_a_terminal(encoding, mark):
    stream = Terminal(True, encoding)
    with Progress("leg", stream=stream) as progress:
        progress("infer", 5, 10)
        progress("infer", 10, 10)
    assert mark in stream.text
    assert "100 %" in stream.text
    assert stream.text.endswith("\r\x1b[2K")
    stream.text.encode(encoding)


def test_plain_lines_elsewhere_and_nothing_if_quiet():
    stream, quiet = Terminal(False), Terminal(True)
    for number, out in ((0, stream), (-1, quiet)):
        with Progress("leg", number, out) as progress:
            progress("read")
            for done in range(11):
                progress("infer", done, 10)
    assert stream.text.splitlines() == [
        "leg: reading",
        "leg: segmenting",
        "leg: segmenting 25 %",
        "leg: segmenting 50 %",
        "leg: segmenting 75 %",
    ]
    assert quiet.text == ""


def test_verbose_says_how_long_each_step_took():
    ticks = iter([0.0, 2.5, 2.5, 2.5])
    stream = Terminal(False)
    with Progress("leg", 1, stream, clock=lambda: next(ticks)) as progress:
        progress("read")
    assert stream.text.splitlines()[-1] == "leg: reading took 2.50 s"


def test_table_columns_line_up_whatever_the_style():
    text = table(("a", "bb"), [("\x1b[32mlong\x1b[0m", "1"), ("x", "22")])
    assert [
        len(line.replace("\x1b[32m", "").replace("\x1b[0m", "").replace("\x1b[2m", ""))
        for line in text.splitlines()
    ] == [10, 10, 10]


def test_progress_for_programs_is_a_json_object_a_line():
    ticks = iter([0.0, 0.01, 0.02, 0.2, 0.21])
    stream = Terminal(True)
    with JsonProgress("leg", stream, clock=lambda: next(ticks)) as progress:
        for done in (0, 1, 2, 3, 10):
            progress("infer", done, 10)
    records = [json.loads(line)["progress"] for line in stream.text.splitlines()]
    assert [record["done"] for record in records] == [0, 3, 10]  # at most twenty a second, but for the ends
    assert records[0] == {
        "title": "leg", "step": "infer", "doing": "segmenting", "done": 0, "total": 10,
    }  # fmt: skip


def test_segment_tells_programs_how_far_it_is(lls, scan, tiny_model, tmp_path):
    code, out, err = lls(
        "segment", scan, "-o", tmp_path, "--model", tiny_model, "--json", "--progress", "json"
    )
    assert code == 0
    assert json.loads(out)["scans"][0]["name"] == "leg"
    told = [json.loads(line)["progress"] for line in err.splitlines() if line.startswith("{")]
    steps = list(dict.fromkeys(record["step"] for record in told))
    assert [step for step in steps if step in ("read", "infer", "write")] == ["read", "infer", "write"]
    assert {record["total"] for record in told if record["step"] == "infer"} != {0}


def test_gui_without_its_extra_says_what_to_install(lls, monkeypatch):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    for module in [name for name in sys.modules if name.startswith("gui")]:
        monkeypatch.delitem(sys.modules, module)
    code, _, err = lls("gui", "--no-browser")
    assert code == 2
    assert "pip install '.[cpu,gui]'" in err
