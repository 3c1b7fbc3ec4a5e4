import io
import json
import pickle
import sys
from importlib import resources

import numpy as np
import pytest
from scipy.spatial import KDTree

from seg_core.errors import MissingPackageError, ModelError, UsageError
from seg_core.geometry import Geometry
from seg_core.voxelize import voxelize
from trainers import shape_model
from trainers.shape_model import STRUCTURES, SUBJECTS, load_shape_model, truncated_normal


@pytest.fixture(scope="module")
def model():
    return load_shape_model()


@pytest.fixture(scope="module")
def coarse():
    """The lattice of the nodes alone."""
    return load_shape_model(fineness=1)


def test_mean_equals_the_packages_node_files(model):
    folder = resources.files("musculoskeletal.models") / "atlas_meshes"
    for name, start, count in (("pelvis_combined_cubic", 0, 1946), ("femur_left", 1946, 634)):
        points = json.loads((folder / f"{name}_mean_rigid_LLP26.geof").read_text())["field_parameters"]
        nodes = [[float(points[n][f"dim {a}"]) for n in sorted(points)] for a in range(3)]
        np.testing.assert_allclose(model.mean[:, start : start + count], nodes, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "cm3"),
    [("femur", 465), ("tibia", 291), ("fibula", 46), ("patella", 15), ("left_hip", 299), ("right_hip", 301)],
)
def test_surfaces_of_nodes_have_the_known_volumes(coarse, name, cm3):
    mesh = coarse.meshes(np.zeros(26))[name]
    assert mesh.volume_mm3 / 1000 == pytest.approx(cm3, rel=0.02)


@pytest.mark.parametrize("subject", [0, 12, 25])
def test_every_surface_is_closed_and_faces_out(model, subject):
    meshes = model.meshes(model.subject_scores(subject))
    assert tuple(meshes) == STRUCTURES
    for mesh in meshes.values():
        assert mesh.is_watertight
        assert mesh.volume_mm3 > 0


def test_finer_surfaces_pass_through_the_nodes(model, coarse):
    fine, nodes = model.meshes(np.zeros(26)), coarse.meshes(np.zeros(26))
    for name in STRUCTURES:
        distance, _ = KDTree(fine[name].vertices_mm).query(nodes[name].vertices_mm)
        # A side with four nodes and one with five have different fine points, but both hold their corners.
        assert np.mean(distance < 1e-9) > 0.9
        assert fine[name].volume_mm3 > nodes[name].volume_mm3


def test_weights_are_a_partition_of_unity(model):
    for surface in model.surfaces.values():
        np.testing.assert_allclose(surface.weights.sum(axis=1), 1, atol=1e-12)


def test_bones_lie_where_they_should_on_a_left_leg(model):
    meshes = model.meshes(model.subject_scores(3))
    x, y, z = ({n: m.centroid[a] for n, m in meshes.items()} for a in range(3))
    assert x["left_hip"] < x["sacrum"] < x["right_hip"]
    assert x["fibula"] < x["tibia"], "lateral is towards the left, RAS"
    assert y["patella"] > y["femur"]
    assert z["tibia"] < z["patella"] < z["femur"] < z["left_hip"] < z["sacrum"]


def test_volume_agrees_with_voxels(model):
    mesh = model.meshes(model.subject_scores(5))["tibia"]
    low, high = mesh.vertices_mm.min(0) - 2, mesh.vertices_mm.max(0) + 2
    affine = np.eye(4)
    affine[:3, 3] = low
    inside = voxelize(mesh, Geometry(tuple(np.ceil(high - low).astype(int)), affine))
    assert inside.sum() == pytest.approx(mesh.volume_mm3, rel=0.003)


def test_real_subjects_by_number(model):
    assert model.subject_scores(0).shape == (26,)
    for wrong in (-1, SUBJECTS):
        with pytest.raises(UsageError, match="0 to 25"):
            model.subject_scores(wrong)


def test_the_refitted_basis_is_that_of_the_first_twenty_shapes(model):
    shapes = np.stack([(model.mean + model.modes @ model.subject_scores(n)).ravel() for n in range(20)])
    centre, axes = model.training_basis
    np.testing.assert_allclose((model.mean + model.modes @ centre).ravel(), shapes.mean(axis=0), atol=1e-9)
    variances = np.linalg.svd(shapes - shapes.mean(axis=0), compute_uv=False)[:19] ** 2 / 19
    np.testing.assert_allclose((axes**2).sum(axis=0), variances, rtol=1e-6)


def test_draws_know_nothing_of_the_other_six(model):
    changed = shape_model.ShapeModel(
        model.mean,
        model.modes,
        np.column_stack([model.scores[:, :20], np.full((26, 6), 1e3)]),
        model.surfaces,
    )
    for seed in range(5):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        np.testing.assert_array_equal(model.draw_scores(rng), changed.draw_scores(again))


def test_draws_lie_in_the_span_of_the_first_twenty_and_within_two_deviations(model):
    centre, axes = model.training_basis
    scores = np.stack([model.draw_scores(np.random.default_rng(n)) for n in range(200)])
    units = np.linalg.lstsq(axes, (scores - centre).T, rcond=None)[0]
    np.testing.assert_allclose(axes @ units, (scores - centre).T, atol=1e-6)
    assert 1.9 < np.abs(units).max() <= 2 + 1e-9
    assert np.abs(units.mean()) < 0.05


def test_truncated_normal_is_bounded_and_reproducible():
    a = truncated_normal(np.random.default_rng(1), 5000, 1.5)
    assert np.abs(a).max() <= 1.5
    assert a.std() == pytest.approx(0.743, abs=0.03)  # of the distribution: scipy.stats.truncnorm(-1.5, 1.5)
    np.testing.assert_array_equal(a, truncated_normal(np.random.default_rng(1), 5000, 1.5))


def test_a_pickle_that_calls_something_is_refused():
    class Evil:
        def __reduce__(self):
            return print, ("called",)

    with pytest.raises(ModelError, match=r"builtins\.print"):
        shape_model._ArraysOnly(io.BytesIO(pickle.dumps(Evil()))).load()


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "musculoskeletal.models", None)
    with pytest.raises(MissingPackageError, match=r"pip install '.\[phantom\]'"):
        load_shape_model()
