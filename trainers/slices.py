"""Scans and masks of a dataset -> the slices that a network is trained on, prepared as the runner does."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.geometry import LabelMap
from seg_core.intensity import intensity_window
from seg_core.limb_range import range_from_hip
from seg_core.prepare import SlicePlan, crop, plan_slices, prepare
from seg_core.resize import resize_bilinear
from trainers.cache import CacheIndex, SliceCacheWriter, encode, read_index
from trainers.config import IGNORED
from trainers.dataset import Dataset, DatasetSubject, is_dataset, open_dataset

SLAB = 16
Uint8Array = npt.NDArray[np.uint8]
Progress = Callable[[str, int, int], None]


def write_slices(dataset: Dataset, progress: Progress = lambda step, done, total: None) -> CacheIndex:
    """Bring a dataset's cache up to date: what is there and unchanged stays, the rest is added or made anew.

    Parameters
    ----------
    dataset : Dataset
        With one subject or more. One scan at a time is in memory.
    progress : callable
        ``progress("slices", done, total)``, counted in subjects.

    Returns
    -------
    CacheIndex
        What the cache holds now, subjects in the dataset's order. ``meta["spec"]`` is `Dataset.spec`; each
        subject's ``extra`` has the ``slices`` that were taken: first, one past the last, as the network sees
        them.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    plans = _plans(dataset)
    index = _empty_index(dataset, plans)
    if (dataset.cache / "index.json").is_file() and not _held(dataset, index):
        (dataset.cache / "index.json").unlink()  # first: without it the rest is nothing
        shutil.rmtree(dataset.cache)
    with SliceCacheWriter(dataset.cache, index) as writer:
        for number in range(len(writer.index.subjects), len(plans)):
            progress("slices", number, len(plans))
            _append(writer, dataset, dataset.subjects[number], plans[number])
        return writer.index


def check_slices(folder: Path) -> None:
    """Refuse slices that are not those of a dataset's subjects as they are now; other folders pass.

    Raises
    ------
    UsageError
        If so.
    ScanError
        If the dataset or its slices cannot be read.
    """
    if not is_dataset(folder):
        return
    dataset = open_dataset(folder)
    plans = _plans(dataset)
    there = dataset.cache / "index.json"
    if not plans or not there.is_file() or len(_held(dataset, _empty_index(dataset, plans))) < len(plans):
        raise UsageError(
            f"slices in {folder} that are not those of all its subjects as they are now",
            "a dataset that lls prepare has brought to its end",
            "call lls prepare again with the same subjects, or wait until it has ended",
        )


def _plans(dataset: Dataset) -> list[SlicePlan]:
    spec = dataset.spec
    return [plan_slices(s.geometry, spec.magnified(dataset.size(s))) for s in dataset.subjects]


def _empty_index(dataset: Dataset, plans: Sequence[SlicePlan]) -> CacheIndex:
    """Return what the cache of a dataset says of its slices, before there are any."""
    shape = (max(plan.grid[0] for plan in plans), max(plan.grid[1] for plan in plans))
    spec = json.loads(dataset.spec.to_json())
    return CacheIndex(shape, dataset.classes, meta={"spec": spec, "tolerance": dataset.tolerance})


def _held(dataset: Dataset, index: CacheIndex) -> list[str]:
    """Return which of a dataset's first subjects its cache holds as they are now; none if one is another."""
    there = read_index(dataset.cache)
    held = [(s.name, s.extra["key"], s.extra["hip_slice"]) for s in there.subjects]
    wanted = [(subject.name, subject.key, subject.hip_slice) for subject in dataset.subjects]
    same = (there.shape, there.classes, there.meta) == (index.shape, index.classes, index.meta)
    return [name for name, *_ in held] if same and wanted[: len(held)] == held else []


def _append(writer: SliceCacheWriter, dataset: Dataset, subject: DatasetSubject, plan: SlicePlan) -> None:
    volume, mask = dataset.scan(subject.name), dataset.class_mask(subject.name)
    start, stop = labelled_range(mask, plan, dataset, subject.hip_slice)
    window = intensity_window(volume.array, dataset.normalisation)
    shape = writer.index.shape
    images, labels = (np.zeros((stop - start, *shape), np.uint8) for _ in range(2))
    inside = tuple(
        slice((n - part) // 2, (n - part) // 2 + part) for n, part in zip(shape, plan.grid, strict=True)
    )
    for first in range(start, stop, SLAB):
        last = min(first + SLAB, stop)
        here = (slice(first - start, last - start), *inside)
        images[here] = encode(prepare(volume.array, plan, window, first, last)[:, 0], "uint8")
        labels[here] = resized_labels(mask.array, plan, first, last)
    spacing = [mm * n / g for mm, n, g in zip(plan.spacing_mm[1:], plan.frame, plan.grid, strict=True)]
    extra = {"key": subject.key, "hip_slice": subject.hip_slice, "slices": [start, stop]}
    spacing_mm = (spacing[0], spacing[1], plan.spacing_mm[0])
    writer.append(subject.name, images, labels, spacing_mm, extra, dataset.size(subject))


def labelled_range(
    mask: LabelMap, plan: SlicePlan, dataset: Dataset, hip_slice: int | None
) -> tuple[int, int]:
    """Return the slices to train on: from the feet to the first labelled one and a tolerance (report 4.4.4).

    Parameters
    ----------
    mask : LabelMap
        Of the scan.
    plan : SlicePlan
        Of the scan.
    dataset : Dataset
        Says the tolerance.
    hip_slice : int or None
        Stored slice to take in place of the first labelled one.

    Returns
    -------
    tuple of int
        First slice and one past the last, as the network sees them.
    """
    if dataset.tolerance < 0:
        return 0, plan.slices
    if hip_slice is None:
        stack = plan.oriented(mask.array)
        held = [n for n in range(plan.slices) if ((stack[n] > 0) & (stack[n] != IGNORED)).any()]
        hip_slice = plan.slice_index(held[-1])
    return range_from_hip(plan, dataset.spec.orientation, hip_slice, dataset.tolerance)


def resized_labels(array: Uint8Array, plan: SlicePlan, start: int, stop: int) -> Uint8Array:
    """Return labels on the network's pixels: the one that covers most of each, weighted as its image is.

    Parameters
    ----------
    array : ndarray of uint8, (i, j, k)
        Labels of the whole scan, as stored.
    plan : SlicePlan
        Of the scan and network.
    start, stop : int
        Slices, as the network sees them.

    Returns
    -------
    ndarray of uint8, (stop - start, rows, columns)
        Of two that cover equally the lower one; air around the slice is 0.
    """
    framed = np.zeros((stop - start, *plan.frame), np.uint8)
    crop(framed, plan)[...] = plan.oriented(array)[start:stop]
    if plan.frame == plan.grid:
        return framed
    values = np.flatnonzero(np.bincount(framed.ravel(), minlength=1))
    result = np.full((stop - start, *plan.grid), values[0], np.uint8)
    if len(values) == 1:
        return result
    most = np.zeros(result.shape, np.float32)
    for value in values:
        share = resize_bilinear((framed == value).astype(np.float32), plan.grid)
        more = share > most
        result[more], most[more] = value, share[more]
    return result
