"""Right and left on bones of real shape, in the fields of view and with the errors that happen."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, distance_transform_edt

from seg_core.geometry import Geometry, LabelMap
from seg_core.labels import BONES, plain_labels, sided_labels
from seg_core.sides import split_sides
from seg_core.voxelize import voxelize
from trainers.anatomy import AnatomyConfig, make_anatomy
from trainers.draw import scan_geometry, true_labels

TIBIA, FEMUR, FIBULA, PELVIS = 1, 2, 3, 4


@dataclass(frozen=True, eq=False)
class Person:
    """True labels; the same with hip bones that touch; and the sacrum, all on one grid."""

    truth: LabelMap
    joined: np.ndarray
    sacrum: np.ndarray


def make_person(seed, stature_cm):
    anatomy = make_anatomy(AnatomyConfig(seed=seed, stature_cm=stature_cm))
    points = np.concatenate([mesh.vertices_mm for mesh in anatomy.bones.values()])
    low, high = points.min(0), points.max(0)
    slices = int((high[2] - low[2] + 60) / 8)
    geometry = scan_geometry((low + high) / 2, 128, 3.75, slices, 8.0)
    truth = true_labels(anatomy, geometry)
    return Person(truth, join_at_symphysis(truth), voxelize(anatomy.others["sacrum"], geometry) > 0)


def join_at_symphysis(truth):
    """Fill the narrow gap between the hip bones, each voxel by the nearer one."""
    sizes = truth.geometry.voxel_sizes
    near = [distance_transform_edt(truth.array != value, sizes) for value in (4, 8)]
    bridge = (truth.array == 0) & (near[0] + near[1] < 20)
    return np.where(bridge, np.where(near[0] < near[1], 4, 8), truth.array).astype(np.uint8)


@pytest.fixture(scope="module")
def people():
    """A child of 115 cm and a youth of 165 cm."""
    return [make_person(0, 115.0), make_person(1, 165.0)]


def bone_of(array):
    return np.where(array > 4, array - 4, array).astype(np.uint8)


def of_side(array, side):
    return array * ((array > 4) if side == "L" else (array <= 4))


def split(array, geometry, laterality=None):
    labels = LabelMap(bone_of(array), geometry, plain_labels(BONES))
    return split_sides(labels, BONES, laterality)


def wrong(array, geometry, laterality=None, allowed=0.0):
    """Check that every voxel of bone is on its side, but for a share of them; return what decided."""
    result, evidence = split(array, geometry, laterality)
    assert dict(result.labels) == sided_labels(BONES), evidence
    differ = (array > 0) & (result.array != array)
    assert differ.sum() <= allowed * (array > 0).sum(), evidence
    return evidence.kind


def fields(array):
    """Ranges of slices: what a scan may show of the legs."""
    first, last = {}, {}
    for bone in (TIBIA, FEMUR, FIBULA, PELVIS):
        slices = np.flatnonzero((bone_of(array) == bone).any((0, 1)))
        first[bone], last[bone] = int(slices[0]), int(slices[-1])
    return {
        "all": (0, array.shape[2]),
        "thigh": (first[FEMUR] + 4, last[PELVIS] - 2),
        "shaft": (first[FEMUR] + 12, first[FEMUR] + 20),
        "knee": (first[FEMUR] - 4, first[FEMUR] + 6),
        "calf": (first[TIBIA] + 3, last[TIBIA] - 4),
        "calf and knee": (0, first[FEMUR] + 8),
        "ankle": (0, first[TIBIA] + 4),
        "hips": (last[FEMUR] - 8, array.shape[2]),
        "one slice": (first[FEMUR] + 2, first[FEMUR] + 3),
    }


def views(person):
    for name, (low, high) in fields(person.truth.array).items():
        array = person.truth.array[:, :, low:high]
        yield name, array, person.truth.geometry.window((0, 0, low), array.shape)


def test_both_legs_in_every_field_of_view(people):
    for person in people:
        for name, array, geometry in views(person):
            assert wrong(array, geometry) == "midline", name


@pytest.mark.parametrize("side", ["R", "L"])
def test_one_leg_with_its_half_of_the_pelvis(people, side):
    for person in people:
        for name, array, geometry in views(person):
            one = of_side(array, side)
            result, evidence = split(one, geometry)
            if {TIBIA, FIBULA} <= set(np.unique(bone_of(one))):
                assert evidence.kind == "fibula", name
                np.testing.assert_array_equal(result.array, one)
            else:
                assert evidence.kind == "unknown", name
                np.testing.assert_array_equal(result.array, bone_of(one))
            assert wrong(one, geometry, side) == "laterality"


@pytest.mark.parametrize("side", ["R", "L"])
@pytest.mark.parametrize("name", ["all", "hips", "thigh"])
@pytest.mark.parametrize("joined", [False, True])
def test_one_leg_with_the_whole_pelvis(people, side, name, joined):
    for person in people:
        truth = person.joined if joined else person.truth.array
        array = np.where(bone_of(truth) == PELVIS, truth, of_side(truth, side))
        low, high = fields(truth)[name]
        geometry = person.truth.geometry.window((0, 0, low), array[:, :, low:high].shape)
        # The other hip shows where the middle is: no header is asked.
        for laterality in (None, "R", "L"):
            kind = wrong(array[:, :, low:high], geometry, laterality, allowed=0.01)
            assert kind == "midline"


@pytest.mark.parametrize("side", ["R", "L"])
@pytest.mark.parametrize("columns", [-6, 0, 6])
def test_a_narrow_field_around_one_leg(people, side, columns):
    for person in people:
        middle = 64 + columns
        half = slice(0, middle) if side == "R" else slice(middle, 128)  # columns run to the left
        array = person.truth.array[half]
        geometry = person.truth.geometry.window((half.start, 0, 0), array.shape)
        # A tip of the other hip bone may be taken along.
        wrong(array, geometry, None, allowed=0.02)


@pytest.mark.parametrize("side", ["R", "L"])
def test_a_wrong_header_is_followed_and_told_of(people, side):
    other = {"R": "L", "L": "R"}[side]
    for person in people:
        result, evidence = split(of_side(person.truth.array, side), person.truth.geometry, other)
        assert (evidence.kind, evidence.conflict) == ("laterality", True)
        assert set(np.unique(result.array)) - {0} == ({1, 2, 3, 4} if other == "R" else {5, 6, 7, 8})


def turn(axis, degrees):
    a, b = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(4)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    return matrix


@pytest.mark.parametrize(("axis", "degrees"), [("x", 10), ("y", 10), ("y", -10), ("z", 10), ("z", -10)])
@pytest.mark.parametrize("sides", ["RL", "R", "L"])
def test_a_body_that_lies_askew(people, axis, degrees, sides):
    for person in people:
        geometry = Geometry(person.truth.geometry.shape, turn(axis, degrees) @ person.truth.geometry.affine)
        if sides == "RL":
            # The hip bones of one may touch, and are cut where they do.
            assert wrong(person.truth.array, geometry, allowed=0.001) == "midline"
            assert wrong(person.joined, geometry, allowed=0.005) == "midline"
        else:
            assert wrong(of_side(person.truth.array, sides), geometry) == "fibula"


@pytest.mark.parametrize("origin", [(0, 0, 0), (300, 0, -900), (-300, 700, 2000)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_any_origin_head_or_feet_first(people, origin, flips):
    for person in people:
        array, affine = person.truth.array, person.truth.geometry.affine.copy()
        affine[:3, 3] += [
            sum(affine[r, c] * (array.shape[c] - 1) for c in range(3) if flips[c] < 0) + origin[r]
            for r in range(3)
        ]
        affine[:3, :3] *= flips
        array = array[tuple(slice(None, None, flip) for flip in flips)]
        geometry = Geometry(array.shape, affine)
        assert wrong(array, geometry) == "midline"
        for side in "RL":
            assert wrong(of_side(array, side), geometry) == "fibula"


def with_errors(person, errors, seed=0):
    """What a network may say, in sided values; voxels outside the true bones belong to no side."""
    rng = np.random.default_rng(seed)
    found = (person.joined if "symphysis" in errors else person.truth.array).copy()
    if "sacrum" in errors:
        found[binary_dilation(person.sacrum) & (found == 0)] = PELVIS
    if "fibula" in errors:
        found[found == FIBULA] = 0
    if "holes" in errors:  # slices that a bone is not found in
        for value in range(1, 9):
            lost = rng.integers(0, found.shape[2], 6)
            found[:, :, lost] = np.where(found[:, :, lost] == value, 0, found[:, :, lost])
    if "specks" in errors:
        for _ in range(150):
            i, j, k = (int(rng.integers(0, n - 2)) for n in found.shape)
            speck = found[i : i + 2, j : j + 2, k : k + 1]
            speck[speck == 0] = rng.integers(1, 5)
    return found


ERRORS = [
    ("specks",),
    ("fibula",),
    ("symphysis",),
    ("sacrum",),
    ("holes",),
    ("symphysis", "sacrum"),
    ("specks", "fibula", "symphysis", "sacrum", "holes"),
]


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("name", ["all", "hips", "knee", "calf and knee", "thigh"])
@pytest.mark.parametrize("seed", [0, 8])
def test_both_legs_with_a_networks_errors(people, errors, name, seed):
    for person in people:
        truth, found = person.truth.array, with_errors(person, errors, seed)
        low, high = fields(truth)[name]
        geometry = person.truth.geometry.window((0, 0, low), truth[:, :, low:high].shape)
        result, evidence = split(found[:, :, low:high], geometry)
        if name == "hips" and len(errors) > 2 and evidence.kind == "unknown":
            continue  # too little of two legs is left: unknown is no lie
        assert evidence.kind == "midline"
        bone = (truth[:, :, low:high] > 0) & (found[:, :, low:high] > 0)
        swapped = bone & ((result.array > 4) != (truth[:, :, low:high] > 4))
        # Only voxels of hip bones that touch, beside the cut.
        assert set(truth[:, :, low:high][swapped]) <= {4, 8}
        assert swapped.sum() <= 0.006 * bone.sum()


@pytest.mark.parametrize("side", ["R", "L"])
@pytest.mark.parametrize("errors", [("specks",), ("holes",), ("specks", "holes")])
def test_one_leg_with_a_networks_errors(people, side, errors):
    for person in people:
        truth = of_side(person.truth.array, side)
        one = Person(LabelMap(truth, person.truth.geometry, person.truth.labels), truth, person.sacrum)
        found = with_errors(one, errors)
        result, evidence = split(found, person.truth.geometry)
        assert evidence.kind == "fibula"
        bone = (truth > 0) & (found > 0)
        assert not (bone & ((result.array > 4) != (truth > 4))).any()
