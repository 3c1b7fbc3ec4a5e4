import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.geometry import Geometry, LabelMap
from seg_core.mesh import surface

AFFINES = {
    "axial": np.array([[-0.94, 0, 0, 90], [0, -0.94, 0, 20], [0, 0, 3, -400], [0, 0, 0, 1.0]]),
    "left-handed": np.array([[0.94, 0, 0, 90], [0, -0.94, 0, 20], [0, 0, 3, -400], [0, 0, 0, 1.0]]),
    "oblique": np.array([[0.9, 0.2, 0.1, 5], [-0.2, 0.9, 0.3, 6], [0.05, -0.3, 2.8, 7], [0, 0, 0, 1.0]]),
}


def ellipsoid(affine, radii, shape=(60, 56, 40)):
    """Voxels whose centres lie in an ellipsoid in mm, tilted a little against all axes."""
    geometry = Geometry(shape, affine)
    index = np.moveaxis(np.indices(shape), 0, -1)
    points = geometry.to_world(index) - geometry.to_world((np.array(shape) - 1) / 2)
    tilt = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.2, 1, 0.2], [0, -0.1, 1.0]]))[0]
    mask = (((points @ tilt) / radii) ** 2).sum(axis=-1) <= 1
    return LabelMap(np.asfortranarray(mask.astype(np.uint8) * 2), geometry, {1: "a", 2: "b"})


def world_centroid(labelmap, value):
    return labelmap.geometry.to_world(np.argwhere(labelmap.array == value)).mean(axis=0)


@pytest.mark.parametrize("radii", [(5, 4, 45), (16, 14, 40), (20, 20, 12)])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_surface_is_closed_and_keeps_volume_and_centroid(affine, radii):
    labelmap = ellipsoid(affine, radii)
    mesh = surface(labelmap, 2)
    volume = (labelmap.array == 2).sum() * labelmap.geometry.voxel_volume
    assert mesh.is_watertight
    assert mesh.volume_mm3 == pytest.approx(volume, rel=0.02)
    gap = np.linalg.norm(mesh.centroid - world_centroid(labelmap, 2))
    assert gap < 0.2 * min(labelmap.geometry.voxel_sizes)


def test_smoothing_makes_the_surface_smoother():
    labelmap = ellipsoid(AFFINES["axial"], (16, 14, 40))

    def roughness(mesh):
        corners = mesh.vertices_mm[mesh.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return np.linalg.norm(normals, axis=1).sum()

    assert roughness(surface(labelmap, 2)) < 0.97 * roughness(surface(labelmap, 2, smooth=False))


def test_a_bone_cut_by_the_scan_is_closed():
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[:3, :, :2] = 1
    labelmap = LabelMap(labels, Geometry(labels.shape, np.diag([2.0, 2, 3, 1])), {1: "a"})
    mesh = surface(labelmap, 1)
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.centroid, world_centroid(labelmap, 1), atol=0.3)


def scattered(shape, spacing_mm):
    """A large piece and smaller ones, down to single voxels, far from each other."""
    labels = np.zeros(shape, np.uint8, order="F")
    labels[5:30, 5:30, : max(1, shape[2] // 2)] = 1
    for n, size in enumerate((1, 2, 3, 5)):
        labels[60 : 60 + size, 20 * n : 20 * n + size, -1] = 1
    labels[70, 70, -1] = labels[71, 71, -1] = 1  # touch by an edge
    labels[10, 10, 0] = 0  # a cavity, or a hole
    return LabelMap(labels, Geometry(shape, np.diag([*spacing_mm, 1])), {1: "a"})


@pytest.mark.parametrize("shape", [(80, 80, 1), (80, 80, 12)])
@pytest.mark.parametrize("spacing_mm", [(0.94, 0.94, 4), (1.9, 1.9, 3)])
def test_scattered_pieces_keep_volume_and_centroid(shape, spacing_mm):
    labelmap = scattered(shape, spacing_mm)
    mesh = surface(labelmap, 1)
    volume = labelmap.array.sum() * labelmap.geometry.voxel_volume
    assert mesh.is_watertight
    assert mesh.volume_mm3 == pytest.approx(volume, rel=0.02)
    assert np.linalg.norm(mesh.centroid - world_centroid(labelmap, 1)) < 0.2 * min(spacing_mm)


def test_an_absent_label_gives_an_empty_mesh():
    labels = np.zeros((6, 5, 4), np.uint8)
    mesh = surface(LabelMap(labels, Geometry(labels.shape, np.eye(4)), {1: "a"}), 1)
    assert mesh.vertices_mm.shape == (0, 3)
    assert mesh.faces.shape == (0, 3)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.02, 0.98))
def test_any_mask_gives_a_surface_that_is_closed_and_faces_outwards(seed, share):
    labels = (np.random.default_rng(seed).random((5, 6, 4)) < share).astype(np.uint8)
    labels[2, 3, 1] = 1
    labelmap = LabelMap(labels, Geometry(labels.shape, np.diag([1.0, 1, 2, 1])), {1: "a"})
    raw = surface(labelmap, 1, smooth=False)
    assert raw.is_watertight
    assert raw.volume_mm3 > 0
    assert surface(labelmap, 1).is_watertight


def test_labels_are_left_alone_and_others_do_not_matter():
    labelmap = ellipsoid(AFFINES["axial"], (16, 14, 40))
    before = labelmap.array.copy()
    alone = surface(labelmap, 2)
    crowd = labelmap.array.copy()
    crowd[crowd == 0] = 1
    among = surface(LabelMap(crowd, labelmap.geometry, labelmap.labels), 2)
    np.testing.assert_array_equal(labelmap.array, before)
    np.testing.assert_array_equal(alone.vertices_mm, among.vertices_mm)
