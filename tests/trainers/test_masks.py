import tracemalloc

import numpy as np
import pytest
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from seg_core.errors import GeometryError, ScanError
from seg_core.geometry import Geometry, LabelMap
from seg_core.nifti import write_label_table, write_labels
from seg_core.ply import Mesh, read_ply, write_ply
from trainers.masks import MaskOptions, keep_region, label_subject, mesh_part, onto_grid
from trainers.subjects import Classes, SubjectInput

BOTH = Classes(("tibia", "femur"), sided=True)


def bumpy(seed, radius=10.0, centre=(0.0, 0.0, 0.0)):
    """A ball whose radius varies at random from point to point: closed, not convex."""
    source = vtk.vtkSphereSource()
    source.SetRadius(1.0)
    source.SetThetaResolution(14)
    source.SetPhiResolution(14)
    source.SetOutputPointsPrecision(vtk.vtkAlgorithm.DOUBLE_PRECISION)
    source.Update()
    points = vtk_to_numpy(source.GetOutput().GetPoints().GetData())
    faces = vtk_to_numpy(source.GetOutput().GetPolys().GetConnectivityArray()).reshape(-1, 3)
    away = radius * np.random.default_rng(seed).uniform(0.4, 1.0, (len(points), 1))
    return Mesh(points * away + np.array(centre), faces)


def oblique(shape, size, seed):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(rng=np.random.default_rng(seed)).as_matrix() @ np.diag(size)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Geometry(shape, affine)


def polydata(vertices, faces):
    data, points, cells = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(vertices), deep=1))
    triples = np.column_stack([np.full(len(faces), 3), faces]).astype(np.int64)
    cells.ImportLegacyFormat(numpy_to_vtkIdTypeArray(triples.ravel(), deep=1))
    data.SetPoints(points)
    data.SetPolys(cells)
    return data


def stencil(mesh, geometry):
    """VTK's own voxels, in the space of indices, since its stencil knows no oblique grids."""
    maker = vtk.vtkPolyDataToImageStencil()
    maker.SetInputData(polydata(geometry.to_index(mesh.vertices_mm), mesh.faces))
    maker.SetOutputOrigin(0, 0, 0)
    maker.SetOutputSpacing(1, 1, 1)
    maker.SetOutputWholeExtent(*(x for n in geometry.shape for x in (0, n - 1)))
    image = vtk.vtkImageStencilToImage()
    image.SetInputConnection(maker.GetOutputPort())
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.Update()
    return vtk_to_numpy(image.GetOutput().GetPointData().GetScalars()).reshape(geometry.shape, order="F") > 0


def subject(**labels):
    return SubjectInput("one", None, **labels)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("space", ["lps", "ras"])
def test_surfaces_equal_vtk_stencil(tmp_path, seed, space):
    geometry = oblique((40, 36, 30), (0.9, 1.0, 1.3), seed)
    meshes = {
        "right_tibia": bumpy(seed, centre=(-9, 3, 2)),
        "left_femur": bumpy(seed + 9, centre=(11, -4, 0)),
    }
    for name, mesh in meshes.items():
        write_ply(tmp_path / f"{name}.ply", mesh, space)
    paths = {name: tmp_path / f"{name}.ply" for name in meshes}
    found = label_subject(subject(structures=paths), geometry, BOTH, MaskOptions())
    assert found.labels.labels == {1: "right_tibia", 4: "left_femur"}
    assert found.notes == ()
    read = {name: stencil(read_ply(path), geometry) for name, path in paths.items()}
    clash = read["right_tibia"] & read["left_femur"]
    for value, name in found.labels.labels.items():
        ours, theirs = found.labels.array == value, read[name] & ~clash
        assert ours.sum() > 300
        distance = vtk.vtkImplicitPolyDataDistance()
        distance.SetInput(polydata(read_ply(paths[name]).vertices_mm, meshes[name].faces))
        differing = geometry.to_world(np.argwhere(ours != theirs))
        assert all(abs(distance.EvaluateFunction(p)) < 1e-4 for p in differing)


def test_a_file_that_does_not_name_its_space_is_read_as_told(tmp_path):
    mesh = bumpy(1, centre=(8, 5, 0))
    path = tmp_path / "tibia.ply"
    write_ply(path, mesh, "ras")
    path.write_bytes(path.read_bytes().replace(b"comment SPACE=RAS\n", b""))
    geometry = oblique((40, 36, 30), (0.9, 1.0, 1.3), 1)
    found = {
        space: label_subject(
            subject(structures={"tibia": path}), geometry, BOTH, MaskOptions(mesh_space=space)
        )
        for space in ("lps", "ras")
    }
    centre = {s: geometry.to_world(np.argwhere(f.labels.array).mean(0)) for s, f in found.items()}
    assert np.allclose(centre["ras"], mesh.centroid, atol=0.5)
    assert np.allclose(centre["lps"][:2], -centre["ras"][:2], atol=1.0)


def test_points_that_each_triangle_has_for_itself_are_no_opening():
    mesh = bumpy(2)
    soup = Mesh(mesh.vertices_mm[mesh.faces].reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3))
    geometry = oblique((30, 30, 30), (1, 1, 1), 2)
    whole, notes = mesh_part("tibia", soup, geometry)
    assert notes == []
    assert whole.inside.sum() > 500
    _, notes = mesh_part("tibia", Mesh(mesh.vertices_mm, mesh.faces[5:]), geometry)
    assert "not closed" in notes[0]
    part, _ = mesh_part("tibia", Mesh(mesh.vertices_mm + 500, mesh.faces), geometry)
    assert not part.inside.size
    part, _ = mesh_part("tibia", Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)), geometry)
    assert not part.inside.size


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_resampling_takes_the_label_of_the_voxel_around_each_centre(seed):
    rng = np.random.default_rng(seed)
    source = oblique((7, 6, 5), rng.uniform(0.8, 2, 3), seed)
    labels = LabelMap(rng.integers(0, 9, source.shape).astype(np.uint8), source, {})
    target = oblique((6, 7, 8), rng.uniform(0.6, 1.5, 3), seed + 1)
    found, notes = onto_grid(labels, target)
    assert len(notes) == 1
    for index in np.ndindex(target.shape):
        place = np.floor(source.to_index(target.to_world(index)) + 0.5).astype(int)
        inside = (place >= 0).all() and (place < source.shape).all()
        assert found[index] == (labels.array[tuple(place)] if inside else 0)


def test_ones_stay_ones_up_to_the_last_slice_and_flips_do_not_matter():
    geometry = Geometry((5, 6, 4), np.diag([2.0, 2.0, 5.0, 1.0]))
    fine = np.diag([1.0, 1.0, 2.5, 1.0])
    fine[:3, 3] = -0.5, -0.5, -1.25
    ones = LabelMap(np.ones(geometry.shape, np.uint8), geometry, {})
    assert onto_grid(ones, Geometry((10, 12, 8), fine))[0].all()
    rng = np.random.default_rng(0)
    labels = LabelMap(rng.integers(0, 3, geometry.shape).astype(np.uint8), geometry, {})
    turned = geometry.affine @ np.array([[-1.0, 0, 0, 4], [0, 1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1]])
    stored = LabelMap(labels.array[::-1, :, ::-1], Geometry(geometry.shape, turned), {})
    assert np.array_equal(onto_grid(stored, geometry)[0], labels.array)


@pytest.fixture
def grid():
    return Geometry((8, 8, 6), np.diag([-1.0, -1.0, 2.0, 1.0]))


@pytest.fixture
def write_mask(tmp_path, grid):
    def write(name, box, value=1):
        array = np.zeros(grid.shape, np.uint8)
        array[box] = value
        write_labels(tmp_path / f"{name}.nii.gz", LabelMap(array, grid, {}))
        return tmp_path / f"{name}.nii.gz"

    return write


@pytest.mark.parametrize(("overlap", "here"), [("background", 0), ("priority", 1)])
def test_what_two_structures_claim_is_told(grid, write_mask, overlap, here):
    paths = {
        "femur": write_mask("femur", np.s_[2:6, 2:4, :], 255),
        "tibia": write_mask("tibia", np.s_[4:8, 3:6, :]),
    }
    found = label_subject(subject(structures=paths), grid, BOTH, MaskOptions(overlap))
    expected = np.zeros(grid.shape, np.uint8)
    expected[2:6, 2:4] = 2
    expected[4:8, 3:6] = 1
    expected[4:6, 3] = here
    assert np.array_equal(found.labels.array, expected)
    assert found.overlaps == {"tibia, femur": 2 * 6}
    assert found.labels.labels == {1: "tibia", 2: "femur"}


def test_putting_labels_together_takes_little_more_than_they_are(tmp_path):
    """In bytes a voxel: a mask as it is read, the union, and what is contested."""
    grid = Geometry((160, 160, 160), np.diag([-1.0, -1.0, 2.0, 1.0]))
    paths, whole = {}, np.zeros(grid.shape, np.uint8, order="F")
    for value, name in enumerate(("tibia", "femur"), 1):
        array = np.zeros(grid.shape, np.uint8, order="F")
        array[20 * value : 20 * value + 30, 30:60, 30:60] = 1
        whole[array > 0] = value
        paths[name] = tmp_path / f"{name}.nii.gz"
        write_labels(paths[name], LabelMap(array, grid, {}))
    write_labels(tmp_path / "labels.nii.gz", LabelMap(whole, grid, {}))
    write_label_table(tmp_path / "labels.json", {1: "tibia", 2: "femur"})
    for one in (subject(structures=paths), subject(label_map=tmp_path / "labels.nii.gz")):
        found = label_subject(one, grid, BOTH, MaskOptions("priority"))
        assert np.array_equal(found.labels.array > 0, whole > 0)
        tracemalloc.start()
        label_subject(one, grid, BOTH, MaskOptions("priority"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5 * whole.size


def test_both_sides_of_a_class_have_no_quarrel(grid, write_mask):
    paths = {f"{side}_tibia": write_mask(side, np.s_[2:6]) for side in ("left", "right")}
    found = label_subject(subject(structures=paths), grid, BOTH, MaskOptions())
    assert found.overlaps == {}
    assert (found.labels.array[2:6] > 0).all()


def test_the_side_that_was_not_labelled_is_left_out(grid, write_mask):
    paths = {"right_tibia": write_mask("r", np.s_[:2]), "left_tibia": write_mask("l", np.s_[6:])}
    found = label_subject(subject(structures=paths), grid, BOTH, MaskOptions(side="left"))
    assert found.labels.labels == {3: "left_tibia"}
    assert not found.labels.array[:2].any()
    one = label_subject(subject(structures={"left_tibia": paths["left_tibia"]}), grid, BOTH, MaskOptions())
    assert one.side == "left"
    with pytest.raises(ScanError, match="right_tibia"):
        label_subject(
            subject(structures={"right_tibia": paths["right_tibia"]}), grid, BOTH, MaskOptions(side="left")
        )


def test_a_label_map_by_the_names_of_its_values(tmp_path, grid):
    array = np.zeros(grid.shape, np.uint8)
    array[0], array[2], array[4], array[6] = 7, 9, 3, 255
    path = tmp_path / "labels.nii.gz"
    write_labels(path, LabelMap(array, grid, {}))
    with pytest.raises(ScanError, match="3, 7, 9 without a name"):
        label_subject(subject(label_map=path), grid, BOTH, MaskOptions())
    named = Classes(("tibia", "femur"), True, {9: "tibia", 7: "femur", 3: "patella"})
    expected = np.zeros(grid.shape, np.uint8)
    expected[0], expected[2], expected[6] = 2, 1, 255
    assert np.array_equal(
        label_subject(subject(label_map=path), grid, named, MaskOptions()).labels.array, expected
    )
    write_label_table(tmp_path / "labels.json", {9: "left_tibia", 7: "right_femur", 3: "left_patella"})
    found = label_subject(subject(label_map=path), grid, BOTH, MaskOptions())
    assert found.labels.labels == {2: "right_femur", 3: "left_tibia"}


def test_labels_that_cannot_be_meant(grid, write_mask):
    array = np.zeros(grid.shape, np.uint8)
    array[0], array[1] = 1, 3
    path = write_mask("tibia", np.s_[0])
    write_labels(path, LabelMap(array, grid, {}))
    with pytest.raises(ScanError, match="values 1, 3"):
        label_subject(subject(structures={"tibia": path}), grid, BOTH, MaskOptions())
    far = np.array(grid.affine)
    far[:3, 3] = 500
    path = write_mask("tibia", np.s_[2:4])
    with pytest.raises(GeometryError, match="no label of one lies within its scan"):
        label_subject(subject(structures={"tibia": path}), Geometry(grid.shape, far), BOTH, MaskOptions())


def test_outside_a_region_only_labels_stay(grid):
    labels = np.zeros(grid.shape, np.uint8)
    labels[1], labels[6] = 1, 2
    region = np.zeros(grid.shape, np.uint8)
    region[:4] = 1
    assert keep_region(labels, LabelMap(region, grid, {}), grid) == 3 * 8 * 6
    assert (labels[[4, 5, 7]] == 255).all()
    assert (labels[6] == 2).all()
    assert (labels[[0, 2, 3]] == 0).all()
