import os
from pathlib import Path

import pytest

from cli.names import output_name, output_names
from seg_core.errors import UsageError


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("leg.nii.gz", "leg"),
        ("leg.nii", "leg"),
        ("IM0001.dcm", "IM0001"),
        ("Doe^Jane.zip", "scan"),
        ("a.b.nii", "a.b"),
    ],
)
def test_names_of_files(file, name):
    assert output_name(Path(file)) == name


def test_a_folder_never_gives_its_name(tmp_path):
    (tmp_path / "Doe_Jane").mkdir()
    assert output_name(tmp_path / "Doe_Jane") == "scan"


def test_bytes_that_are_no_text_become_lines():
    scans = [Path(os.fsdecode(b"M\xfcller.nii.gz")), Path("M\u00fcller.nii"), Path("a\nb.nii")]
    assert output_names(scans) == ["M_ller", "M\u00fcller", "a_b"]
    assert output_names([Path("leg 2024-01-01T10:00?.nii.gz")]) == ["leg 2024-01-01T10_00_"]


def test_shared_names_are_numbered():
    paths = [Path("a/leg.nii"), Path("b/Leg.nii.gz"), Path("other.nii"), Path("leg-1.nii")]
    assert output_names(paths) == ["leg-2", "Leg-3", "other", "leg-1"]
    assert output_names(paths[:2], "x") == ["x-1", "x-2"]
    assert output_names(paths[:1], "x") == ["x"]


@pytest.mark.parametrize("name", ["a/b", "..", "", ".x", "a\\b", "c:", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(UsageError):
        output_names([Path("leg.nii")], name)
