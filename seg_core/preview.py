"""The picture: contours on slices through each bone, and the bones from the front.

Radiological convention throughout: the patient's right is on the left of the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.measure import find_contours

from seg_core import views
from seg_core.colours import Colour, bone_colours
from seg_core.errors import GeometryError
from seg_core.geometry import LabelMap, Volume
from seg_core.statistics import BoneStatistics, bone_statistics

_PAGE, _RULE = (13, 17, 23), (38, 45, 55)
_TEXT, _SOFT, _FAINT, _CUT = (230, 237, 243), (190, 200, 210), (125, 136, 149), (255, 146, 100)

_FINE = 2  # drawn at twice the size, so that Pillow's hard edges become soft
_MARGIN, _GAP, _HEADER, _FOOTER = 28, 10, 76, 40
_PANEL_WIDTH, _PANEL_HEIGHT, _LEAST_HEIGHT = 500, 330, 900
_FRONT_WIDTH, _LEAST_FRONT = 620, 400
_LEGEND_ROW, _NAME_WIDTH, _SIDE_WIDTH, _NAME_GAP = 34, 112, 134, 16


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels of the finished picture."""

    panel: tuple[int, int]
    rows: int
    columns: int
    front: tuple[int, int]
    legend: tuple[int, int]

    @property
    def body(self) -> int:
        grid = self.rows * (self.panel[1] + _GAP) - _GAP
        return max(grid, self.front[1] + self.legend[1])

    @property
    def left(self) -> int:
        return max(self.front[0], self.legend[0])

    @property
    def page(self) -> tuple[int, int]:
        grid = self.columns * (self.panel[0] + _GAP) - _GAP
        return 2 * _MARGIN + self.left + 2 * _GAP + grid, _HEADER + self.body + _FOOTER


def draw_preview(
    volume: Volume,
    labelmap: LabelMap,
    rows: Sequence[BoneStatistics] | None = None,
    title: str = "",
    subtitle: str = "for research use",
) -> Image.Image:
    """Draw the picture of a segmentation.

    Parameters
    ----------
    volume : Volume
        The scan.
    labelmap : LabelMap
        Its labels, on the same grid.
    rows : sequence of BoneStatistics, optional
        The numbers of the legend; measured here if not given.
    title, subtitle : str
        Words at the top, left and right. Nothing else in the picture names the scan.

    Returns
    -------
    PIL.Image.Image
        RGB. Without any label: slices spread over the scan, and a legend that says that all are empty.

    Raises
    ------
    GeometryError
        If the two grids differ.
    """
    if not volume.geometry.is_close(labelmap.geometry):
        raise GeometryError("labels on another grid than the scan", "the same shape and affine")
    rows = bone_statistics(labelmap) if rows is None else rows
    view = views.radiological(volume, labelmap)
    levels = views.choose_levels(view.labels, list(views.group_labels(labelmap.labels).values()))
    crop = views.crop_around(view, margin_mm=60)
    layout = _lay_out(view, crop, len(levels), list(views.group_labels(labelmap.labels)))
    page = Image.new("RGB", (layout.page[0] * _FINE, layout.page[1] * _FINE), _PAGE)
    colours = bone_colours(labelmap.labels)
    window = views.display_window(view.image)
    _header(page, title, subtitle)
    top = _HEADER
    if layout.front[1]:
        picture = _front_view(view, colours, layout.front, levels)
        _paste(page, picture, (_MARGIN + (layout.left - layout.front[0]) // 2, top))
        top += layout.front[1]
    _legend(page, (_MARGIN, top), layout, rows, colours)
    for n, level in enumerate(levels):
        x = _MARGIN + layout.left + 2 * _GAP + n % layout.columns * (layout.panel[0] + _GAP)
        y = _HEADER + n // layout.columns * (layout.panel[1] + _GAP)
        panel = _slice_view(view, level, crop, (colours, window, layout.panel))
        _caption(panel, view, level, "" if not layout.front[1] else _letter(n))
        _paste(page, panel, (x, y))
    return page.resize(layout.page, Image.Resampling.LANCZOS)


def write_preview(path: str | Path, *args: Any, **kwargs: Any) -> None:
    """Write :func:`draw_preview` of the other arguments as PNG, without metadata."""
    # Level 3 packs such pictures as small as the usual 6, in less than half the time.
    draw_preview(*args, **kwargs).save(path, format="PNG", compress_level=3)


def _lay_out(view: views.View, crop: tuple[slice, slice], panels: int, bones: Sequence[str]) -> _Layout:
    width, height = ((s.stop - s.start) * mm for s, mm in zip(crop, view.sizes, strict=False))
    scale = min(_PANEL_WIDTH / width, _PANEL_HEIGHT / height)
    panel = (round(width * scale), round(height * scale))
    columns = 1 if panels == 1 else 2
    rows = -(-panels // columns)
    longest = max((round(_font(18).getlength(bone) / _FINE) for bone in bones), default=0)
    name_width = max(_NAME_WIDTH, longest + _NAME_GAP)
    legend = (name_width + 2 * _SIDE_WIDTH, (len(bones) + 1) * _LEGEND_ROW + 16)
    front = (0, 0)
    if view.labels.shape[2] >= 8:
        wide, tall = view.labels.shape[0] * view.sizes[0], view.labels.shape[2] * view.sizes[2]
        room = max(rows * (panel[1] + _GAP) - _GAP - legend[1], _LEAST_HEIGHT - legend[1], _LEAST_FRONT)
        scale = min(_FRONT_WIDTH / wide, room / tall)
        front = (round(wide * scale), round(tall * scale))
    return _Layout(panel, rows, columns, front, legend)


def _slice_view(
    view: views.View,
    level: int,
    crop: tuple[slice, slice],
    style: tuple[Mapping[int, Colour], tuple[float, float], tuple[int, int]],
) -> Image.Image:
    """Return a slice in grey with the bones' contours, at the fine size."""
    colours, window, size = style
    fine = (size[0] * _FINE, size[1] * _FINE)
    plane = views.grey(view.image[(*crop, level)].T, window)
    shown = Image.fromarray((plane * 255).astype(np.uint8)).resize(fine, Image.Resampling.BICUBIC)
    panel = shown.convert("RGB")
    labels = view.labels[(*crop, level)].T
    for value in np.unique(labels[labels > 0]):
        # Half a pixel of smoothing rounds the stairs; a single pixel still stays above 0.5.
        mask = ndimage.gaussian_filter((labels == value).astype(np.float64), 0.5)
        _outline(panel, views.enlarge(mask, fine[::-1]), colours.get(int(value), _TEXT))
    return panel


def _outline(panel: Image.Image, coverage: Any, colour: Colour) -> None:
    veil = Image.fromarray((np.clip(coverage * 4 - 1.5, 0, 1) * 56).astype(np.uint8))
    panel.paste(colour, mask=veil)
    draw = ImageDraw.Draw(panel)
    for line in find_contours(np.pad(coverage, 1), 0.5):
        draw.line(
            [(float(x) - 1, float(y) - 1) for y, x in line], fill=colour, width=2 * _FINE, joint="curve"
        )


def _front_view(
    view: views.View, colours: Mapping[int, Colour], size: tuple[int, int], levels: Sequence[int]
) -> Image.Image:
    """Return the mean of the scan from front to back with the bones lit before it, at the fine size."""
    fine = (size[1] * _FINE, size[0] * _FINE)
    mean = view.image.mean(axis=1, dtype=np.float64).T[::-1]
    high = float(np.percentile(mean, 99.5))
    shade = views.grey(mean, (float(np.percentile(mean, 2)), high)) ** 0.8
    canvas = views.enlarge(shade, fine)[..., None] * np.array([112.2, 124.95, 142.8], np.float32)
    labels, depth = views.front(view.labels, view.sizes[1])
    scale = fine[1] / (view.labels.shape[0] * view.sizes[0])
    for value in np.unique(labels[labels > 0]):
        _lit_bone(canvas, labels == value, depth, scale, colours.get(int(value), _TEXT))
    picture = Image.fromarray(np.clip(canvas, 0, 255, out=canvas).astype(np.uint8))
    _mark_levels(picture, view, levels)
    _sides(picture)
    return picture


def _lit_bone(
    canvas: npt.NDArray[np.float32], mask: Any, depth: views.FloatArray, scale: float, colour: Colour
) -> None:
    """Paint a bone, lit, on the canvas (rows, columns, 3)."""
    fine, pad = (canvas.shape[0], canvas.shape[1]), round(8 * scale)
    hits = (np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)))
    rows, columns = (
        slice(max(0, hit[0] * size // count - pad), min(size, (hit[-1] + 1) * size // count + pad))
        for hit, size, count in zip(hits, fine, mask.shape, strict=True)
    )
    box = (rows, columns)
    inside = views.enlarge(ndimage.gaussian_filter(mask.astype(np.float64), 0.5), fine, box)
    distance = views.enlarge(np.where(mask, depth, 0.0), fine, box)
    weight = views.enlarge(mask.astype(np.float64), fine, box)
    brightness = views.lit(weight, distance, scale)
    coverage = np.clip((inside - 0.5) * 4 + 0.5, 0, 1)
    lit = brightness[..., None] * np.array(colour, np.float32)
    canvas[box] += coverage[..., None] * (lit - canvas[box])


def _mark_levels(picture: Image.Image, view: views.View, levels: Sequence[int]) -> None:
    """Draw where the slices of the panels lie, with their letters at the right edge."""
    draw = ImageDraw.Draw(picture, "RGBA")
    height = view.labels.shape[2]
    last = 18.0 * _FINE  # below the L
    for n, level in enumerate(levels):
        y = (height - level - 0.5) / height * picture.height
        draw.line([(0, y), (picture.width, y)], fill=(255, 255, 255, 70), width=_FINE)
        text_y = min(max(y, last + 15 * _FINE), picture.height - 8 * _FINE)
        draw.text((picture.width - 5 * _FINE, text_y), _letter(n), _TEXT, _font(14), anchor="rm")
        last = text_y


def _sides(picture: Image.Image) -> None:
    draw = ImageDraw.Draw(picture)
    for text, x, anchor in (("R", 8 * _FINE, "la"), ("L", picture.width - 8 * _FINE, "ra")):
        draw.text(
            (x, 6 * _FINE), text, _TEXT, _font(19), anchor=anchor, stroke_width=_FINE, stroke_fill=(0, 0, 0)
        )


def _caption(panel: Image.Image, view: views.View, level: int, letter: str) -> None:
    _sides(panel)
    draw = ImageDraw.Draw(panel)
    where = f"slice {view.stored(level)}" if view.slice_axis else f"level {view.stored(level)}"
    style: dict[str, Any] = {"stroke_width": _FINE, "stroke_fill": (0, 0, 0)}
    x, y = 9 * _FINE, panel.height - 8 * _FINE
    if letter:
        draw.text((x, y), letter, _TEXT, _font(19), anchor="ls", **style)
        x += 22 * _FINE
    draw.text((x, y), where, _SOFT, _font(15), anchor="ls", **style)


def _header(page: Image.Image, title: str, subtitle: str) -> None:
    draw = ImageDraw.Draw(page)
    middle = (_HEADER - 6) * _FINE // 2
    draw.text((_MARGIN * _FINE, middle), title, _TEXT, _font(26), anchor="lm")
    draw.text((page.width - _MARGIN * _FINE, middle), subtitle, _FAINT, _font(17), anchor="rm")


def _legend(
    page: Image.Image,
    corner: tuple[int, int],
    layout: _Layout,
    rows: Sequence[BoneStatistics],
    colours: Mapping[int, Colour],
) -> None:
    """Write the bones with their colours and volumes, a column a side."""
    draw = ImageDraw.Draw(page)
    sides = [side for side in ("right", "left", "unknown") if any(row.side == side for row in rows)]
    bones = list(dict.fromkeys(row.bone for row in rows))
    width, name_width = layout.left * _FINE, (layout.legend[0] - 2 * _SIDE_WIDTH) * _FINE
    left, y = corner[0] * _FINE, (corner[1] + 14) * _FINE
    stops = {side: left + name_width + n * (width - name_width) // len(sides) for n, side in enumerate(sides)}
    for side in sides:
        heading = "side unknown" if side == "unknown" else side
        draw.text((stops[side] + 22 * _FINE, y), heading, _FAINT, _font(16), anchor="la")
    for bone in bones:
        y += _LEGEND_ROW * _FINE
        draw.line([(left, y - 7 * _FINE), (left + width, y - 7 * _FINE)], fill=_RULE, width=_FINE)
        draw.text((left, y), bone, _TEXT, _font(18), anchor="la")
        for row in (row for row in rows if row.bone == bone):
            x, ink = stops[row.side], colours[row.label] if row.voxels else _RULE
            draw.rounded_rectangle([x, y + 3 * _FINE, x + 13 * _FINE, y + 16 * _FINE], 3 * _FINE, fill=ink)
            _amount(draw, (x + 22 * _FINE, y), row)


def _amount(draw: ImageDraw.ImageDraw, corner: tuple[int, int], row: BoneStatistics) -> None:
    x, y = corner
    if not row.voxels:
        draw.text((x, y), "not found", _FAINT, _font(18), anchor="la")
        return
    amount = f"{row.volume_cm3:.{0 if row.volume_cm3 >= 99.5 else 1}f} cm"
    draw.text((x, y), amount, _TEXT, _font(18), anchor="la")
    x += round(draw.textlength(amount, _font(18)))
    draw.text((x + _FINE, y), "3", _TEXT, _font(12), anchor="la")  # the font has no raised 3
    if row.status == "truncated":
        draw.text((x + 16 * _FINE, y), "cut", _CUT, _font(18), anchor="la")


def _letter(n: int) -> str:
    return chr(ord("A") + n % 26)


def _font(size: int) -> Any:
    return ImageFont.load_default(size * _FINE)


def _paste(page: Image.Image, picture: Image.Image, corner: tuple[int, int]) -> None:
    """Paste with slightly rounded corners."""
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle([0, 0, picture.width - 1, picture.height - 1], 6 * _FINE, fill=255)
    page.paste(picture, (corner[0] * _FINE, corner[1] * _FINE), mask)
