from dataclasses import replace

import numpy as np
import pytest

from seg_core.geometry import Geometry
from trainers.bone_tissue import BoneTissue, Owner
from trainers.draw import draw_tissue, true_labels
from trainers.joints import Joints, draw_joints, joint_tissue
from trainers.phantom import PhantomConfig, place
from trainers.soft_tissue import Body, Tissue
from trainers.synthetic import JOINTS, draw_phantom_config

MM = (1.0, 1.0, 1.0)
BONES = [Tissue.CORTEX, Tissue.MARROW, Tissue.RED_MARROW]


def two_bones(gap, names):
    """Two blocks one above the other, a number of planes apart."""
    structures = np.zeros((20 + gap, 12, 12), np.uint8)
    structures[2:10, 3:9, 3:9] = 1
    structures[10 + gap : 18 + gap, 3:9, 3:9] = 2
    return structures, joint_tissue(structures, names, MM, Joints(2.0, 8.0))


def test_a_gap_is_coated_and_filled():
    structures, made = two_bones(6, ["right_femur", "right_tibia"])
    column = made[:, 5, 5]
    cartilage, tendon = Tissue.CARTILAGE, Tissue.TENDON
    assert column[10:16].tolist() == [cartilage, cartilage, tendon, tendon, cartilage, cartilage]
    assert not made[structures > 0].any()
    assert not made[:9].any()
    assert not made[:, 0].any()
    assert two_bones(6, ["right_pelvis", "right_femur"])[1][12, 5, 5] == Tissue.FLUID
    assert set(np.unique(two_bones(3, ["right_tibia", "right_fibula"])[1])) == {0, tendon}


@pytest.mark.parametrize(
    "names",
    [["right_femur", "left_femur"], ["right_hand", "right_femur"], ["left_tibia", "right_fibula"]],
)
def test_who_does_not_meet(names):
    assert not two_bones(3, names)[1].any()


def test_who_meets_though_on_two_sides_or_none():
    assert two_bones(3, ["right_pelvis", "left_pelvis"])[1].any()
    assert two_bones(3, ["sacrum", "left_pelvis"])[1].any()
    assert not two_bones(9, ["sacrum", "left_pelvis"])[1].any()  # too far apart


def test_a_joint_that_is_out_of_view_is_none():
    structures, _ = two_bones(3, ["right_femur", "right_tibia"])
    structures[structures == 2] = 0
    assert not joint_tissue(structures, ["right_femur", "right_tibia"], MM, Joints(2.0, 8.0)).any()


@pytest.fixture(scope="module")
def hip():
    """The right hip of a child, 1 mm a voxel: tissue without and with joints, bones, and its centre's z."""
    config = PhantomConfig(seed=910_001, stature_cm=135.0)
    made = []
    for joints in (False, True):
        anatomy, _, drawing, _ = place(replace(config, joints=joints))
        centre, size = anatomy.landmarks["right_hip"], (90, 90, 60)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
        affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(size) - 1) / 2)
        geometry = Geometry(size, affine)
        tissue = np.zeros(size[::-1], np.uint8)

        def take(k, planes, tissue=tissue):
            tissue[k] = planes[0][0]

        draw_tissue(anatomy, geometry, replace(drawing, planes=1), take, threads=1)
        made.append(tissue)
    labels = true_labels(anatomy, geometry)
    names = [labels.labels.get(value, "") for value in range(9)]
    return made, labels.array.T, names


def test_bowel_lies_in_no_hip_joint(hip):
    (without, within), labels, names = hip
    femur, pelvis = (labels == names.index(f"right_{bone}") for bone in ("femur", "pelvis"))
    names_of = ["right_femur", "right_pelvis"]
    joint = joint_tissue(femur * np.uint8(1) + pelvis * np.uint8(2), names_of, MM, Joints(2.0, 6.0)) > 0
    assert np.isin(without[joint], [Tissue.ORGAN, Tissue.MUSCLE]).mean() > 0.5
    assert not (within[joint] == Tissue.ORGAN).any()
    assert np.isin(within[joint], [Tissue.CARTILAGE, Tissue.FLUID]).mean() > 0.9


def test_labels_are_bone_whether_joints_are_drawn_or_not(hip):
    (without, within), labels, _ = hip
    inside = labels > 0
    for made in (without, within):
        assert np.isin(made[inside], [*BONES, Tissue.CARTILAGE]).all()
    shallow = inside & ~np.roll(inside, 1, 0)
    assert (within[shallow] == Tissue.CORTEX).mean() > (without[shallow] == Tissue.CORTEX).mean() + 0.1


def test_the_head_of_a_childs_femur_is_yellow_above_its_plate(hip):
    (without, within), labels, names = hip
    femur = labels == names.index("right_femur")
    middle = femur[30, 45]  # the row through the centre
    assert (within[30, 45][middle] == Tissue.MARROW).any()
    assert not (without[30, 45][middle] == Tissue.MARROW).any()
    assert (within[femur] == Tissue.CARTILAGE).any()


def test_marrow_is_red_where_it_is_in_life():
    anatomy = place(PhantomConfig(seed=1, stature_cm=172.0))[0]
    structures = np.pad(np.ones((29, 29), np.uint8), 1)
    ends = np.zeros((31, 31), bool)
    place_ = (50.0, np.arange(31.0), np.arange(31.0))

    def middle(name, age, joints):
        owner = Owner.of(name, np.array([0.0, 100.0]))
        bones = BoneTissue(anatomy, Body(joints=joints), age, [owner])
        return bones.fill(structures, ends, place_)[15, 15]

    for name in ("right_patella", "left_talus", "right_hand"):
        assert middle(name, 40, True) == Tissue.MARROW
        assert middle(name, 40, False) == Tissue.RED_MARROW
    for name in ("sacrum", "L3"):
        assert middle(name, 40, True) == Tissue.RED_MARROW
    tibia = Owner.of("right_tibia", np.array([0.0, 100.0]))
    child = BoneTissue(anatomy, Body(joints=True), 7, [tibia])
    below, above = (child.fill(structures, ends, (z, *place_[1:]))[15, 15] for z in (2.0, 12.0))
    assert (below, above) == (Tissue.MARROW, Tissue.RED_MARROW)


def test_a_body_of_any_size_has_its_joints():
    drawn = draw_joints(np.random.default_rng(0), 1.0)
    assert draw_joints(np.random.default_rng(0), 0.5) == Joints(drawn.layer_mm / 2, drawn.reach_mm / 2)


def test_training_sees_both():
    configs = [draw_phantom_config(seed) for seed in range(200)]
    assert np.mean([config.joints for config in configs]) == pytest.approx(JOINTS, abs=0.1)
    assert {config.planes for config in configs} == {2, 3}
    assert all(config.slice_mm / config.planes < 2.6 for config in configs)
