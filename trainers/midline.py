"""Which part of a scan nobody labelled, where only one leg was: the body's own midline, without other labels.

A body is nearly its own mirror image. For each level the column is sought about which the tissue, reflected,
covers itself best, on the inner side of the labelled bones; legs apart give the middle between them, a trunk
its own middle. That needs no label of the other leg, no origin of the axes, and follows a body that lies
askew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from seg_core.geometry import LabelMap, Volume
from seg_core.views import View, display_window, radiological
from trainers.config import IGNORED

FloatArray = npt.NDArray[np.float64]
PIXEL_MM, LEVEL_MM = 4.0, 10.0  # fine enough for a plane between two legs
WINDOW_MM, SMOOTH_MM = 50.0, 120.0
TISSUE = 0.1  # of the brightness of nearly all tissue
# So far at least lies the midline from the middle of the labelled bones: ankles of a small child; and so far
# on their other side, where only a wrong side would put it, and a thigh has its own middle.
INNER_MM, OUTER_MM = 18.0, 30.0
SURE, SEEN = 0.6, 0.3  # share of the tissue that must cover itself
MARGIN_MM = 10.0  # before the midline: bone of the other leg as background does harm, ignored tissue little
LITTLE = 0.02  # of the most tissue, squared, that a level has
AIR, AIR_MM = 0.05, 40.0  # no bone is farther from what is brighter than that share: a dark leg is no air
CROSSED = 0.02  # share of the labels beyond the midline that makes it doubtful


@dataclass(frozen=True, eq=False)
class Midline:
    """Where the labelled side ends.

    Parameters
    ----------
    kind : {"midline", "doubtful", "one leg"}
        ``one leg``: no other leg is seen, so nothing is to be ignored.
    columns : ndarray, (levels,)
        Column of the radiological view, fractional, at each level.
    detail : str
        A sentence for the quality page.
    """

    kind: Literal["midline", "doubtful", "one leg"]
    columns: FloatArray
    detail: str


def find_midline(volume: Volume, labels: LabelMap, side: str) -> Midline:
    """Find the midline of a body of which one side is labelled.

    Parameters
    ----------
    volume : Volume
        The scan, in any orientation.
    labels : LabelMap
        Labels of that side, on the same grid; at least one voxel.
    side : {"right", "left"}
        Which.

    Returns
    -------
    Midline
        ``doubtful`` where the body covers its mirror image badly, labels lie across, or they seem to lie on
        the other side of the body.
    """
    view = radiological(volume, labels)
    sign = 1 if side == "right" else -1  # as if the right side were labelled: columns grow to the left
    image, marked = view.image[::sign], _labelled(view)[::sign]
    step, row_step = (max(1, round(PIXEL_MM / mm)) for mm in view.sizes[:2])
    count = max(1, round(image.shape[2] * view.sizes[2] / LEVEL_MM))
    levels = np.unique(np.linspace(0, image.shape[2] - 1, count).round().astype(int))
    level_mm = view.sizes[2] * image.shape[2] / len(levels)
    bright = display_window(view.image)[1]
    planes = [image[:, :, level] for level in levels]
    score = _symmetry(planes, (step, row_step), bright, max(1, round(WINDOW_MM / level_mm)))
    bones = _bone_columns(marked, levels)
    found, strength = _peaks(score, 2 * (bones + INNER_MM / view.sizes[0]) / step, None)
    _, wrong = _peaks(score, None, 2 * (bones - OUTER_MM / view.sizes[0]) / step)
    has_bone = marked[:, :, levels].any((0, 1))
    sure = float(np.median(strength[has_bone])) if has_bone.any() else float(np.median(strength))
    other = float(np.median(wrong[has_bone])) if has_bone.any() else 0.0
    coarse = _smooth(found * step / 2 + (step - 1) / 2, strength, level_mm)
    columns = np.interp(np.arange(image.shape[2]), levels, coarse)
    across = _share_across(marked, columns)
    kind, detail = _judge(sure, other, across, side)
    return Midline(kind, columns if sign == 1 else image.shape[0] - 1 - columns, detail)


def ignore_beyond(labels: LabelMap, volume: Volume, midline: Midline, side: str) -> int:
    """Make ``IGNORED``, in place, what has no label beyond the midline or just before it, but for air.

    Air far from all tissue stays background there too: what a network calls bone in it counts against it.

    Returns
    -------
    int
        How many voxels; none for one leg alone.
    """
    if midline.kind == "one leg":
        return 0
    view, ignored = radiological(volume, labels), 0
    margin = MARGIN_MM / view.sizes[0]
    column = np.arange(view.labels.shape[0])
    low, high = display_window(view.image)
    for level, middle in enumerate(midline.columns):
        beyond = column > middle - margin if side == "right" else column < middle + margin
        near = _near_tissue(view.image[:, :, level], low + AIR * (high - low), view.sizes[:2])
        plane = view.labels[:, :, level]
        unknown = beyond[:, None] & near & (plane == 0)
        ignored += int(np.count_nonzero(unknown))
        plane[unknown] = IGNORED
    return ignored


def _near_tissue(plane: npt.NDArray[Any], threshold: float, sizes: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Say what of a plane (columns, rows) lies within `AIR_MM` of tissue; no lone block of noise counts."""
    steps = [max(1, round(PIXEL_MM / mm)) for mm in sizes]
    means = ndimage.uniform_filter(plane.astype(np.float32), steps)[:: steps[0], :: steps[1]]
    reach = [2 * round(AIR_MM / (mm * step)) + 1 for mm, step in zip(sizes, steps, strict=True)]
    tissue = ndimage.binary_opening(means > threshold, np.ones((2, 2), bool))
    near = ndimage.maximum_filter(tissue, size=reach)
    whole: npt.NDArray[np.bool_] = np.kron(near, np.ones(steps, bool))[: plane.shape[0], : plane.shape[1]]
    return whole


def labelled_half(volume: Volume, labels: LabelMap, midline: Midline, side: str) -> tuple[Volume, LabelMap]:
    """Cut away the columns that lie beyond the midline at every level.

    Returns
    -------
    Volume, LabelMap
        The scan's other columns with their own geometry, views of the arrays; all of it for one leg alone.
    """
    if midline.kind == "one leg":
        return volume, labels
    axis = next(a for a, letter in enumerate(volume.geometry.orientation) if letter in "LR")
    width = volume.geometry.shape[axis]
    held = np.flatnonzero(_labelled(radiological(volume, labels)).any((1, 2)))
    if side == "right":
        low, high = 0, max(int(np.ceil(midline.columns.max())), int(held[-1]) + 1)
    else:
        low, high = min(int(np.floor(midline.columns.min())), int(held[0])), width
    low, high = max(low, 0), min(high, width)
    if volume.geometry.orientation[axis] == "R":  # stored columns run the other way than the view's
        low, high = width - high, width - low
    cut = tuple(slice(low, high) if a == axis else slice(None) for a in range(3))
    start = tuple(low if a == axis else 0 for a in range(3))
    array = volume.array[cut]
    geometry = volume.geometry.window((start[0], start[1], start[2]), array.shape)
    return Volume(array, geometry), LabelMap(labels.array[cut], geometry, labels.labels)


def _labelled(view: View) -> npt.NDArray[np.bool_]:
    marked: npt.NDArray[np.bool_] = view.labels > 0
    marked &= view.labels != IGNORED
    return marked


def _symmetry(
    planes: Sequence[npt.NDArray[Any]], steps: tuple[int, int], bright: float, window: int
) -> FloatArray:
    """Return how much of the tissue covers itself when column x becomes k - x, (2 columns, levels).

    Tissue is counted along the rows first: one leg may lie before the other.
    """

    def profile(plane: npt.NDArray[Any]) -> FloatArray:
        calm = ndimage.uniform_filter(plane.astype(np.float32), (max(3, steps[0]), max(3, steps[1])))
        count: FloatArray = (calm[:: steps[0], :: steps[1]] > TISSUE * bright).sum(axis=1, dtype=np.float64)
        return count

    tissue = np.stack([profile(plane) for plane in planes], axis=1)
    spectrum = np.fft.rfft(tissue, 2 * len(tissue), axis=0)
    covered = np.fft.irfft(spectrum**2, 2 * len(tissue), axis=0)
    covered = ndimage.gaussian_filter1d(ndimage.uniform_filter1d(covered, window, axis=1), 1.0, axis=0)
    whole = ndimage.uniform_filter1d((tissue**2).sum(axis=0), window)
    # A level with little more than noise says nothing.
    score: FloatArray = covered / np.maximum(whole, LITTLE * whole.max())
    return score


def _bone_columns(marked: npt.NDArray[np.bool_], levels: npt.NDArray[np.int64]) -> FloatArray:
    """Return the mean labelled column at each level, that of the nearest labelled one where there is none."""
    counts = np.stack([marked[:, :, level].sum(axis=1) for level in range(marked.shape[2])], axis=1)
    held = np.flatnonzero(counts.any(axis=0))
    means = np.arange(len(counts)) @ counts[:, held] / counts[:, held].sum(axis=0)
    nearest = np.abs(levels[:, None] - held).argmin(axis=1)
    columns: FloatArray = means[nearest]
    return columns


def _peaks(
    score: FloatArray, low: FloatArray | None, high: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Return place and height (levels,) of the highest local maximum within the bounds; 0 where none is."""
    peak = np.zeros_like(score, dtype=bool)
    peak[1:-1] = (score[1:-1] >= score[:-2]) & (score[1:-1] > score[2:])
    place = np.arange(len(score))[:, None]
    if low is not None:
        peak &= place >= low
    if high is not None:
        peak &= place <= high
    heights = np.where(peak, score, 0.0)
    best = heights.argmax(axis=0)
    return best.astype(np.float64), heights.max(axis=0)


def _smooth(columns: FloatArray, strength: FloatArray, level_mm: float) -> FloatArray:
    """Bridge levels without evidence, and take the running median."""
    good = np.flatnonzero(strength >= SEEN)
    if not len(good):
        return columns
    bridged = np.interp(np.arange(len(columns)), good, columns[good])
    size = 2 * round(SMOOTH_MM / level_mm / 2) + 1
    smooth: FloatArray = ndimage.median_filter(bridged, size, mode="nearest")
    return smooth


def _share_across(marked: npt.NDArray[np.bool_], columns: FloatArray) -> float:
    beyond = np.arange(marked.shape[0])[:, None] > columns
    across = sum(int(marked[beyond[:, level], :, level].sum()) for level in range(marked.shape[2]))
    return across / max(int(np.count_nonzero(marked)), 1)


def _judge(
    sure: float, other: float, across: float, side: str
) -> tuple[Literal["midline", "doubtful", "one leg"], str]:
    if other > max(sure, SEEN) + 0.1:
        return (
            "doubtful",
            f"the labels seem to lie on the body's other side, not on the {side}: check the side",
        )
    if sure < SEEN:
        return "one leg", "no other leg is seen beside the labelled one: nothing was ignored"
    text = f"the body's midline, about which {100 * sure:.0f} % of the tissue mirrors itself"
    if across > CROSSED:
        return "doubtful", f"{text}, but {100 * across:.1f} % of the labels lie beyond it"
    if sure < SURE:
        return "doubtful", f"{text}, which is little"
    return "midline", text
