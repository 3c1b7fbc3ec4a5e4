from itertools import permutations, product

import numpy as np
import pytest
import vtk
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from seg_core.geometry import Geometry
from seg_core.ply import Mesh
from seg_core.voxelize import voxelize
from trainers.shape_model import load_shape_model


def sphere(radius=10.0, centre=(0.0, 0.0, 0.0), resolution=24):
    source = vtk.vtkSphereSource()
    source.SetRadius(radius)
    source.SetThetaResolution(resolution)
    source.SetPhiResolution(resolution)
    source.SetOutputPointsPrecision(vtk.vtkAlgorithm.DOUBLE_PRECISION)
    source.Update()
    data = source.GetOutput()
    faces = vtk_to_numpy(data.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    return Mesh(vtk_to_numpy(data.GetPoints().GetData()) + np.array(centre), faces)


def box(low, high):
    corners = np.array(list(product(*zip(low, high, strict=True))), dtype=float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return Mesh(corners, [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])


def bumpy(seed, radius=10.0):
    """A ball whose radius varies at random from point to point: closed, not convex."""
    ball = sphere(1.0, resolution=14)
    away = radius * np.random.default_rng(seed).uniform(0.4, 1.0, (len(ball.vertices_mm), 1))
    return Mesh(ball.vertices_mm * away, ball.faces)


def oblique(shape, size, seed):
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(size)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Geometry(shape, affine)


def polydata(vertices, faces):
    data, points, cells = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(vertices), deep=1))
    triples = np.column_stack([np.full(len(faces), 3), faces]).astype(np.int64)
    cells.ImportLegacyFormat(vtk.util.numpy_support.numpy_to_vtkIdTypeArray(triples.ravel(), deep=1))
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


def off_surface(mesh, geometry, index):
    """Whether the centres of voxels (n, 3) lie more than 1e-4 mm from the surface."""
    distance = vtk.vtkImplicitPolyDataDistance()
    distance.SetInput(polydata(mesh.vertices_mm, mesh.faces))
    return np.array([abs(distance.EvaluateFunction(p)) > 1e-4 for p in geometry.to_world(index)], dtype=bool)


def winding(mesh, points):
    """Winding number (n,) by solid angles: van Oosterom & Strackee, IEEE Trans Biomed Eng 1983."""
    total = np.zeros(len(points))
    for a, b, c in mesh.vertices_mm[mesh.faces]:
        u, v, w = a - points, b - points, c - points
        p, q, r = (np.linalg.norm(x, axis=1) for x in (u, v, w))
        below = p * q * r + (u * v).sum(1) * r + (v * w).sum(1) * p + (w * u).sum(1) * q
        total += 2 * np.arctan2(np.einsum("ni,ni->n", u, np.cross(v, w)), below)
    return total / (4 * np.pi)


@pytest.mark.parametrize("seed", range(6))
def test_equals_vtk_stencil_on_random_meshes(seed):
    geometry = oblique((40, 36, 30), (0.6, 0.7, 0.9), seed)
    mesh = bumpy(seed)
    ours, theirs = voxelize(mesh, geometry), stencil(mesh, geometry)
    assert ours.sum() > 500
    assert not off_surface(mesh, geometry, np.argwhere(ours != theirs)).any()


@pytest.mark.parametrize("seed", range(4))
def test_equals_winding_number(seed):
    geometry = oblique((18, 17, 16), (1.2, 1.3, 1.4), seed + 50)
    mesh = bumpy(seed + 50)
    points = geometry.to_world(np.indices(geometry.shape).reshape(3, -1).T)
    expected = (np.abs(winding(mesh, points)) > 0.5).reshape(geometry.shape)
    assert expected.any()
    np.testing.assert_array_equal(voxelize(mesh, geometry), expected)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(-6, 6), min_size=3, max_size=3), min_size=4, max_size=4))
def test_tetrahedra_with_corners_on_voxels_do_not_leak(corners):
    corners = np.array(corners, dtype=float)
    faces = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)]
    geometry = Geometry((15, 15, 15), np.array([[1, 0, 0, -7], [0, 1, 0, -7], [0, 0, 1, -7], [0, 0, 0, 1.0]]))
    got = voxelize(Mesh(corners, faces), geometry)
    points = geometry.to_world(np.indices(geometry.shape).reshape(3, -1).T)
    edges = corners[1:] - corners[0]
    if abs(np.linalg.det(edges)) < 0.5:  # flat: no more than what lies upon it
        hull = np.vstack([corners.T, np.ones(4)])
        assert all(nnls(hull, [*point, 1])[1] < 1e-9 for point in points[got.ravel()])
        return
    weights = (points - corners[0]) @ np.linalg.inv(edges)
    weights = np.column_stack([1 - weights.sum(1), weights])
    strictly, closed = (weights > 1e-9).all(1), (weights > -1e-9).all(1)
    assert got.ravel()[strictly].all()
    assert not got.ravel()[~closed].any()


def test_a_face_and_its_reverse_hold_nothing():
    geometry = Geometry((15, 15, 15), np.array([[1, 0, 0, -7], [0, 1, 0, -7], [0, 0, 1, -7], [0, 0, 0, 1.0]]))
    corners = np.array([[0, 0, -1], [5, 0, 5], [5, 1, -5], [5, 1, -5]], dtype=float)
    faces = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)]
    assert not voxelize(Mesh(corners, faces), geometry).any()


def test_box_through_voxel_centres_is_half_open():
    geometry = Geometry((12, 12, 12), np.eye(4))
    got = voxelize(box((2, 3, 4), (7, 9, 11)), geometry)
    assert got.sum() == 5 * 6 * 7


def test_neighbours_that_share_a_face_share_no_voxel():
    geometry = Geometry((12, 12, 12), np.eye(4))
    a = voxelize(box((2, 2, 2), (5, 8, 8)), geometry)
    b = voxelize(box((5, 2, 2), (8, 8, 8)), geometry)
    assert not (a & b).any()
    np.testing.assert_array_equal(a | b, voxelize(box((2, 2, 2), (8, 8, 8)), geometry))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_all_orientations(order):
    geometry = Geometry((20, 24, 28), np.diag([1.1, 0.9, 0.8, 1.0]))
    mesh = Mesh(bumpy(3).vertices_mm + np.array([11.03, 10.52, 10.91]), bumpy(3).faces)
    straight = voxelize(mesh, geometry)
    for flips in product((1, -1), repeat=3):
        to_straight = np.zeros((4, 4))
        to_straight[3, 3] = 1
        for new, old in enumerate(order):
            to_straight[old, new] = flips[new]
            to_straight[old, 3] = geometry.shape[old] - 1 if flips[new] < 0 else 0
        turned = Geometry(tuple(geometry.shape[a] for a in order), geometry.affine @ to_straight)
        expected = straight.transpose(order)[tuple(slice(None, None, f) for f in flips)]
        np.testing.assert_array_equal(voxelize(mesh, turned), expected)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(-6, 6)] * 3))
def test_translation_by_whole_voxels_commutes(seed, shift):
    geometry = oblique((26, 26, 26), (1.0, 1.1, 1.2), seed)
    mesh = bumpy(seed, radius=6.0)
    moved = Mesh(mesh.vertices_mm + geometry.affine[:3, :3] @ np.array(shift), mesh.faces)
    expected = np.roll(voxelize(mesh, geometry), shift, axis=(0, 1, 2))
    np.testing.assert_array_equal(voxelize(moved, geometry), expected)


@settings(deadline=None, max_examples=10)
@given(st.floats(5, 12), st.integers(0, 10**6))
@example(5.53125, 0)
def test_volume_of_a_sphere(radius, seed):
    mesh = sphere(radius, resolution=40)
    geometry = oblique((60, 60, 60), (0.5, 0.45, 0.5), seed)
    counts = []
    for shift in np.ndindex(2, 2, 2):  # half a voxel each way: how the grid happens to lie averages out
        affine = geometry.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array(shift) / 2
        counts.append(voxelize(mesh, Geometry(geometry.shape, affine)).sum())
    assert np.mean(counts) * geometry.voxel_volume == pytest.approx(mesh.volume_mm3, rel=0.01)


def test_parts_that_overlap_are_united_and_winding_does_not_matter():
    geometry = Geometry(
        (40, 30, 30), np.array([[1, 0, 0, -15], [0, 1, 0, -15], [0, 0, 1, -15], [0, 0, 0, 1.0]])
    )
    a, b = sphere(8.03), sphere(8.03, (6.01, 0, 0))
    both = Mesh(
        np.concatenate([a.vertices_mm, b.vertices_mm]),
        np.concatenate([a.faces, b.faces + len(a.vertices_mm)]),
    )
    united = voxelize(a, geometry) | voxelize(b, geometry)
    np.testing.assert_array_equal(voxelize(both, geometry), united)
    np.testing.assert_array_equal(voxelize(Mesh(both.vertices_mm, both.faces[:, ::-1]), geometry), united)


def test_a_soup_of_triangles_is_as_good_as_shared_vertices():
    geometry = oblique((30, 30, 30), (0.8, 0.8, 0.8), 4)
    mesh = bumpy(4)
    soup = Mesh(mesh.vertices_mm[mesh.faces].reshape(-1, 3), np.arange(mesh.faces.size).reshape(-1, 3))
    np.testing.assert_array_equal(voxelize(soup, geometry), voxelize(mesh, geometry))


def test_a_window_shows_the_same_voxels():
    geometry = oblique((30, 28, 26), (0.8, 0.9, 0.8), 5)
    mesh = bumpy(5)
    window = geometry.window((9, 11, 8), (8, 9, 10))
    expected = voxelize(mesh, geometry)[9:17, 11:20, 8:18]
    assert expected.any()
    np.testing.assert_array_equal(voxelize(mesh, window), expected)


def test_empty_and_far_meshes():
    geometry = Geometry((5, 6, 7), np.eye(4))
    for mesh in (Mesh(np.zeros((0, 3)), np.zeros((0, 3))), sphere(2, (100, 0, 0)), sphere(2, (0, 0, -1e7))):
        got = voxelize(mesh, geometry)
        assert got.shape == (5, 6, 7)
        assert got.dtype == bool
        assert not got.any()


def test_slices_are_slowest_in_memory():
    assert voxelize(sphere(3), Geometry((4, 5, 6), np.eye(4))).T.flags.c_contiguous


@pytest.mark.parametrize("name", ["femur", "fibula", "left_hip"])
def test_real_bones_equal_vtks_stencil(name):
    model = load_shape_model()
    bone = model.meshes(model.subject_scores(23))[name]
    mesh = Mesh(bone.vertices_mm - bone.vertices_mm.mean(axis=0), bone.faces)
    geometry = oblique((180, 170, 190), (2.5, 2.4, 2.6), seed=3)
    found, expected = voxelize(mesh, geometry) > 0, stencil(mesh, geometry)
    index = np.argwhere(found != expected)
    assert not off_surface(mesh, geometry, index).any()
    assert found.sum() * geometry.voxel_volume == pytest.approx(mesh.volume_mm3, rel=0.02)
