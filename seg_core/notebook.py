"""How scans, label maps and results show themselves in a notebook: small pictures and a table."""

import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from seg_core import views
from seg_core.colours import Colour, bone_colours
from seg_core.geometry import LabelMap, Volume
from seg_core.moments import label_moments
from seg_core.planes import PLANES, Planes
from seg_core.statistics import BoneStatistics

_HEIGHT, _GAP = 300, 6


def volume_png(volume: Volume) -> bytes:
    """Return the middle axial, coronal and sagittal plane, side by side, as PNG; sizes follow millimetres."""
    window = views.display_window(volume.array)
    planes = Planes(volume.geometry)
    pictures = []
    for plane in PLANES:
        pixels = planes.cut(volume.array, plane, planes.count(plane) // 2)
        grey = Image.fromarray((views.grey(pixels, window) * 255).astype(np.uint8))
        pictures.append(_scaled(grey, planes.pixel_mm(plane), Image.Resampling.BILINEAR))
    return _side_by_side(pictures)


def labels_png(labelmap: LabelMap) -> bytes:
    """Return planes through the middle of what is labelled, as :func:`volume_png`, in the bones' colours."""
    planes, colours = Planes(labelmap.geometry), bone_colours(labelmap.labels)
    pictures = []
    for plane, level in zip(PLANES, _middle(labelmap, planes), strict=True):
        pixels = _coloured(planes.cut(labelmap.array, plane, level), colours)
        pictures.append(_scaled(Image.fromarray(pixels), planes.pixel_mm(plane), Image.Resampling.NEAREST))
    return _side_by_side(pictures)


def bones_html(rows: Sequence[BoneStatistics]) -> str:
    """Return the table of the bones as HTML; names are escaped."""
    colours = bone_colours({row.label: row.name for row in rows})
    head = "".join(f"<th>{word}</th>" for word in ("", "bone", "side", "status", "cm³", "mm", "confidence"))
    return f"<table><tr>{head}</tr>{''.join(_row(row, colours[row.label]) for row in rows)}</table>"


def _row(row: BoneStatistics, colour: Colour) -> str:
    swatch = f'<td style="background: rgb{colour}">&nbsp;</td>'
    length = "" if row.length_mm is None else f"{row.length_mm:.0f}"
    confidence = "" if row.confidence is None else f"{row.confidence:.2f}"
    cells = (row.bone, row.side, row.status, f"{row.volume_cm3:.1f}", length, confidence)
    return f"<tr>{swatch}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _middle(labelmap: LabelMap, planes: Planes) -> list[int]:
    """Return the axial, coronal and sagittal level in the middle of the labels, else of the grid."""
    found = label_moments(labelmap.array).values()
    if not found:
        return [planes.count(plane) // 2 for plane in PLANES]
    voxels = sum(moments.voxels for moments in found)
    mean = sum(moments.voxels * np.array(moments.mean) for moments in found) / voxels
    left, back, head = np.linalg.solve(planes.affine, [*labelmap.geometry.to_world(mean), 1])[:3]
    levels = (head, back, left)
    return [int(np.clip(round(n), 0, planes.count(p) - 1)) for p, n in zip(PLANES, levels, strict=True)]


def _coloured(pixels: npt.NDArray[np.uint8], colours: Mapping[int, Colour]) -> npt.NDArray[np.uint8]:
    table = np.full((256, 3), 255, np.uint8)
    table[0] = 0
    for value, colour in colours.items():
        table[value] = colour
    return table[pixels]


def _scaled(picture: Image.Image, mm: tuple[float, float], resampling: Any) -> Image.Image:
    """Scale so that a millimetre is the same along both axes, to the common height."""
    height = picture.height * mm[0]
    width = max(1, round(picture.width * mm[1] / height * _HEIGHT))
    return picture.resize((width, _HEIGHT), resampling)


def _side_by_side(pictures: Sequence[Image.Image]) -> bytes:
    page = Image.new("RGB", (sum(p.width + _GAP for p in pictures) - _GAP, _HEIGHT))
    x = 0
    for picture in pictures:
        page.paste(picture, (x, 0))
        x += picture.width + _GAP
    file = io.BytesIO()
    page.save(file, format="PNG")
    return file.getvalue()
