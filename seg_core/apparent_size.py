"""How large bones seem beside a usual person's: a network that knows these sees smaller people magnified.

Of a child's bones on a grown-up's pixels a network sees fewer, so that the same error at an edge is a larger
share of the bone. Shafts are where bones are thinnest: the lower quartile of their cross-sections follows
stature to within 6 to 7 % (SD; tibia and femur together, twice 40 synthetic people, single measurements).
Whether a scan is seen better when it is magnified is not taken on trust: the network must be surer then.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from seg_core.components import find_components

SECTION_MM2, SECTIONS = 40.0, 3
"""Smaller sections are noise; of fewer nothing is concluded."""
STEP, SMALLEST = 0.05, 0.6
"""Sizes are rounded, and none is smaller."""
AS_MUCH = 0.8
"""Share of the bone that must be found again when a scan is magnified."""


def shafts_mm(labels: npt.NDArray[np.uint8], pixel_mm2: float, classes: Sequence[str]) -> dict[str, float]:
    """Measure how thick shafts are.

    Parameters
    ----------
    labels : ndarray of uint8, (n, rows, columns)
        Classes 1, 2, ... of axial slices that need not follow one another. May be empty.
    pixel_mm2 : float
        Area of a pixel, mm2.
    classes : sequence of str
        Their names.

    Returns
    -------
    dict of str to float
        Root of the lower quartile of the cross-sections, mm, of each class that has `SECTIONS` of them.
    """
    thickness = {}
    sections = [find_components(plane, 8) for plane in labels]
    for value, name in enumerate(classes, 1):
        areas = np.concatenate([np.empty(0), *(s.sizes[s.labels == value] * pixel_mm2 for s in sections)])
        areas = areas[areas >= SECTION_MM2]
        if len(areas) >= SECTIONS:
            thickness[name] = float(np.sqrt(np.quantile(areas, 0.25)))
    return thickness


def apparent_size(shafts: Mapping[str, float], usual_mm: Mapping[str, float]) -> float:
    """Return how large bones seem, of a usual person's.

    Parameters
    ----------
    shafts : mapping of str to float
        As `shafts_mm` measures them.
    usual_mm : mapping of str to float
        The same of a usual person, of the bones that count.

    Returns
    -------
    float
        Mean over the bones that are in both, to the nearest `STEP`, within `SMALLEST` and 1: large people,
        and stretches that show no shaft, are as they are. 1 where there is none.
    """
    sizes = [shafts[name] / usual for name, usual in usual_mm.items() if name in shafts]
    if not sizes:
        return 1.0
    return float(np.clip(round(round(float(np.mean(sizes)) / STEP) * STEP, 6), SMALLEST, 1.0))


def surer(
    magnified: npt.NDArray[np.uint8],
    magnified_sure: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    sure: npt.NDArray[np.uint8],
) -> bool:
    """Say whether a network is surer of bones when a scan is magnified, and still finds them.

    Bones also seem small of which a part alone is found, as in a look that hides compact bone; magnified they
    would be lost.

    Parameters
    ----------
    magnified, labels : ndarray of uint8, (n, rows, columns)
        Classes with and without, 0 background, of the same slices.
    magnified_sure, sure : ndarray of uint8, (n, rows, columns)
        Their confidence, 0 to 255.
    """
    found, before = magnified > 0, labels > 0
    if not found.any() or found.sum() < AS_MUCH * before.sum():
        return False
    return bool(magnified_sure[found].mean() > sure[before].mean())
