"""A network of patches over a scan: slices prepared when they are needed, classes on the scan's own grid."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.intensity import Window
from seg_core.prepare import SlicePlan, prepare, resampled
from seg_core.resize import SliceResampler
from seg_core.runner import Runner
from seg_core.sliding import Slices, Tiling, sliding_logits, upsampled_labels

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]


class Stack:
    """Slices of a scan on a 3D network's grid, see `seg_core.sliding.Slices`.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        The whole scan as it is stored.
    plan : SlicePlan
        Of this scan and network.
    window : Window
        See `seg_core.prepare.prepare`.
    span : tuple of int
        First slice of the scan and one past the last, as the network sees them; the outer edges of the stack
        are those of these slices.
    """

    def __init__(
        self, array: npt.NDArray[Any], plan: SlicePlan, window: Window, span: tuple[int, int]
    ) -> None:
        self._array, self._plan, self._window, self._span = array, plan, window, span
        slices = span[1] - span[0]
        depth = resampled(slices, plan.spacing_mm[0], plan.depth_mm)
        self.shape = (depth, *plan.grid)
        self._resampler = None if depth == slices else SliceResampler(slices, depth)

    def __getitem__(self, part: slice) -> Float32Array:
        start, stop, _ = part.indices(self.shape[0])
        if self._resampler is None:
            return self._prepared(start, stop)
        return self._resampler.resample(self._prepared(*self._resampler.needed(start, stop)), start, stop)

    def _prepared(self, start: int, stop: int) -> Float32Array:
        first = self._span[0]
        return prepare(self._array, self._plan, self._window, first + start, first + stop)[:, 0]


def patch_labels(
    stack: Slices, runner: Runner, size: tuple[int, int, int], nearest: int | None = None
) -> Iterator[tuple[int, Uint8Array, Uint8Array]]:
    """Give the classes of a scan's slices, in order; memory is bounded by the patch's slices.

    Parameters
    ----------
    stack : Slices
        On the network's grid.
    runner : Runner
        Of a network of patches.
    size : tuple of int
        Slices, rows, columns of the scan that the stack covers.
    nearest : int, optional
        See `seg_core.sliding.upsampled_labels`.

    Yields
    ------
    number : int
        Of a slice, counted from 0 at the stack's beginning.
    labels, confidence : ndarray of uint8, (rows, columns)
        As `seg_core.sliding.upsampled_labels` gives them.

    Raises
    ------
    UsageError
        If the network is one of slices.
    """
    spec = runner.spec
    if spec.patch is None:
        raise UsageError(f"patches for {spec.name}", "a network of patches")

    def infer(patch: Float32Array) -> Float32Array:
        channels = np.broadcast_to(patch, (1, spec.channels, *patch.shape))
        logits: Float32Array = runner.logits(channels)[0]
        return logits

    slabs = sliding_logits(stack, Tiling(spec.patch, spec.overlap), infer)
    depth, rows, columns = stack.shape
    return upsampled_labels(slabs, (depth, rows, columns), size, spec.temperature, nearest)
