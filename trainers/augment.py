"""Random changes of slices and labels, the same for the same seed whatever the batch or the threads."""

from dataclasses import dataclass, replace
from math import cos, radians, sin
from typing import Literal

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.kernel import kernel
from trainers.point_spread import gaussian, spread

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a slice; each with its probability, then a uniform draw from its range.

    Parameters
    ----------
    flip : float
        Probability of a left-right flip.
    rotation, rotation_degrees : float
        Probability, and greatest angle either way, in the slice plane.
    scale, scale_range : float
        Probability, and greatest relative change of size (0.1: 0.9 to 1.1).
    shift, shift_fraction : float
        Probability, and greatest shift as a fraction of rows and of columns.
    contrast, contrast_range : float
        Probability, and greatest relative change of contrast around the slice's mean.
    brightness, brightness_range : float
        Probability, and greatest added intensity.
    gamma, gamma_range : float
        Probability, and greatest |ln(exponent)|.
    bias, bias_range : float
        Probability, and greatest |ln(gain)| of a smooth field, drawn on a lattice of 3 x 3 points.
    fade, fade_range : float
        Probability, and greatest -ln(gain) of a slice that lies in the decline of signal towards an end of
        its stack, which may come on one side of the slice before the other; of its neighbours by up to twice
        or as little as none of that.
    noise, noise_sigma : float
        Probability, and greatest standard deviation of Rician noise (two Gaussian parts).
    blur, blur_sigma : float
        Probability, and greatest standard deviation of a Gaussian, in pixels.
    smooth : float
        Probability that noise is blurred too, as where a scan's pixels are larger than the network's.
    alone : float
        Probability that neighbouring slices are hidden: each channel holds the slice itself, as where a scan
        has no other.
    cut : float
        Probability that the neighbours on one side are hidden so, as where a scan ends.
    station : float
        Probability that the neighbours on one side were scanned at another station: up to 4 pixels away, and
        up to 1.5 times as bright or dark.
    unit : {"slice", "volume"}
        What shares a draw: each slice has its own, or all slices of a subject have one (noise differs, and
        contrast turns around each slice's mean).
    factor : int
        0: slices are changed anew in every epoch. n: the data n-fold, once as they are and n - 1 times
        changed, the same in every epoch.
    """

    flip: float = 0.5
    rotation: float = 0.7
    rotation_degrees: float = 15.0
    scale: float = 0.5
    scale_range: float = 0.1
    shift: float = 0.5
    shift_fraction: float = 0.05
    contrast: float = 0.4
    contrast_range: float = 0.3
    brightness: float = 0.3
    brightness_range: float = 0.1
    gamma: float = 0.4
    gamma_range: float = 0.4
    bias: float = 0.4
    bias_range: float = 0.4
    fade: float = 0.0
    fade_range: float = 0.0
    noise: float = 0.3
    noise_sigma: float = 0.05
    blur: float = 0.2
    blur_sigma: float = 1.0
    smooth: float = 0.0
    alone: float = 0.05
    cut: float = 0.0
    station: float = 0.0
    unit: Literal["slice", "volume"] = "slice"
    factor: int = 0

    def __post_init__(self) -> None:
        if self.unit not in ("slice", "volume") or self.factor < 0:
            raise UsageError(
                f"augmentation of each {self.unit!r}, factor {self.factor}", "slice or volume, 0 or more"
            )


NONE = Augmentation(
    flip=0, rotation=0, scale=0, shift=0, contrast=0, brightness=0, gamma=0, bias=0, noise=0, blur=0, alone=0
)
REPORT = replace(NONE, flip=0.5, rotation=1.0, rotation_degrees=15.0, unit="volume", factor=2)
FINE = replace(
    Augmentation(),
    blur=0.7, blur_sigma=1.5, smooth=0.3, noise=0.6, noise_sigma=0.1, bias=0.6, bias_range=1.0,
    fade=0.35, fade_range=1.6, cut=0.1, station=0.08,
)  # fmt: skip
AUGMENTATIONS = {"full": Augmentation(), "fine": FINE, "report": REPORT, "none": NONE}
"""By name: all that there is; for pixels of a millimetre, where larger ones are blurred; the report's
4.4.3.2; nothing."""


def augment(
    images: Images,
    labels: Labels,
    seeds: npt.NDArray[np.int64],
    options: Augmentation,
    grain: npt.NDArray[np.int64] | None = None,
) -> tuple[Images, Labels]:
    """Change each slice by the draw that its seed gives.

    Parameters
    ----------
    images : ndarray of float32, (n, channels, rows, columns)
        In [0, 1]; channels of a slice move and change together. Left alone.
    labels : ndarray of uint8, (n, rows, columns)
        Left alone. What comes in from outside the slice is background.
    seeds : ndarray of int64, (n, any)
        Numbers that name each slice's draw.
    options : Augmentation
        What may happen.
    grain : ndarray of int64, (n, any), optional
        Numbers that name each slice's noise, where slices share a draw; of the draw itself by default.

    Returns
    -------
    images : ndarray of float32, (n, channels, rows, columns)
        Bilinear; in [0, 1].
    labels : ndarray of uint8, (n, rows, columns)
        Nearest.

    Raises
    ------
    UsageError
        If shapes or types do not agree.
    """
    n, _, rows, columns = images.shape
    if labels.shape != (n, rows, columns) or len(seeds) != n:
        raise UsageError(
            f"images {images.shape}, labels {labels.shape}, {len(seeds)} seeds", "equal n and size"
        )
    if images.dtype != np.float32 or labels.dtype != np.uint8:
        raise UsageError(f"images {images.dtype}, labels {labels.dtype}", "float32 and uint8")
    new_images, new_labels = np.empty_like(images), np.empty_like(labels)
    for i in range(n):
        rng = np.random.default_rng(np.atleast_1d(seeds[i]))
        matrix = _affine(rng, options, rows, columns)
        image = _stacked(images[i], np.random.default_rng((*np.atleast_1d(seeds[i]), 3)), options)
        if np.array_equal(matrix, np.eye(2, 3)):
            new_images[i], new_labels[i] = image, labels[i]
        else:
            _warp(image, labels[i], matrix, new_images[i], new_labels[i])
        _intensity(new_images[i], rng, options, rng if grain is None else np.random.default_rng(grain[i]))
    return new_images, new_labels


def _draw(rng: np.random.Generator, probability: float, limit: float) -> float:
    """Return a number within the limit either way, or 0; always from two draws, so options stay apart."""
    chance, value = rng.random(2)
    return float(limit * (2 * value - 1)) if chance < probability else 0.0


def _stacked(image: Images, rng: np.random.Generator, o: Augmentation) -> Images:
    """Return a slice with its neighbours (channels, rows, columns) as another stack would show them."""
    middle = len(image) // 2
    alone, cut, station = rng.random(3) < (o.alone, o.cut, o.station)
    side = slice(None, middle) if rng.random() < 0.5 else slice(middle + 1, None)
    if alone:
        return np.repeat(image[middle, None], len(image), axis=0)
    if cut or station:
        image = image.copy()
    if cut:
        image[side] = image[middle]
    elif station:
        moved = np.roll(image[side], tuple(rng.integers(-4, 5, 2)), (1, 2))
        image[side] = moved * np.float32(1.5 ** rng.uniform(-1, 1))
    return image


def _affine(rng: np.random.Generator, o: Augmentation, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Output pixel (row, column, 1) to input pixel, about the slice's centre."""
    flip = -1.0 if rng.random() < o.flip else 1.0
    angle = radians(_draw(rng, o.rotation, o.rotation_degrees))
    zoom = 1 / (1 + _draw(rng, o.scale, o.scale_range))
    shift = np.array(
        [_draw(rng, o.shift, o.shift_fraction) * rows, _draw(rng, o.shift, o.shift_fraction) * columns]
    )
    turn = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]]) * zoom
    turn[1] *= flip
    centre = np.array([rows - 1, columns - 1]) / 2
    return np.column_stack([turn, centre - turn @ (centre + shift)])


@kernel
def _warp(image, labels, matrix, new_image, new_labels):  # type: ignore[no-untyped-def]
    channels, rows, columns = image.shape
    for r in range(rows):
        for c in range(columns):
            y = matrix[0, 0] * r + matrix[0, 1] * c + matrix[0, 2]
            x = matrix[1, 0] * r + matrix[1, 1] * c + matrix[1, 2]
            ny, nx = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
            inside = 0 <= ny < rows and 0 <= nx < columns
            new_labels[r, c] = labels[ny, nx] if inside else 0
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            fy, fx = y - y0, x - x0
            for k in range(channels):
                total = 0.0
                for dy in range(2):
                    for dx in range(2):
                        yy, xx = y0 + dy, x0 + dx
                        if 0 <= yy < rows and 0 <= xx < columns:
                            wy = fy if dy else 1 - fy
                            wx = fx if dx else 1 - fx
                            total += wy * wx * image[k, yy, xx]
                new_image[k, r, c] = total


def _intensity(image: Images, rng: np.random.Generator, o: Augmentation, grain: np.random.Generator) -> None:
    """Change the intensities of our own copy (channels, rows, columns) in place."""
    sigma = abs(_draw(rng, o.blur, o.blur_sigma))
    smooth = o.smooth > 0 and grain.random() < o.smooth
    if not smooth:
        _blurred(image, sigma)
    gamma = np.exp(_draw(rng, o.gamma, o.gamma_range))
    contrast = 1 + _draw(rng, o.contrast, o.contrast_range)
    brightness = _draw(rng, o.brightness, o.brightness_range)
    field = rng.uniform(-1, 1, (3, 3)) * (o.bias_range if rng.random() < o.bias else 0.0)
    lattices = np.exp(field - _fading(rng, o, len(image)))
    mean = image.mean() * lattices.mean()  # of the shaded slice, nearly
    _shade(image, np.array([gamma, contrast, brightness, mean]), lattices)
    noise = abs(_draw(rng, o.noise, o.noise_sigma))
    if noise > 0:
        parts = grain.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(noise)
        np.hypot(image + parts[0], parts[1], out=image)
    if smooth:
        _blurred(image, sigma)
    np.clip(image, 0, 1, out=image)


def _fading(rng: np.random.Generator, o: Augmentation, channels: int) -> npt.NDArray[np.float64]:
    """-ln(gain) (channels, 3, 3) on a lattice of slices one after the other towards a stack's end."""
    if not o.fade:
        return np.zeros((channels, 3, 3))
    middle, slope = abs(_draw(rng, o.fade, o.fade_range)), rng.uniform(-1, 1)
    share = rng.uniform(rng.random(), 1, (3, 3))
    along = middle * (1 + slope * (np.arange(channels) - channels // 2))
    loss: npt.NDArray[np.float64] = along[:, None, None] * share
    return loss


@kernel
def _shade(image, tone, lattices):  # type: ignore[no-untyped-def]
    """Gain (bilinear between 3 x 3 points a channel), contrast, brightness, gamma; air stays air."""
    gamma, contrast, brightness, mean = tone
    channels, rows, columns = image.shape
    for r in range(rows):
        y = 2.0 * r / max(rows - 1, 1)
        y0 = min(int(y), 1)
        for c in range(columns):
            x = 2.0 * c / max(columns - 1, 1)
            x0 = min(int(x), 1)
            for k in range(channels):
                lattice = lattices[k]
                top = lattice[y0, x0] * (x0 + 1 - x) + lattice[y0, x0 + 1] * (x - x0)
                bottom = lattice[y0 + 1, x0] * (x0 + 1 - x) + lattice[y0 + 1, x0 + 1] * (x - x0)
                gain = top * (y0 + 1 - y) + bottom * (y - y0)
                value = (image[k, r, c] * gain - mean) * contrast + mean + brightness
                value = min(max(value, 0.0), 1.0)
                image[k, r, c] = value if gamma == 1.0 else value**gamma


def _blurred(image: Images, sigma: float) -> None:
    if sigma > 0.2:
        spread(image, gaussian(sigma), gaussian(sigma))
