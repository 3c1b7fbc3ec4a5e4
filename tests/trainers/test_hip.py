import numpy as np
import pytest

from seg_core.ply import Mesh
from trainers.extra_bones import blob
from trainers.hip import make_room, part_symphysis, socket_centre, socket_vertices
from trainers.landmarks import femoral_head, fit_sphere
from trainers.shape_model import load_shape_model


@pytest.fixture(scope="module")
def model():
    return load_shape_model()


@pytest.mark.parametrize("subject", [2, 17, 23])
def test_sockets_fit_the_heads_of_real_subjects(model, subject):
    meshes = model.meshes(model.subject_scores(subject))
    _, head = femoral_head(meshes["femur"], "left")
    radii = []
    for side, vertices in socket_vertices(model).items():
        assert len(vertices) > 200
        points = meshes[f"{side}_hip"].vertices_mm[vertices]
        centre, radius = fit_sphere(points)
        np.testing.assert_allclose(socket_centre(meshes[f"{side}_hip"], vertices), centre)
        # The socket's floor (the fossa) is deeper than the sphere.
        assert np.std(np.linalg.norm(points - centre, axis=1)) < 2.5
        radii.append(radius)
    assert radii[0] == pytest.approx(radii[1], abs=2)
    assert head - 2 < radii[0] < head + 5


def test_fit_sphere_finds_a_cap_far_from_the_origin():
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions = np.abs(directions) / np.linalg.norm(directions, axis=1, keepdims=True)
    centre, radius = fit_sphere(directions * 24 + [1000, -500, 300])
    np.testing.assert_allclose(centre, [1000, -500, 300], atol=1e-6)
    assert radius == pytest.approx(24)


def test_room_is_made_without_turning_anything_inside_out(model):
    meshes = model.meshes(model.subject_scores(19))
    femur, pelvis = meshes["femur"], meshes["left_hip"]
    shift = socket_centre(pelvis, socket_vertices(model)["left"]) - femoral_head(femur, "left")[0]
    # Too far towards the midline: the head stands in the socket's floor.
    femur = Mesh(femur.vertices_mm + shift + [4.0, 0.0, 0.0], femur.faces)
    centre, radius = femoral_head(femur, "left")
    before = np.linalg.norm(pelvis.vertices_mm - centre, axis=1)
    roomy = make_room(pelvis, femur, "left", 2.0)
    after = np.linalg.norm(roomy.vertices_mm - centre, axis=1)
    assert before.min() < radius + 2
    assert after.min() == pytest.approx(radius + 2)
    assert (np.diff(after[np.argsort(before)]) > -1e-9).all(), "the order of distances stays"
    far = before > radius + 17
    np.testing.assert_allclose(roomy.vertices_mm[far], pelvis.vertices_mm[far], atol=1e-9)
    again = make_room(roomy, femur, "left", 1.9)
    np.testing.assert_array_equal(again.vertices_mm, roomy.vertices_mm)


def test_hip_bones_that_cross_are_parted():
    right, left = blob((20, 0, 0), np.diag([25.0, 9, 9])), blob((-21, 0, 0), np.diag([24.0, 9, 9]))
    assert right.vertices_mm[:, 0].min() < left.vertices_mm[:, 0].max()
    apart = part_symphysis(right, left, 2.5)
    assert apart[0].vertices_mm[:, 0].min() - apart[1].vertices_mm[:, 0].max() == pytest.approx(2.5)
    assert all(mesh.volume_mm3 > 0 and mesh.is_watertight for mesh in apart)
    again = part_symphysis(*apart, 2.0)
    np.testing.assert_allclose(again[0].vertices_mm, apart[0].vertices_mm)
