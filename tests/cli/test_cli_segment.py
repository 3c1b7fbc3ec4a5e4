import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import nibabel
import numpy as np
import pytest
from PIL import Image

from seg_core.geometry import Volume
from seg_core.nifti import read_labels, write_volume
from seg_core.ply import read_ply
from seg_core.report import sha256
from seg_core.runner import Runner
from seg_core.scan import read_scan
from seg_core.segment import SegmentOptions, segment
from trainers.dicom_writer import SeriesInfo, write_series

BONES = [f"{side}_{bone}" for side in ("right", "left") for bone in ("tibia", "femur", "fibula", "pelvis")]
FILES = sorted(
    [f"leg_{end}" for end in ("dseg.nii.gz", "dseg.json", "statistics.csv", "preview.png", "report.json")]
    + [f"leg_label-{bone}.ply" for bone in BONES]
)


def listing(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def no_picture(monkeypatch):
    """Leave out the slowest step, where a test is not about it."""
    monkeypatch.setattr("seg_core.preview.write_preview", lambda path, *rest: path.write_bytes(b""))


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_model, scan_files):
    """The output of one ordinary run."""
    from cli.main import run

    folder = tmp_path_factory.mktemp("out") / "results"
    code = run(
        ["segment", str(scan_files / "leg.nii.gz"), "-o", str(folder), "--model", str(tiny_model), "-q"]
    )
    assert code == 0
    return folder


def test_all_files_are_there_and_nothing_else(done):
    assert listing(done) == FILES
    assert listing(done.parent) == ["results"]


def test_labels_are_the_truth_on_the_scans_grid(done, legs, scan_files):
    found = read_labels(done / "leg_dseg.nii.gz")
    np.testing.assert_array_equal(found.array, legs[1].array)
    assert list(found.labels.values()) == BONES
    image, given = nibabel.load(done / "leg_dseg.nii.gz"), nibabel.load(scan_files / "leg.nii.gz")
    np.testing.assert_array_equal(image.get_sform(), given.affine)
    np.testing.assert_allclose(image.get_qform(), given.affine, atol=1e-5)


def test_meshes_statistics_and_labels_agree(done, legs):
    with open(done / "leg_statistics.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    labels = legs[1]
    for value, name in labels.labels.items():
        row, mesh = rows[name], read_ply(done / f"leg_label-{name}.ply")
        centroid = labels.geometry.to_world(np.argwhere(labels.array == value)).mean(axis=0)
        stated = [float(row[f"centroid_{axis}_mm"]) for axis in "xyz"]
        np.testing.assert_allclose(stated, centroid, atol=1e-3)
        np.testing.assert_allclose(mesh.centroid, centroid, atol=1)
        assert row["status"] == "found"
        assert float(row["volume_cm3"]) == pytest.approx(mesh.volume_mm3 / 1000, rel=0.02)
        assert 0.3 < float(row["confidence"]) <= 1


def test_the_report_says_how_and_proves_itself(done, read_json, tiny_model):
    report = read_json(done / "leg_report.json")
    assert report["model"]["sha256"] == sha256(tiny_model)
    assert report["device"] == {"asked": "auto", "used": "cpu", "precision": "fp32"}
    assert report["checks"]
    assert all(check["passed"] for check in report["checks"])
    assert sorted(entry["file"] for entry in report["outputs"]) == [f for f in FILES if "report" not in f]
    for entry in report["outputs"]:
        assert entry["sha256"] == sha256(done / entry["file"])
    steps = {step["step"]: step for step in report["steps"]}
    assert {"read", "segment", "segment: range", "segment: denoise", "segment: measure", "mesh"} <= set(steps)
    assert all(step["seconds"] >= 0 for step in steps.values())
    assert steps["segment: denoise"]["parameters"]["fraction"] == 0.1
    assert report["schema_version"] == 1
    assert report["software"]["packages"]["numpy"] == np.__version__
    assert report["peak_memory_bytes"] > 1e7
    assert report["scan"]["spacing_mm"] == [4, 4, 25]
    assert str(done.parent) not in (done / "leg_report.json").read_text()


def test_the_picture_opens(done):
    with Image.open(done / "leg_preview.png") as picture:
        assert picture.width > 800


@pytest.mark.usefixtures("no_picture")
def test_the_table_and_json_on_standard_output(lls, scan, tiny_model, tmp_path):
    code, out, err = lls("segment", scan, "-o", tmp_path / "a", "--model", tiny_model)
    assert code == 0
    assert re.search(r"tibia\s+right\s+found\s+[\d.]+ cm3\s+\d+ mm", out)
    assert "leg: segmenting" in err
    assert "\r" not in err
    code, out, err = lls("segment", scan, "-o", tmp_path / "b", "--model", tiny_model, "--json", "-q")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)["scans"]
    assert sorted(found["files"]) == FILES
    assert [row["name"] for row in found["bones"]] == BONES


@pytest.mark.usefixtures("no_picture")
def test_dicom_gives_the_same_labels_under_a_name_that_is_nobodys(lls, dicom, tiny_model, tmp_path, done):
    (dicom / "notes.txt").write_text("not an image")
    code, out, _ = lls("segment", "-i", dicom, "-o", tmp_path / "out", "--model", tiny_model)
    assert code == 0
    found, expected = (nibabel.load(f) for f in (tmp_path / "out/scan_dseg.nii.gz", done / "leg_dseg.nii.gz"))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    for file in (tmp_path / "out").iterdir():
        assert "Doe" not in file.name
        assert b"Doe" not in file.read_bytes()
    assert "Doe" not in out


@pytest.mark.usefixtures("no_picture")
def test_one_side_confidence_name_and_ras(lls, scan, tiny_model, tmp_path, done):
    flags = ["--side", "right", "--confidence", "--name", "x", "--mesh-space", "ras"]
    assert lls("segment", scan, "-o", tmp_path, "--model", tiny_model, *flags)[0] == 0
    assert sum(f.endswith(".ply") for f in listing(tmp_path)) == 4
    confidence, labels = (nibabel.load(tmp_path / f"x_{end}.nii.gz") for end in ("confidence", "dseg"))
    assert confidence.shape == labels.shape
    np.testing.assert_array_equal(confidence.affine, labels.affine)
    assert set(np.unique(np.asarray(labels.dataobj))) == {0, 1, 2, 3, 4}
    options = SegmentOptions(side="right", confidence=True)
    expected = segment(read_scan(scan).volume, Runner(tiny_model, "cpu"), options).confidence.array
    np.testing.assert_array_equal(np.asarray(confidence.dataobj), expected)
    header = (tmp_path / "x_label-right_tibia.ply").read_bytes()[:200]
    assert b"SPACE=RAS" in header
    np.testing.assert_allclose(
        read_ply(tmp_path / "x_label-right_tibia.ply").centroid,
        read_ply(done / "leg_label-right_tibia.ply").centroid,
        atol=1e-3,
    )


@pytest.mark.usefixtures("no_picture")
def test_one_bad_scan_does_not_stop_the_rest(lls, scan, tiny_model, tmp_path, done):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    code, out, err = lls("segment", bad, scan, scan, "-o", tmp_path / "out", "--model", tiny_model)
    assert code == 9
    assert "1 of 3 scans failed" in err
    assert "bad.nii.gz" in err
    assert [f for f in listing(tmp_path / "out") if f.endswith("report.json")] == [
        "leg-1_report.json",
        "leg-2_report.json",
    ]
    for number in (1, 2):  # the number of scans in a call changes no label
        file = tmp_path / "out" / f"leg-{number}_dseg.nii.gz"
        np.testing.assert_array_equal(read_labels(file).array, read_labels(done / "leg_dseg.nii.gz").array)
    code, out, _ = lls("segment", bad, scan, "-o", tmp_path / "o2", "--model", tiny_model, "--json")
    first, second = json.loads(out)["scans"]
    assert (first["error"]["type"], first["error"]["exit_code"]) == ("ScanError", 3)
    assert second["name"] == "leg"


@pytest.mark.usefixtures("no_picture")
def test_strict_fails_on_a_cut_bone_but_writes(lls, legs, tiny_model, tmp_path):
    volume = legs[0]
    upper = (64, 64, 28)
    write_volume(
        tmp_path / "cut.nii.gz", Volume(volume.array[:, :, :28], volume.geometry.window((0, 0, 0), upper))
    )
    call = ["segment", tmp_path / "cut.nii.gz", "--model", tiny_model]
    assert lls(*call, "-o", tmp_path / "a")[0] == 0
    code, _, err = lls(*call, "-o", tmp_path / "b", "--strict")
    assert code == 8
    assert "right femur is truncated" in err
    assert "right pelvis is empty" in err
    assert listing(tmp_path / "a") == listing(tmp_path / "b")


@pytest.mark.usefixtures("no_picture")
def test_strict_shows_what_was_written(lls, legs, tiny_model, tmp_path):
    volume = legs[0]
    geometry = volume.geometry.window((0, 0, 0), (64, 64, 28))
    write_volume(tmp_path / "cut.nii.gz", Volume(volume.array[:, :, :28], geometry))
    call = ["segment", tmp_path / "cut.nii.gz", "--model", tiny_model, "--strict"]
    code, out, _ = lls(*call, "-o", tmp_path / "a")
    assert code == 8
    assert re.search(r"femur\s+right\s+truncated", out)
    code, out, _ = lls(*call, "-o", tmp_path / "b", "--json")
    (found,) = strict_json(out)["scans"]
    assert (code, found["error"]["exit_code"]) == (8, 8)
    assert sorted(found["files"]) == listing(tmp_path / "b")
    assert len(found["bones"]) == 8


def strict_json(text):
    """Parse JSON; its standard knows no NaN."""

    def refuse(token):
        raise AssertionError(f"{token} in JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.usefixtures("no_picture")
def test_json_is_json_whatever_happens(lls, legs, tiny_model, tmp_path):
    volume = legs[0]
    array = volume.array.astype(np.float32)
    array[1, 2, 3] = np.nan
    write_volume(tmp_path / "nan.nii.gz", Volume(array, volume.geometry))
    noise = np.random.default_rng(0).integers(0, 10, volume.array.shape).astype(np.uint8)
    write_volume(tmp_path / "air.nii.gz", Volume(noise, volume.geometry))
    scans = [tmp_path / "nan.nii.gz", tmp_path / "air.nii.gz", tmp_path / "none.nii.gz"]
    code, out, err = lls("segment", *scans, "-o", tmp_path / "out", "--model", tiny_model, "--json")
    nan, air, none = strict_json(out)["scans"]
    assert code == 9
    assert "2 of 3 scans failed" in err
    assert (nan["error"]["exit_code"], none["error"]["exit_code"]) == (3, 3)
    assert "NaN" in nan["error"]["found"]
    assert {bone["status"] for bone in air["bones"]} == {"empty"}
    assert {bone["length_mm"] for bone in air["bones"]} == {None}
    strict_json((tmp_path / "out" / "air_report.json").read_text())


@pytest.mark.usefixtures("no_picture")
def test_an_unknown_side_is_said_and_fails_under_strict(lls, legs, tiny_model, tmp_path, read_json):
    volume, labels = legs
    array = np.where((labels.array == 3) | (labels.array == 7), 20, volume.array)
    array[:32] = 0  # the left leg without its fibula
    write_volume(tmp_path / "left.nii.gz", Volume(np.asfortranarray(array), volume.geometry))
    flags = ["--model", tiny_model, "--strict", "--side", "right"]
    code, out, err = lls("segment", tmp_path / "left.nii.gz", "-o", tmp_path / "out", *flags)
    assert code == 8
    assert "warning: left: the side is unknown" in err
    assert "all bones were kept" in err
    assert re.search(r"tibia\s+unknown\s+found", out)
    report = read_json(tmp_path / "out" / "left_report.json")
    assert report["sides"]["kind"] == "unknown"
    assert len(report["warnings"]) == 3  # and that a fibula is missing
    assert "left_label-tibia.ply" in listing(tmp_path / "out")
    assert set(np.unique(read_labels(tmp_path / "out" / "left_dseg.nii.gz").array)) == {0, 1, 2, 4}


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize(("header", "first"), [("L", 5), ("R", 1)])
def test_a_single_leg_goes_by_the_headers_laterality(lls, legs, tiny_model, tmp_path, header, first):
    volume, labels = legs
    array = np.where((labels.array == 3) | (labels.array == 7), 20, volume.array).astype(np.int16)
    array[32:] = 0
    info = SeriesInfo("one leg", laterality=header)
    write_series(tmp_path / "dicom", Volume(array, volume.geometry), info)
    call = ["segment", tmp_path / "dicom", "-o", tmp_path / "out", "--model", tiny_model, "--strict"]
    code, out, err = lls(*call)
    assert code == 8  # its fibula is missing, and that alone
    assert err.count(" is empty") == 1
    assert "by the laterality in the header" in out
    found = read_labels(tmp_path / "out" / "scan_dseg.nii.gz")
    assert set(np.unique(found.array)) == {0, first, first + 1, first + 3}


@pytest.mark.usefixtures("no_picture")
def test_no_uid_comes_into_the_report(lls, dicom, tiny_model, tmp_path):
    uid = json.loads(lls("inspect", dicom, "--json")[1])["series"][0]["uid"]
    assert lls("segment", dicom, "-o", tmp_path / "out", "--model", tiny_model, "--series", uid)[0] == 0
    for file in (tmp_path / "out").iterdir():
        assert uid.encode() not in file.read_bytes()


@pytest.mark.usefixtures("no_picture")
def test_what_is_not_plausible_is_said_and_fails_under_strict(lls, legs, tiny_model, tmp_path, read_json):
    volume = legs[0]
    affine = volume.geometry.affine.copy()
    affine[:3, 2] *= -1  # a header that takes the feet for the head
    wrong = Volume(volume.array, type(volume.geometry)(volume.geometry.shape, affine))
    write_volume(tmp_path / "wrong.nii.gz", wrong)
    call = ["segment", tmp_path / "wrong.nii.gz", "--model", tiny_model]
    code, _, err = lls(*call, "-o", tmp_path / "a")
    assert code == 0
    assert "warning: wrong: not plausible: the scan may be upside down" in err
    report = read_json(tmp_path / "a" / "wrong_report.json")
    failed = [check for check in report["plausibility"] if not check["passed"]]
    assert {check["check"] for check in failed} == {f"{s}: order along the leg" for s in ("right", "left")}
    assert {bone["status"] for bone in report["bones"]} == {"found"}
    code, out, err = lls(*call, "-o", tmp_path / "b", "--strict", "--json")
    (found,) = strict_json(out)["scans"]
    assert (code, found["error"]["exit_code"]) == (8, 8)
    assert "upside down" in found["error"]["found"]
    assert found["plausibility"] == report["plausibility"]


@pytest.mark.usefixtures("no_picture")
def test_a_bone_cut_by_the_hip_slice_is_truncated(lls, scan, tiny_model, tmp_path, read_json):
    flags = ["--hip-slice", "25", "--hip-tolerance", "3", "--model", tiny_model]
    code, out, err = lls("segment", scan, "-o", tmp_path, *flags)
    assert code == 0
    assert "not plausible" not in err
    assert re.search(r"femur\s+right\s+truncated", out)
    assert re.search(r"tibia\s+right\s+found", out)
    steps = {step["step"]: step for step in read_json(tmp_path / "leg_report.json")["steps"]}
    assert steps["segment: range"]["parameters"]["hip_slice"] == 25


def test_slices_beyond_the_hip_need_the_hip(lls, scan, tiny_model, tmp_path):
    code, _, err = lls("segment", scan, "-o", tmp_path, "--model", tiny_model, "--hip-tolerance", "5")
    assert code == 2
    assert "--hip-tolerance says nothing without --hip-slice" in err


@pytest.mark.usefixtures("no_picture")
def test_strict_passes_on_a_whole_scan(lls, scan, tiny_model, tmp_path):
    assert lls("segment", scan, "-o", tmp_path, "--model", tiny_model, "--strict")[0] == 0


def test_a_single_slice_is_segmented_with_a_warning(lls, legs, tiny_model, tmp_path):
    volume = legs[0]
    one = Volume(volume.array[:, :, 10:11], volume.geometry.window((0, 0, 10), (64, 64, 1)))
    write_volume(tmp_path / "one.nii.gz", one)
    code, _, err = lls("segment", tmp_path / "one.nii.gz", "-o", tmp_path / "out", "--model", tiny_model)
    assert code == 0
    assert "single slice" in err


@pytest.mark.usefixtures("no_picture")
def test_overwrite_replaces_only_an_earlier_run(lls, scan, tiny_model, tmp_path):
    call = ["segment", scan, "-o", tmp_path, "--model", tiny_model]
    (tmp_path / "notes.txt").write_text("mine")
    assert lls(*call)[0] == 0
    before = {f: sha256(tmp_path / f) for f in listing(tmp_path)}
    code, _, err = lls(*call)
    assert code == 10
    assert "exists already" in err
    assert lls(*call, "--overwrite", "--side", "left")[0] == 0
    assert "leg_label-right_tibia.ply" not in listing(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert before["leg_label-left_tibia.ply"] == sha256(tmp_path / "leg_label-left_tibia.ply")


def test_a_signal_leaves_nothing(scan, tiny_model, tmp_path):
    slow = (
        "import time, cli.job, cli.main, signal\n"
        # A shell starts what it puts in the background with this signal ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.job.check_label_file = lambda *a: (print('now', flush=True), time.sleep(60))\n"
        "cli.main.main()"
    )
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        arguments = [
            "segment",
            str(scan),
            "-o",
            str(tmp_path / "deep" / "out"),
            "--model",
            str(tiny_model),
            "-q",
        ]
        with subprocess.Popen(
            [sys.executable, "-c", slow, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "now\n"
            assert len(list(tmp_path.rglob("*.ply"))) == 8
            time.sleep(0.1)
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
        assert process.returncode == code
        assert "Traceback" not in err
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("full", [False, True])
def test_the_picture_is_drawn_while_meshes_are_made(lls, scan, tiny_model, tmp_path, monkeypatch, full):
    import cli.job

    begun, write_ply = threading.Event(), cli.job.write_ply

    def write(*args):
        begun.set()
        if full:
            raise OSError(errno.ENOSPC, "no space left")
        write_ply(*args)

    def draw(path, *rest):
        assert begun.wait(20)
        time.sleep(0.2)
        path.write_bytes(b"a picture")

    monkeypatch.setattr(cli.job, "write_ply", write)
    monkeypatch.setattr("seg_core.preview.write_preview", draw)
    code, _, err = lls("segment", scan, "-o", tmp_path / "out", "--model", tiny_model)
    assert (code, "no space left" in err) == ((10, True) if full else (0, False))
    assert listing(tmp_path / "out") == ([] if full else FILES)
    assert os.listdir(tmp_path) == ([] if full else ["out"])


def test_a_mesh_that_is_in_the_way_is_said_before_any_work(lls, scan, tiny_model, tmp_path, monkeypatch):
    import cli.job

    monkeypatch.setattr(cli.job, "read_scan", lambda *rest: pytest.fail("the scan was read"))
    for name in ("left_femur", "femur"):
        mine = tmp_path / f"leg_label-{name}.ply"
        mine.write_text("mine")
        assert lls("segment", scan, "-o", tmp_path, "--model", tiny_model)[0] == 10
        assert mine.read_text() == "mine"
        mine.unlink()


def test_the_work_goes_on_without_a_reader(scan, tiny_model, tmp_path):
    command = [sys.executable, "-m", "cli", "segment", scan, scan, "-o", "{out}", "--model", tiny_model]
    line = " ".join(f"'{part}'" for part in command)
    for number, how in enumerate(("2>&1 | head -c 1", ">&-", "2>&-", ">&- 2>&-")):
        out = tmp_path / str(number)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{line.format(out=out)} {how}"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert {f"leg-{n}_report.json" for n in (1, 2)} <= set(listing(out))


def test_the_work_ends_where_the_program_that_reads_its_progress_has_gone(scan, tiny_model, tmp_path):
    command = [sys.executable, "-m", "cli", "segment", scan, "-o", tmp_path / "out", "--model", tiny_model]
    with subprocess.Popen(
        [*map(str, command), "--progress", "json"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr.readline().startswith(b"model tiny")
        process.stderr.close()
        assert process.wait() == 143
    assert os.listdir(tmp_path) == []


def test_the_commands_own_default_is_the_cores():
    from cli.segment import segment as command

    (option,) = (option for option in command.params if option.name == "hip_tolerance")
    assert option.default == SegmentOptions().hip_tolerance
