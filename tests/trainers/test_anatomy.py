import numpy as np
import pytest
import vtk

from seg_core.errors import ScanError, UsageError
from seg_core.geometry import Geometry
from seg_core.ply import Mesh, write_ply
from seg_core.voxelize import voxelize
from trainers.anatomy import BONE_NAMES, AnatomyConfig, make_anatomy
from trainers.extra_bones import blob, capsule, joined
from trainers.landmarks import femoral_head, greatest_length
from trainers.shape_model import load_shape_model

CONFIGS = (
    AnatomyConfig(seed=1),
    AnatomyConfig(seed=2, stature_cm=120),
    AnatomyConfig(seed=3, subject=24, scale=0.7, pose=1.5),
)


@pytest.fixture(scope="module")
def model():
    return load_shape_model()


@pytest.fixture(scope="module")
def anatomies(model):
    return [make_anatomy(config, model) for config in CONFIGS]


@pytest.fixture(params=range(len(CONFIGS)), ids=["adult", "child", "real subject"])
def anatomy(request, anatomies):
    return anatomies[request.param]


@pytest.fixture
def child(anatomies):
    return anatomies[1]


def grid_around(meshes, size):
    points = np.concatenate([m.vertices_mm for m in meshes])
    low, high = points.min(0) - 3, points.max(0) + 3
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = low
    return Geometry(tuple(np.ceil((high - low) / size).astype(int)), affine)


def distance_between(a, b):
    """Least distance (mm) of the vertices of one surface to the other, by VTK; negative inside."""
    vtk_mesh, points, cells = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray()
    for p in b.vertices_mm:
        points.InsertNextPoint(p)
    for face in b.faces:
        cells.InsertNextCell(3, [int(n) for n in face])
    vtk_mesh.SetPoints(points)
    vtk_mesh.SetPolys(cells)
    function = vtk.vtkImplicitPolyDataDistance()
    function.SetInput(vtk_mesh)
    low, high = b.vertices_mm.min(0) - 10, b.vertices_mm.max(0) + 10
    near = a.vertices_mm[((a.vertices_mm > low) & (a.vertices_mm < high)).all(1)]
    return min(function.EvaluateFunction(p) for p in near)


def test_all_eight_bones_are_closed(anatomy):
    assert tuple(anatomy.bones) == BONE_NAMES
    for name, mesh in {**anatomy.bones, **anatomy.others}.items():
        assert mesh.is_watertight, name
        assert mesh.volume_mm3 > 0, name


def test_labelled_bones_do_not_overlap(anatomy):
    geometry = grid_around(anatomy.bones.values(), 1.2)
    times = np.zeros(geometry.shape, np.uint8)
    for mesh in anatomy.bones.values():
        times += voxelize(mesh, geometry)
    assert times.max() == 1


@pytest.mark.parametrize("side", ["right", "left"])
def test_joints_have_a_cartilage_gap(anatomy, side):
    bones = anatomy.bones
    knee = distance_between(bones[f"{side}_tibia"], bones[f"{side}_femur"])
    hip = distance_between(bones[f"{side}_pelvis"], bones[f"{side}_femur"])
    assert 1.5 < knee < 5
    assert 0.8 < hip < 5
    assert distance_between(bones[f"{side}_fibula"], bones[f"{side}_tibia"]) > 0.3


def test_right_is_right_and_the_fibula_is_lateral(anatomy):
    at = {name: mesh.centroid for name, mesh in anatomy.bones.items()}
    for side, sign in (("right", 1), ("left", -1)):
        assert all(at[f"{side}_{bone}"][0] * sign > 20 for bone in ("tibia", "femur", "fibula", "pelvis"))
        assert (at[f"{side}_fibula"][0] - at[f"{side}_tibia"][0]) * sign > 3
        assert at[f"{side}_fibula"][1] < at[f"{side}_tibia"][1]
        assert at[f"{side}_tibia"][2] < at[f"{side}_femur"][2] < at[f"{side}_pelvis"][2]
        assert anatomy.others[f"{side}_patella"].centroid[1] > anatomy.landmarks[f"{side}_knee"][1]
        assert anatomy.landmarks[f"{side}_toe"][1] > anatomy.landmarks[f"{side}_heel"][1]


def test_landmarks_lie_in_their_bones(anatomy):
    def inside(mesh, point):
        affine = np.eye(4)
        affine[:3, 3] = point
        return bool(voxelize(mesh, Geometry((1, 1, 1), affine))[0, 0, 0])

    for side in ("right", "left"):
        assert inside(anatomy.bones[f"{side}_femur"], anatomy.landmarks[f"{side}_hip"])
        hip, knee, ankle = (anatomy.landmarks[f"{side}_{joint}"][2] for joint in ("hip", "knee", "ankle"))
        assert hip > knee > ankle
        assert abs(anatomy.landmarks[f"{side}_crest"][0]) > 20
    assert abs(anatomy.landmarks["pubis"][0]) < 8


def test_the_head_lies_in_the_socket(anatomy):
    """The hip joint is a ball joint: the socket's surface near the head has the head's own centre."""
    for side in ("right", "left"):
        centre, radius = femoral_head(anatomy.bones[f"{side}_femur"], side)
        away = np.linalg.norm(anatomy.bones[f"{side}_pelvis"].vertices_mm - centre, axis=1) - radius
        assert away.min() > 0
        assert (away < 6).sum() > 80


def test_the_legs_differ_a_little(child):
    left, right = child.bones["left_femur"], child.bones["right_femur"]
    assert greatest_length(left) != greatest_length(right)
    assert greatest_length(left) == pytest.approx(greatest_length(right), rel=0.05)
    assert left.volume_mm3 == pytest.approx(right.volume_mm3, rel=0.2)


def test_the_femur_follows_stature(child):
    lengths = [greatest_length(child.bones[f"{side}_femur"]) for side in ("right", "left")]
    assert np.mean(lengths) == pytest.approx(0.2674 * 1200, rel=0.002)
    assert child.femur_mm == pytest.approx(np.mean(lengths))


def test_seeds_differ(anatomies):
    volumes = [a.bones["left_tibia"].volume_mm3 / a.femur_mm**3 for a in anatomies]
    assert len(set(np.round(volumes, 9))) == len(CONFIGS)


def test_same_configuration_same_numbers(model, child):
    again = make_anatomy(CONFIGS[1], model)
    for name, mesh in {**child.bones, **child.others}.items():
        np.testing.assert_array_equal({**again.bones, **again.others}[name].vertices_mm, mesh.vertices_mm)
    for name, point in child.landmarks.items():
        np.testing.assert_array_equal(again.landmarks[name], point)


@pytest.mark.parametrize("space", ["lps", "ras"])
def test_anyones_meshes_stay_where_they_are(tmp_path, model, child, space):
    for name, mesh in child.bones.items():
        write_ply(tmp_path / f"{name}.ply", mesh, space)
    read = make_anatomy(AnatomyConfig(bones=tmp_path), model)
    for name, mesh in child.bones.items():
        np.testing.assert_allclose(read.bones[name].vertices_mm, mesh.vertices_mm, atol=1e-3)
    assert set(read.landmarks) == set(child.landmarks)
    assert "right_patella" not in read.others


def test_missing_bones_are_allowed_and_landmarks_estimated(tmp_path, model, child):
    for name in ("left_femur", "left_tibia"):
        write_ply(tmp_path / f"{name}.ply", child.bones[name])
    read = make_anatomy(AnatomyConfig(bones=tmp_path), model)
    assert set(read.bones) == {"left_femur", "left_tibia"}
    assert set(read.landmarks) == set(child.landmarks)
    apart = np.linalg.norm(read.landmarks["right_hip"] - child.landmarks["right_hip"])
    assert apart < 60, "the other hip is guessed where it is"
    only = make_anatomy(AnatomyConfig(bones=tmp_path, scale=0.5), model)
    assert greatest_length(only.bones["left_femur"]) == pytest.approx(child.femur_mm / 2, rel=0.03)


@pytest.mark.parametrize("bone", ["right_tibia", "right_pelvis"])
def test_one_bone_is_enough(tmp_path, model, child, bone):
    write_ply(tmp_path / f"{bone}.ply", child.bones[bone])
    read = make_anatomy(AnatomyConfig(bones=tmp_path), model)
    assert set(read.landmarks) == set(child.landmarks)
    assert read.femur_mm == pytest.approx(child.femur_mm, rel=0.15)


def test_bad_folders_of_bones(tmp_path, model, child):
    with pytest.raises(UsageError, match="no bone"):
        make_anatomy(AnatomyConfig(bones=tmp_path), model)
    write_ply(tmp_path / "right_fibula.ply", child.bones["right_fibula"])
    with pytest.raises(UsageError, match="at least one tibia, femur or pelvis"):
        make_anatomy(AnatomyConfig(bones=tmp_path), model)
    tibia = child.bones["right_tibia"]
    write_ply(tmp_path / "right_tibia.ply", Mesh(tibia.vertices_mm, tibia.faces[1:]))
    with pytest.raises(ScanError, match="not closed"):
        make_anatomy(AnatomyConfig(bones=tmp_path), model)
    write_ply(tmp_path / "right_tibia.ply", tibia)
    with pytest.raises(UsageError, match="femur"):
        make_anatomy(AnatomyConfig(bones=tmp_path, stature_cm=120), model)


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": 1, "bones": "x"},
        {"scale": 0.7, "stature_cm": 120},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"stature_cm": 5},
        {"seed": -1},
        {"pose": -1},
        {"asymmetry": float("nan")},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(UsageError):
        AnatomyConfig(**wrong)


def test_no_such_subject(model):
    with pytest.raises(UsageError, match="0 to 25"):
        make_anatomy(AnatomyConfig(subject=26), model)


def test_simple_shapes_have_their_volumes():
    ellipsoid = blob((1, 2, 3), np.diag([4.0, 5.0, 6.0]))
    assert ellipsoid.is_watertight
    assert ellipsoid.volume_mm3 == pytest.approx(4 / 3 * np.pi * 120, rel=0.06)
    assert blob((0, 0, 0), np.diag([-4.0, 5.0, 6.0])).volume_mm3 > 0
    rod = capsule((0, 0, 0), (0, 0, 50), (5, 5))
    assert rod.volume_mm3 == pytest.approx(np.pi * 25 * 50 + 4 / 3 * np.pi * 125, rel=0.12)
    both = joined([ellipsoid, rod])
    assert both.is_watertight
    assert both.volume_mm3 == pytest.approx(ellipsoid.volume_mm3 + rod.volume_mm3)
