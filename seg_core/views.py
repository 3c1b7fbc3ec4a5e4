"""What the preview shows, as arrays: radiological views, the slices to show, and lit bones from the front."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.moments import label_moments

FloatArray = npt.NDArray[np.float64]
_PANELS = 8
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(frozen=True, eq=False)
class View:
    """A scan and its labels with the axes of the radiologist's page, to the nearest body axis.

    Parameters
    ----------
    image : ndarray, (column, row, level)
        Intensities; columns grow towards the patient's left, rows towards the back, levels towards the head.
    labels : ndarray of uint8, (column, row, level)
        Label values.
    sizes : tuple of float
        Millimetres a step along each axis.
    slice_axis : bool
        Whether the levels are the scan's own slices.
    flipped : bool
        Whether the stored order of the levels runs the other way.
    """

    image: npt.NDArray[Any]
    labels: npt.NDArray[np.uint8]
    sizes: tuple[float, float, float]
    slice_axis: bool
    flipped: bool

    def stored(self, level: int) -> int:
        """Return the number of a level in the scan's own order, from 0."""
        return self.image.shape[2] - 1 - level if self.flipped else level


def radiological(volume: Volume, labelmap: LabelMap) -> View:
    """Return views, not copies, of both arrays with LPS axes."""
    order, flips = lps_axes(volume.geometry)
    step = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    sizes = tuple(volume.geometry.voxel_sizes[axis] for axis in order)
    image = volume.array.transpose(order)[step]
    labels = labelmap.array.transpose(order)[step]
    return View(image, labels, (sizes[0], sizes[1], sizes[2]), order[2] == 2, flips[2])


def lps_axes(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return which array axis runs along L, P and S, and whether it runs the other way."""
    letters = geometry.orientation
    order, flips = [], []
    for wanted in "LPS":
        same = letters.find(wanted)
        order.append(same if same >= 0 else letters.index(_OPPOSITE[wanted]))
        flips.append(same < 0)
    return (order[0], order[1], order[2]), (flips[0], flips[1], flips[2])


def choose_levels(labels: npt.NDArray[np.uint8], groups: Sequence[Sequence[int]]) -> list[int]:
    """Choose the levels to show, from the head down.

    First the level where each group (a bone, both sides) is widest; then, group by group, the level inside
    its middle 80 % that lies farthest from those already chosen, until there are eight.

    Parameters
    ----------
    labels : ndarray of uint8, (column, row, level)
        Label values.
    groups : sequence of sequence of int
        Label values that are shown together.

    Returns
    -------
    list of int
        Without duplicates; levels spread over the scan where nothing is labelled.
    """
    levels = labels.shape[2]
    planes = (labels[:, :, level] for level in range(levels))
    areas = np.array([np.bincount(plane[plane > 0], minlength=256) for plane in planes])
    widths = [areas[:, list(group)].sum(axis=1) for group in groups]
    widths = [width for width in widths if width.any()]
    if not widths:
        return sorted({int(level) for level in np.linspace(0, levels - 1, 6)[1:-1].round()}, reverse=True)
    chosen = {int(width.argmax()) for width in widths}
    for width in widths * _PANELS:
        if len(chosen) >= _PANELS:
            break
        inside = np.flatnonzero(width)
        inside = inside[len(inside) // 10 : len(inside) - len(inside) // 10]
        distance = np.abs(inside[:, None] - sorted(chosen)).min(axis=1)
        if distance.max() > 0:
            chosen.add(int(inside[distance.argmax()]))
    return sorted(chosen, reverse=True)


def crop_around(view: View, margin_mm: float) -> tuple[slice, slice]:
    """Return the columns and rows that hold all labels, a margin around them and little air."""
    moments = list(label_moments(view.labels).values())
    sides = []
    for axis, (first, last) in enumerate(_body_box(view.image)):
        if moments:
            margin = round(margin_mm / view.sizes[axis])
            low, high = min(m.low[axis] for m in moments), max(m.high[axis] for m in moments)
            first = min(max(low - margin, first), low)
            last = max(min(high + margin, last), high)
        sides.append(slice(first, last + 1))
    return sides[0], sides[1]


def _body_box(image: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Return first and last column, and row, where the mean over the levels is brighter than air."""
    step = max(1, image.shape[2] // 128)
    mean = image[:, :, ::step].mean(axis=2, dtype=np.float64)
    body = mean > 0.08 * display_window(image)[1]
    if not body.any():
        body[:] = True
    hits = (np.flatnonzero(body.any(axis=1 - axis)) for axis in (0, 1))
    return [(int(hit[0]), int(hit[-1])) for hit in hits]


def grey(image: npt.NDArray[Any], window: tuple[float, float]) -> FloatArray:
    """Return the image scaled to [0, 1] by a window (low, high)."""
    low, high = window
    scaled: FloatArray = np.clip((image.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    return scaled


def display_window(image: npt.NDArray[Any]) -> tuple[float, float]:
    """Return 0 (or the least value) and a little above nearly all tissue, judged by a coarse sample."""
    steps = tuple(slice(None, None, max(1, n // 96)) for n in image.shape)
    sample = image[steps].astype(np.float64).ravel()
    body = sample[sample > sample.mean() / 3]
    if not body.size:
        return 0.0, 1.0
    return float(min(sample.min(), 0.0)), float(np.percentile(body, 99.5)) * 1.1


def front(labels: npt.NDArray[np.uint8], depth_mm: float) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """Return the label nearest to the viewer in front of the patient, and its depth in mm.

    Parameters
    ----------
    labels : ndarray of uint8, (column, row, level)
        Label values.
    depth_mm : float
        Distance between rows.

    Returns
    -------
    label, depth : ndarray, (level from the head down, column)
        0 where no label is met.
    """
    seen = np.zeros((labels.shape[2], labels.shape[0]), np.uint8)
    depth = np.zeros(seen.shape)
    for row in range(labels.shape[1]):  # a row at a time, so that no second volume is made
        plane = labels[:, row, :].T[::-1]
        new = (seen == 0) & (plane > 0)
        seen[new], depth[new] = plane[new], row * depth_mm
    return seen, depth


def lit(coverage: npt.NDArray[np.float32], depth: npt.NDArray[np.float32], scale: float) -> FloatArray:
    """Return the brightness of a surface seen from the front.

    Parameters
    ----------
    coverage : ndarray, (rows, columns)
        How much of each pixel the surface covers, 0 to 1.
    depth : ndarray, (rows, columns)
        Its distance from the viewer in mm, times the coverage.
    scale : float
        Pixels a millimetre.

    Returns
    -------
    ndarray, (rows, columns)
        Lambert's brightness, 0.3 to 1, lit from above and the viewer's left; pixels are smoothed over 2.4 mm.
    """
    from scipy import ndimage

    blur = 2.4 * scale
    weight = ndimage.gaussian_filter(coverage, blur)
    filled = ndimage.gaussian_filter(depth, blur)
    smooth = np.divide(filled, weight, out=np.zeros_like(filled), where=weight > 1e-3)
    down, right = np.gradient(smooth * np.float32(scale))
    cosine = (0.45 * right + 0.5 * down + 0.75) / np.sqrt(1 + down**2 + right**2)
    brightness: FloatArray = 0.3 + 0.7 * np.clip(cosine, 0, 1)
    return brightness


def enlarge(
    image: FloatArray, shape: tuple[int, int], part: tuple[slice, slice] | None = None
) -> npt.NDArray[np.float32]:
    """Resize (rows, columns) bilinearly, pixel edges to pixel edges, for display only.

    With ``part`` only these rows and columns of the result are made, as if there was nothing around them.
    """
    rows, columns = part or (slice(0, shape[0]), slice(0, shape[1]))
    down, right = image.shape[0] / shape[0], image.shape[1] / shape[1]
    box = (columns.start * right, rows.start * down, columns.stop * right, rows.stop * down)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    picture = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box))


def group_labels(names: Mapping[int, str]) -> dict[str, list[int]]:
    """Return bone -> label values of its sides, bones in the order of their values."""
    from seg_core.statistics import split_name

    groups: dict[str, list[int]] = {}
    for value in sorted(names):
        groups.setdefault(split_name(names[value])[0], []).append(value)
    return groups
