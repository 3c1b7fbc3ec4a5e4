"""A network of slices over a scan: no slice twice, and where it changes nothing the body alone."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from seg_core.body import GROUP, View, find_views
from seg_core.certainty import BoneConfidence
from seg_core.intensity import Window
from seg_core.limb_range import Range, coarse_slices
from seg_core.memory_order import Array, zeros_like
from seg_core.metrics import evaluate
from seg_core.precision import LEAST_AGREEMENT
from seg_core.prepare import SlicePlan, crop, prepare_slices
from seg_core.runner import Runner

Uint8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

SLAB = 8
"""Slices that are prepared, inferred and cleaned together, or a batch; bounds memory, changes no label."""
PROBES = 8
"""Slices that are inferred both ways, to see whether views change labels; a scan has four times as many."""
LEAST_DSC = 0.999
"""Of every class over these slices, in float32."""


def least_dsc(precision: str) -> float:
    """Return the DSC against the whole frame from which views are taken.

    In few bits rounding makes of any change of the input, however small, as many other labels as it makes
    against float32: of a twin's views no more is asked than of the twin.
    """
    return LEAST_DSC if precision == "fp32" else LEAST_AGREEMENT


@dataclass
class Clock:
    """Seconds that each step took."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, step: str, since: float) -> float:
        """Add the time since a moment to a step; return what the time is now."""
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - since
        return now


@dataclass(frozen=True, eq=False)
class Input:
    """A scan as the network takes it.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        The whole scan.
    plan : SlicePlan
        Of the scan and network.
    window : Window
        Intensities that become 0 and 1.
    """

    array: Array
    plan: SlicePlan
    window: Window


class SliceInference:
    """Classes and confidence on the scan's own grid, filled slice by slice, as the network says them.

    Parameters
    ----------
    scan : Input
    runner : Runner
        Of a network of slices.
    confidence : bool
        Whether all of it is wanted.
    clock : Clock
        Is told what preparing and inferring take.

    Attributes
    ----------
    classes : ndarray of uint8, (i, j, k)
        0 where nothing was inferred.
    confidence : ndarray of uint8, (i, j, k), or None
        0 in slices that were not inferred, 255 in air beyond a view. None where it is not wanted.
    bone_confidence : BoneConfidence
        Of what was labelled.
    """

    def __init__(self, scan: Input, runner: Runner, confidence: bool, clock: Clock) -> None:
        self.scan, self.runner, self.clock = scan, runner, clock
        self.classes: Uint8Array = zeros_like(scan.array, np.uint8)
        self.confidence = zeros_like(scan.array, np.uint8) if confidence else None
        self.bone_confidence = BoneConfidence()
        self.views = [
            View(
                (start, min(start + GROUP, scan.plan.slices)), (0, scan.plan.grid[0]), (0, scan.plan.grid[1])
            )
            for start in range(0, scan.plan.slices, GROUP)
        ]
        self._done = np.zeros(scan.plan.slices, np.bool_)
        self._pixels = 0

    @property
    def share(self) -> float:
        """Share of the whole frames' pixels that the network has computed, of the slices it has labelled."""
        rows, columns = self.scan.plan.grid
        return self._pixels / max(rows * columns * int(self._done.sum()), 1)

    def whole(self, slices: IntArray, images: npt.NDArray[np.float32] | None = None) -> Uint8Array:
        """Infer slices (n,) at the whole frame, if need be; return their labels (n, *native)."""
        missing = slices[~self._done[slices]]
        if missing.size:
            if images is None or missing.size < len(slices):
                images = self._prepared(missing, self.scan.plan)
            self._store(missing, self.scan.plan, images)
        labels: Uint8Array = self.scan.plan.oriented(self.classes)[slices]
        return labels

    def look_at_the_body(self, span: Range) -> bool:
        """Let the network see the body alone from now on, if that changes no label of some slices.

        Returns
        -------
        bool
            Whether it does.
        """
        plan = self.scan.plan
        if span[1] - span[0] < 4 * PROBES:
            return False
        views = find_views(self.scan.array, plan, self.runner.spec.grid.multiple)
        slices = coarse_slices(plan)
        slices = slices[(slices >= span[0]) & (slices < span[1])]
        probes = slices[np.unique(np.linspace(0, len(slices) - 1, PROBES).round().astype(np.int64))]
        expected = np.concatenate([self.whole(probe[None]) for probe in probes])
        found = np.zeros_like(expected)
        for place, probe in enumerate(probes):
            view = views[probe // GROUP]
            if not view.empty:
                part = plan.part(view.rows, view.columns)
                labels = self.runner.run(self._prepared(probe[None], part), part.frame).labels
                part.within(found[place : place + 1])[...] = crop(labels, part)
                self._pixels += part.grid[0] * part.grid[1]
        dsc = evaluate(found, expected, len(self.runner.spec.classes), 1.0).dsc
        same = bool((dsc[~np.isnan(dsc)] >= least_dsc(self.runner.precision)).all())
        if same:
            self.views = views
        return same

    def run(self, span: Range) -> Iterator[Range]:
        """Infer what is missing of a range, slab by slab; erase what lies beyond it.

        Yields
        ------
        tuple of int
            First slice and one past the last that are complete; slabs follow one another. While one is
            inferred the next one is prepared, and no more.
        """
        beyond = np.flatnonzero(self._done)
        beyond = beyond[(beyond < span[0]) | (beyond >= span[1])]
        for array in (self.classes, self.confidence):
            if array is not None:
                self.scan.plan.oriented(array)[beyond] = 0
        with ThreadPoolExecutor(1) as pool:
            waiting: tuple[_Slab, Future[npt.NDArray[np.float32]]] | None = None
            for slab in self._slabs(span):
                coming = (slab, pool.submit(self._prepared, slab.missing, slab.plan))
                if waiting is not None:
                    yield self._finish(*waiting)
                waiting = coming
            if waiting is not None:
                yield self._finish(*waiting)

    def _slabs(self, span: Range) -> Iterator["_Slab"]:
        """Cut a range where views end, and each view into slabs."""
        size = max(SLAB, self.runner.batch)
        for view in self.views:
            first, last = max(view.slices[0], span[0]), min(view.slices[1], span[1])
            for start in range(first, last, size):
                slices = np.arange(start, min(start + size, last))
                plan = None if view.empty else self.scan.plan.part(view.rows, view.columns)
                yield _Slab((start, start + len(slices)), slices[~self._done[slices]], plan)

    def _finish(self, slab: "_Slab", images: Future[npt.NDArray[np.float32]]) -> Range:
        self._store(slab.missing, slab.plan, images.result())
        return slab.slices

    def _prepared(self, slices: IntArray, plan: SlicePlan | None) -> npt.NDArray[np.float32]:
        if plan is None or slices.size == 0:
            return np.empty((0, 0, 0, 0), np.float32)
        since = time.perf_counter()
        images = prepare_slices(self.scan.array, plan, self.scan.window, slices)
        self.clock.add("prepare", since)
        return images

    def _store(self, slices: IntArray, plan: SlicePlan | None, images: npt.NDArray[np.float32]) -> None:
        """Infer images of slices in a frame, and write what the network says."""
        if self.confidence is not None:
            self.scan.plan.oriented(self.confidence)[slices] = 255
        if plan is not None and slices.size:
            since = time.perf_counter()
            found = self.runner.run(images, plan.frame, confidence=True)
            since = self.clock.add("infer", since)
            if found.confidence is not None:
                self._write(slices, plan, crop(found.labels, plan), crop(found.confidence, plan))
            self.clock.add("restore", since)
            self._pixels += len(slices) * plan.grid[0] * plan.grid[1]
        self._done[slices] = True

    def _write(self, slices: IntArray, plan: SlicePlan, labels: Uint8Array, confidence: Uint8Array) -> None:
        """Write labels and confidence (n, rows, columns) of a frame; what is 0 already is left untouched."""
        corner = max(-plan.before[0], 0), max(-plan.before[1], 0)
        target = plan.within(plan.oriented(self.classes))
        for number, classes, certain in zip(slices, labels, confidence, strict=True):
            rows = np.flatnonzero(classes.any(axis=1))
            if rows.size:  # memory of zeros that nobody writes to is not taken
                target[number, rows[0] : rows[-1] + 1] = classes[rows[0] : rows[-1] + 1]
            self.bone_confidence.keep(int(number), classes, certain, corner)
        if self.confidence is not None:
            plan.within(plan.oriented(self.confidence))[slices] = confidence


@dataclass(frozen=True, eq=False)
class _Slab:
    """Slices that are inferred together, those of them that are missing, and their frame; none in air."""

    slices: Range
    missing: IntArray
    plan: SlicePlan | None
