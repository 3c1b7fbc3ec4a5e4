"""What was odd about a subject's labels: numbers a structure, and a page to look at."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from seg_core.geometry import LabelMap, Volume
from seg_core.moments import Moments, label_moments
from seg_core.preview import draw_preview
from seg_core.statistics import BoneStatistics, as_record, bone_statistics
from seg_core.views import display_window, radiological
from trainers.config import IGNORED

AIR = 0.06  # of the brightness of nearly all tissue
OUTSIDE, PIECES, HOLES = 0.02, 0.02, 0.002  # shares of a structure that are worth a word
_PIXEL_MM = 4.0
_DIM = 0.35  # brightness of what is ignored, on the page
_PAGE, _INK, _ODD, _FINE = (13, 17, 23), (190, 200, 210), (255, 146, 100), (125, 136, 149)
_LINE, _MARGIN, _SIZE = 30, 28, 19


@dataclass(frozen=True, eq=False)
class Quality:
    """What there is to say about a subject's labels.

    Parameters
    ----------
    rows : tuple of BoneStatistics
        A row a structure.
    notes : tuple of str
        What was odd; empty where nothing was.
    """

    rows: tuple[BoneStatistics, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers and sentences."""
        return {"structures": [as_record(row) for row in self.rows], "odd": list(self.notes)}


def examine(volume: Volume, labels: LabelMap, missing: Sequence[str] = ()) -> Quality:
    """Measure each structure and look for what is odd.

    Parameters
    ----------
    volume : Volume
        The scan.
    labels : LabelMap
        Its labels on the same grid; ``IGNORED`` counts as no label.
    missing : sequence of str
        Classes of the dataset that this subject has no label of.

    Returns
    -------
    Quality
        With words on structures that are empty, cut off by the scan's edge, in pieces, with holes, outside
        the body, or on the wrong side of their twin.
    """
    known = _without_ignored(labels)
    rows = tuple(bone_statistics(known))
    moments = label_moments(known.array)
    notes = [f"no label of {name}: it is taught as background wherever it shows" for name in missing]
    notes += [note for row in rows for note in _row_notes(row)]
    for value, moment in moments.items():
        notes += _shape_notes(known.labels[value], known.array, value, moment)
    outside = _share_outside(volume, known)
    notes += [
        f"{known.labels[value]}: {100 * share:.0f} % lies outside the body"
        for value, share in outside.items()
        if share > OUTSIDE
    ]
    return Quality(rows, tuple(notes + _swapped(rows)))


def _without_ignored(labels: LabelMap) -> LabelMap:
    array = labels.array.copy(order="K")
    for k in range(array.shape[2]):  # a slice at a time, so that no second volume is made
        array[..., k][array[..., k] == IGNORED] = 0
    return LabelMap(array, labels.geometry, labels.labels)


def _row_notes(row: BoneStatistics) -> list[str]:
    if row.status == "empty":
        return [f"{row.name} is empty: it lies outside the scan, or another structure lies over it"]
    return [f"{row.name} is cut by the edge of the scan"] if row.status == "truncated" else []


def _shape_notes(name: str, array: npt.NDArray[np.uint8], value: int, moment: Moments) -> list[str]:
    """Say where a structure is in pieces or has holes."""
    inside = np.pad(array[moment.box] == value, 1)
    notes = []
    pieces, count = ndimage.label(inside, np.ones((3, 3, 3), bool))
    if count > 1:
        sizes = np.bincount(pieces.ravel())[1:]
        rest = 1 - sizes.max() / moment.voxels
        if rest > PIECES:
            notes.append(f"{name} is in {count} pieces, {100 * rest:.0f} % of it beside the largest")
    holes = np.count_nonzero(ndimage.binary_fill_holes(inside)) - moment.voxels
    if holes > HOLES * moment.voxels:
        notes.append(f"{name} has holes of {holes} voxels inside")
    return notes


def _share_outside(volume: Volume, labels: LabelMap) -> dict[int, float]:
    """Return the share of each structure that lies in air, holes in the tissue (bone is dark) not counted."""
    view = radiological(volume, labels)
    steps = [max(1, round(_PIXEL_MM / mm)) for mm in view.sizes[:2]]
    thinned = (slice(None, None, steps[0]), slice(None, None, steps[1]))
    threshold = AIR * display_window(view.image)[1]
    inside, total = np.zeros(256), np.zeros(256)
    for level in range(view.image.shape[2]):
        plane = view.labels[(*thinned, level)]
        if plane.any():
            tissue = ndimage.binary_closing(view.image[(*thinned, level)] > threshold, np.ones((3, 3), bool))
            body = ndimage.binary_fill_holes(tissue)
            total += np.bincount(plane.ravel(), minlength=256)
            inside += np.bincount(plane[body], minlength=256)
    return {v: float(1 - inside[v] / total[v]) for v in range(1, 256) if total[v]}


def _swapped(rows: Sequence[BoneStatistics]) -> list[str]:
    """Say where the right one of two lies to the left of the left one; x grows to the patient's right."""
    places = {(row.bone, row.side): row.centroid_mm[0] for row in rows if row.centroid_mm}
    return [
        f"right_{bone} lies to the left of left_{bone}: sides exchanged, or surfaces in another space"
        for (bone, side), x in places.items()
        if side == "right" and x < places.get((bone, "left"), -np.inf)
    ]


def write_page(path: Path, volume: Volume, labels: LabelMap, quality: Quality, words: Sequence[str]) -> None:
    """Write the quality page of a subject as PNG.

    Parameters
    ----------
    path : Path
        The file.
    volume : Volume
        The scan; what is ignored is drawn dim.
    labels : LabelMap
        Its labels, on the same grid.
    quality : Quality
        As `examine` gives it.
    words : sequence of str
        Title, subtitle, then lines that are no oddities.
    """
    dim = volume.array.copy(order="K")
    for k in range(dim.shape[2]):  # a slice at a time, so that no more volumes are made
        dim[..., k] = np.where(labels.array[..., k] == IGNORED, dim[..., k] * _DIM, dim[..., k])
    shown = replace(volume, array=dim)
    preview = draw_preview(shown, _without_ignored(labels), quality.rows, words[0], words[1])
    notes = [(f"odd: {note}", _ODD) for note in quality.notes] or [("nothing odd was found", _FINE)]
    _with_lines(preview, [(text, _INK) for text in words[2:]] + notes).save(path, format="PNG")


def _with_lines(picture: Image.Image, lines: Sequence[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """Add lines of text below a picture, broken to its width."""
    font = ImageFont.load_default(_SIZE)
    width = picture.width - 2 * _MARGIN
    broken = [
        (part, ink)
        for text, ink in lines
        for part in textwrap.wrap(text, int(width * len(text) / max(font.getlength(text), 1)) - 2)
    ]
    page = Image.new("RGB", (picture.width, picture.height + _MARGIN + _LINE * len(broken)), _PAGE)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    for number, (text, ink) in enumerate(broken):
        draw.text((_MARGIN, picture.height + _LINE * number), text, ink, font)
    return page
