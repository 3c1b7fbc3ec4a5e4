"""Which patches of volumes a 3D network sees: of seed and epoch alone, as slices are (`trainers.batches`)."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from seg_core.ahead import made_ahead
from seg_core.prepare import resampled
from seg_core.resize import SliceResampler
from trainers.augment import NONE, Augmentation, augment
from trainers.batches import AHEAD, Batch, Draw, columns, epoch_order
from trainers.cache import Place, SliceCache
from trainers.config import IGNORED, Patches
from trainers.mirrored import mirrored

LABELLED = 1 / 3
"""Share of patches that are drawn around a labelled pixel of their slice; the others around tissue."""


class SubjectStack:
    """A subject's slices at the distance that a 3D network wants, see `seg_core.sliding.Slices`.

    Resampled as `seg_core.patches.Stack` does it for the runner; labels are those of the nearest slice.

    Parameters
    ----------
    cache : SliceCache
        Holds the subject.
    number : int
        One of its slices.
    slice_mm : float
        The distance; 0: as they were scanned.
    """

    def __init__(self, cache: SliceCache, number: int, slice_mm: float) -> None:
        self._cache, self._first = cache, int(cache.first[number])
        slices = int(cache.last[number]) + 1 - self._first
        own_mm = next(s.spacing_mm[2] for s in cache.index.subjects if s.start == self._first)
        depth = resampled(slices, own_mm, slice_mm or own_mm)
        self.shape = (depth, *cache.index.shape)
        self._resampler = SliceResampler(slices, depth)
        self._nearest = ((np.arange(depth) + 0.5) * slices / depth).astype(np.int64)

    def __getitem__(self, part: slice) -> npt.NDArray[np.float32]:
        start, stop, _ = part.indices(self.shape[0])
        return self.read(start, stop)[0]

    def read(
        self, start: int, stop: int, place: Place = (slice(None), slice(None)), seed: tuple[int, ...] = (0,)
    ) -> Batch:
        """Return images and labels (slices, rows, columns), as `trainers.cache.SliceCache.block`."""
        low, high = self._resampler.needed(start, stop)
        images, labels = self._cache.block(self._first + low, self._first + high, place, seed)
        return self._resampler.resample(images, start, stop), labels[self._nearest[start:stop] - low]

    def place_of(self, number: int) -> int:
        """Return where one of the cache's slices lies in the stack."""
        return int(np.searchsorted(self._nearest, number - self._first, side="right").clip(1)) - 1


def patch_batches(
    cache: SliceCache, draw: Draw, options: Augmentation, patches: Patches, first_batch: int = 0
) -> Iterator[Batch]:
    """Give the epoch's augmented batches from ``first_batch`` on, each made while the one before is used.

    A patch is turned, moved and shaded as one slice is, all its slices alike; noise differs. A side that
    nobody labelled is not shown, but the other one's mirror image, about one column (`trainers.mirrored`).

    Yields
    ------
    images : ndarray of float32, (batch, 1, slices, rows, columns)
        In [0, 1]; 0 beyond the scan.
    labels : ndarray of uint8, (batch, slices, rows, columns)
        ``IGNORED`` beyond the scan.
    """
    order = epoch_order(draw)

    def make(number: int) -> Batch:
        span = slice(number * draw.batch, (number + 1) * draw.batch)
        copies, slices = np.divmod(order[span], draw.slices)
        seeds = columns(draw.seed, draw.epoch, np.arange(span.start, span.stop))
        drawn = seeds
        if options.unit == "volume" or options.factor:
            units = cache.first[slices] if options.unit == "volume" else slices
            drawn = columns(draw.seed, copies if options.factor else draw.epoch, units, 2)
        chosen = [NONE if options.factor and copy == 0 else options for copy in copies]
        samples = zip(slices, seeds, zip(drawn, chosen, strict=True), strict=True)
        return _stacked([_patch(cache, n, patches, seed, change) for n, seed, change in samples])

    return made_ahead(make, range(first_batch, draw.samples // draw.batch), AHEAD)


def fixed_patches(cache: SliceCache, slices: npt.NDArray[np.int64], patches: Patches) -> Batch:
    """Return a patch around each of some slices (n,), unchanged and always the same; shapes as above."""
    seeds = columns(slices, 0)
    return _stacked([_patch(cache, n, patches, s) for n, s in zip(slices, seeds, strict=True)])


def _stacked(samples: list[Batch]) -> Batch:
    return np.stack([image[None] for image, _ in samples]), np.stack([label for _, label in samples])


def _patch(
    cache: SliceCache,
    number: int,
    patches: Patches,
    seed: npt.NDArray[np.int64],
    change: tuple[npt.NDArray[np.int64], Augmentation] | None = None,
) -> Batch:
    """Return a patch around a slice, as it is or, to teach by, changed and with nothing that nobody labelled.

    It is cut out of a crop half as large again: what turns and moves into the patch comes from there.
    """
    stack = SubjectStack(cache, number, patches.slice_mm)
    rng = np.random.default_rng((*seed, 1))
    middle = (stack.place_of(number), *_pixel(cache, number, rng))
    starts = [_start(m, n, p, rng) for m, n, p in zip(middle, stack.shape, patches.size, strict=True)]
    bounds = [(max(s, 0), min(s + p, n)) for s, p, n in zip(starts, patches.size, stack.shape, strict=True)]
    crop = [
        (max(low - (high - low) // 4, 0), min(high + (high - low) // 4, n))
        for (low, high), n in zip(bounds[1:], stack.shape[1:], strict=True)
    ]
    images, labels = stack.read(*bounds[0], (slice(*crop[0]), slice(*crop[1])), tuple(seed.tolist()))
    if change is not None:
        images, labels = _changed(*mirrored(images, labels), *change)
    inside = tuple(
        slice(low - first, high - first) for (low, high), (first, _) in zip(bounds[1:], crop, strict=True)
    )
    image, label = np.zeros(patches.size, np.float32), np.full(patches.size, IGNORED, np.uint8)
    there = tuple(slice(low - s, high - s) for (low, high), s in zip(bounds, starts, strict=True))
    image[there], label[there] = images[:, *inside], labels[:, *inside]
    return image, label


def _changed(
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint8],
    drawn: npt.NDArray[np.int64],
    options: Augmentation,
) -> Batch:
    """Change slices that lie above each other (slices, rows, columns) alike but for noise."""
    seeds, grain = np.tile(drawn, (len(images), 1)), columns(*drawn.tolist(), np.arange(len(images)))
    changed, labels = augment(images[:, None], labels, seeds, options, grain)
    return changed[:, 0], labels


def _pixel(cache: SliceCache, number: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a pixel (row, column) of a slice: labelled, else of tissue, else any."""
    labelled = rng.random() < LABELLED
    _, labels = cache.block(number, number + 1)
    bone = np.argwhere((labels[0] > 0) & (labels[0] != IGNORED)) if labelled else np.empty((0, 2))
    among = bone if len(bone) else np.argwhere(cache.tissue(number, 4)) * 4
    row, column = rng.choice(among) if len(among) else rng.integers(cache.index.shape)
    return int(row), int(column)


def _start(middle: int, length: int, size: int, rng: np.random.Generator) -> int:
    """Draw where a patch begins along an axis, ``middle`` in its middle half; around a shorter axis."""
    offset = int(rng.integers(size // 4, max(3 * size // 4, size // 4 + 1)))
    if length <= size:
        return -((size - length) // 2)
    return min(max(middle - offset, 0), length - size)
