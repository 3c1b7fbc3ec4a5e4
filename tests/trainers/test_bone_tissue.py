import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from trainers.bone_tissue import BoneTissue, _rounded
from trainers.phantom import PhantomConfig, place
from trainers.soft_tissue import Body

PIXEL_MM = 0.5


def shaft(size=61):
    """A triangle, as a tibia's section, how deep its pixels lie in mm, and a canal 4 mm below its surface."""
    rows, columns = np.indices((size, size))
    bone = (rows > 5) & (rows < 55) & (np.abs(columns - 30) < rows / 2)
    depth = (distance_transform_edt(bone) - 0.5) * PIXEL_MM
    return bone, depth, bone & (depth >= 4)


def test_a_canal_without_roundness_is_as_it_was():
    _, depth, canal = shaft()
    assert np.array_equal(_rounded(canal, depth, 0.0, PIXEL_MM), canal)
    assert not _rounded(np.zeros_like(canal), depth, 1.0, PIXEL_MM).any()


def test_the_roundest_canal_is_the_largest_disc_within():
    _, depth, canal = shaft()
    rounded = _rounded(canal, depth, 1.0, PIXEL_MM)
    radius_mm = depth.max() - 4
    assert rounded.sum() * PIXEL_MM**2 == pytest.approx(np.pi * radius_mm**2, rel=0.25)  # pixels at its edge
    assert rounded.sum() < 0.8 * canal.sum()


@given(st.floats(0, 1))
def test_a_rounded_canal_keeps_its_middle_and_gains_nothing(roundness):
    _, depth, canal = shaft()
    rounded = _rounded(canal, depth, roundness, PIXEL_MM)
    assert not (rounded & ~canal).any()
    assert rounded[depth == depth.max()].all()


@pytest.fixture(scope="module")
def anatomy():
    return place(PhantomConfig(seed=3, stature_cm=170, slices=2))[0]


def test_a_fibula_may_hold_a_dot_of_marrow_and_no_more(anatomy):
    drawn = [BoneTissue(anatomy, Body(seed=seed, joints=True), 30.0, []) for seed in range(300)]
    compact_mm = np.array([2.6 * tissue.thickness * tissue.shells["fibula"] for tissue in drawn])
    assert compact_mm.min() < 1.5
    assert compact_mm.max() > 5  # of a bone that is 12 to 15 mm thick
    assert np.ptp([tissue.roundness for tissue in drawn]) > 0.9


def test_frozen_scans_know_neither(anatomy):
    tissue = BoneTissue(anatomy, Body(seed=1), 30.0, [])
    assert (tissue.roundness, tissue.shells) == (0.0, {})
