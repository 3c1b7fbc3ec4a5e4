"""The whole job in memory: a scan in, bones on its own grid out."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt

from seg_core.ahead import Begun, begun_ahead, made_ahead
from seg_core.apparent_size import apparent_size, shafts_mm, surer
from seg_core.certainty import BoneConfidence
from seg_core.denoise import Removed, denoise_slices, denoise_volume
from seg_core.errors import UsageError
from seg_core.geometry import LabelMap, Volume
from seg_core.intensity import nonzero_box, normalised_input
from seg_core.labels import plain_labels
from seg_core.limb_range import Range, find_limb, range_from_hip
from seg_core.model_spec import Denoise
from seg_core.moments import Box
from seg_core.nnunet_grid import nnunet_labels
from seg_core.one_piece import drop_beside
from seg_core.patches import Stack, patch_labels
from seg_core.plausibility import check_plausibility
from seg_core.prepare import SlicePlan, plan_slices, prepare_slices, restore
from seg_core.report import Check
from seg_core.runner import Inference, Runner
from seg_core.sides import SideEvidence, keep_side, split_sides
from seg_core.slice_inference import APART, LONG, SLAB, Clock, Input, Look, Part, SliceInference
from seg_core.statistics import BoneStatistics, bone_statistics

Progress = Callable[[str, int, int], None]
"""Called with the step's name, slices done and slices in all."""

Labelling = Callable[[Part, npt.NDArray[np.float32]], Begun[npt.NDArray[np.uint8]]]
"""Slices (n,) and their images -> their labels (n, *native), once they are there."""

_Coarse = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | float, float]

AIR, LIGHT_MM2 = 0.05, 200.0
"""A slice whose brightest 2 cm2 are darker than this share of the brightest slice's shows air."""
COARSE = 4.0
"""A scan of pixels that hold more of the network's shows nothing more when it is magnified."""


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
    whole_frame : bool
        Whether the network sees all of each slice, also where that changes no label.
    """

    side: Literal["both", "right", "left"] = "both"
    hip_slice: int | None = None
    hip_tolerance: int = 50
    denoise: bool = True
    confidence: bool = False
    laterality: str | None = None
    whole_frame: bool = False

    def __post_init__(self) -> None:
        if self.side not in ("both", "right", "left"):
            raise UsageError(f"side {self.side!r}", "both, right or left")
        if self.laterality not in (None, "R", "L"):
            raise UsageError(f"laterality {self.laterality!r}", "R, L or nothing")


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
        What cleaning took from slices (``"slices"``), across them (``"volume"``), and beside bones
        (``"beside"``, where sides are known), by class; empty without.
    seconds : mapping of str to float
        Time that each step took. Preparing overlaps with all others; inferring is the wait for slices that
        neither views nor the range had seen.
    bones : tuple of BoneStatistics
        What each bone measures.
    plausibility : tuple of Check
        Whether these can be the bones of a leg.
    denoise : Denoise, optional
        What cleaning went by, on this scan's pixels.
    warnings : tuple of str
        What the user should know; what is not plausible among it.
    share : float
        Of the pixels of the slices, how many the network computed: the body's part of them, a little more
        for some slices that it sees twice. First looks at another size are not counted.
    size : float
        Of the network's pixels, of a usual person's, to within `prepare.HARDLY`: as small as the bones
        seemed, or half-way.
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
    denoise: Denoise | None = None
    warnings: tuple[str, ...] = ()
    share: float = 1.0
    size: float = 1.0

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


def _denoise_of(plan: SlicePlan, denoise: Denoise) -> Denoise:
    """Return the parameters for a scan: of pixels larger than the network's a thin bone has fewer."""
    larger = max(plan.pixels_each, 1.0)
    least = min(denoise.minimum_pixels, 2)  # a lone pixel is noise at any size
    return replace(denoise, minimum_pixels=max(int(denoise.minimum_pixels / larger), least))


class _Job:
    """One scan on its way."""

    def __init__(self, volume: Volume, runner: Runner, options: SegmentOptions, progress: Progress) -> None:
        self.volume, self.runner, self.options, self.progress = volume, runner, options, progress
        self.plan: SlicePlan = plan_slices(volume.geometry, runner.spec)
        self.classes, self.patched = len(runner.spec.classes), runner.spec.patch is not None
        if options.side != "both" and not runner.spec.sided:
            raise UsageError(f"side {options.side} of a network without sides", "both")
        self.denoise = _denoise_of(self.plan, runner.spec.denoise)
        self.clock, self.size = Clock(), 1.0
        self.warnings: list[str] = []
        self.removed: dict[str, Removed] = {}

    def run(self) -> Segmentation:
        since = time.perf_counter()
        self.array, self.window = normalised_input(self.volume.array, self.runner.spec.normalisation)
        self.clock.add("prepare", since)
        self.slices = None if self.patched else self._planned(self.plan)
        if self.plan.slices == 1:
            self.warnings.append("a single slice: nothing can be cleaned or checked across slices")
        span = self._range()
        self.certainty = BoneConfidence() if self.slices is None else self.slices.bone_confidence
        if self.slices is None:
            classes, confidence = self._patches(span)
            span = self._keep_limb(span, classes, confidence)
        else:
            self._infer(self.slices, span)
            classes, confidence = self.slices.classes, self.slices.confidence
        since = time.perf_counter()
        if self.options.denoise:
            fraction = self.denoise.volume_fraction
            classes, self.removed["volume"] = denoise_volume(classes, self.classes, fraction, overwrite=True)
            since = self.clock.add("denoise", since)
        labels, evidence = self._sides(classes)
        if self.options.denoise and evidence is not None and evidence.kind != "unknown":
            labels = self._without_beside(labels)
        since = self.clock.add("sides", since)
        ends = sorted((self.plan.slice_index(span[0]), self.plan.slice_index(span[1] - 1)))
        seen = self._seen((ends[0], ends[1] + 1))
        means = self.certainty.means(self.plan.oriented(labels.array))
        rows = bone_statistics(labels, removed=self._pieces(labels), seen=seen)
        bones = tuple(replace(row, confidence=means.get(row.label)) for row in rows)
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
            denoise=self.denoise,
            warnings=tuple(self.warnings),
            share=self.slices.share if self.slices else 1.0,
            size=self.size,
        )

    def _range(self) -> Range:
        options, spec = self.options, self.runner.spec
        span = 0, self.plan.slices
        if options.hip_slice is not None:
            span = range_from_hip(self.plan, spec.orientation, options.hip_slice, options.hip_tolerance)
        if self.slices is not None:
            self.slices = self._suited(self.slices, span)
        since = time.perf_counter()
        if options.hip_slice is None and self.slices is not None and spec.limb_range:
            span = self._limb(self.slices.labelled)
        self.clock.add("range", since)
        return span

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

    def _planned(self, plan: SlicePlan) -> SliceInference:
        """Return a network of slices that has seen none yet."""
        scan = Input(self.array, plan, self.window)
        return SliceInference(scan, self.runner, self.options.confidence, self.clock)

    def _suited(self, slices: SliceInference, span: Range) -> SliceInference:
        """Magnify the scan where bones seem small; see the body alone if that may be and changes nothing."""
        since = time.perf_counter()
        spec, body = self.runner.spec, not self.options.whole_frame and span[1] - span[0] >= LONG
        if spec.usual_mm or body:
            look = slices.look(span)
            if self.plan.pixels_each <= COARSE:
                slices, look = self._magnified(slices, look, span)
            if body:
                slices.see_the_body(look, self.size)
        self.clock.add("views", since)
        return slices

    def _magnified(self, slices: SliceInference, look: Look, span: Range) -> tuple[SliceInference, Look]:
        """Magnify the scan where bones seem small and the network is surer then; else half-way, likewise.

        Bones of which a part is found seem smaller than they are.
        """
        spec, first = self.runner.spec, self._cleaned_look(look)
        size = apparent_size(shafts_mm(first, self.plan.pixel_mm2, spec.classes), spec.usual_mm)
        for tried in (size, (1 + size) / 2) if size < 1 else ():
            closer = self._planned(plan_slices(self.volume.geometry, spec.magnified(tried)))
            second = closer.look(span)
            if surer(self._cleaned_look(second), second.sure, first, look.sure):
                self.size, self.plan = tried, closer.scan.plan
                self.denoise = _denoise_of(self.plan, spec.denoise)
                return closer, second
        return slices, look

    def _cleaned_look(self, look: Look) -> npt.NDArray[np.uint8]:
        return denoise_slices(look.labels, self.classes, self.denoise)[0]

    def _bone_area(self, slices: npt.NDArray[np.int64], labels: Labelling) -> npt.NDArray[np.float64]:
        """Return how much bone single slices show, in mm2 (n,)."""
        if self.slices is None:
            parts = [Part(slices[n : n + APART], self.plan) for n in range(0, len(slices), APART)]
        else:
            parts = self.slices.apart(slices)
        area, light, darkest, done = np.zeros(len(slices)), np.full(len(slices), -np.inf), 0.0, 0
        areas: list[Future[npt.NDArray[np.float64]]] = []

        def begin(pair: tuple[Part, _Coarse]) -> Begun[npt.NDArray[np.uint8]]:
            nonlocal darkest
            part, (images, seen, least) = pair
            light[np.searchsorted(slices, part.slices)] = seen
            darkest = min(darkest, least)  # air, where it is not 0
            return labels(part, images)

        coarse = made_ahead(self._coarse, parts)
        begun = begun_ahead(begin, zip(parts, coarse, strict=True))
        with ThreadPoolExecutor(1) as pool, closing(coarse), closing(begun):
            for part, found in zip(parts, begun, strict=True):
                areas.append(pool.submit(self._cleaned_area, found))
                done += len(part.slices)
                self.progress("range", done, len(slices))
            for part, size in zip(parts, areas, strict=True):
                area[np.searchsorted(slices, part.slices)] = size.result()
        return np.where(light - darkest >= AIR * (light.max() - darkest), area, 0.0)

    def _coarse(self, part: Part) -> _Coarse:
        """Return images of slices (n,), the light of each (n,), and what is darkest in them; air has none."""
        if part.plan is None:
            return np.empty((0, 0, 0, 0), np.float32), -np.inf, 0.0
        images = prepare_slices(self.array, part.plan, self.window, part.slices)
        return images, self._light(images[:, self.plan.channels // 2], part.plan), float(images.min())

    def _cleaned_area(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return the area of bone in slices (n, rows, columns) that counts, in mm2 (n,)."""
        cleaned, _ = denoise_slices(labels, self.classes, self.denoise)
        pixel_mm2 = self.plan.pixel_mm2
        area: npt.NDArray[np.float64] = np.count_nonzero(cleaned, axis=(1, 2)) * pixel_mm2
        return area

    def _light(self, images: npt.NDArray[np.float32], plan: SlicePlan) -> npt.NDArray[np.float32]:
        """Return what the brightest 2 cm2 of each slice (n, rows, columns) reach, (n,): an ankle has that."""
        pixels = images.reshape(len(images), -1)
        covered = plan.frame[0] * plan.frame[1] * plan.pixel_mm2
        count = min(max(round(LIGHT_MM2 / covered * pixels.shape[1]), 1), pixels.shape[1])
        brightest: npt.NDArray[np.float32] = np.partition(pixels, -count, axis=1)[:, -count]
        return brightest

    def _infer(self, slices: SliceInference, span: Range) -> None:
        """Infer slices and clean each slab while the next one is inferred."""
        with ThreadPoolExecutor(1) as pool, closing(slices.run(span)) as parts:
            cleaning: Future[None] | None = None
            for part in parts:
                if cleaning is not None:
                    cleaning.result()
                cleaning = pool.submit(self._clean, slices.classes, part)
                self.progress("infer", part[1] - span[0], span[1] - span[0])
            if cleaning is not None:
                cleaning.result()

    def _clean(self, classes: npt.NDArray[np.uint8], part: Range) -> None:
        """Clean a range of slices of the scan's own grid in place, if that is wanted."""
        if not self.options.denoise:
            return
        rows = self._rows(classes, part)
        if rows is not None:
            labels = np.ascontiguousarray(self.plan.oriented(classes)[slice(*part)])
            cleaned = self._cleaned(labels)
            self.certainty.forget(part[0], labels, cleaned)
            self.plan.oriented(classes)[slice(*part), rows] = cleaned[:, rows]

    def _rows(self, classes: npt.NDArray[np.uint8], part: Range) -> slice | None:
        """Return the rows that hold labels: cleaning changes no others, whose memory is not touched."""
        rows = np.flatnonzero(self.plan.oriented(classes)[slice(*part)].any(axis=(0, 2)))
        return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else None

    def _cleaned(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return slices (n, rows, columns) without noise, if that is wanted."""
        if not self.options.denoise:
            return labels
        since = time.perf_counter()
        labels, removed = denoise_slices(labels, self.classes, self.denoise)
        before = self.removed.get("slices")
        self.removed["slices"] = removed if before is None else before + removed
        self.clock.add("denoise", since)
        return labels

    def _patches(self, span: Range) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
        """Run a network of patches; return classes and confidence (i, j, k) on the scan's grid."""
        classes = np.zeros_like(self.volume.array, np.uint8, subok=False)
        confidence = np.zeros_like(classes) if self.options.confidence else None
        for start, found in self._patch_slabs(span):
            since = time.perf_counter()
            restore(found.labels, self.plan, classes, start)
            if confidence is not None and found.confidence is not None:
                restore(found.confidence, self.plan, confidence, start)
            self._keep_certainty(start, found)
            self.clock.add("restore", since)
            self.progress("infer", start + len(found.labels) - span[0], span[1] - span[0])
        return classes, confidence

    def _keep_certainty(self, start: int, found: Inference) -> None:
        if found.confidence is not None:
            for number, pair in enumerate(zip(found.labels, found.confidence, strict=True), start):
                self.certainty.keep(number, *pair, corner=(0, 0))

    def _patch_slabs(self, span: Range) -> Iterator[tuple[int, Inference]]:
        """Give the labels of a network of patches, slab by slab."""
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
            span = self._limb(lambda part, images: Begun([], lambda _: stack[part.slices]))
            self.clock.add("range", since)
            for array in (classes, confidence):
                if array is not None:
                    self.plan.oriented(array)[: span[0]] = 0
                    self.plan.oriented(array)[span[1] :] = 0
        for start in range(*span, SLAB):
            self._clean(classes, (start, min(start + SLAB, span[1])))
        return span

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

    def _without_beside(self, labels: LabelMap) -> LabelMap:
        """Drop what lies beside a bone that is one piece in every axial slice; say so."""
        axis = next(n for n, letter in enumerate(labels.geometry.orientation) if letter in "SI")
        labels, removed = drop_beside(labels, axis, self.classes, overwrite=True)
        self.removed["beside"] = removed
        for value in np.flatnonzero(removed.components):
            name, count = self.runner.spec.classes[value - 1], removed.components[value]
            self.warnings.append(f"pieces beside a {name} that cannot be of it were left out: {count}")
        return labels

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
        single = len({row.side for row in bones if row.voxels}) == 1
        air_mm = self._air(seen) if single else (0.0, 0.0)
        checks = tuple(check_plausibility(labels, bones, seen, air_mm))
        self.warnings += [f"not plausible: {check.detail}" for check in checks if not check.passed]
        return checks

    def _air(self, seen: Box) -> tuple[float, float]:
        """Return how much air (mm) the patient's left and right edge of what was segmented shows."""
        geometry = self.volume.geometry
        axis = next(n for n, towards in enumerate(geometry.orientation) if towards in "LR")
        step = (slice(part.start, part.stop, 1 if n == axis else 4) for n, part in enumerate(seen))
        light = self.volume.array[tuple(step)].mean(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        lit = np.flatnonzero(light >= light.min() + AIR * np.ptp(light))
        ends = [float(n * geometry.voxel_sizes[axis]) for n in (lit[0], light.size - 1 - lit[-1])]
        return (ends[0], ends[1]) if geometry.orientation[axis] == "R" else (ends[1], ends[0])
