import numpy as np
import pytest

from seg_core.errors import UsageError
from seg_core.geometry import Geometry
from seg_core.limb_range import coarse_slices, find_limb, range_from_hip
from seg_core.prepare import plan_slices


def make_plan(band_spec, slices=400, mm=3.0, direction=1.0):
    return plan_slices(Geometry((64, 32, slices), np.diag([-1.0, -1.0, direction * mm, 1.0])), band_spec())


def test_from_the_hip_to_the_feet(band_spec):
    plan = make_plan(band_spec)
    assert range_from_hip(plan, "LPS", 250, 50) == (0, 301)
    assert range_from_hip(plan, "LPS", 380, 50) == (0, 400)
    assert range_from_hip(plan, "LPS", 0, 0) == (0, 1)
    assert range_from_hip(plan, "LPI", 250, 50) == (200, 400)


def test_the_hip_is_counted_as_the_scan_is_stored(band_spec):
    # Stored from the head downwards: slice 100 of 400 is the network's 299.
    assert range_from_hip(make_plan(band_spec, direction=-1.0), "LPS", 100, 50) == (0, 350)


@pytest.mark.parametrize(
    ("hip", "tolerance", "orientation"), [(400, 50, "LPS"), (-1, 0, "LPS"), (5, -1, "LPS"), (5, 5, "LSP")]
)
def test_hips_that_make_no_sense(band_spec, hip, tolerance, orientation):
    with pytest.raises(UsageError):
        range_from_hip(make_plan(band_spec), orientation, hip, tolerance)


@pytest.mark.parametrize(("slices", "mm"), [(1, 3.0), (2, 3.0), (400, 3.0), (1015, 1.5), (30, 20.0)])
def test_coarse_slices_are_close_enough_and_reach_both_ends(band_spec, slices, mm):
    chosen = coarse_slices(make_plan(band_spec, slices, mm))
    assert chosen[0] == 0
    assert chosen[-1] == slices - 1
    assert (np.diff(chosen) * mm <= max(15.0 + mm, mm)).all()
    assert (np.diff(chosen) > 0).all()


def spans(*pieces):
    """Bone in mm2 for slices: (first, last, area)."""

    def area(slices):
        return sum(np.where((slices >= a) & (slices <= b), float(mm2), 0.0) for a, b, mm2 in pieces)

    return area


def test_the_limb_is_found_with_a_margin(band_spec):
    first, stop = find_limb(make_plan(band_spec), spans((60, 300, 900))).slices
    assert 50 - 5 <= first <= 60 - 5
    assert 300 + 5 < stop <= 300 + 16


def test_a_joint_does_not_part_the_limb_but_the_trunk_does(band_spec):
    plan = make_plan(band_spec)
    joint = find_limb(plan, spans((60, 150, 900), (156, 300, 900)))
    assert joint == find_limb(plan, spans((60, 300, 900)))
    trunk = find_limb(plan, spans((60, 300, 900), (340, 399, 60)))
    assert (trunk.slices, trunk.left_out) == (joint.slices, ())


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_much_bone_elsewhere_is_told_of(band_spec, direction):
    # A network that loses the shaft of the thigh: the hip may be the limb's.
    limb = find_limb(make_plan(band_spec, direction=direction), spans((60, 200, 900), (250, 300, 900)))
    assert limb.slices[1] < 230
    ((first, last),) = limb.left_out
    assert 250 <= first <= 255
    assert 295 <= last <= 300


def test_specks_are_no_bone(band_spec):
    assert find_limb(make_plan(band_spec), spans((0, 399, 39))) is None


@pytest.mark.parametrize("slices", [1, 3])
def test_short_scans_are_kept_whole(band_spec, slices):
    assert find_limb(make_plan(band_spec, slices), spans((0, 9, 500))).slices == (0, slices)
