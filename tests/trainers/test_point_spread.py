import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve1d

from trainers.contrast import Contrast, paint
from trainers.materials import mix
from trainers.point_spread import gaussian, spread, truncation
from trainers.soft_tissue import Tissue


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_spreading_is_scipy_s_convolution(seed, rows, columns, radius):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(3, rows, columns)).astype(np.float32)
    weights = rng.normal(size=2 * radius + 1).astype(np.float32)
    expected = image.astype(float)
    for axis in (1, 2):
        expected = convolve1d(expected, weights[::-1].astype(float), axis=axis, mode="nearest")
    spread(image, weights)
    np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-4)


def test_weights_have_the_shape_that_they_are_named_after():
    weights = gaussian(2.0)
    x = np.arange(len(weights)) - len(weights) // 2
    assert weights.sum() == pytest.approx(1)
    assert (weights * x**2).sum() == pytest.approx(4, rel=0.05)
    for weights in (truncation(0.6, 1.0), truncation(0.6, 8.0)):
        assert weights.sum() == pytest.approx(1)
        np.testing.assert_array_equal(weights, weights[::-1])
    np.testing.assert_allclose(truncation(1.0, 8.0), np.eye(17)[8], atol=1e-7)


def test_what_was_not_acquired_is_not_there():
    """Beside the Fourier transform itself: what lies within the cutoff stays, what lies beyond goes."""
    response = np.abs(np.fft.rfft(truncation(0.5, 8.0), 512))
    frequency = np.linspace(0, 1, len(response))  # of the pixels' own limit
    np.testing.assert_allclose(response[frequency < 0.35], 1, atol=0.02)
    np.testing.assert_allclose(response[frequency > 0.65], 0, atol=0.02)


@pytest.mark.parametrize(("ripples", "least"), [(1.0, 0.0), (8.0, 0.05)])
def test_an_edge_ripples_unless_it_is_filtered(ripples, least):
    """Gibbs: about 9 % of the step where nothing calms it."""
    image = np.repeat(np.arange(64) >= 32, 64).reshape(1, 64, 64).astype(np.float32)
    spread(image, truncation(0.5, ripples))
    assert least <= image.max() - 1 < 0.09 + 1e-3
    assert (ripples == 1.0) == (image.max() < 1.01)


SMOOTH = {"texture": 0.0, "patches": 0.0, "grain": 0.0, "marbled": 0.0}


def test_ripples_come_before_the_window_cuts_off():
    """Beside bone far above the window soft tissue is darkened by what was cut off, as in the scan itself."""
    tissue = np.full((1, 64, 64), Tissue.MUSCLE, np.uint8)
    tissue[:, 24:40, 24:40] = Tissue.CORTEX
    mixtures = mix(tissue, 1)[None, None].repeat(20, 0)
    ct = Contrast(known=0.0, attenuation=1.0, zero_filled=1.0, ripples=(8.0, 8.0), soft=(0.8, 0.8), **SMOOTH)
    images = paint(mixtures, np.arange(20)[:, None], ct)
    assert images.max() == 1.0
    assert images.min() >= 0.0
    muscle = np.median(images, (1, 2, 3))
    assert (images.min((1, 2, 3)) < muscle - 0.02).all()
    still = paint(
        mixtures, np.arange(20)[:, None], Contrast(known=0.0, attenuation=1.0, zero_filled=0.0, **SMOOTH)
    )
    assert (still.reshape(20, -1).min(1) == np.median(still, (1, 2, 3))).all()


def test_soft_tissue_is_smooth_where_x_rays_hardly_tell_it_apart():
    muscle = np.full((60, 1, 32, 32), Tissue.MUSCLE, np.uint32) | 255 << 16
    rough = {"known": 0.0, "texture": 0.2, "marbled": 0.0, "zero_filled": 0.0}
    ct = paint(muscle, np.arange(60)[:, None], Contrast(attenuation=1.0, **rough))
    water = paint(muscle, np.arange(60)[:, None], Contrast(**{**rough, "known": 1.0, "water": 1.0}))
    relative = [(images.std((1, 2, 3)) / images.mean((1, 2, 3))).mean() for images in (ct, water)]
    assert relative[0] < 0.5 * relative[1]
