"""What a network is shown of scans, as the runner prepares it: to calibrate on, and to compare files on."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from seg_core.geometry import Volume
from seg_core.intensity import normalised_input
from seg_core.model_spec import ModelSpec
from seg_core.prepare import plan_slices, prepare_slices
from seg_core.segment import SegmentOptions, segment

Float32Array = npt.NDArray[np.float32]

SEED = 700_000
"""Of the first drawn scan; no training of a network that ships drew these people, and no benchmark does."""
_GROWN_CM = (165.0, 178.0)
"""Statures of people whom nobody magnifies."""


def drawn_scans(count: int = 4) -> Iterator[Volume]:
    """Draw scans of grown people whom no training and no benchmark draws: small ones are shown as large.

    Raises
    ------
    MissingPackageError
        If the shape model is not installed (the extra ``phantom``).
    """
    from trainers.phantom import make_phantom
    from trainers.synthetic import draw_phantom_config

    for seed in range(SEED, SEED + count):
        yield make_phantom(draw_phantom_config(seed, statures_cm=_GROWN_CM)).volume


def scan_slices(volumes: Iterable[Volume], spec: ModelSpec, count: int) -> Iterator[Float32Array]:
    """Prepare evenly spread slices of scans, as the runner does.

    Parameters
    ----------
    volumes : iterable of Volume
        One is in memory at a time.
    spec : ModelSpec
        Of the network.
    count : int
        Slices a scan; all where there are fewer.

    Yields
    ------
    ndarray of float32, (1, channels, rows, columns)
        Rows and columns may be others for each scan.
    """
    for volume in volumes:
        plan = plan_slices(volume.geometry, spec)
        array, window = normalised_input(volume.array, spec.normalisation)
        slices = np.unique(np.linspace(0, plan.slices - 1, min(count, plan.slices)).round().astype(np.int64))
        for number in slices:
            yield prepare_slices(array, plan, window, number[None])


def scan_patches(volumes: Iterable[Volume], spec: ModelSpec, count: int) -> Iterator[Float32Array]:
    """Give evenly spread patches of scans: some of those that a network of patches is shown of each.

    Parameters
    ----------
    volumes : iterable of Volume
        One is in memory at a time.
    spec : ModelSpec
        Of the network; it has a patch.
    count : int
        Patches a scan; all where there are fewer.

    Yields
    ------
    ndarray of float32, (1, channels, *patch)

    Raises
    ------
    ScanError
        If a scan is constant, or has values that are not finite.
    """
    for volume in volumes:
        shown = _Shown(spec, count)
        segment(volume, shown, SegmentOptions(denoise=False))  # type: ignore[arg-type]
        yield from shown.spread()


class _Shown:
    """Stands in a network's place: finds nothing, and keeps evenly spread patches of what it is shown.

    How many there will be it does not know: every one, then every second, every fourth and so on is kept.
    """

    batch = 1

    def __init__(self, spec: ModelSpec, count: int) -> None:
        self.spec, self._count = spec, count
        self._kept: list[Float32Array] = []
        self._seen, self._step = 0, 1

    def logits(self, patch: Float32Array) -> Float32Array:
        """Keep a patch (1, channels, *patch) or not; return logits (1, 1, *patch): all is background."""
        if self._seen % self._step == 0:
            self._kept.append(patch.copy())
        self._seen += 1
        if len(self._kept) == 4 * self._count:
            self._kept, self._step = self._kept[::2], 2 * self._step
        return np.zeros((1, 1, *patch.shape[2:]), np.float32)

    def spread(self) -> Iterator[Float32Array]:
        """Give the wanted number of those that were kept: of as many equal parts the middle ones."""
        count = min(self._count, len(self._kept))
        for number in range(count):
            yield self._kept[(2 * number + 1) * len(self._kept) // (2 * count)]
