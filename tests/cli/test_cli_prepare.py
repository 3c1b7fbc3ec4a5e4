import json

import numpy as np
import pytest

from seg_core.geometry import LabelMap, Volume
from seg_core.mesh import surface
from seg_core.model_spec import Grid, Normalisation
from seg_core.nifti import read_labels, write_label_table, write_labels, write_volume
from seg_core.ply import Mesh, write_ply
from trainers import quality
from trainers.cache import read_index
from trainers.dataset import open_dataset


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


@pytest.fixture
def masked(tmp_path, legs):
    """Return a function that makes a subject of masks, by the values of the legs' labels that each has."""

    def make(name, masks, volume=legs[0]):
        folder = tmp_path / name
        (folder / "masks").mkdir(parents=True)
        write_volume(folder / "scan.nii.gz", volume)
        for structure, values in masks.items():
            mask = LabelMap(np.isin(legs[1].array, values).astype(np.uint8), legs[1].geometry, {})
            write_labels(folder / "masks" / f"{structure}.nii.gz", mask)
        return folder

    return make


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


def test_slices_are_made_as_a_network_wants_them(lls, subjects, make_spec, make_onnx):
    data, model = subjects / "data", subjects / "small.onnx"
    usual_mm = {"tibia": 60.0, "femur": 60.0}  # of which the made-up legs have about half
    grid = Grid("spacing", spacing_mm=(4.0, 4.0), multiple=16)
    spec = make_spec(grid=grid, normalisation=Normalisation("divide"), usual_mm=usual_mm)
    model.write_bytes(make_onnx(spec))
    assert lls("prepare", subjects / "anna", "-o", data, "--like", model)[0] == 0
    index = json.loads((data / "dataset.json").read_text())
    del index["subjects"][0]["shafts_mm"]  # as an earlier version wrote it
    (data / "dataset.json").write_text(json.dumps(index))
    code, out, _ = lls("prepare", subjects / "ben", "-o", data)  # as the others
    assert code == 0
    assert "magnified, since so small beside a usual person: ben (0.6)" in out
    dataset = open_dataset(data)
    assert dataset.subjects[0].shafts_mm == dataset.subjects[1].shafts_mm
    assert (dataset.grid, dataset.normalisation, dataset.usual_mm) == (grid, spec.normalisation, usual_mm)
    shafts = dataset.subjects[1].shafts_mm
    assert shafts["tibia"] == pytest.approx(np.sqrt(np.pi) * 17, rel=0.06)
    assert [s.size for s in read_index(dataset.cache).subjects] == [0.6, 0.6]
    assert lls("prepare", subjects / "ben", "-o", data, "--pixel-mm", 4)[0] == 0  # for another network
    assert [s.size for s in read_index(data / "cache").subjects] == [1.0, 1.0]
    assert open_dataset(data).usual_mm == {}


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


@pytest.mark.parametrize(
    ("rule", "words"), [("background", "made background"), ("priority", "given to the first")]
)
def test_overlaps_are_told_with_what_became_of_them(lls, masked, tmp_path, legs, rule, words, read_json):
    ben = masked("ben", {"right_tibia": (1, 2), "right_femur": (2,)})
    ask = ("prepare", ben, "-o", tmp_path / "data", "--size", 64, "--overlap", rule, "-q")
    code, out, err = lls(*ask)
    assert code == 0
    voxels = np.count_nonzero(legs[1].array == 2)
    assert f"ben: {voxels} voxels of right_tibia, right_femur, {words}\n" in out
    assert "warning: ben: right_femur is empty" in err
    (told,) = json.loads(lls(*ask, "--json")[1])["subjects"]
    (stored,) = read_json(tmp_path / "data/dataset.json")["subjects"]
    for record in (told, stored, read_json(tmp_path / "data/ben/quality.json")):
        assert record["overlaps"] == {"right_tibia, right_femur": voxels}
        assert record["overlap_rule"] == rule


def without_space(path, mesh):
    """Write a surface in RAS whose file does not say so."""
    write_ply(path, mesh, "ras")
    path.write_bytes(path.read_bytes().replace(b"comment SPACE=RAS\n", b""))


def test_a_subject_that_is_added_is_labelled_as_the_others(lls, masked, tmp_path, legs, read_json):
    data = tmp_path / "data"
    for name in "pq":
        folder = masked(name, {"tibia": (1, 2, 5), "right_femur": (2,), "left_femur": (6,)})
        (folder / "meshes").mkdir()
        without_space(folder / "meshes/right_fibula.ply", surface(legs[1], 3))
    options = ("--overlap", "priority", "--mesh-space", "ras")
    options += ("--labelled-side", "right", "--other-side", "crop", "--pixel-mm", 7.5)
    assert lls("prepare", tmp_path / "p", "-o", data, *options)[0] == 0
    before = read_json(data / "dataset.json")
    assert before["masks"] == {"overlap": "priority", "mesh_space": "ras", "side": "right"}
    assert before["other_side"] == "crop"
    assert lls("prepare", tmp_path / "q", "-o", data)[0] == 0
    after = read_json(data / "dataset.json")
    assert {name for name in before if before[name] != after[name]} == {"subjects"}
    p, q = (read_labels(data / name / "mask.nii.gz") for name in "pq")
    assert set(np.unique(p.array)) >= {1, 3}
    assert np.array_equal(p.array, q.array)
    assert p.geometry.is_close(q.geometry)

    for name in ("masks", "other_side"):  # as an earlier version wrote it
        after.pop(name)
    for subject in after["subjects"]:
        subject.pop("overlap_rule")
    (data / "dataset.json").write_text(json.dumps(after))
    ask = ("prepare", tmp_path / "q", "-o", data, "--json", "-q")
    assert json.loads(lls(*ask, *options)[1])["subjects"][0]["status"] == "kept"
    assert [s["overlap_rule"] for s in read_json(data / "dataset.json")["subjects"]] == [None, "priority"]
    assert json.loads(lls(*ask, "--overlap", "background")[1])["subjects"][0]["status"] == "made"
    now = read_labels(data / "q/mask.nii.gz").array
    assert (now == 1).sum() < (q.array == 1).sum()  # what the femur claims too is background
    assert json.loads(lls(*ask)[1])["subjects"][0]["status"] == "kept"


RIGHT = {"right_tibia": (1,), "right_femur": (2,)}


def one_bright_leg(legs):
    """The made-up legs, the left one so dim that it is not seen."""
    image = legs[0].array.copy()
    image[32:] //= 30  # columns grow to the left
    return Volume(image, legs[0].geometry)


@pytest.fixture
def subject_with(masked, legs):
    """Make a subject of which something is odd."""

    def make(kind):
        if kind == "the right side is doubtful":
            return masked("ben", {"tibia": (5,), "femur": (6,)})
        if "no other leg" in kind:
            return masked("ben", RIGHT, one_bright_leg(legs))
        folder = masked("ben", RIGHT)
        (folder / "meshes").mkdir()
        mesh = surface(legs[1], 1)
        write_ply(folder / "meshes/right_tibia.ply", Mesh(mesh.vertices_mm, mesh.faces[5:]))
        return folder

    return make


@pytest.fixture
def on_pages(monkeypatch):
    """The lines (text, colour) that are drawn on quality pages."""
    drawn, draw = [], quality._with_lines
    monkeypatch.setattr(
        quality, "_with_lines", lambda picture, lines: drawn.extend(lines) or draw(picture, lines)
    )
    return drawn


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("the right side is doubtful", ("--labelled-side", "right")),
        ("labelled on the right, but no other leg is seen", ("--labelled-side", "right")),
        ("the surface of right_tibia is not closed", ()),
    ],
)
def test_what_is_odd_is_warned_of_recorded_and_on_the_page(
    lls, subject_with, on_pages, tmp_path, read_json, words, flags
):
    ben = subject_with(words)
    code, _, err = lls("prepare", ben, "-o", tmp_path / "data", "--size", 64, "-q", *flags)
    assert code == 0
    assert f"warning: ben: {words}" in err
    (stored,) = read_json(tmp_path / "data/dataset.json")["subjects"]
    for record in (stored, read_json(tmp_path / "data/ben/quality.json")):
        assert sum(words in note for note in record["odd"]) == 1
    assert sum(text.startswith(f"odd: {words}") for text, _ in on_pages) == 1
    assert (stored["ignored"] == 0) == ("no other leg" in words)


def test_one_leg_alone_is_not_odd_where_nobody_spoke_of_another(lls, masked, tmp_path, legs, read_json):
    ben = masked("ben", RIGHT, one_bright_leg(legs))
    _, _, err = lls("prepare", ben, "-o", tmp_path / "data", "--size", 64, "-q")
    assert "no other leg" not in err
    assert "no other leg" in str(read_json(tmp_path / "data/ben/quality.json")["words"])


def test_a_region_answers_for_a_leg_that_is_not_seen(lls, masked, tmp_path, legs):
    ben = masked("ben", RIGHT, one_bright_leg(legs))
    region = np.zeros(legs[1].array.shape, np.uint8)
    region[:32] = 1
    write_labels(ben / "region.nii.gz", LabelMap(region, legs[1].geometry, {}))
    ask = ("prepare", ben, "-o", tmp_path / "data", "--size", 64, "--labelled-side", "right", "-q")
    code, _, err = lls(*ask)
    assert code == 0
    assert "no other leg" not in err


def test_a_letter_without_its_partner_is_told(lls, masked, subjects):
    cleo = masked("cleo", {"tibia": (1,), "femur_R": (2,)})
    code, _, err = lls("prepare", cleo, "-o", subjects / "data", "--size", 64, "-q")
    assert code == 0
    assert "femur_r is a class of its own, without a side: call it right_femur if that is meant" in err


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (("--size", 64, "--pixel-mm", 2), 2, "both --size and --pixel-mm"),
        (("--like", "default", "--pixel-mm", 2), 2, "both --pixel-mm and --like"),
        (("--like", "random"), 5, "random"),
        (("--like", "missing.onnx"), 5, "missing.onnx"),
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
