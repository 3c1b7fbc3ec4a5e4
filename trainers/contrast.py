"""A slice through the eyes of a scanner drawn at random: grey levels and textures of materials.

The idea is SynthSeg's: a network that has seen bones in every contrast looks for their shape (Billot et al.,
SynthSeg: segmentation of brain MRI scans of any contrast and resolution without retraining, Medical Image
Analysis 2023). The scanner's acquisition follows (`trainers.acquisition`), then shading, noise and tone
(`trainers.augment`).
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.kernel import kernel
from trainers.acquisition import Acquisition, acquire
from trainers.materials import MATERIALS, Mixtures, material_tissues
from trainers.mr import KNOWN_LEVELS
from trainers.soft_tissue import Tissue

FloatArray = npt.NDArray[np.float32]

FAT = int(Tissue.FAT)

Patches = tuple[FloatArray, int]
"""Knots (channels, rows, columns), and how many pixels lie from one to the next."""


@dataclass(frozen=True)
class Contrast:
    """Which looks are drawn.

    Parameters
    ----------
    known : float
        Share of looks that begin with the levels of a known sequence; the others are drawn freely.
    water : float
        Share of the known ones that are Dixon water, the report's; in-phase and fat share the rest.
    opposed : float
        Share of the in-phase ones drawn in opposed phase instead: fat's signal is taken from water's, so that
        their borders are black lines and marrow, which holds both, is grey.
    spread, dark_spread : float
        SD of a tissue's level around a known one, relative (log); of tissues that are dark there, as marrow
        and fat in a water image, which one scanner suppresses better than another.
    bright_cortex : float
        Share of free looks in which compact bone may be of any level (as in CT); in the others it is dark.
    alike : float
        Share of the other free looks, and half of it of water looks, in which red marrow is as bright as
        muscle or nearly, as where fat is suppressed: a dark ring alone tells a child's thin bone from the
        flesh around it.
    attenuation : float
        Share of free looks in which X-rays are attenuated, as in CT: soft tissues nearly alike, and smooth,
        trabecular bone a little brighter, compact bone far.
    muscles, organs : float
        SD of a muscle's and of a loop of bowel's level around its tissue's, relative (log).
    texture : float
        Greatest SD of a material's speckle, relative.
    patches, grain : float
        Greatest SD of patches in marrow and in all other tissues, relative; a slice's patches have one size,
        from a few pixels (an interpolated scan's noise, fat between fibres) to a dozen.
    marbled : float
        Greatest SD of the share of fat in muscle: streaks, bright in a fat image, dark in a water one.
    suppressed : float
        Share of water looks in which fat and marrow are darker still, down to black, as one scanner's
        suppression leaves them; and of fat looks in which all that is water is.
    brightest : tuple of float
        Range of the level of the brighter one of muscle and fat: the rest is cut off by the intensity window,
        as they are above 1.
    soft : tuple of float
        The same where X-rays are attenuated: the window reaches from air to bone, which may be little.
    flowing : float
        Share of known looks in which blood has left the slice, or was dephased, before it was read.
    acquisition : Acquisition
        What the scanner makes of a look.
    """

    known: float = 0.7
    water: float = 0.5
    opposed: float = 0.5
    spread: float = 0.2
    dark_spread: float = 0.5
    bright_cortex: float = 0.15
    alike: float = 0.4
    attenuation: float = 0.45
    muscles: float = 0.06
    organs: float = 0.35
    texture: float = 0.15
    patches: float = 0.3
    grain: float = 0.2
    marbled: float = 0.2
    suppressed: float = 0.4
    brightest: tuple[float, float] = (0.55, 1.1)
    soft: tuple[float, float] = (0.35, 0.95)
    flowing: float = 0.25
    acquisition: Acquisition = field(default_factory=Acquisition)


_WATERY = [
    Tissue.SKIN, Tissue.MUSCLE, Tissue.FASCIA, Tissue.VESSEL, Tissue.CARTILAGE, Tissue.FLUID, Tissue.ORGAN,
    Tissue.TENDON,
]  # fmt: skip
_DARK = 0.25
"""Known level below which a tissue counts as dark."""


def draw_levels(rng: np.random.Generator, contrast: Contrast) -> FloatArray:
    """Return the level of each material (``MATERIALS``,), air near 0, most others in [0, 1].

    Negative where fat is in opposed phase: what is seen is the magnitude of a pixel's sum.
    """
    brightest = contrast.brightest
    if rng.random() < contrast.known:
        level = _known(rng, contrast)
    elif rng.random() < contrast.attenuation:
        level, brightest = _attenuation(rng), contrast.soft
    else:
        level = _free(rng, contrast)
    level[Tissue.AIR] = 0
    level *= rng.uniform(*brightest) / max(level[Tissue.MUSCLE], abs(level[Tissue.FAT]), 0.05)
    level[Tissue.AIR] = rng.uniform(0, 0.02)
    tissues = material_tissues()
    spread = np.select(
        [tissues == Tissue.ORGAN, tissues == Tissue.MUSCLE], [contrast.organs, contrast.muscles], 0.0
    )
    levels = level[tissues] * np.exp(rng.normal(0, 1, MATERIALS) * spread)
    return levels.astype(np.float32)


def _known(rng: np.random.Generator, contrast: Contrast) -> npt.NDArray[np.float64]:
    others = sorted(set(KNOWN_LEVELS) - {"water"})
    other = others[int(rng.integers(len(others)))]
    name = "water" if rng.random() < contrast.water else other
    level = np.array([KNOWN_LEVELS[name][tissue] for tissue in Tissue])
    spread = np.where(level < _DARK, contrast.dark_spread, contrast.spread)
    level *= np.exp(rng.normal(0, 1, len(level)) * spread)
    if rng.random() < contrast.flowing:
        level[Tissue.VESSEL] *= rng.random()
    if name == "water" and rng.random() < contrast.suppressed:
        level[[Tissue.FAT, Tissue.MARROW, Tissue.RED_MARROW]] *= rng.random()
    if name == "water" and rng.random() < contrast.alike / 2:
        level[Tissue.RED_MARROW] = level[Tissue.MUSCLE] * rng.uniform(0.6, 1.15)
    if name == "fat" and rng.random() < contrast.suppressed:
        level[_WATERY] *= rng.random()
    if name == "in_phase" and rng.random() < contrast.opposed:
        level[Tissue.FAT] *= -1
        level[Tissue.MARROW] *= -rng.uniform(0.2, 1)
        level[[Tissue.RED_MARROW, Tissue.FASCIA]] *= rng.uniform(-0.6, 0.6, 2)
    return level


def _free(rng: np.random.Generator, contrast: Contrast) -> npt.NDArray[np.float64]:
    level = rng.uniform(0, 1, len(Tissue))
    compact = 1.0 if rng.random() < contrast.bright_cortex else 0.25
    level[Tissue.CORTEX] = rng.uniform(0, compact)
    level[Tissue.TENDON] = rng.uniform(0, 0.35)
    level[Tissue.FASCIA] = _between(rng, level[Tissue.FAT], level[Tissue.MUSCLE])
    # Marrow is fat, the more so the older; where it makes blood it is watery.
    if rng.random() < 0.6:
        level[Tissue.MARROW] = level[Tissue.FAT] * rng.uniform(0.7, 1.1)
    level[Tissue.RED_MARROW] = _between(rng, level[Tissue.MARROW], level[Tissue.MUSCLE])
    if rng.random() < contrast.alike:
        level[Tissue.RED_MARROW] = level[Tissue.MUSCLE] * rng.uniform(0.85, 1.15)
    return level


_DENSITIES = {
    Tissue.SKIN: (0.96, 1.04), Tissue.FAT: (0.8, 0.97), Tissue.MUSCLE: (1.0, 1.0), Tissue.VESSEL: (0.95, 1.3),
    Tissue.CORTEX: (1.4, 3.0), Tissue.MARROW: (0.85, 1.2), Tissue.RED_MARROW: (1.0, 1.45),
    Tissue.CARTILAGE: (0.98, 1.06), Tissue.FLUID: (0.93, 1.0), Tissue.ORGAN: (0.94, 1.04),
    Tissue.TENDON: (1.0, 1.08),
}  # fmt: skip
"""Range of the attenuation of X-rays, from air's as 0 to muscle's as 1."""


def _attenuation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    level = np.zeros(len(Tissue))
    for tissue, (low, high) in _DENSITIES.items():
        level[tissue] = rng.uniform(low, high)
    level[Tissue.FASCIA] = _between(rng, level[Tissue.FAT], level[Tissue.MUSCLE])
    return level


def _between(rng: np.random.Generator, a: float, b: float) -> float:
    share = rng.random()
    return float(share * a + (1 - share) * b)


def paint(mixtures: Mixtures, seeds: npt.NDArray[np.int64], contrast: Contrast | None = None) -> FloatArray:
    """Draw slices, each with the look that its seeds name.

    Parameters
    ----------
    mixtures : ndarray of uint32, (n, channels, rows, columns)
        As `trainers.materials.mix` gives them; channels of a slice have one look.
    seeds : ndarray of int64, (n, any)
        Numbers that name each slice's draw.
    contrast : Contrast, optional
        Which looks there are.

    Returns
    -------
    ndarray of float32, (n, channels, rows, columns)
        In [0, 1].

    Raises
    ------
    UsageError
        If shapes or types do not agree, or a material is unknown.
    """
    if mixtures.dtype != np.uint32 or mixtures.ndim != 4 or len(seeds) != len(mixtures):
        raise UsageError(
            f"mixtures {mixtures.dtype} {mixtures.shape}, {len(seeds)} seeds",
            "uint32 (n, channels, rows, columns), n seeds",
        )
    highest = max((mixtures & 255).max(initial=0), ((mixtures >> 8) & 255).max(initial=0))
    if highest >= MATERIALS:
        raise UsageError(f"material {highest}", f"below {MATERIALS}")
    contrast = contrast or Contrast()
    out = np.empty(mixtures.shape, np.float32)
    for slice_, seed, image in zip(mixtures, seeds, out, strict=True):
        rng = np.random.default_rng((*np.atleast_1d(seed), 2))
        levels = draw_levels(rng, contrast)
        texture = _texture(rng, contrast) * _liveliness(levels)
        _paint(slice_, levels, texture, _draw_noise(rng, image.shape), image)
        acquire(image, rng, contrast.acquisition)
    return out


def _liveliness(levels: FloatArray) -> np.float32:
    """Texture is a difference of tissues: in a look that hardly tells them apart there is as little of it."""
    soft = np.abs(levels[[Tissue.FAT, Tissue.MUSCLE, Tissue.TENDON]])
    return np.float32(min(2 * np.ptp(soft) / max(soft.max(), 1e-6), 1.0))


def _texture(rng: np.random.Generator, contrast: Contrast) -> FloatArray:
    """Return SD of speckle, of patches and of the share of fat in each material (``MATERIALS``, 3)."""
    tissues = material_tissues()
    speckle = rng.uniform(0, contrast.texture, len(Tissue)) * rng.random()
    patches = rng.uniform(0, contrast.grain, len(Tissue)) * rng.random()
    patches[[Tissue.MARROW, Tissue.RED_MARROW]] = rng.uniform(0, contrast.patches) * rng.random()
    marbled = np.where(tissues == Tissue.MUSCLE, rng.uniform(0, contrast.marbled) * rng.random(), 0)
    return np.stack([speckle[tissues], patches[tissues], marbled], -1).astype(np.float32)


_KNOTS = (2, 3, 5, 8, 12)
"""Pixels between the knots of patches, one of these in a slice."""


def _draw_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray, Patches]:
    """Return white noise for speckle, weights of a pixel's own and its neighbours', and patches."""
    channels, rows, columns = shape
    apart = int(rng.choice(_KNOTS))
    knots = rng.standard_normal((channels, rows // apart + 2, columns // apart + 2), dtype=np.float32)
    own = np.float32(rng.uniform(0.2, 1.0))
    weights = np.array([own, (1 - own) / 4], np.float32) / np.sqrt(own**2 + (1 - own) ** 2 / 4)
    return rng.standard_normal(shape, dtype=np.float32), weights, (knots * np.float32(1.5), apart)


@kernel
def _paint(mixtures, levels, texture, noise, image):  # type: ignore[no-untyped-def]
    """Speckle is a pixel's and its four neighbours' noise, patches are bilinear between knots: SD about 1."""
    channels, rows, columns = image.shape
    grain, weights, (knots, apart) = noise
    fat = levels[FAT]
    for k in range(channels):
        for r in range(rows):
            above, below = max(r - 1, 0), min(r + 1, rows - 1)
            y, fy = r // apart, np.float32(r % apart) / np.float32(apart)
            for c in range(columns):
                before, after = max(c - 1, 0), min(c + 1, columns - 1)
                around = grain[k, above, c] + grain[k, below, c] + grain[k, r, before] + grain[k, r, after]
                speckle = weights[0] * grain[k, r, c] + weights[1] * around
                x, fx = c // apart, np.float32(c % apart) / np.float32(apart)
                top = knots[k, y, x] + fx * (knots[k, y, x + 1] - knots[k, y, x])
                bottom = knots[k, y + 1, x] + fx * (knots[k, y + 1, x + 1] - knots[k, y + 1, x])
                patches = top + fy * (bottom - top)
                mixture = mixtures[k, r, c]
                first, second = mixture & 255, (mixture >> 8) & 255
                s = np.float32((mixture >> 16) / 255)
                streak = min(max(texture[first, 2] * patches, np.float32(0)), np.float32(1))
                value = s * (levels[first] + streak * (fat - levels[first])) + (1 - s) * levels[second]
                rough = 1 + texture[first, 0] * speckle + texture[first, 1] * patches
                image[k, r, c] = value * max(rough, np.float32(0))
