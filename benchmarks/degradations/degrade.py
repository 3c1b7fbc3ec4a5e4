"""Scans made worse, one thing at a time and in steps; what the same step does is the same in every scan."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy.ndimage import rotate, zoom

from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import SIDES

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scan:
    """An axial scan (i, j, k) of both legs, with its true labels on the same grid."""

    volume: Volume
    labels: LabelMap


Apply = Callable[[Scan, float, np.random.Generator], Scan]


@dataclass(frozen=True)
class Degradation:
    """Something that makes scans worse.

    Parameters
    ----------
    title, unit : str
        What it is, and what its steps measure.
    steps : tuple of float
        From hardly to badly.
    apply : callable
        Makes a scan worse by a step; the generator stands at the same place for every step.
    """

    title: str
    unit: str
    steps: tuple[float, ...]
    apply: Apply


def _with(scan: Scan, image: npt.NDArray[np.floating]) -> Scan:
    """Return the scan with other intensities, as whole numbers again."""
    stored = np.rint(image).clip(0, 32767).astype(np.int16)
    return Scan(Volume(np.asfortranarray(stored), scan.volume.geometry), scan.labels)


def _full_scale(scan: Scan) -> float:
    """Return the 99th percentile of the intensities that are not 0."""
    values = scan.volume.array
    return float(np.percentile(values[values > 0], 99))


def add_noise(scan: Scan, share: float, rng: np.random.Generator) -> Scan:
    """Add complex noise with a SD of so much of full scale, and take the magnitude (Rician)."""
    sd = share * _full_scale(scan)
    real, imaginary = (
        rng.standard_normal(scan.volume.array.shape[::-1], np.float32).T * sd for _ in range(2)
    )
    return _with(scan, np.hypot(scan.volume.array + real, imaginary))


def shade(scan: Scan, strength: float, rng: np.random.Generator) -> Scan:
    """Multiply by a smooth field whose logarithm has that SD over the scan."""
    coarse = rng.standard_normal((4, 4, 4))
    shape = scan.volume.array.shape
    field = zoom(coarse, [n / 4 for n in shape], order=3, mode="nearest", grid_mode=True)
    field = (field - field.mean()) / field.std()
    return _with(scan, scan.volume.array * np.exp(strength * field))


def move(scan: Scan, mm: float, rng: np.random.Generator) -> Scan:
    """Let the body swing by that amplitude along j, the phase encoding, while each slice is acquired.

    A line of k-space that is read while the body lies d further on has its phase turned by 2 pi k d. The body
    swings four to ten times during a slice, which makes ghosts, and begins anywhere.
    """
    array = scan.volume.array
    rows = array.shape[1]
    pixel_mm = scan.volume.geometry.voxel_sizes[1]
    k = np.fft.fftfreq(rows)
    order = np.argsort(np.argsort(k)) / rows  # the share of the slice's time after which a line is read
    out = np.empty(array.shape, np.float32)
    for n in range(array.shape[2]):
        swing = np.sin(2 * np.pi * (rng.uniform(4, 10) * order + rng.random()))
        turned = np.exp(-2j * np.pi * k * swing * mm / pixel_mm)
        out[..., n] = np.abs(np.fft.ifft(np.fft.fft(array[..., n], axis=1) * turned, axis=1))
    return _with(scan, out)


def coarsen(scan: Scan, factors: tuple[int, int, int]) -> Scan:
    """Average blocks of voxels; a block is the bone of most of its voxels, where that is at least half of it.

    Voxels at the far ends that fill no block are left out.
    """
    size = np.array(factors)
    shape = np.array(scan.volume.array.shape) // size
    i, j, k = (slice(0, n) for n in shape * size)
    split = [n for pair in zip(shape, size, strict=True) for n in pair]

    def mean(array: npt.NDArray[np.float32]) -> Array:
        blocks: Array = array[i, j, k].reshape(split).mean(axis=(1, 3, 5))
        return blocks

    affine = scan.volume.geometry.affine.copy()
    affine[:3, 3] = scan.volume.geometry.to_world((size - 1) / 2)
    affine[:3, :3] *= size
    geometry = Geometry(tuple(shape.tolist()), affine)
    labels = np.zeros(shape, np.uint8)
    for value in scan.labels.labels:
        labels[mean((scan.labels.array == value).astype(np.float32)) >= 0.5] = value
    image = np.rint(mean(scan.volume.array.astype(np.float32))).astype(np.int16)
    return Scan(
        Volume(np.asfortranarray(image), geometry),
        LabelMap(np.asfortranarray(labels), geometry, scan.labels.labels),
    )


def thicken(scan: Scan, mm: float, rng: np.random.Generator) -> Scan:
    """Average neighbouring slices until they are so thick."""
    return coarsen(scan, (1, 1, max(round(mm / scan.volume.geometry.voxel_sizes[2]), 1)))


def enlarge(scan: Scan, mm: float, rng: np.random.Generator) -> Scan:
    """Average neighbouring pixels until they are so large."""
    factor = max(round(mm / scan.volume.geometry.voxel_sizes[0]), 1)
    return coarsen(scan, (factor, factor, 1))


def _cut(scan: Scan, axis: int, start: int, stop: int) -> Scan:
    low, high = [0, 0, 0], list(scan.volume.array.shape)
    low[axis], high[axis] = max(start, 0), min(stop, high[axis])
    i, j, k = (slice(a, b) for a, b in zip(low, high, strict=True))
    shape = tuple(b - a for a, b in zip(low, high, strict=True))
    geometry = scan.volume.geometry.window((low[0], low[1], low[2]), (shape[0], shape[1], shape[2]))
    return Scan(
        Volume(scan.volume.array[i, j, k], geometry),
        LabelMap(scan.labels.array[i, j, k], geometry, scan.labels.labels),
    )


def cut_along(scan: Scan, mm: float, rng: np.random.Generator) -> Scan:
    """Keep so many mm of the legs around the knees."""
    slices = [_slices_of(scan, bone) for bone in ("tibia", "femur")]
    knee = (slices[0].max() + slices[1].min() + 1) / 2
    half = mm / scan.volume.geometry.voxel_sizes[2] / 2
    return _cut(scan, 2, round(knee - half), max(round(knee + half), round(knee - half) + 2))


def cut_across(scan: Scan, share: float, rng: np.random.Generator) -> Scan:
    """Keep that share of the body's width, from the patient's right on; 0.5 shows one leg."""
    full = scan.volume.array > 0.1 * _full_scale(scan)
    columns = np.flatnonzero(np.count_nonzero(full, axis=(1, 2)) > 0.001 * full[0].size)
    first, last = int(columns.min()), int(columns.max()) + 1
    kept = max(round(share * (last - first)), 16)
    rightwards = scan.volume.geometry.affine[0, 0] > 0
    return _cut(scan, 0, last - kept, last) if rightwards else _cut(scan, 0, first, first + kept)


def _slices_of(scan: Scan, bone: str) -> npt.NDArray[np.int64]:
    values = [value for value, name in scan.labels.labels.items() if name in [f"{s}_{bone}" for s in SIDES]]
    return np.flatnonzero(np.isin(scan.labels.array, values).any(axis=(0, 1)))


def turn(scan: Scan, degrees: float, rng: np.random.Generator) -> Scan:
    """Turn the body about its long axis by so much; the header does not know of it."""

    def turned(array: npt.NDArray[np.generic], order: int) -> npt.NDArray[np.generic]:
        result: npt.NDArray[np.generic] = rotate(array, degrees, (0, 1), reshape=False, order=order)
        return np.asfortranarray(result)

    image = turned(scan.volume.array.astype(np.float32), 1)
    labels = turned(scan.labels.array, 0).astype(np.uint8)
    return Scan(
        _with(scan, image.astype(np.float32)).volume,
        LabelMap(labels, scan.labels.geometry, scan.labels.labels),
    )


DEGRADATIONS: Mapping[str, Degradation] = MappingProxyType(
    {
        "noise": Degradation(
            "noise (Rician)", "SD, share of full scale", (0.05, 0.1, 0.2, 0.3, 0.5), add_noise
        ),
        "shading": Degradation("shading", "SD of its logarithm", (0.3, 0.6, 0.9, 1.2), shade),
        "motion": Degradation("motion", "amplitude, mm", (1.0, 2.0, 4.0, 8.0), move),
        "pixels": Degradation("resolution in plane", "mm a pixel", (2.5, 3.75, 5.0, 7.5), enlarge),
        "slices": Degradation("resolution across", "mm a slice", (12.0, 18.0, 24.0, 36.0), thicken),
        "along": Degradation(
            "view along the leg", "mm around the knees", (480.0, 240.0, 120.0, 60.0), cut_along
        ),
        "across": Degradation("view across", "share of the body's width", (0.75, 0.5, 0.4, 0.3), cut_across),
        "rotation": Degradation("rotation", "degrees", (10.0, 20.0, 30.0, 45.0, 90.0), turn),
    }
)
