import json
import shutil

import numpy as np
import pytest

from seg_core.geometry import LabelMap
from seg_core.nifti import write_label_table, write_labels, write_volume


@pytest.fixture
def subjects(tmp_path, legs):
    """Two subjects with a label map, and a folder without labels."""
    volume, labels = legs
    for name in ("anna", "ben", "nobody"):
        (tmp_path / name).mkdir()
        write_volume(tmp_path / name / "scan.nii.gz", volume)
    for name in ("anna", "ben"):
        write_labels(tmp_path / name / "labels.nii.gz", labels)
        write_label_table(tmp_path / name / "labels.json", labels.labels)
    return tmp_path


def test_a_dataset_with_its_pages(lls, subjects):
    data = subjects / "my data"
    code, out, err = lls("prepare", subjects / "anna", subjects / "ben", "-o", data, "--size", 64)
    assert code == 0, err
    assert f"then: lls train '{data}' ..." in out
    assert "2 subjects, 80 slices of tibia, femur, fibula, pelvis" in out
    assert (data / "anna/quality.png").read_bytes().startswith(b"\x89PNG")
    before = (data / "dataset.json").read_bytes()
    code, out, _ = lls(
        "prepare", subjects / "anna", subjects / "ben", "-o", data, "--size", 64, "--json", "-q"
    )
    assert code == 0
    assert [s["status"] for s in json.loads(out)["subjects"]] == ["kept", "kept"]
    assert (data / "dataset.json").read_bytes() == before


def test_a_subject_that_is_added_is_prepared_as_the_others(lls, subjects):
    data = subjects / "data"
    options = ("--pixel-mm", 7.5, "--normalisation", "minmax", "--tolerance", 3)
    assert lls("prepare", subjects / "anna", "-o", data, *options)[0] == 0
    before = json.loads((data / "dataset.json").read_text())
    assert lls("prepare", subjects / "ben", "-o", data)[0] == 0
    after = json.loads((data / "dataset.json").read_text())
    assert [subject["name"] for subject in after["subjects"]] == ["anna", "ben"]
    different = {name for name in before if before[name] != after[name]}
    assert different == {"subjects"}
    assert lls("prepare", subjects / "ben", "-o", data, "--size", 64)[0] == 0
    assert json.loads((data / "dataset.json").read_text())["grid"] != before["grid"]


def test_one_bad_subject_is_reported_and_the_rest_done(lls, subjects):
    code, out, err = lls(
        "prepare", subjects / "anna", subjects / "nobody", "-o", subjects / "data", "--size", 64
    )
    assert code == 9
    assert "40 slices" in out
    assert "1 of 2 subjects failed" in err
    assert "nobody has no labels" in err
    code, out, err = lls("prepare", subjects / "nobody", "-o", subjects / "other")
    assert (code, out) == (3, "")
    assert "has no labels" in err
    assert not (subjects / "other").exists()


def test_overlaps_and_oddities_are_told(lls, subjects, legs):
    shutil.rmtree(subjects / "ben")
    (subjects / "ben/masks").mkdir(parents=True)
    write_volume(subjects / "ben/scan.nii.gz", legs[0])
    for value, name in ((1, "right_tibia"), (2, "right_femur")):
        mask = (legs[1].array == value) | (legs[1].array == 2)
        write_labels(
            subjects / f"ben/masks/{name}.nii.gz", LabelMap(mask.astype(np.uint8), legs[1].geometry, {})
        )
    code, out, err = lls("prepare", subjects / "ben", "-o", subjects / "data", "--size", 64, "-q")
    voxels = np.count_nonzero(legs[1].array == 2)
    assert code == 0
    assert f"ben: {voxels} voxels of right_tibia, right_femur" in out
    assert "warning: ben: right_femur is empty" in err


def test_a_letter_without_its_partner_is_told(lls, subjects, legs):
    (subjects / "cleo/masks").mkdir(parents=True)
    write_volume(subjects / "cleo/scan.nii.gz", legs[0])
    for value, name in ((1, "tibia"), (2, "femur_R")):
        mask = (legs[1].array == value).astype(np.uint8)
        write_labels(subjects / f"cleo/masks/{name}.nii.gz", LabelMap(mask, legs[1].geometry, {}))
    code, _, err = lls("prepare", subjects / "cleo", "-o", subjects / "data", "--size", 64, "-q")
    assert code == 0
    assert "femur_r is a class of its own, without a side: call it right_femur if that is meant" in err


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (("--size", 64, "--pixel-mm", 2), 2, "both --size and --pixel-mm"),
        (("--size", 100), 2, "slices of 100 x 100 pixels\nexpected: multiples of 16"),
        (("--size", 0), 2, "slices of 0 x 0 pixels"),
        (("--pixel-mm", -1), 2, "pixels of -1 x -1 mm\nexpected: 0.05 to 20 mm"),
        (("--pixel-mm", 0.001), 2, "give --pixel-mm"),
        (("--pixel-mm", 0.05), 2, "give a greater --pixel-mm"),
        (("--classes", "patella"), 2, "no subject has a label of patella"),
        (("--other-side", "crop"), 2, "cropping"),
        (("--hip-slice", 900, "--size", 64), 2, "hip slice 900"),
    ],
)
def test_flags_that_make_no_sense(lls, subjects, flags, code, text):
    found, _, err = lls("prepare", subjects / "anna", "-o", subjects / "data", *flags)
    assert found == code
    assert text in err


@pytest.mark.parametrize(
    "flags", [("--size", 100), ("--pixel-mm", -1), ("--pixel-mm", 0.001), ("--pixel-mm", 0.05)]
)
@pytest.mark.parametrize("name", ["anna", "ben"])
def test_a_refused_grid_changes_nothing_of_a_dataset(lls, subjects, flags, name):
    data = subjects / "data"
    assert lls("prepare", subjects / "anna", "-o", data, "--size", 64, "-q")[0] == 0
    before = (data / "dataset.json").read_bytes()
    code, _, err = lls("prepare", subjects / name, "-o", data, *flags)
    assert code == 2
    assert "what to do: give " in err
    assert "Grid(" not in err
    assert (data / "dataset.json").read_bytes() == before


def test_one_bone_of_a_table_with_pixels_of_the_report(lls, subjects):
    table = subjects / "who.csv"
    table.write_text("subject,scan,labels,hip_slice\nn1,anna/scan.nii.gz,anna/labels.nii.gz,20\n")
    code, out, err = lls(
        "prepare", table, "-o", subjects / "data", "--size", 400, "--classes", "tibia", "--tolerance", 3, "-q"
    )
    assert code == 0, err
    assert "1 subjects, 24 slices of tibia" in out
