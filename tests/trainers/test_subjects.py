import json

import pytest

from seg_core.errors import ScanError, UsageError
from seg_core.labels import structure_name
from trainers.subjects import (
    SubjectInput,
    choose_classes,
    labelled_side,
    lone_letters,
    read_classes,
    read_subjects,
    structure_names_of,
)


@pytest.fixture
def touch(tmp_path):
    """Make empty files."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        return tmp_path

    return make


def test_a_folder_as_a_phantom_s(touch):
    base = touch(
        "anna/dicom/1.dcm",
        "anna/meshes/right_tibia.ply",
        "anna/meshes/.DS_Store",
        "anna/masks/right_tibia.nii.gz",
        "anna/masks/Pelvis.nii",
        "anna/labels.nii.gz",
        "ben/scan.nii.gz",
        "ben/labels.nii.gz",
        "ben/labels.json",
        "ben/region.nii.gz",
    )
    found = read_subjects([base / "anna", base / "ben"])
    assert found["anna"].scan == base / "anna/dicom"
    assert found["anna"].structures == {
        "right_tibia": base / "anna/meshes/right_tibia.ply",
        "pelvis": base / "anna/masks/Pelvis.nii",
    }
    assert found["anna"].label_map is None
    assert found["ben"].label_map == base / "ben/labels.nii.gz"
    assert [role for role, _ in found["ben"].files] == ["scan", "labels", "table", "region"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Right Tibia", "right_tibia"),
        ("tibia_left", "left_tibia"),
        ("Vastus-lateralis right", "right_vastus_lateralis"),
        ("right", "right"),
        ("from right to left", "from_right_to_left"),
    ],
)
def test_a_name_has_its_side_in_front(text, name):
    assert structure_name(text) == name


def test_sides_of_files_stand_wherever_they_like(touch):
    base = touch("anna/scan.nii", "anna/Meshes/Tibia right.PLY", "anna/MASKS/left-tibia.nii.gz")
    found = read_subjects([base / "anna"])["anna"].structures
    assert found == {
        "right_tibia": base / "anna/Meshes/Tibia right.PLY",
        "left_tibia": base / "anna/MASKS/left-tibia.nii.gz",
    }
    touch("anna/Meshes/right_tibia.ply")
    assert "are both right_tibia" in read_subjects([base / "anna"])["anna"].found


def test_what_is_wrong_with_one_stands_in_its_place(touch):
    base = touch(
        "no_scan/labels.nii.gz", "no_labels/scan.nii.gz", "cache/scan.nii.gz", "cache/labels.nii.gz", "file"
    )
    found = read_subjects([base / name for name in ("no_scan", "no_labels", "cache", "file", "nowhere")])
    assert isinstance(found["no_labels"], ScanError)
    assert "has no labels" in found["no_labels"].found
    assert "holds no scan" in found["no_scan"].found
    assert isinstance(found["cache"], UsageError)
    assert "is no folder" in found["file"].found
    assert "is no folder" in found["nowhere"].found


def test_two_of_one_name_and_nobody(touch):
    base = touch("a/p/scan.nii.gz", "b/P/scan.nii.gz")
    with pytest.raises(UsageError, match="two subjects called P"):
        read_subjects([base / "a/p", base / "b/P"])
    with pytest.raises(UsageError, match="no subject"):
        read_subjects([])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_subjects(touch, separator):
    base = touch("1.nii.gz", "m/left_femur.ply", "2.nii.gz", "2_labels.nii.gz", "t.ply", "r.nii.gz")
    rows = [
        ("subject", "scan", "labels", "left_tibia", "side", "hip_slice", "region"),
        ("one", "1.nii.gz", "m", "t.ply", "", "", ""),
        ("two", "2.nii.gz", "2_labels.nii.gz", "", "right", "31", "r.nii.gz"),
        ("bad", "2.nii.gz", "2_labels.nii.gz", "", "up", "", ""),
        ("worse", "3.nii.gz", "2_labels.nii.gz", "", "", "", ""),
        ("worst", "2.nii.gz", "2_labels.nii.gz", "", "", "high", ""),
    ]
    table = base / "subjects.csv"
    table.write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8-sig")
    found = read_subjects([table])
    assert found["one"] == SubjectInput(
        "one", base / "1.nii.gz", {"left_femur": base / "m/left_femur.ply", "left_tibia": base / "t.ply"}
    )
    assert found["two"] == SubjectInput(
        "two", base / "2.nii.gz", {}, base / "2_labels.nii.gz", base / "r.nii.gz", None, "right", 31
    )
    assert "side 'up'" in found["bad"].found
    assert "3.nii.gz" in found["worse"].found
    assert "hip_slice" in found["worst"].found
    (base / "s.json").write_text(json.dumps({"subjects": [dict(zip(*rows[:2], strict=True))]}))
    assert read_subjects([base / "s.json"]) == {"one": found["one"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.csv", "who,scan\na,b\n"), ("t.json", "{"), ("t.json", "[1]"), ("t.json", '{"a": 1}')],
)
def test_what_is_no_table(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="no table of subjects"):
        read_subjects([tmp_path / name])


def named(*names):
    return SubjectInput("x", None, dict.fromkeys(names))


def test_classes_are_bones_in_their_order_then_the_others_by_name():
    classes = choose_classes([named("right_pelvis", "soleus"), named("left_tibia", "right_gastrocnemius")])
    assert classes.names == ("tibia", "pelvis", "gastrocnemius", "soleus")
    assert classes.sided
    assert choose_classes([named("soleus")]).sided is False
    assert choose_classes([named("tibia")]).sided is True


def test_a_table_chooses_the_classes_and_their_order():
    subject = named("right_tibia", "left_tibia", "right_femur", "patella")
    assert choose_classes([subject], read_classes("patella,tibia")).names == ("patella", "tibia")
    sided = {5: "left_tibia", 1: "right_tibia", 2: "right_femur"}
    assert choose_classes([subject], sided).names == ("tibia", "femur")
    with pytest.raises(UsageError, match="no subject has a label of tiba"):
        choose_classes([subject], read_classes("tiba"))
    with pytest.raises(UsageError, match="1 to 127"):
        choose_classes([])


def test_a_label_map_without_names_is_refused(touch):
    base = touch("anna/scan.nii", "anna/labels.nii.gz")
    with pytest.raises(UsageError, match=r"labels\.nii\.gz gives its values no names"):
        choose_classes([read_subjects([base / "anna"])["anna"]])


def test_class_tables_of_every_kind(tmp_path):
    expected = {2: "tibia", 10: "soleus"}
    (tmp_path / "a.json").write_text('{"LabelMap": {"10": "soleus", "2": "tibia"}}')
    (tmp_path / "b.json").write_text('{"10": "soleus", "2": "tibia"}')
    (tmp_path / "c.csv").write_text("value,name\n10,soleus\n2, tibia\n")
    (tmp_path / "f.csv").write_text("value;name\n10;soleus\n2;tibia\n")
    for name in ("a.json", "b.json", "c.csv", "f.csv"):
        assert read_classes(str(tmp_path / name)) == expected
    assert read_classes("tibia, soleus") == {1: "tibia", 2: "soleus"}
    (tmp_path / "d.csv").write_text("value,name\n255,soleus\n")
    for bad in (str(tmp_path / "d.csv"), str(tmp_path / "e.json"), "tibia,,femur"):
        with pytest.raises(UsageError, match="class table"):
            read_classes(bad)


@pytest.mark.parametrize(
    ("names", "asked", "side"),
    [
        (["right_tibia", "right_femur"], "auto", "right"),
        (["right_tibia", "left_femur"], "auto", "both"),
        (["right_tibia", "femur"], "auto", "both"),
        (["tibia"], "auto", "both"),
        (["tibia"], "left", "left"),
        (["right_tibia"], "both", "both"),
    ],
)
def test_the_labelled_side_is_that_of_all_names(names, asked, side):
    assert labelled_side(named(*names), names, asked) == side


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["tibia_R", "tibia_L"], ["right_tibia", "left_tibia"]),
        (["RT femur", "lt-femur"], ["right_femur", "left_femur"]),
        (["tibia_r", "Tibia left"], ["right_tibia", "left_tibia"]),
        (["vastus_l", "vastus_m", "l"], ["vastus_l", "vastus_m", "l"]),
        (["tibia_r"], ["tibia_r"]),
    ],
)
def test_a_letter_is_a_side_where_the_other_side_is_there_too(texts, names):
    assert list(structure_names_of(texts).values()) == names


def test_a_letter_that_was_taken_for_no_side_is_known():
    assert lone_letters(["femur_r", "left_tibia", "patella", "l"]) == {"femur_r": "right_femur"}


@pytest.mark.parametrize(
    ("column", "file", "words"),
    [
        ("lables", "masks", "the column 'lables' of anna names masks|call it labels"),
        ("lables", "map.nii.gz", "call it labels"),
        ("bones", "masks", "the column 'bones' of anna|take it out"),
        ("age", "34", "the column 'age' of anna names 34|subject, scan, series, labels"),
    ],
)
def test_a_column_that_is_no_structure_is_named(touch, column, file, words):
    base = touch("scan.nii.gz", "masks/tibia.nii.gz", "map.nii.gz")
    (base / "who.csv").write_text(f"subject,scan,{column}\nanna,scan.nii.gz,{file}\n")
    found = read_subjects([base / "who.csv"])["anna"]
    assert isinstance(found, UsageError)
    assert all(word in str(found) for word in words.split("|"))


def test_columns_of_a_table_are_named_as_files_are(tmp_path):
    for name in ("scan.nii.gz", "a.ply", "b.ply"):
        (tmp_path / name).touch()
    table = tmp_path / "who.csv"
    table.write_text("subject,scan,tibia_R,tibia_L\nanna,scan.nii.gz,a.ply,b.ply\n")
    assert set(read_subjects([table])["anna"].structures) == {"right_tibia", "left_tibia"}
    table.write_text("subject,scan,tibia_right,right-tibia\nanna,scan.nii.gz,a.ply,b.ply\n")
    assert "a column a structure" in str(read_subjects([table])["anna"])
