"""Which slices a training sees, and in what order: of seed and epoch alone, to be resumable."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from trainers.augment import Augmentation, augment
from trainers.cache import SliceCache

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


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
    columns : int
        Width of a random window that each sample is cut to; 0 keeps the whole width.
    """

    seed: int
    epoch: int
    slices: int
    samples: int
    batch: int
    columns: int = 0


def epoch_order(draw: Draw) -> npt.NDArray[np.int64]:
    """Return the epoch's slices (samples,): each as often as every other, to within one.

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
    rounds = [rng.permutation(draw.slices) for _ in range(-(-draw.samples // draw.slices))]
    return np.concatenate(rounds)[: draw.samples]


def training_batches(
    cache: SliceCache, draw: Draw, options: Augmentation, channels: int, first_batch: int = 0
) -> Iterator[Batch]:
    """Give the epoch's augmented batches from ``first_batch`` on, each made while the one before is used.

    Yields
    ------
    images : ndarray of float32, (batch, channels, rows, columns)
    labels : ndarray of uint8, (batch, rows, columns)
    """
    order = epoch_order(draw)

    def make(number: int) -> Batch:
        span = slice(number * draw.batch, (number + 1) * draw.batch)
        images, labels = cache.batch(order[span], channels)
        positions = np.arange(span.start, span.stop)
        seeds = np.column_stack(
            [np.full_like(positions, draw.seed), np.full_like(positions, draw.epoch), positions]
        )
        images, labels = augment(images, labels, seeds, options)
        return _cut(images, labels, seeds, draw.columns) if draw.columns else (images, labels)

    # Two ahead are enough: a batch takes tens of milliseconds, a training step more.
    with ThreadPoolExecutor(1) as pool:
        pending = deque[object]()
        for number in range(first_batch, draw.samples // draw.batch):
            pending.append(pool.submit(make, number))
            if len(pending) > 2:
                yield pending.popleft().result()  # type: ignore[attr-defined]
        while pending:
            yield pending.popleft().result()  # type: ignore[attr-defined]


def _cut(
    images: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], seeds: npt.NDArray[np.int64], columns: int
) -> Batch:
    """Keep a window of columns of each sample, drawn from its seeds."""
    room = images.shape[-1] - columns
    if room < 0:
        raise UsageError(f"windows of {columns} columns", f"at most the {images.shape[-1]} of the slices")
    starts = [int(np.random.default_rng((*seed, 1)).integers(room + 1)) for seed in seeds]
    windows = [slice(start, start + columns) for start in starts]
    return (
        np.stack([image[..., window] for image, window in zip(images, windows, strict=True)]),
        np.stack([label[:, window] for label, window in zip(labels, windows, strict=True)]),
    )


def fixed_subset(slices: int, samples: int) -> npt.NDArray[np.int64]:
    """Return up to ``samples`` slices (n,), evenly spread over all."""
    return np.unique(np.linspace(0, slices - 1, min(slices, samples)).round().astype(np.int64))
