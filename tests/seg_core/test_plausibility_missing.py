"""Bones that are not found: true labels of a synthetic child, from which some are taken away."""

import numpy as np
import pytest

from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import BONES, plain_labels
from seg_core.plausibility import BEYOND_MM, check_plausibility
from seg_core.runner import Runner
from seg_core.segment import segment
from seg_core.statistics import bone_statistics
from trainers.anatomy import AnatomyConfig, make_anatomy
from trainers.draw import scan_geometry, true_labels

PIXEL_MM, SLICE_MM = 5.0, 8.0


@pytest.fixture(scope="module")
def person():
    """A child's bones where 360 mm of a slice are seen, and slice numbers of its joints."""
    anatomy = make_anatomy(AnatomyConfig(seed=3, stature_cm=140.0))
    points = np.concatenate([mesh.vertices_mm for mesh in anatomy.bones.values()])
    low, high = points.min(axis=0), points.max(axis=0)
    slices = int((high[2] - low[2] + 60) / SLICE_MM)
    geometry = scan_geometry((low + high) / 2, 72, PIXEL_MM, slices, SLICE_MM)
    return true_labels(anatomy, geometry)


def window(labels, i=slice(None), k=slice(None)):
    """What a smaller field of view shows."""
    (first, end, _), (low, high, _) = (
        s.indices(n) for s, n in zip((i, k), labels.array.shape[::2], strict=True)
    )
    shape = end - first, labels.array.shape[1], high - low
    return LabelMap(labels.array[i, :, k], labels.geometry.window((first, 0, low), shape), labels.labels)


def without(labels, *names, known=True):
    """The labels without some bones, which the network knows or not."""
    values = [value for value, name in labels.labels.items() if name in names]
    assert len(values) == len(names)
    array = np.where(np.isin(labels.array, values), 0, labels.array).astype(np.uint8)
    table = {value: name for value, name in labels.labels.items() if known or name not in names}
    return LabelMap(array, labels.geometry, table)


def failed(labels):
    checks = check_plausibility(labels, bone_statistics(labels))
    return {check.check: check.detail for check in checks if not check.passed}


def span(labels, name):
    """First and last slice of a bone."""
    value = next(value for value, own in labels.labels.items() if own == name)
    return np.flatnonzero((labels.array == value).any(axis=(0, 1)))[[0, -1]].tolist()


LEFT = tuple(f"left_{bone}" for bone in BONES)


@pytest.mark.parametrize(
    ("names", "lost"),
    [
        (["left_fibula"], {"left": ["fibula"]}),
        (["right_fibula", "left_fibula"], {"right": ["fibula"], "left": ["fibula"]}),
        (["left_femur"], {"left": ["femur"]}),
        (["right_tibia", "left_tibia"], {"right": ["tibia"], "left": ["tibia"]}),
        (LEFT, {"left": ["femur", "tibia"]}),
        (["right_femur", "right_pelvis"], {"right": ["femur"]}),
        (["right_tibia", "right_fibula"], {"right": ["tibia"]}),
    ],
)
def test_a_bone_that_must_be_in_view_is_missed(person, names, lost):
    found = failed(without(person, *names))
    assert set(found) == {f"{side}: missing" for side in lost}
    for side, bones in lost.items():
        assert [f"no {side} {bone} was found" in found[f"{side}: missing"] for bone in BONES] == [
            bone in bones for bone in BONES
        ]


def test_why_it_must_be_in_view_is_said(person):
    found = failed(without(person, "left_fibula"))
    said = "no left fibula was found, but the left tibia, beside which it lies, is wholly in view"
    assert found == {"left: missing": said}
    assert (
        "no left femur was found, but the right femur is wholly in view, and "
        in failed(without(person, *LEFT))["left: missing"]
    )


def test_nothing_is_missed_where_all_is_there(person):
    checks = {check.check: check for check in check_plausibility(person, bone_statistics(person))}
    assert failed(person) == {}
    for side in ("right", "left"):
        assert checks[f"{side}: missing"].detail == (
            "bones that must be in view are there: fibula, tibia, femur"
        )


@pytest.mark.parametrize("names", [["right_fibula", "left_fibula"], ["right_femur", "left_femur"], LEFT])
def test_what_a_network_does_not_know_is_not_missed(person, names):
    assert failed(without(person, *names, known=False)) == {}


def parts_of(person):
    """Fields of view of all that is along the legs, each of both legs and of one."""
    columns, _, slices = person.array.shape
    (knee, hip), (ankle, _) = span(person, "right_femur"), span(person, "right_fibula")
    pelvis = span(person, "right_pelvis")[0]
    along = {
        "a thigh": (knee - 1, hip + 2),
        "the shaft of a thigh": (knee + 8, pelvis - 3),
        "a shin": (0, knee + 1),
        "a calf": (ankle + 5, knee - 5),
        "a pelvis": (pelvis - 1, slices),
        "a knee": (knee - 10, knee + 10),
    }
    along |= {f"up to {k}": (0, k) for k in range(2, slices, 4)}
    along |= {f"from {k}": (k, slices) for k in range(0, slices - 2, 4)}
    for name, k in along.items():
        yield name, window(person, k=slice(*k))
        for start, stop in ((0, columns // 2), (columns // 2, columns)):
            yield f"{name}, {start}", window(person, i=slice(start, stop), k=slice(*k))


def test_what_lies_beyond_the_field_of_view_is_not_missed(person):
    alone = set()
    for name, part in parts_of(person):
        wrong = set(failed(part)) - {"view"}
        assert not wrong or not part.array.any(), name
        there = {row.name for row in bone_statistics(part) if row.voxels}
        alone |= {name} if len({bone.partition("_")[0] for bone in there}) == 1 else set()
    assert {"the shaft of a thigh, 0", "a shin, 36", "a calf, 0", "a knee, 36"} <= alone


def test_where_the_view_ends_at_a_knee_nothing_is_missed_beyond(person):
    """A network that finds no shin: the fewer millimetres are seen below the thigh, the less that means."""
    thighs = without(
        person, *(f"{side}_{bone}" for side in ("right", "left") for bone in ("tibia", "fibula"))
    )
    bottom = span(person, "right_femur")[0]
    for beyond in range(8):
        part = window(thighs, i=slice(0, 36), k=slice(bottom - beyond, None))  # the right thigh alone
        assert ("right: missing" in failed(part)) == (beyond * SLICE_MM >= BEYOND_MM + SLICE_MM), beyond


def test_a_leg_that_leaves_the_view_sideways_is_not_missed(person):
    """The left hip is cut by the edge: the rest of the leg may lie beyond it."""
    legs = without(person, "left_femur", "left_tibia", "left_fibula")
    assert "left: missing" in failed(legs)
    hip = (legs.array == 8).any(axis=(1, 2))
    part = window(legs, i=slice(0, int(np.flatnonzero(hip)[-1]) + 1))
    assert failed(part) == {}


def test_a_leg_without_a_side_misses_its_fibula(person):
    leg = window(person, i=slice(0, 36))
    leg = LabelMap(leg.array, leg.geometry, plain_labels(BONES))
    assert failed(leg) == {}
    assert failed(without(leg, "fibula")) == {
        "missing": "no fibula was found, but the tibia, beside which it lies, is wholly in view"
    }


def test_bones_that_are_none_make_nothing_missed(person):
    """A piece of a tibia in the middle of everything, in view wholly, but shorter than any child's."""
    low = span(person, "right_tibia")[0] + 10
    array = np.zeros_like(person.array)
    array[:, :, low : low + 8] = person.array[:, :, low : low + 8]
    piece = LabelMap(np.where(array == 1, array, 0), person.geometry, person.labels)
    assert set(failed(piece)) == {"right tibia: length", "right tibia: volume"}


def test_a_missing_bone_is_warned_of(legs, tiny_model):
    scan = Volume(legs[0].array.copy(order="K"), legs[0].geometry)
    scan.array[legs[1].array == 7] = 20  # the left fibula looks like muscle
    found = segment(scan, Runner(tiny_model, "cpu"))
    assert {row.name for row in found.bones if row.status == "empty"} == {"left_fibula"}
    said = "no left fibula was found, but the left tibia, beside which it lies, is wholly in view"
    assert found.warnings == (f"not plausible: {said}",)


@pytest.mark.parametrize("flip", [False, True])
def test_a_leg_is_missed_where_the_scan_shows_it_and_not_in_air(legs, tiny_model, flip):
    image, truth = legs[0].array, legs[1].array
    noise = np.random.default_rng(0).integers(0, 8, image.shape)
    left = np.arange(64)[:, None, None] >= 32
    shown = np.where(left & (truth > 0), 20, image)  # a leg of muscle alone
    warnings = []
    for array in (shown, np.where(left, noise, np.maximum(image, noise)), np.where(left, 0, image)):
        scan = Volume(np.asfortranarray(array.astype(np.uint8)), legs[0].geometry)
        if flip:  # columns run to the right
            affine = scan.geometry.affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
            affine[:3, 3] += 63 * scan.geometry.affine[:3, 0]
            scan = Volume(scan.array[::-1], Geometry(scan.array.shape, affine))
        found = segment(scan, Runner(tiny_model, "cpu"))
        assert {row.side for row in found.bones if row.voxels} == {"right"}
        warnings.append(found.warnings)
    assert len(warnings[0]) == 1
    assert warnings[0][0].startswith("not plausible: no left femur was found, but the right femur is wholly")
    assert warnings[1:] == [(), ()]
