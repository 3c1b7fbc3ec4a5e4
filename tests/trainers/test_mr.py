from dataclasses import replace

import numpy as np
import pytest

from trainers.mr import Look, Painter, draw_hard_look

STILL = Look(seed=1, texture=0, noise=0, shading=0, psf_px=1e-3, full_scale=20000)
FLAT = np.full((300, 300), 0.6, np.float32)


def shading_sd(look: Look) -> float:
    painter = Painter(look, (20, 48, 48))
    return float(np.log([painter.shading(k) for k in range(20)]).std())


def test_shading_is_a_quarter_of_what_is_asked() -> None:
    """As `Look` says; the frozen sets were drawn so."""
    shares = [shading_sd(Look(seed=seed, shading=0.2)) / 0.2 for seed in range(60)]
    assert np.mean(shares) == pytest.approx(0.28, abs=0.02)
    assert 0.19 < min(shares) < max(shares) < 0.4


def test_a_hard_look_is_shaded_mildly() -> None:
    shading = [shading_sd(draw_hard_look(np.random.default_rng(seed))) for seed in range(30)]
    assert 0.07 < min(shading) < max(shading) < 0.19


@pytest.mark.parametrize("level", [0.1, 0.6])
def test_texture_lies_on_every_tissue(level: float) -> None:
    image = Painter(replace(STILL, texture=0.06), (3, 300, 300)).acquire(level / 0.6 * FLAT, 1)
    assert image.std() / image.mean() == pytest.approx(0.78 * 0.06, rel=0.03)


def test_noise_is_what_is_asked() -> None:
    painter = Painter(replace(STILL, noise=0.02), (3, 300, 300))
    assert painter.acquire(FLAT, 1).std() / 20000 == pytest.approx(0.02, rel=0.02)
    assert painter.acquire(0 * FLAT, 1).mean() / 20000 == pytest.approx(0.02 * np.sqrt(np.pi / 2), rel=0.02)
