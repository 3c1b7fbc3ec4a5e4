"""Helpers of the tests of the page."""

import pytest

from gui.viewer.case import Case
from seg_core.geometry import LabelMap
from seg_core.nifti import write_label_table, write_labels, write_volume


@pytest.fixture
def small_case(legs, tmp_path):
    """A case of two made-up legs in files, with a second label map that lacks a slab of the femora."""
    volume, labels = legs
    write_volume(tmp_path / "scan.nii.gz", volume)
    other = labels.array.copy(order="F")
    other[:, :, 20:24] = 0
    for name, array in (("a", labels.array), ("b", other)):
        write_labels(tmp_path / f"{name}_dseg.nii.gz", LabelMap(array, labels.geometry, labels.labels))
        write_label_table(tmp_path / f"{name}_dseg.json", labels.labels)
    return Case(
        "legs", tmp_path / "scan.nii.gz", None, tmp_path / "a_dseg.nii.gz", tmp_path / "b_dseg.nii.gz"
    )
