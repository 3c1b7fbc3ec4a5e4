"""A network of slices over a scan: no slice twice, and where it changes nothing the body alone."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from seg_core.ahead import Begun, begun_ahead, made_ahead
from seg_core.body import GROUP, Span, View, find_views
from seg_core.certainty import BoneConfidence
from seg_core.intensity import Window
from seg_core.limb_range import Range, few_slices
from seg_core.memory_order import Array, zeros_like
from seg_core.metrics import evaluate
from seg_core.prepare import SlicePlan, crop, prepare_slices
from seg_core.runner import Inference, Runner

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

SLAB = 2
"""Slices that are prepared, inferred and cleaned together at least; bounds memory, changes no label."""
APART = 2
"""The same of slices that do not follow one another: each has neighbours of its own to be prepared."""
LOOKED_AT = 16
"""Slices that are inferred first, at the whole frame: they tell how large bones seem."""
PROBES = 8
"""Of these, with bone, are inferred in views too, to see whether labels change; at least half as many."""
LONG = 4 * PROBES
"""Slices of a scan that is long enough for views to be tried."""
MARGINS_MM = (32.0, 64.0)
"""How far views reach beyond the body: the first margin that changes next to no label is taken."""
LEAST_DSC = 0.999
"""Of every class over these slices."""
ROUNDED = 0.85
"""In 8 bits a label changes by rounding alone where its logit is no farther than this above the next.

Logits of the bundled twin are off by 0.16 (root of the mean square where two classes are near each other), so
the difference of two, in two runs, changes by 0.32.
"""


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
        Is told what preparing takes, and how long slabs were waited for.

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

    def apart(self, slices: IntArray, views: Sequence[View] | None = None) -> list["Part"]:
        """Cut slices (n,) that need not follow one another into parts that are inferred in one frame each."""
        views = self.views if views is None else views
        size = self._together(APART)
        alike: dict[tuple[Span, Span], list[int]] = {}
        for number in slices.tolist():
            view = views[number // GROUP]
            alike.setdefault((view.rows, view.columns), []).append(number)
        return [
            Part(np.array(numbers[start : start + size]), self._frame(views[numbers[0] // GROUP]))
            for numbers in alike.values()
            for start in range(0, len(numbers), size)
        ]

    def labelled(self, part: "Part", images: Float32Array) -> Begun[Uint8Array]:
        """Begin to infer slices of which `images` were prepared, if need be: their labels (n, *native)."""
        missing = ~self._done[part.slices]

        def labels(found: Inference | None) -> Uint8Array:
            self._keep(part.slices[missing], part.plan, found)
            kept: Uint8Array = self.scan.plan.oriented(self.classes)[part.slices]
            return kept

        return self._begin((part, images[missing] if part.plan else images)).then(labels)

    def look(self, span: Range) -> "Look":
        """Infer a few slices of a range, evenly between, at the whole frame; they are kept."""
        return self._seen(few_slices(self.scan.plan, span, LOOKED_AT), self.views, keep=True)

    def see_the_body(self, look: "Look", size: float = 1.0) -> bool:
        """Let the network see the body alone from now on, if that changes next to no label of some slices.

        Of slices with bone that were inferred at the whole frame, those that show most of each class, and
        others evenly between, are inferred in views too. Margins are a usual person's, times ``size``.

        Returns
        -------
        bool
            Whether it does.
        """
        probes = _with_bone(look.labels, len(self.runner.spec.classes))
        if len(probes) < PROBES // 2:
            return False
        margins_mm = [mm * size for mm in MARGINS_MM]
        multiple = self.runner.spec.grid.multiple
        for views in find_views(self.scan.array, self.scan.plan, multiple, margins_mm):
            seen = self._seen(look.slices[probes], views, keep=False)
            if self._same(seen.labels, look.labels[probes], look.sure[probes]):
                self.views = views
                return True
        return False

    def _seen(self, slices: IntArray, views: Sequence[View], keep: bool) -> "Look":
        """Infer slices (n,) in views, and keep what the network says or not; air has no labels."""
        labels, sure = np.zeros((2, len(slices), *self.scan.plan.native), np.uint8)
        parts = self.apart(slices, views)
        prepared = made_ahead(lambda part: self._prepared(part.slices, part.plan), parts)
        with closing(prepared), closing(begun_ahead(self._begin, zip(parts, prepared, strict=True))) as begun:
            for part, found in zip(parts, begun, strict=True):
                if keep:
                    self._keep(part.slices, part.plan, found)
                if part.plan is not None and found is not None and found.confidence is not None:
                    places = np.searchsorted(slices, part.slices)
                    part.plan.within(labels)[places] = crop(found.labels, part.plan)
                    part.plan.within(sure)[places] = crop(found.confidence, part.plan)
                    self._pixels += 0 if keep else len(places) * part.plan.grid[0] * part.plan.grid[1]
        return Look(slices, labels, sure)

    def _erase(self, slices: IntArray) -> None:
        """Erase what was said of slices."""
        for array in (self.classes, self.confidence):
            if array is not None:
                self.scan.plan.oriented(array)[slices] = 0

    def _same(self, labels: Uint8Array, expected: Uint8Array, sure: Uint8Array) -> bool:
        """Say whether labels (n, *native) of views are the whole frame's, but for rounding in 8 bits."""
        if self.runner.precision == "int8":
            rounded = 255 / (1 + np.exp(-ROUNDED / self.runner.spec.temperature))
            labels = np.where(sure > rounded, labels, expected)
        dsc = evaluate(labels, expected, len(self.runner.spec.classes), 1.0).dsc
        return bool((dsc[~np.isnan(dsc)] >= LEAST_DSC).all())

    def _frame(self, view: View) -> SlicePlan | None:
        return None if view.empty else self.scan.plan.part(view.rows, view.columns)

    def run(self, span: Range) -> Generator[Range]:
        """Infer what is missing of a range, slab by slab; erase what lies beyond it.

        Yields
        ------
        tuple of int
            First slice and one past the last that are complete; slabs follow one another. The next one has
            begun then, and the one after it is being prepared, and no more.
        """
        beyond = np.flatnonzero(self._done)
        self._erase(beyond[(beyond < span[0]) | (beyond >= span[1])])
        slabs = list(self._slabs(span))
        prepared = made_ahead(self._one_after_another(), slabs)
        since = time.perf_counter()
        with closing(prepared), closing(begun_ahead(self._begin, zip(slabs, prepared, strict=True))) as begun:
            for slab, found in zip(slabs, begun, strict=True):
                self.clock.add("infer", since)
                self._keep(slab.missing, slab.plan, found)
                yield slab.slices
                since = time.perf_counter()

    def _together(self, least: int) -> int:
        """Return how many slices are inferred together, if so many are handed over at least."""
        return max(least, self.runner.batch * self.runner.at_once)

    def _one_after_another(self) -> Callable[["_Slab"], Float32Array]:
        """Return what prepares slabs that follow one another: a slice that two of them need, once."""
        kept: dict[int, Float32Array] = {}
        frame: SlicePlan | None = None

        def prepared(slab: _Slab) -> Float32Array:
            nonlocal frame
            if slab.plan != frame:
                kept.clear()
                frame = slab.plan
            return self._prepared(slab.missing, slab.plan, kept)

        return prepared

    def _slabs(self, span: Range) -> Iterator["_Slab"]:
        """Cut a range where views end, and each view into slabs."""
        size = self._together(SLAB)
        for view in self.views:
            first, last = max(view.slices[0], span[0]), min(view.slices[1], span[1])
            for start in range(first, last, size):
                slices = np.arange(start, min(start + size, last))
                yield _Slab((start, start + len(slices)), slices[~self._done[slices]], self._frame(view))

    def _prepared(
        self, slices: IntArray, plan: SlicePlan | None, kept: dict[int, Float32Array] | None = None
    ) -> Float32Array:
        if plan is None or slices.size == 0:
            return np.empty((0, 0, 0, 0), np.float32)
        since = time.perf_counter()
        images = prepare_slices(self.scan.array, plan, self.scan.window, slices, kept)
        self.clock.add("prepare", since)
        return images

    def _begin(self, pair: tuple["Part | _Slab", Float32Array]) -> Begun[Inference | None]:
        """Begin to infer images of slices in a frame; of air there are none."""
        part, images = pair
        if part.plan is None or len(images) == 0:
            return Begun([], lambda _: None)
        return self.runner.begin(images, part.plan.frame, confidence=True)

    def _keep(self, slices: IntArray, plan: SlicePlan | None, found: Inference | None) -> None:
        """Write what the network says of slices in a frame, unless they are air."""
        since = time.perf_counter()
        if self.confidence is not None:
            self.scan.plan.oriented(self.confidence)[slices] = 255
        if plan is not None and found is not None and found.confidence is not None:
            self._write(slices, plan, crop(found.labels, plan), crop(found.confidence, plan))
            self._pixels += len(slices) * plan.grid[0] * plan.grid[1]
        self._done[slices] = True
        self.clock.add("restore", since)

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


def _with_bone(labels: Uint8Array, classes: int) -> IntArray:
    """Return which slices (n, rows, columns) show most of each class, and others with bone evenly between."""
    areas = np.stack([np.count_nonzero(labels == c, axis=(1, 2)) for c in range(1, classes + 1)])
    bone = np.flatnonzero(areas.any(axis=0))
    if not bone.size:
        return bone
    even = bone[np.linspace(0, len(bone) - 1, min(PROBES, len(bone))).round().astype(np.int64)]
    return np.union1d(even, areas.argmax(axis=1)[areas.any(axis=1)])


@dataclass(frozen=True, eq=False)
class Look:
    """Slices (n,) as they are at the whole frame: their labels and confidence (n, *native)."""

    slices: IntArray
    labels: Uint8Array
    sure: Uint8Array


@dataclass(frozen=True, eq=False)
class Part:
    """Slices (n,) that are inferred in one frame; none in air."""

    slices: IntArray
    plan: SlicePlan | None


@dataclass(frozen=True, eq=False)
class _Slab:
    """Slices that are inferred together, those of them that are missing, and their frame; none in air."""

    slices: Range
    missing: IntArray
    plan: SlicePlan | None
