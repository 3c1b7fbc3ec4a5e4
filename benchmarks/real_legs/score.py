"""How well labels agree with outlined slices: DSC, HD95, volume error, by bone and side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.real_legs.reference import LABELS, Labels, ReferenceSlice, rasterise
from seg_core.geometry import Geometry, LabelMap
from seg_core.metrics import dice
from seg_core.surface_distance import surface_distances

PARTS = ("shaft", "end")
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BoneScore:
    """A bone of one side of one scan, over the outlined slices of a part of it.

    Parameters
    ----------
    scan, part, bone : str
        ``bone`` with its side, or ``any bone``, whatever it was called.
    slices : int
        In which it was outlined.
    dsc : float
        Over all outlined slices; 0 where nothing was found.
    hd95_mm : float
        In the plane of each slice, mean over those in which it was found and both edges are seen; NaN where
        there is none.
    missed : int
        Slices in which it was outlined and not found.
    volume_error_cm3 : float
        Found less outlined, with its sign: area times the slices' distance.
    volume_cm3 : float
        Outlined, without what is in doubt.
    ignored : float
        Share of the outlined pixels that are in doubt.
    """

    scan: str
    part: str
    bone: str
    slices: int
    dsc: float
    hd95_mm: float
    missed: int
    volume_error_cm3: float
    volume_cm3: float
    ignored: float


def score_scan(scan: str, found: LabelMap, slices: Sequence[ReferenceSlice]) -> list[BoneScore]:
    """Compare labels with a scan's outlines; what is in doubt counts nowhere.

    Parameters
    ----------
    scan : str
        Its name.
    found : LabelMap, (i, j, k)
        Label values of bones by side, on the scan's own axial grid.
    slices : sequence of ReferenceSlice
        Outlined.

    Returns
    -------
    list of BoneScore
        Of each part, the bones that were outlined in it, then any bone. A label of a bone that is not there
        lowers the score of ``any bone``.
    """
    scores = []
    for part in PARTS:
        own = [one for one in slices if one.part == part]
        if not own:
            continue
        numbers, bones, doubtful = rasterise(own, found.geometry)
        predicted = found.array[..., numbers]
        for name, value in LABELS.items():
            if (bones == value).any():
                masks = predicted == value, bones == value
                scores.append(BoneScore(scan, part, name, *_measures(masks, doubtful, found.geometry)))
        masks = predicted > 0, bones > 0
        scores.append(BoneScore(scan, part, "any bone", *_measures(masks, doubtful, found.geometry)))
    return scores


def _measures(
    masks: tuple[Mask, Mask], doubtful: Mask, geometry: Geometry
) -> tuple[int, float, float, int, float, float, float]:
    """Measure what was found against what was outlined, masks (i, j, slices), as `BoneScore` has it."""
    outlined, known = masks[1], ~doubtful
    predicted: Mask = masks[0] & known
    true: Mask = outlined & known
    counts = (np.array([np.count_nonzero(m)]) for m in (predicted, true, predicted & true))
    there = np.flatnonzero(outlined.any(axis=(0, 1)))
    rims = ([_rim(mask[..., n], known[..., n]) for mask in masks] for n in there)
    distances = np.array([_hd95(p, t, geometry.voxel_sizes) for p, t in rims])
    found = np.any(predicted & true, axis=(0, 1))[there]
    seen = distances[found & np.isfinite(distances)]
    return (
        len(there),
        float(dice(*counts)[0]),
        float(seen.mean()) if len(seen) else float("nan"),
        int(np.count_nonzero(~found)),
        float((np.count_nonzero(predicted) - np.count_nonzero(true)) * geometry.voxel_volume / 1000),
        float(np.count_nonzero(true) * geometry.voxel_volume / 1000),
        float(np.count_nonzero(outlined & doubtful) / np.count_nonzero(outlined)),
    )


def _hd95(predicted: Labels, true: Labels, sizes_mm: tuple[float, float, float]) -> float:
    """HD95 between two rims (i, j) of a slice, in the plane; NaN if one is empty."""
    return float(surface_distances(predicted[..., None], true[..., None], 1, sizes_mm).hd95_mm[0])


def _rim(mask: Mask, known: Mask) -> Labels:
    """Return the known pixels of a mask (i, j) that have a known one of their four neighbours outside it.

    Where doubt cuts through a bone there is no edge: it would be the same in whatever was found.
    """
    outside = np.pad(~mask & known, 1, constant_values=True)
    beside = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
    return (mask & known & beside).astype(np.uint8)


def table(scores: Sequence[BoneScore]) -> str:
    """Return a scan's scores as Markdown."""
    lines = [
        "| scan, part | bone | slices | DSC | HD95 mm | volume error cm3 | of cm3 | ignored |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in scores:
        hd95 = "none" if np.isnan(s.hd95_mm) else f"{s.hd95_mm:.1f}"
        missed = f" ({s.missed} missed)" if s.missed else ""
        lines.append(
            f"| {s.scan}, {s.part} | {s.bone.replace('_', ' ')} | {s.slices} | {s.dsc:.3f} | {hd95}{missed} "
            f"| {s.volume_error_cm3:+.1f} | {s.volume_cm3:.1f} | {100 * s.ignored:.0f} % |"
        )
    return "\n".join(lines)


def summary(scores: Sequence[BoneScore]) -> str:
    """Return the DSC of each bone's shaft, mean over sides, by scan and over the scans, as Markdown."""
    scans = list(dict.fromkeys(s.scan for s in scores))
    lines = [f"| DSC in shafts | {' | '.join(scans)} | mean | wanted |", "|---" * (len(scans) + 3) + "|"]
    for bone, wanted in WANTED.items():
        own = {
            scan: [s.dsc for s in scores if (s.scan, s.part) == (scan, "shaft") and s.bone.endswith(bone)]
            for scan in scans
        }
        means = [np.mean(values) for values in own.values() if values]
        if means:
            cells = " | ".join(f"{np.mean(values):.3f}" if values else "" for values in own.values())
            lines.append(f"| {bone} | {cells} | {np.mean(means):.3f} | {wanted:.2f} |")
    return "\n".join(lines)


WANTED = {"tibia": 0.88, "femur": 0.88, "fibula": 0.80}
"""DSC in the shafts of scans that no training has seen."""
