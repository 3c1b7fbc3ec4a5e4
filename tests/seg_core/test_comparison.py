import numpy as np
import pytest

from seg_core.comparison import mask_of_one, read_pair
from seg_core.errors import UsageError
from seg_core.geometry import Geometry, LabelMap
from seg_core.labels import BONES, plain_labels, sided_labels, structure_name
from seg_core.nifti import read_labels, write_label_table, write_labels

GRID = Geometry((6, 5, 4), np.diag([1.0, 1, 2, 1]))


@pytest.fixture
def write(tmp_path):
    def write(name, values, table=None):
        array = np.zeros(GRID.shape, np.uint8, order="F")
        for n, value in enumerate(values):
            array[n, 1:4] = value
        write_labels(tmp_path / f"{name}.nii.gz", LabelMap(array, GRID, {}))
        if table is not None:
            write_label_table(tmp_path / f"{name}.json", table)
        return tmp_path / f"{name}.nii.gz"

    return write


@pytest.mark.parametrize(
    ("text", "name"),
    [("right_femur", "right_femur"), ("Tibia-Right", "right_tibia"), ("fibula_L", "left_fibula"),
     ("R tibia", "right_tibia"), ("tibia", "tibia"), ("scan_dseg", "scan_dseg")],
)  # fmt: skip
def test_how_structures_are_spelled(text, name):
    assert structure_name(text, letters=True) == name


def test_a_mask_is_what_its_file_is_called(write):
    whole = write("pred", [1, 2, 6], sided_labels(BONES))
    for pair in ((whole, write("right_femur", [0, 1])), (write("femur_R", [0, 1]), whole)):
        found = read_pair(*pair)
        assert dict(found.given) == {2: "right_femur"}
        assert found.notes == ()
        np.testing.assert_array_equal(found.predicted.array, found.truth.array)
        assert set(np.unique(found.truth.array)) == {0, 2}


def test_a_mask_has_the_value_of_the_table_that_it_is_compared_with(write):
    found = read_pair(write("pred", [3, 7], {3: "soleus", 7: "left_femur"}), write("left_femur", [0, 1]))
    assert dict(found.given) == {7: "left_femur"}
    found = read_pair(write("plain", [1, 2], plain_labels(BONES)), write("femur", [0, 1]))
    assert dict(found.given) == {2: "femur"}
    muscle = read_pair(write("pred", [3, 7], {3: "soleus", 7: "left_femur"}), write("soleus", [1]))
    assert dict(muscle.given) == {3: "soleus"}


def test_two_masks_are_of_one_structure(write):
    femur = write("right_femur", [0, 1])
    assert dict(read_pair(femur, femur).given) == {2: "right_femur"}
    found = read_pair(write("pred", [0, 1, 255]), femur)
    assert "pred.nii.gz names no structure: right_femur was assumed" in found.notes[0]
    assert dict(found.given) == dict(found.truth.labels) == {2: "right_femur"}
    assert set(np.unique(found.predicted.array)) == {0, 2, 255}


def test_what_cannot_be_the_same_is_refused(write):
    femur, table = write("right_femur", [0, 1]), sided_labels(BONES)
    for other in (
        write("left_tibia", [1]),
        write("femur", [1]),
        write("none", [1], {1: "right_tibia"}),
        write("muscles", [1, 2], {1: "vastus", 2: "soleus"}),
    ):
        with pytest.raises(UsageError, match=r"right_femur\.nii\.gz is a mask of right_femur"):
            read_pair(femur, other)
    with pytest.raises(UsageError, match=r"femur\.nii\.gz is a mask of femur"):
        read_pair(write("femur", [1]), write("pred", [1, 2], table))


def test_names_that_nobody_gave_are_assumed_and_said(write):
    first, second = write("a", [1, 2]), write("b", [1])
    found = read_pair(first, second)
    assert dict(found.assumed) == sided_labels(BONES)
    assert found.notes[1] == "b.nii.gz has no table of names (b.json): 1 as right_tibia was assumed"
    assert read_pair(write("odd", [99]), second).notes == found.notes[1:]
    named = read_pair(write("muscle", [1], {1: "soleus"}), second)
    assert (dict(named.given), dict(named.assumed)) == ({1: "soleus"}, {1: "soleus"})
    assert read_pair(write("right_femur", [0, 1]), first).notes == (
        "a.nii.gz has no table of names (a.json): 1 as right_tibia, 2 as right_femur was assumed",
    )
    assert read_pair(write("x", [1], {1: "a"}), write("y", [1], {1: "a"})).notes == ()


def test_a_file_with_a_table_or_several_values_is_no_mask(write):
    for path in (
        write("right_femur", [1], {1: "right_tibia"}),
        write("left_femur", [1, 2]),
        write("leg", [1]),
    ):
        assert mask_of_one(read_labels(path), path, {}) is None
    path = write("right_tibia", [])
    found = mask_of_one(read_labels(path), path, {})
    assert found is not None
    assert dict(found.labels) == {1: "right_tibia"}
