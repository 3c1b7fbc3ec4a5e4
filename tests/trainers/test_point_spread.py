import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve1d

from trainers.point_spread import gaussian, spread, truncation


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.tuples(*[st.integers(1, 20)] * 2), st.tuples(*[st.integers(0, 9)] * 2))
def test_spreading_is_scipy_s_convolution(seed, shape, radii):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(3, *shape)).astype(np.float32)
    weights = [rng.normal(size=2 * radius + 1).astype(np.float32) for radius in radii]
    expected = image.astype(float)
    for axis, some in enumerate(weights, 1):
        expected = convolve1d(expected, some[::-1].astype(float), axis=axis, mode="nearest")
    spread(image, *weights)
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
    spread(image, *[truncation(0.5, ripples)] * 2)
    assert least <= image.max() - 1 < 0.09 + 1e-3
    assert (ripples == 1.0) == (image.max() < 1.01)
