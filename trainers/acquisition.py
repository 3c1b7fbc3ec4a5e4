"""What a scanner makes of a slice beside its look: what is in its way, and how k-space is read."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainers.point_spread import spread, truncation

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Acquisition:
    """What may happen to a slice: shares of slices, then uniform draws.

    Parameters
    ----------
    table : float
        Share with a table or a mattress below the body.
    metal : float
        Share with metal somewhere in the body: no signal, and a bright rim.
    moving, ghost : float
        Share in which the body moved as lines were read, and the greatest share of the signal that then lies
        elsewhere along an axis.
    wrapped : float
        Share in which one end of an axis is seen at its other end too.
    zero_filled : float
        Share with pixels smaller than what was acquired.
    acquired : tuple of float
        Range of the share of k-space that was acquired of these, along each axis.
    ripples : tuple of float
        Range of `trainers.point_spread.truncation`'s ripples.
    noise : float
        Greatest SD of each part of their noise: as coarse as what was acquired, and rippled like it.
    shallow : float
        Share stored in 64 to 1024 levels.
    """

    table: float = 0.1
    metal: float = 0.03
    moving: float = 0.1
    ghost: float = 0.15
    wrapped: float = 0.04
    zero_filled: float = 0.4
    acquired: tuple[float, float] = (0.5, 0.95)
    ripples: tuple[float, float] = (1.0, 8.0)
    noise: float = 0.08
    shallow: float = 0.1


IDEAL = Acquisition(table=0, metal=0, moving=0, wrapped=0, zero_filled=0, shallow=0)
"""Nothing happens."""


def acquire(image: Images, rng: np.random.Generator, options: Acquisition) -> None:
    """Make a slice's signal what is stored of it, in place.

    Parameters
    ----------
    image : ndarray of float32, (channels, rows, columns)
        Signal, of either sign; above 1 where the intensity window will cut it off, which it does to what the
        scanner has already blurred. In the end in [0, 1].
    rng : Generator
        Where draws come from.
    options : Acquisition
        What may happen.
    """
    for share, happens in ((options.table, _lay), (options.metal, _implant), (options.wrapped, _wrap)):
        if rng.random() < share:
            happens(image, rng)
    if rng.random() < options.moving:
        _move(image, rng, options.ghost)
    if rng.random() < options.zero_filled:
        _zero_fill(image, rng, options)
    np.clip(np.abs(image, out=image), 0, 1, out=image)
    if rng.random() < options.shallow:
        levels = np.float32(round(2 ** rng.uniform(6, 10)))  # of whole ones the last is 1
        np.divide(np.rint(image * levels), levels, out=image)


_SIGNAL = 0.05
"""What is brighter is no air."""


def _lay(image: Images, rng: np.random.Generator) -> None:
    """Put a plate below the lowest row of the body, where there is room."""
    body = np.flatnonzero((image[len(image) // 2] > _SIGNAL).any(1))
    top = (body[-1] + 1 if len(body) else image.shape[1]) + int(rng.integers(0, 12))
    plate = image[:, top : top + int(rng.integers(3, 25))]
    np.maximum(plate, np.float32(rng.uniform(0.05, 0.6)), out=plate)


def _implant(image: Images, rng: np.random.Generator) -> None:
    """Put metal on a pixel that is no air."""
    rows, columns = np.nonzero(np.abs(image[len(image) // 2]) > _SIGNAL)
    if not len(rows):
        return
    one, radius = rng.integers(len(rows)), rng.uniform(3, 20)
    y, x = np.ogrid[: image.shape[1], : image.shape[2]]
    distance = np.hypot(y - rows[one], x - columns[one]) / radius
    rim = 1 + rng.uniform(0, 3) * np.exp(-(((distance - 1.3) / 0.15) ** 2))
    image *= (rim * np.clip(4 * (distance - 0.9), 0, 1)).astype(np.float32)


def _wrap(image: Images, rng: np.random.Generator) -> None:
    along = np.moveaxis(image, rng.integers(1, 3), 0)
    n = int(rng.uniform(0.05, 0.3) * len(along))
    ends = (along[:n].copy(), along[-n:].copy())
    if rng.random() < 0.5:
        along[-n:] += ends[0]
    else:
        along[:n] += ends[1]


def _move(image: Images, rng: np.random.Generator, ghost: float) -> None:
    """Show the body again on either side, as where it swings while lines are read."""
    axis = int(rng.integers(1, 3))
    apart, share = image.shape[axis] // int(rng.integers(2, 9)), np.float32(rng.uniform(-ghost, ghost))
    image += share * (np.roll(image, apart, axis) + np.roll(image, -apart, axis))


def _zero_fill(image: Images, rng: np.random.Generator, options: Acquisition) -> None:
    weights = [truncation(rng.uniform(*options.acquired), rng.uniform(*options.ripples)) for _ in range(2)]
    noise = np.float32(rng.uniform(0, options.noise))
    parts = rng.standard_normal((2, *image.shape), dtype=np.float32) * noise
    parts[0] += image
    for part in parts:
        spread(part, *weights)
    np.hypot(*parts, out=image)
