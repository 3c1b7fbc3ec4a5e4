from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.errors import UsageError
from seg_core.geometry import Geometry, LabelMap
from seg_core.labels import BONES, plain_labels, sided_labels
from seg_core.sides import keep_side, split_sides

# A child's bones as capsules: ends in RAS mm of the right side, radius.
RIGHT = {
    1: [((50, 0, -225), (45, 0, -400), 14)],
    2: [((85, 0, 0), (50, 0, -190), 15), ((85, 0, 0), (65, 0, 20), 16)],
    3: [((80, -10, -235), (72, -10, -395), 8)],
    4: [((75, -10, 60), (60, -15, 130), 28), ((65, 10, 50), (22, 35, 20), 13)],
}
BRIDGE = ((25, 35, 20), (-25, 35, 20), 12)  # hip bones joined by mistake


@dataclass(frozen=True)
class Body:
    sides: str = "RL"
    bones: tuple[int, ...] = (1, 2, 3, 4)
    joined: bool = False
    crossed: bool = False
    turn: tuple[float, float, float] = (0, 0, 0)  # degrees about x, y, z
    shift: tuple[float, float, float] = (0, 0, 0)
    low: tuple[float, float, float] = (-140, -60, -430)
    high: tuple[float, float, float] = (140, 70, 180)
    voxel: float = 4


def rotation(degrees):
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = [c for c in range(3) if c != axis]
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        result = turn @ result
    return result


def inside(points, capsule):
    start, end, radius = (np.asarray(c, float) for c in capsule)
    low, high = np.minimum(start, end) - radius, np.maximum(start, end) + radius
    result = ((points >= low) & (points <= high)).all(-1)
    near = points[result] - start
    along = np.clip(near @ (end - start) / ((end - start) @ (end - start)), 0, 1)
    result[result] = ((near - along[:, None] * (end - start)) ** 2).sum(-1) <= radius**2
    return result


def capsules(body, label, sign):
    for start, end, radius in RIGHT[label]:
        yield np.multiply(start, (sign, 1, 1)), np.multiply(end, (sign, 1, 1)), radius


def crossed(capsule, sign):
    """Feet swap places, one shin before the other."""
    start, end, radius = capsule
    return start, np.array([-1.0 * end[0], end[1] + sign * 35, end[2]]), radius


def make(body, geometry=None):
    """True labels, right 1 to 4 and left 5 to 8, of a body on a grid of 4 mm."""
    if geometry is None:
        affine = np.diag([*[float(body.voxel)] * 3, 1])
        affine[:3, 3] = np.add(body.low, body.shift)
        geometry = Geometry(tuple((np.subtract(body.high, body.low) / body.voxel).astype(int)), affine)
    points = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1))
    points = (points - body.shift) @ rotation(body.turn)  # back to the body
    array = np.zeros(geometry.shape, np.uint8)
    if body.joined:
        bridge = inside(points, BRIDGE)
        array[bridge] = np.where(points[bridge][:, 0] > 0, 4, 8)
    for side in body.sides:
        sign = 1 if side == "R" else -1
        for label in body.bones:
            for capsule in capsules(body, label, sign):
                if body.crossed and label in (1, 3):
                    capsule = crossed(capsule, sign)
                array[inside(points, capsule)] = label + 4 * (sign < 0)
    return LabelMap(array, geometry, sided_labels(BONES))


def unsided(truth):
    array = np.where(truth.array > 4, truth.array - 4, truth.array).astype(np.uint8)
    return LabelMap(array, truth.geometry, plain_labels(BONES))


def check(truth, laterality=None, kind="midline"):
    result, evidence = split_sides(unsided(truth), BONES, laterality)
    assert evidence.kind == kind, evidence
    assert dict(result.labels) == sided_labels(BONES)
    np.testing.assert_array_equal(result.array, truth.array)
    return evidence


TURNS = [(0, 0, 0), (0, 12, 0), (0, -12, 0), (20, 0, 0), (0, 0, 30), (0, 0, -30), (10, 10, 10), (-15, -8, 25)]
BIG = {"low": (-220, -160, -470), "high": (220, 170, 220), "voxel": 6}


@pytest.mark.parametrize("turn", TURNS)
def test_both_legs_turned(turn):
    check(make(Body(turn=turn, shift=(-350, 20, -40), **BIG)))


@pytest.mark.parametrize("origin", [(0, 0, 0), (900, -500, 1700)])
def test_both_legs_anywhere(origin):
    check(make(Body(shift=origin)))


@pytest.mark.parametrize("bones", [(1,), (2,), (3,), (4,), (1, 3), (2, 4), (1, 2)])
def test_both_legs_by_some_bones_only(bones):
    check(make(Body(bones=bones, shift=(100, 0, 0))))


@pytest.mark.parametrize("origin", [(0, 0, 0), (700, 0, 0), (-700, 0, 0)])
@pytest.mark.parametrize("side", ["R", "L"])
def test_one_leg_by_its_fibula(side, origin):
    truth = make(Body(sides=side, shift=origin))
    assert not check(truth, None, "fibula").conflict
    assert not check(truth, side, "laterality").conflict


@pytest.mark.parametrize("turn", [(0, 0, 40), (0, 0, -40), (15, 0, 0), (0, 15, 0)])
@pytest.mark.parametrize("side", ["R", "L"])
def test_one_leg_turned(side, turn):
    check(make(Body(sides=side, turn=turn, **BIG)), None, "fibula")


def test_the_header_decides_and_the_contradiction_is_told():
    truth = make(Body(sides="L"))
    result, evidence = split_sides(unsided(truth), BONES, "R")
    assert evidence.kind == "laterality"
    assert evidence.conflict
    assert set(np.unique(result.array)) == {0, 1, 2, 3, 4}


def test_one_leg_without_fibula_is_unknown_and_keeps_plain_names():
    truth = make(Body(sides="L", bones=(1, 2)))
    labels = unsided(truth)
    result, evidence = split_sides(labels, BONES, "B")
    assert evidence.kind == "unknown"
    assert dict(result.labels) == plain_labels(BONES)
    np.testing.assert_array_equal(result.array, labels.array)
    check(truth, "L", "laterality")


@pytest.mark.parametrize("turn", TURNS)
def test_joined_hip_bones_are_cut_at_the_midline(turn):
    truth = make(Body(joined=True, turn=turn, shift=(33, 5, 800), **BIG))
    result, evidence = split_sides(unsided(truth), BONES)
    assert "cut at the midline: pelvis" in evidence.detail
    wrong = result.array != truth.array
    assert set(truth.array[wrong]) <= {4, 8}
    # Only voxels next to the cut, which is about 24 mm across.
    assert wrong.sum() <= np.pi * 12**2 / 6**2


@pytest.mark.parametrize("body", [Body(joined=True), Body(sides="R")])
def test_overwriting_gives_the_same(body):
    labels = unsided(make(body))
    before = labels.array.copy()
    expected, _ = split_sides(labels, BONES)
    np.testing.assert_array_equal(labels.array, before)
    result, _ = split_sides(labels, BONES, overwrite=True)
    assert np.shares_memory(result.array, labels.array)
    np.testing.assert_array_equal(result.array, expected.array)


@pytest.mark.parametrize("turn", [(0, 0, 0), (0, 0, 15)])
def test_crossed_shins_belong_to_their_thighs(turn):
    check(make(Body(crossed=True, turn=turn, **BIG)))


@pytest.mark.parametrize("cut", [0, 40, 60])
@pytest.mark.parametrize("side", [1, -1])
def test_one_leg_partly_outside(cut, side):
    body = Body()
    body = replace(body, high=(cut, 70, 180)) if side > 0 else replace(body, low=(-cut, -60, -430))
    truth = make(body)
    result, _ = split_sides(unsided(truth), BONES)
    np.testing.assert_array_equal(result.array, truth.array)


@pytest.mark.parametrize(("low", "high"), [(-430, -360), (-300, -100), (-120, 60), (-10, 180), (-404, -400)])
def test_parts_of_both_legs(low, high):
    check(make(Body(low=(-140, -60, low), high=(140, 70, high))))


@pytest.mark.parametrize("side", ["R", "L"])
def test_noise_beside_a_single_leg_makes_no_second_leg(side):
    truth = make(Body(sides=side))
    labels = unsided(truth)
    array = labels.array.copy()
    for i in (3, 66):
        array[i : i + 3, 5:8, 20:26] = 1
        array[i : i + 2, 5:8, 60:66] = 3
    result, evidence = split_sides(LabelMap(array, labels.geometry, labels.labels), BONES)
    assert evidence.kind == "fibula"
    there = truth.array > 0
    np.testing.assert_array_equal(result.array[there], truth.array[there])


def test_a_bone_in_pieces_and_specks_join_their_own_leg():
    truth = make(Body())
    array = truth.array.copy()
    array[:, :, 40] = 0  # through both shins
    array[44, 10, 15], array[28, 10, 15] = 3, 7
    check(LabelMap(array, truth.geometry, truth.labels))


def orientations():
    for axes in permutations(range(3)):
        for flips in product([1, -1], repeat=3):
            yield axes, flips


@pytest.mark.parametrize("body", [Body(shift=(500, 0, 0)), Body(sides="L"), Body(joined=True, bones=(2, 4))])
def test_all_48_orientations_give_the_same(body):
    truth = make(body)
    labels = unsided(truth)
    expected, first = split_sides(labels, BONES)
    for axes, flips in orientations():
        start = [n - 1 if flip < 0 else 0 for n, flip in zip(truth.array.shape, flips, strict=True)]
        flipped = truth.geometry.affine @ np.vstack([np.column_stack([np.diag(flips), start]), [0, 0, 0, 1]])
        affine = flipped[:, [*axes, 3]]
        where = tuple(slice(None, None, flip) for flip in flips)
        turned = labels.array[where].transpose(axes)
        geometry = Geometry(turned.shape, affine)
        result, evidence = split_sides(LabelMap(turned, geometry, labels.labels), BONES)
        assert evidence.kind == first.kind
        assert evidence.detail == first.detail
        differ = result.array != expected.array[where].transpose(axes)
        assert differ.sum() <= (
            30 if body.joined else 0
        )  # a voxel exactly on the midline may fall either way


@settings(deadline=None, max_examples=12)
@given(
    turn=st.tuples(st.floats(-20, 20), st.floats(-12, 12), st.floats(-30, 30)),
    scan=st.tuples(*[st.floats(-40, 40)] * 3),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
    sides=st.sampled_from(["RL", "R", "L"]),
)
def test_oblique_scans_never_swap_legs(turn, scan, origin, sides):
    body = Body(sides=sides, turn=turn, shift=origin)
    affine = np.eye(4)
    affine[:3, :3] = rotation(scan) * 8
    affine[:3, 3] = np.add(origin, (0, 0, -120)) - affine[:3, :3] @ [45, 45, 45]
    truth = make(body, Geometry((91, 91, 91), affine))
    result, evidence = split_sides(unsided(truth), BONES)
    assert evidence.kind == ("midline" if sides == "RL" else "fibula")
    np.testing.assert_array_equal(result.array, truth.array)


def test_nothing_and_other_classes():
    geometry = Geometry((4, 5, 6), np.eye(4))
    empty = LabelMap(np.zeros(geometry.shape, np.uint8), geometry, plain_labels(BONES))
    result, evidence = split_sides(empty, BONES, "R")
    assert evidence.kind == "unknown"
    assert not result.array.any()
    with pytest.raises(UsageError):
        split_sides(LabelMap(np.full(geometry.shape, 5, np.uint8), geometry, {}), BONES)
    one_class = make(Body(bones=(1,)))
    muscles, evidence = split_sides(
        LabelMap(unsided(one_class).array, one_class.geometry, {}), ("gastrocnemius",)
    )
    assert evidence.kind == "midline"
    assert muscles.labels == {1: "right_gastrocnemius", 2: "left_gastrocnemius"}
    np.testing.assert_array_equal(muscles.array == 2, one_class.array == 5)


def test_keep_side():
    truth = make(Body())
    right = keep_side(truth, "right")
    assert right.labels == {1: "right_tibia", 2: "right_femur", 3: "right_fibula", 4: "right_pelvis"}
    np.testing.assert_array_equal(right.array, np.where(truth.array <= 4, truth.array, 0))
    np.testing.assert_array_equal(keep_side(truth, "left").array, np.where(truth.array > 4, truth.array, 0))
    with pytest.raises(UsageError):
        keep_side(unsided(truth), "right")
    with pytest.raises(UsageError):
        keep_side(truth, "both")  # type: ignore[arg-type]


def test_leaves_its_input_alone():
    labels = unsided(make(Body(joined=True)))
    before = labels.array.copy()
    split_sides(labels, BONES)
    np.testing.assert_array_equal(labels.array, before)


def test_shins_follow_their_thighs_and_not_arms_that_were_taken_for_shins():
    truth = make(Body(**BIG))
    points = truth.geometry.to_world(np.stack(np.indices(truth.array.shape), -1).reshape(-1, 3))
    points = points.reshape(*truth.array.shape, 3)
    # The left arm is nearer to the middle than the right one, so that it is the nearer one to both shins.
    for label, x in ((1, 190), (5, -90)):
        truth.array[inside(points, ((x, 60, 0), (x, 60, 190), 22)) & (truth.array == 0)] = label
    check(truth)
