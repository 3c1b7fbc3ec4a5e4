"""Which slices show the lower limb."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.prepare import SlicePlan

Range = tuple[int, int]
"""First slice and one past the last, as the network sees them."""

COARSE_MM = 15.0
MARGIN_MM = 30.0
BONE_MM2 = 40.0
"""Less bone than this in a slice is taken for noise; the end of a small child's fibula has about as much."""
WORTH_A_WORD = 0.1
"""Bone that is left out is told of where it is more than this share of what is kept."""


def range_from_hip(plan: SlicePlan, orientation: str, hip_slice: int, tolerance: int) -> Range:
    """Keep what lies from the hip towards the feet, as in the report.

    Parameters
    ----------
    plan : SlicePlan
        Of the scan and network.
    orientation : str
        The network's; says where its slices increase to.
    hip_slice : int
        Where the hip begins: 0-based, in the order in which the scan stores slices along the body.
    tolerance : int
        Slices that are kept beyond it towards the head.

    Returns
    -------
    tuple of int
        First slice and one past the last, as the network sees them.

    Raises
    ------
    UsageError
        If there is no such slice, the tolerance is negative, or the network's slices are not axial.
    """
    if not 0 <= hip_slice < plan.slices:
        raise UsageError(
            f"hip slice {hip_slice}",
            f"0 to {plan.slices - 1}, as `lls inspect` counts",
            "give the slice where the hip begins, or none: it is found in the scan",
        )
    if tolerance < 0:
        raise UsageError(f"a hip tolerance of {tolerance} slices", "0 or more")
    if orientation[2] not in "SI":
        raise UsageError("a hip slice for a network of slices along the body", "a network of axial slices")
    hip = plan.slice_index(hip_slice)
    if orientation[2] == "S":
        return 0, min(hip + tolerance + 1, plan.slices)
    return max(hip - tolerance, 0), plan.slices


def coarse_slices(plan: SlicePlan) -> npt.NDArray[np.int64]:
    """Return slices (n,) that are ``COARSE_MM`` apart or a little less, the first and the last among them."""
    length = (plan.slices - 1) * plan.spacing_mm[0]
    count = min(plan.slices, int(np.ceil(length / COARSE_MM)) + 1)
    return np.unique(np.linspace(0, plan.slices - 1, count).round().astype(np.int64))


def few_slices(plan: SlicePlan, span: Range, most: int) -> npt.NDArray[np.int64]:
    """Return those of `coarse_slices` that lie in a range, or so many of them evenly between."""
    slices = coarse_slices(plan)
    slices = slices[(slices >= span[0]) & (slices < span[1])]
    return slices[:: max(-(-len(slices) // most), 1)]


@dataclass(frozen=True)
class Limb:
    """Where the lower limb is.

    Parameters
    ----------
    slices : tuple of int
        First slice and one past the last, as the network sees them.
    left_out : tuple of tuple of int
        First and last slice of other stretches with much bone, which may be the limb's after all.
    """

    slices: Range
    left_out: tuple[Range, ...] = ()


def find_limb(
    plan: SlicePlan, area: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]
) -> Limb | None:
    """Find the lower limb from a coarse pass of the network.

    Slices 15 mm apart are asked for bone. Those that have some form runs, in which a single one without is
    forgiven (a joint); the run with the most bone is the limb. It is extended by 30 mm at both ends, so that
    what ends between two coarse slices is not lost.

    Parameters
    ----------
    plan : SlicePlan
        Of the scan and network.
    area : callable
        Slices (n,) -> bone in each in mm2 (n,); air gives 0.

    Returns
    -------
    Limb or None
        None where no slice has bone.
    """
    slices = coarse_slices(plan)
    found = area(slices)
    runs = _runs(found >= BONE_MM2)
    if not runs:
        return None
    bone = [float(found[first : last + 1].sum()) for first, last in runs]
    most = int(np.argmax(bone))
    first, last = runs[most]
    margin = int(np.ceil(MARGIN_MM / plan.spacing_mm[0]))
    limb = max(int(slices[first]) - margin, 0), min(int(slices[last]) + margin + 1, plan.slices)
    others = [run for n, run in enumerate(runs) if n != most and bone[n] > WORTH_A_WORD * bone[most]]
    return Limb(limb, tuple((int(slices[a]), int(slices[b])) for a, b in others))


def _runs(bone: npt.NDArray[np.bool_]) -> list[Range]:
    """First and last index of each run of True; one False between two does not part them."""
    runs: list[Range] = []
    for index in np.flatnonzero(bone):
        if runs and index - runs[-1][1] <= 2:
            runs[-1] = (runs[-1][0], int(index))
        else:
            runs.append((int(index), int(index)))
    return runs
