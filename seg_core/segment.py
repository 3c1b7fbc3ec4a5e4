"""The whole job in memory: a scan in, bones on its own grid out."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt

from seg_core.denoise import Removed, denoise_slices, denoise_volume
from seg_core.errors import UsageError
from seg_core.geometry import LabelMap, Volume
from seg_core.intensity import nonzero_box, normalised_input
from seg_core.labels import plain_labels
from seg_core.limb_range import Range, find_limb, range_from_hip
from seg_core.moments import Box
from seg_core.nnunet_grid import nnunet_labels
from seg_core.patches import Stack, patch_labels
from seg_core.plausibility import check_plausibility
from seg_core.prepare import SlicePlan, crop, plan_slices, prepare, restore
from seg_core.report import Check
from seg_core.runner import Inference, Runner
from seg_core.sides import SideEvidence, keep_side, split_sides
from seg_core.statistics import BoneStatistics, bone_statistics

Progress = Callable[[str, int, int], None]
"""Called with the step's name, slices done and slices in all."""

Labelling = Callable[[npt.NDArray[np.int64], npt.NDArray[np.float32]], npt.NDArray[np.uint8]]
"""Slices (n,) and their images -> their labels (n, *frame)."""

SLAB = 16
"""Slices that are prepared, inferred and cleaned together; bounds memory, changes no label."""
AIR, LIGHT_MM2 = 0.05, 200.0
"""A slice whose brightest 2 cm2 are darker than this share of the brightest slice's shows air."""


@dataclass(frozen=True)
class SegmentOptions:
    """What to do.

    Parameters
    ----------
    side : {"both", "right", "left"}
        Which leg to keep. Where the sides cannot be told everything is kept, with a warning.
    hip_slice : int, optional
        Slice where the hip begins, in the scan's stored order; by default the range is found in the scan.
    hip_tolerance : int
        Slices kept beyond it towards the head.
    denoise : bool
        Whether to clean the labels as the network's description says.
    confidence : bool
        Whether to return the probability of each voxel's class.
    laterality : {"R", "L"}, optional
        Side of a single leg, as DICOM states it.
    """

    side: Literal["both", "right", "left"] = "both"
    hip_slice: int | None = None
    hip_tolerance: int = 50
    denoise: bool = True
    confidence: bool = False
    laterality: str | None = None

    def __post_init__(self) -> None:
        if self.side not in ("both", "right", "left"):
            raise UsageError(f"side {self.side!r}", "both, right or left")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found.

    Parameters
    ----------
    labels : LabelMap
        On the scan's own grid.
    confidence : Volume or None
        uint8, 255 times the probability of the network's choice; 0 outside the range.
    sides : SideEvidence or None
        How right and left were told apart; None for a network without sides.
    slices : tuple of int
        First slice and one past the last that were segmented, in the scan's stored order along ``axis``.
    axis : int
        Array axis along which the network's slices follow one another.
    removed : mapping of str to Removed
        What cleaning took from slices (``"slices"``) and across them (``"volume"``), by class; empty without.
    seconds : mapping of str to float
        Time that each step took; preparing overlaps with inferring.
    bones : tuple of BoneStatistics
        What each bone measures; with a confidence where that was asked for.
    plausibility : tuple of Check
        Whether these can be the bones of a leg.
    warnings : tuple of str
        What the user should know; what is not plausible among it.
    """

    labels: LabelMap
    confidence: Volume | None
    sides: SideEvidence | None
    slices: Range
    axis: int
    removed: Mapping[str, Removed]
    seconds: Mapping[str, float]
    bones: tuple[BoneStatistics, ...] = ()
    plausibility: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """Show the table of the bones in a notebook."""
        from seg_core.notebook import bones_html

        return bones_html(self.bones)


def segment(
    volume: Volume, runner: Runner, options: SegmentOptions | None = None, progress: Progress | None = None
) -> Segmentation:
    """Find the bones in a scan.

    Parameters
    ----------
    volume : Volume
        In any orientation; one slice is enough. Left alone.
    runner : Runner
        The network.
    options : SegmentOptions, optional
        What to do.
    progress : callable, optional
        Is told how far it is.

    Returns
    -------
    Segmentation
        The same bit for bit for the same scan, network and device.

    Raises
    ------
    ScanError
        If the scan is constant, or has values that are not finite.
    ModelError
        If the network's description does not fit its file.
    UsageError
        If the options make no sense for this scan.
    """
    return _Job(volume, runner, options or SegmentOptions(), progress or _silent).run()


def _silent(step: str, done: int, total: int) -> None:
    """Say nothing."""


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, step: str, since: float) -> float:
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - since
        return now


class _Job:
    """One scan on its way."""

    def __init__(self, volume: Volume, runner: Runner, options: SegmentOptions, progress: Progress) -> None:
        self.volume, self.runner, self.options, self.progress = volume, runner, options, progress
        self.plan: SlicePlan = plan_slices(volume.geometry, runner.spec)
        self.classes, self.patched = len(runner.spec.classes), runner.spec.patch is not None
        if options.side != "both" and not runner.spec.sided:
            raise UsageError(f"side {options.side} of a network without sides", "both")
        self.clock = _Clock()
        self.warnings: list[str] = []
        self.removed: dict[str, Removed] = {}

    def run(self) -> Segmentation:
        since = time.perf_counter()
        self.array, self.window = normalised_input(self.volume.array, self.runner.spec.normalisation)
        if self.plan.slices == 1:
            self.warnings.append("a single slice: nothing can be cleaned or checked across slices")
        span = self._range()
        since = self.clock.add("range", since)
        classes, confidence = self._infer(span)
        if self.patched:
            span = self._keep_limb(span, classes, confidence)
        since = time.perf_counter()
        if self.options.denoise:
            fraction = self.runner.spec.denoise.volume_fraction
            classes, self.removed["volume"] = denoise_volume(classes, self.classes, fraction, overwrite=True)
            since = self.clock.add("denoise", since)
        labels, evidence = self._sides(classes)
        since = self.clock.add("sides", since)
        ends = sorted((self.plan.slice_index(span[0]), self.plan.slice_index(span[1] - 1)))
        seen = self._seen((ends[0], ends[1] + 1))
        bones = tuple(bone_statistics(labels, confidence, self._pieces(labels), seen))
        plausibility = self._plausibility(labels, bones, seen)
        self.clock.add("measure", since)
        return Segmentation(
            labels=labels,
            confidence=None if confidence is None else Volume(confidence, self.volume.geometry),
            sides=evidence,
            slices=(ends[0], ends[1] + 1),
            axis=self.plan.axes[0],
            removed=self.removed,
            seconds=self.clock.seconds,
            bones=bones,
            plausibility=plausibility,
            warnings=tuple(self.warnings),
        )

    def _range(self) -> Range:
        options, spec = self.options, self.runner.spec
        if options.hip_slice is not None:
            return range_from_hip(self.plan, spec.orientation, options.hip_slice, options.hip_tolerance)
        if self.patched or not spec.limb_range:
            return 0, self.plan.slices
        return self._limb(lambda slices, images: self.runner.run(images, self.plan.frame).labels)

    def _limb(self, labels: Labelling) -> Range:
        """Find the limb from labels of slices 15 mm apart."""
        limb = find_limb(self.plan, lambda slices: self._bone_area(slices, labels))
        if limb is None:
            self.warnings.append("no bone was found in slices 15 mm apart: all slices were segmented")
            return 0, self.plan.slices
        for run in limb.left_out:
            first, last = sorted(map(self.plan.slice_index, run))
            self.warnings.append(
                f"slices {first} to {last} show bone too, away from the rest, and were left out: "
                "name the slice where the hip begins if they belong to the leg"
            )
        return limb.slices

    def _bone_area(self, slices: npt.NDArray[np.int64], labels: Labelling) -> npt.NDArray[np.float64]:
        """Return how much bone single slices show, in mm2 (n,)."""
        pixel_mm2 = self.plan.spacing_mm[1] * self.plan.spacing_mm[2]
        area, light, darkest = np.zeros(len(slices)), np.zeros(len(slices)), 0.0
        for start in range(0, len(slices), self.runner.batch):
            part = slices[start : start + self.runner.batch]
            images = np.concatenate([prepare(self.array, self.plan, self.window, s, s + 1) for s in part])
            found = np.ascontiguousarray(crop(labels(part, images), self.plan))
            cleaned, _ = denoise_slices(found, self.classes, self.runner.spec.denoise)
            area[start : start + len(part)] = np.count_nonzero(cleaned, axis=(1, 2)) * pixel_mm2
            light[start : start + len(part)] = self._light(images[:, 0])
            darkest = min(darkest, float(images.min()))  # air, where it is not 0
            self.progress("range", start + len(part), len(slices))
        return np.where(light - darkest >= AIR * (light.max() - darkest), area, 0.0)

    def _light(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return what the brightest 2 cm2 of each slice (n, rows, columns) reach, (n,): an ankle has that."""
        pixels = images.reshape(len(images), -1)
        covered = self.plan.frame[0] * self.plan.frame[1] * self.plan.spacing_mm[1] * self.plan.spacing_mm[2]
        count = min(max(round(LIGHT_MM2 / covered * pixels.shape[1]), 1), pixels.shape[1])
        brightest: npt.NDArray[np.float32] = np.partition(pixels, -count, axis=1)[:, -count]
        return brightest

    def _infer(self, span: Range) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
        """Return classes and confidence (i, j, k) on the scan's grid."""
        classes = np.zeros_like(self.volume.array, np.uint8, subok=False)
        confidence = np.zeros_like(classes) if self.options.confidence else None
        for start, found in self._patches(span) if self.patched else self._inferred(span):
            labels = np.ascontiguousarray(crop(found.labels, self.plan))
            if not self.patched:  # else in the limb's range, which is not known yet
                labels = self._cleaned(labels)
            since = time.perf_counter()
            restore(labels, self.plan, classes, start)
            if confidence is not None and found.confidence is not None:
                restore(found.confidence, self.plan, confidence, start)
            self.clock.add("restore", since)
            self.progress("infer", start + len(labels) - span[0], span[1] - span[0])
        return classes, confidence

    def _cleaned(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return slices (n, rows, columns) without noise, if that is wanted."""
        if not self.options.denoise:
            return labels
        since = time.perf_counter()
        labels, removed = denoise_slices(labels, self.classes, self.runner.spec.denoise)
        before = self.removed.get("slices")
        self.removed["slices"] = removed if before is None else before + removed
        self.clock.add("denoise", since)
        return labels

    def _inferred(self, span: Range) -> Iterator[tuple[int, Inference]]:
        """Run a network of slices."""
        for start, images in self._slabs(span):
            since = time.perf_counter()
            found = self.runner.run(images, self.plan.frame, self.options.confidence)
            self.clock.add("infer", since)
            yield start, found

    def _patches(self, span: Range) -> Iterator[tuple[int, Inference]]:
        """Run a network of patches."""
        if self.runner.spec.grid.kind == "nnunet":
            stored, filled = (self.plan.oriented(a)[slice(*span)] for a in (self.volume.array, self.array))
            slices = nnunet_labels(filled, nonzero_box(stored), self.plan, self.window, self.runner)
        else:
            stack = Stack(self.array, self.plan, self.window, span)
            slices = patch_labels(stack, self.runner, (span[1] - span[0], *self.plan.native))
        since = time.perf_counter()
        for start in range(span[0], span[1], SLAB):
            part = list(islice(slices, SLAB))
            found = Inference(np.stack([p[1] for p in part]), np.stack([p[2] for p in part]))
            self.clock.add("infer", since)
            yield start, found
            since = time.perf_counter()

    def _keep_limb(
        self, span: Range, classes: npt.NDArray[np.uint8], confidence: npt.NDArray[np.uint8] | None
    ) -> Range:
        """Find the limb in the labels of all slices, erase what lies beyond, clean the rest, all in place."""
        stack = self.plan.oriented(classes)
        if self.options.hip_slice is None and self.runner.spec.limb_range:
            since = time.perf_counter()
            span = self._limb(lambda slices, images: stack[slices])
            for array in (classes, confidence):
                if array is not None:
                    self.plan.oriented(array)[: span[0]] = 0
                    self.plan.oriented(array)[span[1] :] = 0
            self.clock.add("range", since)
        for start in range(*span, SLAB):
            part = np.ascontiguousarray(stack[start : min(start + SLAB, span[1])])
            restore(self._cleaned(part), self.plan, classes, start)
        return span

    def _slabs(self, span: Range) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Give slabs in order; while one is inferred the next one is prepared, and no more."""
        pending: deque[tuple[int, Future[npt.NDArray[np.float32]]]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for start in range(span[0], span[1], SLAB):
                pending.append((start, pool.submit(self._prepare, start, min(start + SLAB, span[1]))))
                if len(pending) > 1:
                    first, images = pending.popleft()
                    yield first, images.result()
            while pending:
                first, images = pending.popleft()
                yield first, images.result()

    def _prepare(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        since = time.perf_counter()
        images = prepare(self.array, self.plan, self.window, start, stop)
        self.clock.add("prepare", since)
        return images

    def _sides(self, classes: npt.NDArray[np.uint8]) -> tuple[LabelMap, SideEvidence | None]:
        names = self.runner.spec.classes
        labels = LabelMap(classes, self.volume.geometry, plain_labels(names))
        if not self.runner.spec.sided:
            return labels, None
        labels, evidence = split_sides(labels, names, self.options.laterality, overwrite=True)
        if evidence.kind == "unknown":
            self.warnings.append(f"the side is unknown: {evidence.detail}")
        if evidence.conflict:
            self.warnings.append(f"{evidence.detail}: check the side")
        return self._one_side(labels, evidence), evidence

    def _one_side(self, labels: LabelMap, evidence: SideEvidence) -> LabelMap:
        """Keep the side that was asked for; nothing is thrown away where the sides are unknown."""
        side = self.options.side
        if side == "both":
            return labels
        if evidence.kind == "unknown":
            self.warnings.append(f"the {side} side was asked for: all bones were kept, without a side")
            return labels
        kept = keep_side(labels, side)
        if labels.array.any() and not kept.array.any():
            self.warnings.append(f"the {side} side was asked for, but every bone lies on the other one")
        return kept

    def _seen(self, span: Range) -> Box:
        """Return the part of the scan's grid that was segmented."""
        seen = [slice(0, n) for n in self.volume.geometry.shape]
        seen[self.plan.axes[0]] = slice(*span)
        return seen[0], seen[1], seen[2]

    def _pieces(self, labels: LabelMap) -> dict[int, int]:
        """Return the pieces that cleaning removed from each label's class."""
        counts = sum(
            (part.components for part in self.removed.values()), np.zeros(self.classes + 1, np.int64)
        )
        return {value: int(counts[(value - 1) % self.classes + 1]) for value in labels.labels}

    def _plausibility(
        self, labels: LabelMap, bones: tuple[BoneStatistics, ...], seen: Box
    ) -> tuple[Check, ...]:
        """Judge bones by side; a single slice, or the lack of the side asked for, has been told of."""
        lost = self.options.side != "both" and not any(row.voxels for row in bones)
        if self.plan.slices == 1 or lost or not self.runner.spec.sided:
            return ()
        checks = tuple(check_plausibility(labels, bones, seen))
        self.warnings += [f"not plausible: {check.detail}" for check in checks if not check.passed]
        return checks
