"""Which slices a training sees, and in what order: of seed and epoch alone, to be resumable."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seg_core.ahead import made_ahead
from seg_core.errors import UsageError
from trainers.augment import Augmentation, augment
from trainers.cache import STEP, Place, SliceCache
from trainers.config import Around
from trainers.mirrored import mirrored

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
AHEAD = 2
"""Batches that are made ahead: one takes tens of milliseconds, a training step more."""


@dataclass(frozen=True)
class Draw:
    """An epoch's draw.

    Parameters
    ----------
    seed, epoch : int
        Name the draw.
    slices : int
        Slices of the cache to draw from: those that were there when the epoch began.
    samples : int
        How many to draw.
    batch : int
        Samples a batch; a last smaller one is left out.
    window : int
        Rows and columns of a random window around tissue that each sample is cut to; 0 keeps all.
    copies : int
        How often each slice is in the pool that is drawn from.
    balance : float
        Share of the samples for which a class is drawn first, each as likely as another, then a slice that
        shows it, with the window on it: rare bones are seen as often as long ones.
    favour : int
        Value of a class that is drawn first as often as all others together; 0 for none.
    """

    seed: int
    epoch: int
    slices: int
    samples: int
    batch: int
    window: int = 0
    copies: int = 1
    balance: float = 0.0
    favour: int = 0


def epoch_order(draw: Draw) -> npt.NDArray[np.int64]:
    """Return the epoch's places in the pool (samples,): each as often as every other, to within one.

    The place of slice s in copy c is ``c * slices + s``.

    Raises
    ------
    UsageError
        If there is no slice, or fewer samples than a batch.
    """
    if draw.slices < 1 or draw.samples < draw.batch:
        raise UsageError(
            f"{draw.slices} slices, {draw.samples} samples an epoch",
            f"some slices, {draw.batch} samples or more",
        )
    rng = np.random.default_rng((draw.seed, draw.epoch))
    pool = draw.slices * draw.copies
    rounds = [rng.permutation(pool) for _ in range(-(-draw.samples // pool))]
    return np.concatenate(rounds)[: draw.samples]


def drawn_slices(draw: Draw, batch: int, cache: SliceCache | None = None) -> npt.NDArray[np.int64]:
    """Return the slices (batch,) of one of the epoch's batches; the cache is asked where a draw balances."""
    order, _ = _samples(draw, cache)
    return order[batch * draw.batch : (batch + 1) * draw.batch] % draw.slices


def _samples(draw: Draw, cache: SliceCache | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the epoch's places in the pool, and the class for which each was drawn; 0 for none."""
    order = epoch_order(draw)
    classes = np.zeros_like(order)
    if not draw.balance or cache is None:
        return order, classes
    rng = np.random.default_rng((draw.seed, draw.epoch, 7))
    shown = cache.shown()[: draw.slices]
    there = np.flatnonzero(shown.any(0))
    share = np.where(there == draw.favour - 1, max(len(there) - 1, 1), 1) if draw.favour else None
    chance = share / share.sum() if share is not None else None
    for place in np.flatnonzero(rng.random(len(order)) < draw.balance) if len(there) else ():
        column = rng.choice(there, p=chance)
        order[place] = (
            rng.choice(np.flatnonzero(shown[:, column])) + order[place] // draw.slices * draw.slices
        )
        classes[place] = column + 1
    return order, classes


def training_batches(
    cache: SliceCache, draw: Draw, options: Augmentation, around: Around, first_batch: int = 0
) -> Iterator[Batch]:
    """Give the epoch's augmented batches from ``first_batch`` on, each made while the one before is used.

    A side that nobody labelled is not shown, but the other one's mirror image (`trainers.mirrored`).

    Yields
    ------
    images : ndarray of float32, (batch, channels, rows, columns)
    labels : ndarray of uint8, (batch, rows, columns)
    """
    order, classes = _samples(draw, cache)

    def make(number: int) -> Batch:
        span = slice(number * draw.batch, (number + 1) * draw.batch)
        copies, slices = np.divmod(order[span], draw.slices)
        seeds = columns(draw.seed, draw.epoch, np.arange(span.start, span.stop))
        some = zip(slices, classes[span], seeds, strict=True)
        windows = [_window(cache, n, value, (seed, draw.window)) for n, value, seed in some if draw.window]
        places = [window.crop for window in windows] or None
        images, labels = cache.batch(slices, around, seeds, places)
        for n in range(len(images)):
            images[n], labels[n] = mirrored(images[n], labels[n])
        if options.unit == "slice" and not options.factor:
            images, labels = augment(images, labels, seeds, options)
        else:
            units = cache.first[slices] if options.unit == "volume" else slices
            drawn = columns(draw.seed, copies if options.factor else draw.epoch, units, 2)
            changed = (copies > 0) | (options.factor == 0)
            grain = columns(drawn, slices)[changed]
            images[changed], labels[changed] = augment(
                images[changed], labels[changed], drawn[changed], options, grain
            )
        return _cut((images, labels), windows) if windows else (images, labels)

    yield from made_ahead(make, range(first_batch, draw.samples // draw.batch), AHEAD)


def columns(*parts: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return numbers and columns side by side, a row a sample."""
    length = max(np.shape(part)[0] for part in parts if np.ndim(part))
    return np.column_stack([part if np.ndim(part) else np.full(length, part) for part in parts])


@dataclass(frozen=True)
class _Window:
    """A window of a slice.

    It is cut out of a crop half as large again: what turns and moves into the window comes from there.
    """

    crop: Place
    inside: Place


def _window(cache: SliceCache, number: int, value: int, how: tuple[npt.NDArray[np.int64], int]) -> _Window:
    """Draw a window with a pixel of a class, or of tissue, in its middle half; air around it is seen too."""
    seed, size = how
    shape = np.array(cache.index.shape)
    if min(shape) < size:
        raise UsageError(f"windows of {size} pixels", f"at most the {min(shape)} of the slices")
    rng = np.random.default_rng((*seed, 1))
    wanted = np.argwhere(cache.labels(number, STEP) == value if value else cache.tissue(number, STEP)) * STEP
    pixel = rng.choice(wanted) if len(wanted) else rng.integers(shape)
    start = np.clip(pixel - rng.integers(size // 4, 3 * size // 4, 2), 0, shape - size)
    extent = np.minimum(shape, size + size // 2)
    first = np.clip(start - size // 4, 0, shape - extent)
    return _Window(_place(first, extent), _place(start - first, np.array([size, size])))


def _place(start: npt.NDArray[np.int64], extent: npt.NDArray[np.int64]) -> Place:
    (top, left), (rows, columns) = start.tolist(), extent.tolist()
    return slice(top, top + rows), slice(left, left + columns)


def _cut(batch: Batch, windows: list[_Window]) -> Batch:
    images, labels = batch
    return (
        np.stack([image[:, *window.inside] for image, window in zip(images, windows, strict=True)]),
        np.stack([label[window.inside] for label, window in zip(labels, windows, strict=True)]),
    )


def fixed_subset(slices: int, samples: int) -> npt.NDArray[np.int64]:
    """Return up to ``samples`` slices (n,), evenly spread over all."""
    return np.unique(np.linspace(0, slices - 1, min(slices, samples)).round().astype(np.int64))
