"""From tissue to MR intensities: levels, texture, coil shading, ghosts, Rician noise."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from trainers.soft_tissue import Tissue

Contrast = Literal["water", "in_phase", "fat"]
FloatImage = npt.NDArray[np.float32]

# Signal of each tissue, 0 to 1. `water` after the calf in Dixon water images: fat, marrow and cortex dark,
# muscle bright, vessels and fluid brightest.
KNOWN_LEVELS: dict[str, dict[Tissue, float]] = {
    "water": {
        Tissue.AIR: 0.0, Tissue.SKIN: 0.55, Tissue.FAT: 0.14, Tissue.MUSCLE: 0.66, Tissue.FASCIA: 0.34,
        Tissue.VESSEL: 0.88, Tissue.CORTEX: 0.05, Tissue.MARROW: 0.10, Tissue.RED_MARROW: 0.24,
        Tissue.CARTILAGE: 0.74, Tissue.FLUID: 0.95, Tissue.ORGAN: 0.62, Tissue.TENDON: 0.15,
    },
    "in_phase": {
        Tissue.AIR: 0.0, Tissue.SKIN: 0.55, Tissue.FAT: 0.72, Tissue.MUSCLE: 0.62, Tissue.FASCIA: 0.36,
        Tissue.VESSEL: 0.80, Tissue.CORTEX: 0.06, Tissue.MARROW: 0.68, Tissue.RED_MARROW: 0.56,
        Tissue.CARTILAGE: 0.66, Tissue.FLUID: 0.80, Tissue.ORGAN: 0.60, Tissue.TENDON: 0.15,
    },
    "fat": {
        Tissue.AIR: 0.0, Tissue.SKIN: 0.15, Tissue.FAT: 0.85, Tissue.MUSCLE: 0.08, Tissue.FASCIA: 0.22,
        Tissue.VESSEL: 0.08, Tissue.CORTEX: 0.03, Tissue.MARROW: 0.76, Tissue.RED_MARROW: 0.48,
        Tissue.CARTILAGE: 0.10, Tissue.FLUID: 0.05, Tissue.ORGAN: 0.15, Tissue.TENDON: 0.05,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How one scan differs from another.

    Parameters
    ----------
    seed : int
        Of texture, shading and noise.
    contrast : {"water", "in_phase", "fat"}
        Which levels the tissues start from.
    level_spread : float
        SD of a tissue's level around its start, relative.
    texture : float
        Strength of every tissue's speckle: its SD is 0.78 of this, relative, before the blur.
    noise : float
        SD of each part of the complex noise, of full scale.
    shading : float
        Strength of the coil's shading: SD of its natural logarithm at the 150 knots of a coarse grid. What is
        between them is smoothed, so that the SD over a scan is 0.28 of this, from 0.20 to 0.39 by the draw,
        and mostly less over the body alone.
    psf_px : float
        SD of the blur in the plane, pixels.
    ghost : float
        Amplitude of motion ghosts, of full scale.
    full_scale : int
        Stored value of signal 1.
    """

    seed: int = 0
    contrast: Contrast = "water"
    level_spread: float = 0.12
    texture: float = 0.06
    noise: float = 0.02
    shading: float = 0.18
    psf_px: float = 0.55
    ghost: float = 0.0
    full_scale: int = 900


def draw_look(rng: np.random.Generator, contrast: Contrast = "water") -> Look:
    """Draw an ordinary scan."""
    return Look(
        seed=int(rng.integers(2**31)),
        contrast=contrast,
        level_spread=float(rng.uniform(0.05, 0.2)),
        texture=float(rng.uniform(0.03, 0.09)),
        noise=float(rng.uniform(0.008, 0.04)),
        shading=float(rng.uniform(0.08, 0.3)),
        psf_px=float(rng.uniform(0.4, 0.85)),
        ghost=float(rng.uniform(0, 0.02) if rng.random() < 0.3 else 0.0),
        full_scale=int(rng.integers(300, 3000)),
    )


def draw_hard_look(rng: np.random.Generator, contrast: Contrast = "water") -> Look:
    """Draw a bad scan: three times the noise, twice the shading (7 to 19 % over a scan), blur and motion."""
    return replace(
        draw_look(rng, contrast),
        level_spread=0.3,
        noise=float(rng.uniform(0.06, 0.10)),
        shading=float(rng.uniform(0.35, 0.5)),
        psf_px=float(rng.uniform(0.9, 1.3)),
        ghost=float(rng.uniform(0.03, 0.06)),
    )


class Painter:
    """Intensities for one scan, slice by slice; slices may be asked for in any order.

    Parameters
    ----------
    look : Look
        The scan's character.
    shape : tuple of int
        (slices, rows, columns).
    """

    def __init__(self, look: Look, shape: tuple[int, int, int]) -> None:
        rng = np.random.default_rng([look.seed, 2])
        self._look, self._shape = look, shape
        base = np.array([KNOWN_LEVELS[look.contrast][tissue] for tissue in Tissue])
        self.levels = (base * np.exp(rng.normal(0, look.level_spread, len(base)))).clip(0, 1.2)
        self._shades = np.exp(rng.normal(0, 0.045, 256))
        self._shades[30:60] = np.exp(rng.normal(0, 0.35, 30))  # loops of bowel differ more than muscles
        coarse = rng.standard_normal((6, 5, 5))
        self._shading = (coarse / max(float(coarse.std()), 1e-9)) * look.shading
        self._across = [_bumps(size, coarse.shape[1]) for size in shape[1:]]
        self._ghost_shift = int(rng.integers(shape[1] // 8, shape[1] // 3))

    def shading(self, k: int) -> FloatImage:
        """Coil sensitivity in slice ``k`` (rows, columns), around 1."""
        place = (k + 0.5) / self._shape[0] * (len(self._shading) - 1)
        low = min(int(place), len(self._shading) - 2)
        share = place - low
        plane = (1 - share) * self._shading[low] + share * self._shading[low + 1]
        return np.exp((self._across[0] @ plane).astype(np.float32) @ self._across[1].T.astype(np.float32))

    def signal(self, tissue: npt.NDArray[np.uint8], shade: npt.NDArray[np.uint8]) -> FloatImage:
        """Noise-free signal of a plane (rows, columns): level of the tissue times its muscle's shade."""
        levels = self.levels.astype(np.float32)[tissue]
        return levels * np.where(shade > 0, self._shades[shade], 1).astype(np.float32)

    def acquire(self, signal: FloatImage, k: int) -> npt.NDArray[np.int16]:
        """Add texture, blur, shading, ghosts, noise to the signal of slice ``k``; int16 (rows, columns)."""
        look = self._look
        rng = np.random.default_rng([look.seed, 3, k])
        speckle = gaussian_filter(rng.standard_normal(signal.shape, dtype=np.float32), 0.8) * 2.2
        blurred = gaussian_filter(signal * (1 + look.texture * speckle), look.psf_px)
        blurred *= self.shading(k)
        if look.ghost:
            blurred += look.ghost * np.roll(blurred, self._ghost_shift, axis=0)
        real = blurred + look.noise * rng.standard_normal(signal.shape, dtype=np.float32)
        imaginary = look.noise * rng.standard_normal(signal.shape, dtype=np.float32)
        return np.rint(np.hypot(real, imaginary) * look.full_scale).clip(0, 32767).astype(np.int16)


def _bumps(size: int, knots: int) -> npt.NDArray[np.float64]:
    """Weights (pixels, knots) of a smooth interpolation between knots along an axis."""
    places, centres = (np.arange(size) + 0.5) / size, np.linspace(0, 1, knots)
    weights = np.exp(-0.5 * ((places[:, None] - centres) * knots / 1.1) ** 2)
    return weights / weights.sum(1, keepdims=True)
