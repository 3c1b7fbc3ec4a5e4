import hashlib
import json

import numpy as np
import pytest

from seg_core.geometry import Geometry, LabelMap
from seg_core.mesh import surface
from seg_core.nifti import write_labels
from seg_core.ply import Mesh, write_ply
from seg_core.report import (
    Check,
    RunFacts,
    Step,
    build_report,
    check_label_file,
    check_mesh_file,
    peak_memory,
    sha256,
    write_report,
)
from seg_core.statistics import bone_statistics


def facts(**changes):
    given = {
        "name": "leg",
        "scan": {"kind": "nifti", "size": np.float64("nan")},
        "model": {"name": "tiny", "sha256": "0"},
        "device": {"asked": "auto", "used": "cpu"},
        "steps": [Step("read", 0.5, {"series": None})],
        "sides": {"how": "midline"},
        "bones": [],
        "warnings": ["careful"],
    }
    return RunFacts(**given | changes)


def test_the_report_lists_every_file_with_its_sum(tmp_path):
    (tmp_path / "leg_dseg.json").write_bytes(b"abc")
    report = build_report(facts(), tmp_path, [Check("it works", True, "yes")])
    assert report["outputs"] == [
        {"file": "leg_dseg.json", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    ]
    assert report["schema_version"] == 1
    assert "research" in report["intended_use"]
    assert report["software"]["packages"]["numpy"] == np.__version__
    assert report["checks"] == [{"check": "it works", "passed": True, "detail": "yes"}]
    assert report["scan"]["size"] is None


def test_the_report_is_json_and_names_no_path(legs, tmp_path):
    rows = bone_statistics(legs[1])
    report = build_report(
        facts(bones=rows, scan={"affine": legs[0].geometry.affine, "odd": "[ 1,\n 2 ]"}), tmp_path, []
    )
    write_report(tmp_path / "leg_report.json", report)
    text = (tmp_path / "leg_report.json").read_text()
    assert json.loads(text) == report
    assert str(tmp_path) not in text
    assert len(report["bones"]) == 8
    assert report["scan"]["affine"] == legs[0].geometry.affine.tolist()


def test_the_label_map_is_proved_and_a_wrong_one_found_out(legs, tmp_path):
    volume, labelmap = legs
    write_labels(tmp_path / "leg_dseg.nii.gz", labelmap)
    checks = check_label_file(tmp_path / "leg_dseg.nii.gz", labelmap, volume.geometry)
    assert [check.passed for check in checks] == [True, True]
    moved = LabelMap(
        labelmap.array, labelmap.geometry.window((1, 0, 0), labelmap.geometry.shape), labelmap.labels
    )
    write_labels(tmp_path / "moved.nii.gz", moved)
    checks = check_label_file(tmp_path / "moved.nii.gz", labelmap, volume.geometry)
    assert [check.passed for check in checks] == [False, False]
    (tmp_path / "broken.nii.gz").write_bytes(b"no")
    assert not check_label_file(tmp_path / "broken.nii.gz", labelmap, volume.geometry)[0].passed


@pytest.mark.parametrize("space", ["lps", "ras"])
def test_a_mesh_is_proved_and_a_wrong_one_found_out(legs, tmp_path, space):
    labelmap = legs[1]
    row, path = bone_statistics(labelmap)[1], tmp_path / "m.ply"
    mesh = surface(labelmap, 2)
    write_ply(path, mesh, space)
    assert [c.passed for c in check_mesh_file(path, row, labelmap.geometry)] == [True, True, True]
    mirrored = Mesh(mesh.vertices_mm * [-1, 1, 1], mesh.faces[:, ::-1])
    write_ply(path, mirrored, space)
    assert [c.passed for c in check_mesh_file(path, row, labelmap.geometry)] == [True, False, True]
    write_ply(path, Mesh(mesh.vertices_mm, mesh.faces[1:]), space)
    assert not check_mesh_file(path, row, labelmap.geometry)[0].passed
    path.write_bytes(b"no")
    assert not check_mesh_file(path, row, labelmap.geometry)[0].passed


def test_a_mesh_of_scattered_pieces_is_proved_and_a_shifted_one_found_out(tmp_path):
    labels = np.zeros((80, 80, 3), np.uint8, order="F")
    labels[5:30, 5:30] = 1
    for n in range(8):  # what a network leaves of a bone in a slice or two
        labels[40 + 5 * n, 70, 1] = labels[60:62, 2 * n, 2] = 1
    geometry = Geometry(labels.shape, np.diag([0.94, 0.94, 4, 1]))
    labelmap, path = LabelMap(labels, geometry, {1: "right_pelvis"}), tmp_path / "m.ply"
    (row,), mesh = bone_statistics(labelmap), surface(labelmap, 1)
    write_ply(path, mesh, "lps")
    assert [c.passed for c in check_mesh_file(path, row, geometry)] == [True, True, True]
    write_ply(path, Mesh(mesh.vertices_mm + np.array([0.94, 0.94, 2]), mesh.faces), "lps")
    assert [c.passed for c in check_mesh_file(path, row, geometry)] == [True, False, True]


def test_sha256_and_memory(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    assert sha256(tmp_path / "x").startswith("e3b0c442")
    memory = peak_memory()
    assert memory is None or memory > 10_000_000
