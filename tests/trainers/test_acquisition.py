from dataclasses import replace

import numpy as np
import pytest

from trainers.acquisition import IDEAL, acquire
from trainers.augment import NONE, augment
from trainers.contrast import Contrast, paint
from trainers.materials import mix
from trainers.soft_tissue import Tissue

SMOOTH = {"texture": 0.0, "patches": 0.0, "grain": 0.0, "marbled": 0.0}


def body(channels=3, size=64):
    """A bright disc in air, in the upper half of a slice."""
    y, x = np.mgrid[:size, :size]
    disc = np.hypot(y - size * 0.4, x - size * 0.5) < size * 0.2
    return np.repeat(0.5 * disc[None].astype(np.float32), channels, 0)


def acquired(options, seeds=range(40)):
    """The body as it is stored in some draws, and as it was."""
    out = []
    for seed in seeds:
        image = body()
        acquire(image, np.random.default_rng(seed), options)
        out.append(image)
    return np.array(out), body()


def test_nothing_happens_to_an_ideal_acquisition():
    images, before = acquired(IDEAL)
    assert (images == before).all()
    signed = np.array([[[-0.5, 2.0, 0.25]]], np.float32)
    acquire(signed, np.random.default_rng(0), IDEAL)
    np.testing.assert_array_equal(signed, [[[0.5, 1.0, 0.25]]])


def test_a_table_lies_below_the_body_and_leaves_it_alone():
    images, before = acquired(replace(IDEAL, table=1.0))
    lowest = np.flatnonzero(before[1].any(1))[-1]
    assert (images[:, :, : lowest + 1] == before[:, : lowest + 1]).all()
    plate = images[:, 1, lowest + 1 :]
    assert plate.any((1, 2)).all()
    assert (np.ptp(plate, 2) == 0).all()  # it reaches from side to side
    assert len(np.unique(plate.max((1, 2)))) > 30
    whole = np.ones((1, 8, 8), np.float32)
    acquire(whole, np.random.default_rng(0), replace(IDEAL, table=1.0))
    assert (whole == 1).all()


def test_metal_takes_the_signal_in_the_body_and_what_surrounds_it_is_bright():
    images, before = acquired(replace(IDEAL, metal=1.0))
    inside = before > 0
    black = (images == 0) & inside
    assert black.any((1, 2, 3)).all()
    assert (black[:, 0] == black[:, 2]).all()  # through the neighbours
    assert (images.max((1, 2, 3)) > 0.55).mean() > 0.5
    air = np.zeros((1, 8, 8), np.float32)
    acquire(air, np.random.default_rng(0), replace(IDEAL, metal=1.0))
    assert not air.any()


def test_a_body_that_moves_is_seen_again():
    images, before = acquired(replace(IDEAL, moving=1.0, ghost=0.2))
    outside = before == 0
    ghosts = np.where(outside, images, 0).max((1, 2, 3))
    assert (ghosts > 0).all()
    assert 0.05 < ghosts.max() <= 0.2 + 1e-6  # a fifth of 0.5, twice where both ghosts meet
    along = (images[:, 1].max(2) > 0).sum(1) > (before[1].max(1) > 0).sum()
    assert 0.2 < along.mean() < 0.8  # along rows, else along columns


def test_one_end_is_seen_at_the_other():
    row = np.arange(1, 41, dtype=np.float32)[None, None] / 100
    wrapped = []
    for seed in range(60):
        image = row.repeat(40, 1)
        acquire(image, np.random.default_rng(seed), replace(IDEAL, wrapped=1.0))
        wrapped.append(image[0])
    added = np.array(wrapped) - row
    for one in added:
        changed = one > 1e-6
        assert 0.05 - 1 / 40 <= changed.mean() <= 0.3
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert (len(rows) == 40) != (len(columns) == 40)  # along one axis
        assert {rows[0], columns[0]} == {0} or {rows[-1], columns[-1]} == {39}  # at an end


def test_noise_of_a_coarse_acquisition_is_as_coarse():
    """Beside the Fourier transform: hardly any noise lies beyond what was acquired."""
    coarse = replace(IDEAL, zero_filled=1.0, acquired=(0.5, 0.5), ripples=(8.0, 8.0), noise=0.08)
    seen = 0
    for seed in range(20):
        image = np.full((1, 64, 64), 0.5, np.float32)
        acquire(image, np.random.default_rng(seed), coarse)
        power = np.abs(np.fft.fft2(image[0] - image[0].mean())) ** 2
        frequency = np.abs(np.fft.fftfreq(64)) * 2
        beyond = power[np.maximum.outer(frequency, frequency) > 0.7].sum() / power.sum()
        assert beyond < 0.02  # 0.51 of white noise
        seen += image.std() > 0.005
    assert seen > 10


def test_resolution_differs_along_the_axes():
    options = replace(IDEAL, zero_filled=1.0, ripples=(1.0, 1.0), noise=0.0)
    ratio = []
    for seed in range(40):
        image = np.zeros((1, 33, 33), np.float32)
        image[0, 16, 16] = 1
        acquire(image, np.random.default_rng(seed), options)
        ratio.append(image[0, 17, 16] / max(image[0, 16, 17], 1e-6))
    assert np.percentile(ratio, 20) < 0.7
    assert np.percentile(ratio, 80) > 1.4


def test_few_levels_are_stored():
    images, _ = acquired(replace(IDEAL, zero_filled=1.0, shallow=1.0))
    numbers = [len(np.unique(image)) for image in images]
    assert max(numbers) <= 1025
    assert min(numbers) < 100
    bright = np.full((1, 8, 8), 2.0, np.float32)
    for seed in range(50):  # beyond the window
        image = bright.copy()
        acquire(image, np.random.default_rng(seed), replace(IDEAL, shallow=1.0))
        assert (image == 1).all()


def test_ripples_come_before_the_window_cuts_off():
    """Beside bone far above the window soft tissue is darkened by what was cut off, as in the scan itself."""
    tissue = np.full((1, 64, 64), Tissue.MUSCLE, np.uint8)
    tissue[:, 24:40, 24:40] = Tissue.CORTEX
    mixtures = mix(tissue, 1)[None, None].repeat(20, 0)
    rippled = replace(IDEAL, zero_filled=1.0, ripples=(8.0, 8.0), noise=0.0)
    ct = Contrast(known=0.0, attenuation=1.0, soft=(0.8, 0.8), acquisition=rippled, **SMOOTH)
    images = paint(mixtures, np.arange(20)[:, None], ct)
    assert images.max() == 1.0
    assert images.min() >= 0.0
    muscle = np.median(images, (1, 2, 3))
    assert (images.min((1, 2, 3)) < muscle - 0.02).all()
    still = paint(mixtures, np.arange(20)[:, None], replace(ct, acquisition=IDEAL))
    assert (still.reshape(20, -1).min(1) == np.median(still, (1, 2, 3))).all()


def test_soft_tissue_is_smooth_where_x_rays_hardly_tell_it_apart():
    muscle = np.full((60, 1, 32, 32), Tissue.MUSCLE, np.uint32) | 255 << 16
    rough = Contrast(known=0.0, attenuation=1.0, texture=0.2, marbled=0.0, acquisition=IDEAL)
    ct = paint(muscle, np.arange(60)[:, None], rough)
    water = paint(muscle, np.arange(60)[:, None], replace(rough, known=1.0, water=1.0))
    relative = [(images.std((1, 2, 3)) / images.mean((1, 2, 3))).mean() for images in (ct, water)]
    assert relative[0] < 0.5 * relative[1]


@pytest.mark.parametrize(("what", "limits"), [("cut", (0, 0)), ("station", (0.6, 1.5))])
def test_neighbours_on_one_side_may_be_of_another_stack(what, limits):
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.6, (200, 3, 16, 16)).astype(np.float32)
    labels = rng.integers(0, 3, (200, 16, 16)).astype(np.uint8)
    new, kept = augment(images, labels, np.arange(200)[:, None], replace(NONE, **{what: 0.5}))
    assert (kept == labels).all()
    assert (new[:, 1] == images[:, 1]).all()
    changed = (new != images).any((2, 3))
    assert (changed.sum(1) <= 1).all()
    assert 0.4 < changed.any(1).mean() < 0.6
    assert 0.3 < changed[changed.any(1), 0].mean() < 0.7
    for one, before, where in zip(new, images, changed, strict=True):
        for channel in np.flatnonzero(where):
            if what == "cut":
                assert (one[channel] == before[1]).all()
            else:
                assert limits[0] < one[channel].mean() / before[channel].mean() < limits[1]
