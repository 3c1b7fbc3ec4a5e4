"""What the browser gets of an open case."""

import asyncio
import dataclasses
import gc
import weakref
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gui.viewer.case import Case
from gui.viewer.opened import OpenedCase, OpenedCases, open_case, pack
from gui.viewer.painting import Painting
from seg_core.colours import bone_colours
from seg_core.errors import GeometryError, UsageError
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import BONES, sided_labels
from seg_core.mesh import surface
from seg_core.nifti import read_labels, write_label_table, write_labels
from seg_core.planes import PLANES, Planes
from seg_core.ply import write_ply

STROKE = {"kind": "stroke", "plane": "axial", "level": 1, "points": [[1, 1]], "radius_mm": 2, "value": 1}
GRID = Geometry((4, 5, 6), np.array([[0, -2.0, 0, 9], [1, 0, 0, 3], [0, 0, -3, 20], [0, 0, 0, 1]]))


def opened(array, case=None):
    labels = LabelMap(np.zeros(array.shape, np.uint8), GRID, sided_labels(BONES))
    return OpenedCase(case, Volume(array, GRID), Painting(labels))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("int16", -700, 900),
        ("uint16", 0, 65535),
        ("float32", -1, 3),
        ("int32", 0, 2_000_000),
    ],
)
def test_a_plane_of_the_scan_comes_back_as_its_values(dtype, low, high):
    array = np.linspace(low, high, 120).reshape(4, 5, 6).astype(dtype)
    case = opened(array)
    seen = np.zeros(case.planes.shape)
    for level in range(case.planes.count("axial")):
        sent = np.frombuffer(case.image("axial", level), "<u2").reshape(case.planes.shape[1::-1])
        seen[:, :, level] = sent.T * case.step + case.low
    index = np.moveaxis(np.indices(case.planes.shape), 0, -1)
    world = index @ case.planes.affine[:3, :3].T + case.planes.affine[:3, 3]
    i, j, k = np.rint(GRID.to_index(world)).astype(int).reshape(-1, 3).T
    tolerance = 0 if case.step == 1 else case.step
    np.testing.assert_allclose(seen.ravel(), array[i, j, k].astype(float), rtol=1e-6, atol=tolerance)


def test_planes_are_turned_as_the_radiologist_looks_at_them():
    planes, step = Planes(GRID), np.array([1e-3, 1e-3, 1e-3])
    for plane, row, column in (("axial", "-y", "-x"), ("coronal", "-z", "-x"), ("sagittal", "-z", "-y")):
        for direction, axis in ((row, 0), (column, 1)):
            world = np.moveaxis(GRID.to_world(np.moveaxis(np.indices(GRID.shape), 0, -1)), -1, 0)
            along = planes.cut(world["xyz".index(direction[1])], plane, 2)
            assert (np.diff(along, axis=axis) < -step[0]).all()


def test_routes_serve_planes_and_surfaces_of_open_cases_only(small_case):
    pytest.importorskip("nicegui")
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from gui.viewer.routes import register

    app = FastAPI()
    register(app)
    case = open_case(small_case)
    key = app.state.viewer_cases.add(case)
    with TestClient(app) as client:
        for plane in PLANES:
            level = case.planes.count(plane) // 2
            image = client.get(f"/viewer/{key}/image/{plane}/{level}")
            assert image.content == case.image(plane, level)
            assert image.headers["cache-control"] == "no-store"
            for layer, array in (("labels", case.painting.array), ("other", case.other.array)):
                sent = client.get(f"/viewer/{key}/{layer}/{plane}/{level}")
                assert sent.content == case.planes.cut(array, plane, level).tobytes()
        assert client.get(f"/viewer/{key}/bone/2").content == case.bone(2)
        for wrong in ("image/axial/40", "image/axial/-1", "bone/99"):
            assert client.get(f"/viewer/{key}/{wrong}").status_code == 404
        for wrong in ("image/oblique/3", "secrets/axial/3", "bone/x"):
            assert client.get(f"/viewer/{key}/{wrong}").status_code == 422
        app.state.viewer_cases.close(key)
        assert client.get(f"/viewer/{key}/image/axial/3").status_code == 410


def unpacked(data):
    points, faces = np.frombuffer(data, "<u4", 2)
    places = np.frombuffer(data, "<f4", 3 * points, 8).reshape(-1, 3)
    return places, np.frombuffer(data, "<u4", 3 * faces, 8 + 12 * points).reshape(-1, 3)


def test_surfaces_lie_where_the_bone_is_and_follow_corrections(small_case, tmp_path):
    labels = read_labels(small_case.labels)
    mesh = surface(labels, 2)
    write_ply(tmp_path / "femur.ply", mesh)
    case = open_case(dataclasses.replace(small_case, meshes={"right_femur": tmp_path / "femur.ply"}))
    middle = labels.geometry.to_world((np.array(labels.geometry.shape) - 1) / 2)
    given, _ = unpacked(case.bone(2))
    np.testing.assert_allclose(given + middle, mesh.vertices_mm, atol=1e-3)
    places, faces = unpacked(case.bone(1))  # no file: made from the labels
    np.testing.assert_allclose(places.mean(0) + middle, surface(labels, 1).vertices_mm.mean(0), atol=1e-3)
    assert len(faces) == len(surface(labels, 1).faces)
    level = case.facts()["start"][2]
    column, row = case.facts()["start"][:2]
    stroke = {"kind": "stroke", "plane": "axial", "level": level, "radius_mm": 60, "value": 2, "erase": True}
    case.edit(stroke | {"points": [[column, row]]})
    assert len(unpacked(case.bone(2))[0]) != len(given)
    assert unpacked(pack(surface(labels, 99)))[0].shape == (0, 3)


def test_facts_are_plain_and_start_inside_a_bone(small_case):
    import json

    case = open_case(small_case)
    facts = json.loads(json.dumps(case.facts()))
    column, row, level = facts["start"]
    assert case.planes.cut(case.painting.array, "axial", level)[row, column] > 0
    assert facts["bones"][0] == {
        "value": 1, "name": "right tibia", "colour": list(bone_colours(sided_labels(BONES))[1]),
    }  # fmt: skip
    assert facts["scores"]["1"] == 1
    assert 0.5 < facts["scores"]["2"] < 1


def test_edits_and_what_is_saved(small_case, tmp_path):
    case = open_case(small_case)
    stroke = {"kind": "stroke", "plane": "coronal", "radius_mm": 30, "value": 3, "over": True}
    for level in (10, 14):
        case.edit(stroke | {"level": level, "points": [[20, 20]]})
    assert "voxels drawn" in case.edit({"kind": "fill", "plane": "coronal", "value": 3})
    case.edit({"kind": "undo"})
    case.edit({"kind": "redo"})
    path = case.save(tmp_path / "corrections")
    np.testing.assert_array_equal(read_labels(path).array, case.painting.array)
    assert not case.painting.unsaved
    assert case.recover(tmp_path / "corrections") is None
    case.edit({"kind": "undo"})
    recovered = case.recover(tmp_path / "corrections")
    assert recovered.name == "legs_desc-recovered_dseg.nii.gz"
    np.testing.assert_array_equal(read_labels(recovered).array, case.painting.array)
    np.testing.assert_array_equal(read_labels(small_case.labels).array, case.painting.original.array)
    for wrong in ({"kind": "format"}, {}, {"kind": "fill", "plane": "x", "value": 1}):
        with pytest.raises(UsageError):
            case.edit(wrong)


def test_other_structures_than_bones_are_shown_painted_and_saved_by_their_names(small_case, tmp_path):
    labels, muscles = read_labels(small_case.labels), [f"muscle_{n:02}" for n in range(30)]
    names = sided_labels(muscles)
    array = np.where(labels.array > 4, labels.array + 26, labels.array)  # left ones: 31 and on
    for file in ("a", "b"):
        write_labels(tmp_path / f"{file}_dseg.nii.gz", LabelMap(array, labels.geometry, names))
        write_label_table(tmp_path / f"{file}_dseg.json", names)
    case = open_case(small_case)
    facts = case.facts()
    assert [bone["name"] for bone in facts["bones"]] == [name.replace("_", " ") for name in names.values()]
    assert len({tuple(bone["colour"]) for bone in facts["bones"]}) == 60
    assert facts["scores"] == dict.fromkeys([*range(1, 5), *range(31, 35)], 1.0)
    assert len(unpacked(case.bone(31))[0]) == len(surface(labels, 5).vertices_mm)
    case.edit(STROKE | {"points": [[3, 3]], "value": 60, "over": True})
    saved = read_labels(case.save(tmp_path / "corrections"))
    assert saved.labels == names
    assert (saved.array == 60).any()


def test_labels_of_another_grid_are_refused(small_case, tmp_path):
    labels = read_labels(small_case.labels)
    affine = labels.geometry.affine.copy()
    affine[0, 3] += 3
    moved = LabelMap(labels.array, Geometry(labels.geometry.shape, affine), labels.labels)
    write_labels(tmp_path / "moved.nii.gz", moved)
    with pytest.raises(GeometryError, match=r"moved\.nii\.gz"):
        open_case(dataclasses.replace(small_case, labels=tmp_path / "moved.nii.gz"))


def test_a_mask_of_one_bone_is_compared_with_that_bone_alone(small_case, tmp_path):
    labels = read_labels(small_case.labels)
    mask = LabelMap((labels.array == 2).astype(np.uint8), labels.geometry, {})
    write_labels(tmp_path / "right_femur.nii.gz", mask)
    case = open_case(dataclasses.replace(small_case, other=tmp_path / "right_femur.nii.gz"))
    assert case.scores() == {2: 1.0}
    assert set(np.unique(case.other.array)) == {0, 2}


def test_few_cases_stay_open_but_none_with_corrections_is_lost():
    cases = OpenedCases(limit=2)
    first = opened(np.zeros((4, 5, 6), np.uint8))
    first.edit(
        {"kind": "stroke", "plane": "axial", "level": 1, "points": [[1, 1]], "radius_mm": 2, "value": 1}
    )
    keys = [cases.add(first)] + [cases.add(opened(np.zeros((4, 5, 6), np.uint8))) for _ in range(3)]
    assert [cases.get(key) is not None for key in keys] == [True, False, False, True]
    assert len(set(keys)) == 4


def test_labels_are_sent_as_they_are_while_they_change():
    case = opened(np.zeros((4, 5, 6), np.uint8))
    before = case.labels("labels", "sagittal", 1)
    case.edit(
        {"kind": "stroke", "plane": "sagittal", "level": 1, "points": [[1, 1]], "radius_mm": 0, "value": 7}
    )
    after = case.labels("labels", "sagittal", 1)
    assert len(before) == len(after) == 4 * 6
    assert sorted(set(after)) == [0, 7]
    assert len(zlib.compress(after, 1)) < len(after) + 12


def test_what_is_not_saved_is_kept_when_a_page_goes_or_the_server_ends_but_not_of_a_deleted_result(tmp_path):
    names, cases = ("a", "b", "deleted", "clean"), OpenedCases()
    folders = [tmp_path / name / "corrections" for name in names]
    for folder in folders:
        folder.parent.mkdir()
        case = opened(np.zeros((4, 5, 6), np.uint8), Case("leg", tmp_path))
        case.corrections = folder
        key = cases.add(case)
        if folder.parent.name != "clean":
            case.edit(STROKE)
        if folder.parent.name == "a":
            cases.leave(key)
            assert cases.get(key) is None
    folders[2].parent.rmdir()
    cases.leave_all()
    found = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.nii.gz")]
    assert sorted(found) == [f"{name}/corrections/leg_desc-recovered_dseg.nii.gz" for name in "ab"]
    assert not folders[2].parent.exists()
    cases.leave(key)  # once more, as when the server ends meanwhile


def test_a_case_whose_corrections_cannot_be_written_keeps_no_other_from_it(tmp_path, caplog):
    cases = OpenedCases()
    for name in ("../a", "b"):
        case = opened(np.zeros((4, 5, 6), np.uint8), Case(name, tmp_path))
        case.corrections = tmp_path / "corrections"
        cases.add(case)
        case.edit(STROKE)
    cases.leave_all()
    assert [path.name for path in tmp_path.rglob("*.nii.gz")] == ["b_desc-recovered_dseg.nii.gz"]
    assert "corrections were lost" in caplog.text


def test_a_case_that_was_closed_takes_no_memory_and_says_so():
    pytest.importorskip("nicegui")
    from nicegui import Client
    from nicegui.page import page

    from gui.viewer.element import Viewer

    cases, told = OpenedCases(limit=1), []
    case = opened(np.zeros((4, 5, 6), np.uint8), Case("leg", Path()))
    with Client(page("/viewer-that-was-closed")):
        viewer = Viewer(cases, cases.add(case), case.facts(), editable=True)
    viewer.run_method = lambda name, status: told.append(status["message"])
    memory = weakref.ref(case)
    del case
    assert memory() is not None
    cases.add(opened(np.zeros((4, 5, 6), np.uint8)))
    gc.collect()
    assert memory() is None
    asyncio.run(viewer._edit(SimpleNamespace(args=STROKE)))
    assert told == ["this view has been closed: load the page again"]
