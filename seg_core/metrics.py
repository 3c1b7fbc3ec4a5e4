"""How well two label maps agree: Dice similarity and volume error of every class (report 4.8)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import GeometryError, UsageError
from seg_core.geometry import FloatArray, Geometry, LabelMap
from seg_core.kernel import kernel
from seg_core.labels import IGNORED
from seg_core.memory_order import slabs
from seg_core.surface_distance import SurfaceDistances, surface_distances
from seg_core.threads import in_parts

IntArray = npt.NDArray[np.int64]
_BLOCK = 64  # voxels compared at once
_TABLES = 4  # counted in turns: one would wait for its own last addition


@dataclass(frozen=True, eq=False)
class Scores:
    """Agreement of a prediction with the truth; all arrays (n_labels,), for the values 1 to n_labels.

    Parameters
    ----------
    dsc : ndarray of float64
        Dice similarity coefficient ``2 |P and T| / (|P| + |T|)``; 0 if only one of the two is empty, NaN if
        both are: such a class is left out of means, as MONAI's DiceMetric does by default.
    volume_error_cm3 : ndarray of float64
        ``| |P| - |T| |`` in cm3; 0 if both are empty.
    predicted_cm3, true_cm3 : ndarray of float64
        Volumes.
    predicted_voxels, true_voxels, common_voxels : ndarray of int64
        Counts |P|, |T| and |P and T|.
    surface : SurfaceDistances, optional
        HD95 and mean surface distance, where they were asked for.
    """

    dsc: FloatArray
    volume_error_cm3: FloatArray
    predicted_cm3: FloatArray
    true_cm3: FloatArray
    predicted_voxels: IntArray
    true_voxels: IntArray
    common_voxels: IntArray
    surface: SurfaceDistances | None = None


@dataclass(frozen=True, eq=False)
class Summary:
    """Mean and sample standard deviation (n - 1) over subjects; all arrays (n_labels,).

    Parameters
    ----------
    dsc_mean, dsc_sd : ndarray of float64
        Over the subjects in whose prediction or truth the class occurs; the mean is NaN without one, the
        deviation NaN without two.
    volume_error_mean_cm3, volume_error_sd_cm3 : ndarray of float64
        The same over the same subjects.
    subjects : ndarray of int64
        How many these were.
    hd95_mean_mm, hd95_sd_mm, assd_mean_mm, assd_sd_mm : ndarray of float64, optional
        The same over the subjects in whose prediction and truth the class occurs, where all scores have
        surface distances.
    """

    dsc_mean: FloatArray
    dsc_sd: FloatArray
    volume_error_mean_cm3: FloatArray
    volume_error_sd_cm3: FloatArray
    subjects: IntArray
    hd95_mean_mm: FloatArray | None = None
    hd95_sd_mm: FloatArray | None = None
    assd_mean_mm: FloatArray | None = None
    assd_sd_mm: FloatArray | None = None


def evaluate(
    predicted: LabelMap | npt.NDArray[Any],
    truth: LabelMap | npt.NDArray[Any],
    n_labels: int | None = None,
    voxel_volume_mm3: float | None = None,
    surface: bool = False,
) -> Scores:
    """Compare two label maps on one grid, all classes in one pass.

    Parameters
    ----------
    predicted, truth : LabelMap or ndarray of uint8, (i, j, k)
        Both of the same kind, in any memory order; not copied as a whole. Other integers are converted.
        May be empty.
    n_labels : int, optional
        Highest label value, at most 255; for label maps that of their names, by default.
    voxel_volume_mm3 : float, optional
        Volume of a voxel; for label maps that of the truth's geometry, by default.
    surface : bool
        Measure surface distances too, between label maps; for arrays `surface_distances` does.

    Returns
    -------
    Scores

    Raises
    ------
    GeometryError
        If the two do not lie on the same grid (arrays: have not the same shape), or surfaces are asked for
        on a grid whose axes are not orthogonal.
    UsageError
        If a value is not in 0 to ``n_labels``, or an argument is missing or impossible.
    """
    distances = None
    if isinstance(predicted, LabelMap) and isinstance(truth, LabelMap):
        _check_grids(predicted, truth)
        if n_labels is None:
            n_labels = max([*predicted.labels, *truth.labels], default=0)
        if voxel_volume_mm3 is None:
            voxel_volume_mm3 = truth.geometry.voxel_volume
        if surface:
            sizes = _orthogonal_sizes(truth.geometry)
            distances = surface_distances(predicted.array, truth.array, n_labels, sizes)
        predicted, truth = predicted.array, truth.array
    elif surface or isinstance(predicted, LabelMap) or isinstance(truth, LabelMap):
        raise UsageError(
            f"{type(predicted).__name__} and {type(truth).__name__}",
            "two label maps, or arrays without surface",
        )
    if n_labels is None or voxel_volume_mm3 is None or not (0 < n_labels < 256 and voxel_volume_mm3 > 0):
        raise UsageError(
            f"{n_labels} labels and voxels of {voxel_volume_mm3} mm3", "1 to 255 labels, a positive volume"
        )
    if predicted.shape != truth.shape:
        raise GeometryError(f"arrays of shape {predicted.shape} and {truth.shape}", "equal shapes")
    counts = _count(_as_bytes(predicted), _as_bytes(truth), n_labels)
    return replace(_scores(counts, voxel_volume_mm3), surface=distances)


def leave_unknown(predicted: LabelMap, truth: LabelMap) -> tuple[LabelMap, LabelMap]:
    """Return both with background where the truth is ``IGNORED``; as they are where it is so nowhere.

    Raises
    ------
    GeometryError
        If the two do not lie on the same grid.
    """
    _check_grids(predicted, truth)
    unknown = truth.array == IGNORED
    if not unknown.any():
        return predicted, truth
    names = {value: name for value, name in truth.labels.items() if value != IGNORED}
    cleared = [np.where(unknown, np.uint8(0), labels.array) for labels in (predicted, truth)]
    return replace(predicted, array=cleared[0]), replace(truth, array=cleared[1], labels=names)


def dice(predicted: IntArray, true: IntArray, common: IntArray) -> FloatArray:
    """Return ``2 |P and T| / (|P| + |T|)`` from counts of voxels of one shape; NaN where there are none."""
    dsc = np.full(predicted.shape, np.nan)
    np.divide(2 * common, predicted + true, out=dsc, where=predicted + true > 0)
    return dsc


def _check_grids(predicted: LabelMap, truth: LabelMap) -> None:
    # Within half a voxel the nearest one is that of the same index; a qform may say no more, near LPS.
    if not predicted.geometry.is_close(truth.geometry, min(truth.geometry.voxel_sizes) / 2):
        raise GeometryError(
            f"a prediction on a grid of {predicted.geometry.shape} and a truth on {truth.geometry.shape} "
            "that lie in different places",
            "the same shape and affine",
            "resample one onto the other's grid",
        )


def _orthogonal_sizes(geometry: Geometry) -> tuple[float, float, float]:
    """Return the voxel sizes in mm where the axes are orthogonal, to about half a degree."""
    directions = geometry.affine[:3, :3] / geometry.voxel_sizes
    if np.abs(directions.T @ directions - np.eye(3)).max() > 0.01:
        raise GeometryError(
            "a sheared grid: its axes are not orthogonal",
            fix="resample the label maps, or leave surfaces out",
        )
    return geometry.voxel_sizes


def _as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "bui" or (array.size and not 0 <= int(array.min()) <= int(array.max()) < 256):
        raise UsageError(f"labels of {array.dtype}", "integers from 0 to 255")
    return array.astype(np.uint8)


def _count(predicted: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], n_labels: int) -> IntArray:
    """Return |P|, |T| and |P and T| of the values 1 to n_labels, (3, n_labels)."""
    counts = np.zeros((3, 256), np.int64)
    for p, t in slabs(predicted, truth):
        whole = p.size - p.size % _BLOCK
        words = tuple(part[:whole].view(np.uint64).reshape(-1, _BLOCK // 8) for part in (p, t))
        parts: list[IntArray] = in_parts(partial(_count_part, words), len(words[0]), 1 << 14)
        counts += sum(parts)
        _count_bytes(p[whole:], t[whole:], counts)
    if counts[:, n_labels + 1 :].any():
        highest = int(np.flatnonzero(counts.any(axis=0)).max())
        raise UsageError(f"label value {highest}", f"at most {n_labels}")
    return counts[:, 1 : n_labels + 1]


def _scores(counts: IntArray, voxel_volume_mm3: float) -> Scores:
    p, t, both = (row.copy() for row in counts)
    cm3 = voxel_volume_mm3 / 1000
    return Scores(dice(p, t, both), np.abs(p - t) * cm3, p * cm3, t * cm3, p, t, both)


def summarise(scores: Sequence[Scores]) -> Summary:
    """Return mean and standard deviation over subjects.

    Parameters
    ----------
    scores : sequence of Scores
        One a subject, at least one, all with the same number of labels.

    Returns
    -------
    Summary

    Raises
    ------
    UsageError
        If there is none, or their numbers of labels differ.
    """
    if len({score.dsc.size for score in scores}) != 1:
        raise UsageError(f"scores of {len(scores)} subjects", "at least one, all with the same labels")
    dsc = np.stack([score.dsc for score in scores])
    there = ~np.isnan(dsc)
    error = np.stack([score.volume_error_cm3 for score in scores])
    summary = Summary(*_mean_sd(dsc, there), *_mean_sd(error, there), there.sum(axis=0))
    surfaces = [score.surface for score in scores if score.surface is not None]
    if len(surfaces) < len(scores):
        return summary
    hd95 = np.stack([surface.hd95_mm for surface in surfaces])
    assd = np.stack([surface.assd_mm for surface in surfaces])
    both = ~np.isnan(assd)
    hd95_mean, hd95_sd = _mean_sd(hd95, both)
    assd_mean, assd_sd = _mean_sd(assd, both)
    return replace(
        summary, hd95_mean_mm=hd95_mean, hd95_sd_mm=hd95_sd, assd_mean_mm=assd_mean, assd_sd_mm=assd_sd
    )


def _mean_sd(values: FloatArray, there: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    mean, sd = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    for label in range(values.shape[1]):
        sample = values[there[:, label], label]
        if sample.size > 0:
            mean[label] = sample.mean()
        if sample.size > 1:
            sd[label] = sample.std(ddof=1)
    return mean, sd


def _count_part(words: tuple[npt.NDArray[np.uint64], ...], start: int, stop: int) -> IntArray:
    tables = np.zeros((_TABLES, 3, 256), np.int64)
    _count_blocks(*(part[start:stop] for part in words), tables)
    counts: IntArray = tables.sum(axis=0)
    return counts


@kernel
def _count_blocks(p_words, t_words, tables):  # type: ignore[no-untyped-def]
    """Count blocks (n, words of 8 voxels): most are air or lie inside a bone, most others touch one bone."""
    ones, low_bits = np.uint64(0x0101010101010101), np.uint64(0x7F7F7F7F7F7F7F7F)
    byte, seven, top = np.uint64(255), np.uint64(7), np.uint64(56)
    for block in range(p_words.shape[0]):
        first = p_words[block, 0]
        value = first & byte
        other = first ^ (value * ones)
        for n in range(p_words.shape[1]):
            other |= (p_words[block, n] ^ first) | (t_words[block, n] ^ first)
        if other == 0:  # one value
            for count in range(3):
                tables[0, count, value] += 8 * p_words.shape[1]
            continue
        for n in range(p_words.shape[1]):
            p, t = p_words[block, n], t_words[block, n]
            if p | t == 0:
                continue
            # A bone reaches to one end of a word. If both words hold its value and 0 alone, its bytes are
            # marked, and multiplying the marks by ones adds them up in the highest byte.
            value = ((p | t) >> top) | ((p | t) & byte)
            p_marks = ((((p & low_bits) + low_bits) | p) >> seven) & ones
            t_marks = ((((t & low_bits) + low_bits) | t) >> seven) & ones
            if p_marks * value == p and t_marks * value == t:
                table = tables[n % tables.shape[0]]
                table[0, value] += (p_marks * ones) >> top
                table[1, value] += (t_marks * ones) >> top
                table[2, value] += ((p_marks & t_marks) * ones) >> top
                continue
            for _ in range(8):
                tables[0, 0, p & byte] += 1
                tables[0, 1, t & byte] += 1
                tables[0, 2, p & byte] += p & byte == t & byte
                p, t = p >> np.uint64(8), t >> np.uint64(8)


@kernel
def _count_bytes(p, t, counts):  # type: ignore[no-untyped-def]
    for index in range(p.size):
        counts[0, p[index]] += 1
        counts[1, t[index]] += 1
        counts[2, p[index]] += p[index] == t[index]
