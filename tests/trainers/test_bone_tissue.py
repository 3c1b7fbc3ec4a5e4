import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from trainers.bone_tissue import BoneTissue, Owner, _rounded
from trainers.phantom import PhantomConfig, place
from trainers.soft_tissue import Body, Tissue

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


def compact(tissue, name):
    """How much of the triangle's pixels is compact bone, half-way along a shaft of that name."""
    bone, _, _ = shaft()
    tissue.owners[:] = [Owner.of(name, np.array([0.0, 400.0]))]
    xs, ys = np.arange(61) * PIXEL_MM, np.arange(61) * PIXEL_MM
    filled = tissue.fill(bone.astype(np.uint8), np.zeros_like(bone), (200.0, xs, ys))
    assert set(np.unique(filled[bone])) <= {Tissue.CORTEX, Tissue.MARROW}
    return float((filled[bone] == Tissue.CORTEX).mean())


def test_what_is_drawn_is_rounder_and_a_fibula_thicker_where_it_is_said(anatomy):
    tissue = BoneTissue(anatomy, Body(seed=1, joints=True), 30.0, [])
    tissue.thickness = 0.6
    shares = {}
    for roundness in (0.0, 1.0):
        for shell in (0.8, 1.5):
            tissue.roundness, tissue.shells = roundness, {"fibula": shell}
            for name in ("right_tibia", "left_fibula"):
                shares[name, roundness, shell] = compact(tissue, name)
    for name in ("right_tibia", "left_fibula"):
        assert shares[name, 1.0, 0.8] > shares[name, 0.0, 0.8] + 0.05
    assert shares["left_fibula", 0.0, 1.5] > 1.4 * shares["left_fibula", 0.0, 0.8]
    assert shares["right_tibia", 0.0, 1.5] == shares["right_tibia", 0.0, 0.8]


def test_people_differ_in_both(anatomy):
    drawn = [BoneTissue(anatomy, Body(seed=seed, joints=True), 30.0, []) for seed in range(300)]
    shells = np.array([tissue.thickness * tissue.shells["fibula"] for tissue in drawn])
    assert shells.min() < 0.6
    assert shells.max() > 2
    assert np.ptp([tissue.roundness for tissue in drawn]) > 0.9


def test_frozen_scans_know_neither(anatomy):
    tissue = BoneTissue(anatomy, Body(seed=1), 30.0, [])
    assert (tissue.roundness, tissue.shells) == (0.0, {})
