"""The report of a segmentation as one HTML file, which opens on any computer without a network.

It holds slices with contours, the bones in 3D, the table, the warnings and how it was made; it loads nothing,
and its own policy forbids it to. Nothing in it names the patient: of the scan only kind and geometry.
"""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from gui.viewer.opened import pack
from seg_core import views
from seg_core.colours import bone_colours
from seg_core.errors import GeometryError
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.mesh import surface
from seg_core.moments import label_moments
from seg_core.planes import Plane, Planes
from seg_core.ply import Mesh

_LEVELS: Mapping[Plane, int] = {"axial": 96, "coronal": 32, "sagittal": 32}
_MARKS: Mapping[Plane, str] = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}
_PIXELS, _QUALITY = 448, 72
_MARGIN_MM, _SURFACE_MM = 40.0, 2.5
"""Around the bones in a slice; the least distance of the voxels that surfaces are made of."""


def write_html(folder: Path, volume: Volume, name: str = "scan", labelmap: LabelMap | None = None) -> Path:
    """Write ``<name>_report.html`` from what ``lls segment`` wrote.

    Parameters
    ----------
    folder : Path
        Holds ``<name>_report.json`` and ``<name>_dseg.nii.gz``.
    volume : Volume
        The scan that they come from.
    name : str
        What the files' names begin with.
    labelmap : LabelMap, optional
        What the label file holds, where it is at hand.

    Raises
    ------
    GeometryError
        If the labels do not lie on the scan's grid.
    OSError, ScanError
        If a file cannot be read or written.
    """
    from seg_core.nifti import read_labels
    from seg_core.output import write_whole

    report = json.loads((folder / f"{name}_report.json").read_text(encoding="utf-8"))
    labelmap = read_labels(folder / f"{name}_dseg.nii.gz") if labelmap is None else labelmap
    path = folder / f"{name}_report.html"
    write_whole(path, html_report(volume, labelmap, report))
    return path


def html_report(volume: Volume, labelmap: LabelMap, report: Mapping[str, Any]) -> str:
    """Return the page.

    Parameters
    ----------
    volume : Volume
        The scan, in any orientation.
    labelmap : LabelMap
        Its labels, on the same grid; may be empty.
    report : mapping
        As :func:`seg_core.report.build_report` makes it.

    Returns
    -------
    str
        At most 160 pictures of 448 pixels and surfaces of voxels of 2.5 mm: some megabytes for any scan.

    Raises
    ------
    GeometryError
        If the two grids differ.
    """
    if not volume.geometry.is_close(labelmap.geometry, tolerance_mm=0.1):
        raise GeometryError("labels on another grid than the scan", "the same shape and affine")
    script = "\n".join(_static(part) for part in ("viewer/bones.js", "report/report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(_pictures(volume, labelmap), separators=(",", ":"))
    words = _words(report, bone_colours(labelmap.labels))
    return Template(_static("report/report.html")).substitute(
        words,
        style=_static("report/report.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        data=data.replace("<", "\\u003c"),
    )


def _static(name: str) -> str:
    return resources.files("gui").joinpath("static", *name.split("/")).read_text(encoding="utf-8")


# ---- pictures


def _pictures(volume: Volume, labelmap: LabelMap) -> dict[str, Any]:
    planes = Planes(volume.geometry)
    found = label_moments(labelmap.array)
    colours = bone_colours(labelmap.labels)
    box = _box(planes, labelmap, volume)
    wide, _, tall = ((b - a) * mm for (a, b), mm in zip(box, planes.sizes, strict=True))
    coarse = _coarse(labelmap)
    return {
        "planes": [_plane(name, planes, volume, labelmap, box) for name in _LEVELS],
        "size": [round(wide, 1), round(tall, 1)],
        "bones": [
            {
                "value": value,
                "colour": f"rgb{colours[value]}",
                "rgb": colours[value],
                "surface": _surface(coarse, value, planes, box),
            }
            for value in sorted(labelmap.labels)
            if value in found
        ],
    }


def _box(planes: Planes, labelmap: LabelMap, volume: Volume) -> list[tuple[int, int]]:
    """Return first and one past the last index towards left, back and head: bones and a margin, or all."""
    view = views.radiological(volume, labelmap)
    found = list(label_moments(view.labels).values())
    if not found:
        return [(0, n) for n in planes.shape]
    box = []
    for axis, (count, mm) in enumerate(zip(planes.shape, planes.sizes, strict=True)):
        margin = round(_MARGIN_MM / mm)
        low, high = min(m.low[axis] for m in found), max(m.high[axis] for m in found)
        box.append((max(0, low - margin), min(count, high + 1 + margin)))
    return box


def _plane(
    name: Plane, planes: Planes, volume: Volume, labelmap: LabelMap, box: list[tuple[int, int]]
) -> dict[str, Any]:
    """Return the pictures of one plane; sizes and contours are in mm."""
    left, back, head = box
    feet_up = (planes.shape[2] - head[1], planes.shape[2] - head[0])  # rows run from the head down
    rows, columns, through = {
        "axial": (back, left, head),
        "coronal": (feet_up, left, back),
        "sagittal": (feet_up, back, left),
    }[name]
    margin = (through[1] - through[0]) // 20
    levels = np.unique(
        np.linspace(through[0] + margin, through[1] - 1 - margin, _LEVELS[name]).round().astype(int)
    )
    part = slice(*rows), slice(*columns)
    mm = planes.pixel_mm(name)
    window = views.display_window(volume.array)
    slices, areas = [], []
    for level in levels.tolist():
        labels = planes.cut(labelmap.array, name, level)[part]
        areas.append(int(np.count_nonzero(labels)))
        slices.append(
            {
                "number": planes.stored(name, level),
                "image": _jpeg(planes.cut(volume.array, name, level)[part], window),
                "paths": {int(v): _path(labels == v, mm) for v in np.unique(labels) if v},
            }
        )
    return {
        "name": name,
        "marks": _MARKS[name],
        "width": round((columns[1] - columns[0]) * mm[1], 2),
        "height": round((rows[1] - rows[0]) * mm[0], 2),
        "start": int(np.argmax(areas)) if any(areas) else len(slices) // 2,
        "slices": slices,
    }


def _jpeg(pixels: npt.NDArray[Any], window: tuple[float, float]) -> str:
    picture = Image.fromarray((views.grey(pixels, window) * 255).round().astype(np.uint8))
    picture.thumbnail((_PIXELS, _PIXELS), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _path(mask: npt.NDArray[np.bool_], mm: tuple[float, float]) -> str:
    """Return the contours of a mask as an SVG path in mm."""
    lines = []
    for line in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        points = approximate_polygon(line, 0.3) - 0.5  # a pixel of padding, and pixels begin at their edge
        lines.append("M" + "L".join(f"{x * mm[1]:.1f} {y * mm[0]:.1f}" for y, x in points[:-1]) + "Z")
    return "".join(lines)


def _coarse(labelmap: LabelMap) -> LabelMap:
    """Return the labels at every second, third ... voxel, so that surfaces stay small."""
    steps = [max(1, int(_SURFACE_MM / mm)) for mm in labelmap.geometry.voxel_sizes]
    array = labelmap.array[tuple(slice(None, None, step) for step in steps)]
    affine = labelmap.geometry.affine @ np.diag([*steps, 1.0])
    return LabelMap(array, Geometry(array.shape, affine), labelmap.labels)


def _surface(labelmap: LabelMap, value: int, planes: Planes, box: list[tuple[int, int]]) -> str:
    """Return a surface around the middle of the box, packed and compressed."""
    middle = (planes.affine @ [*((a + b - 1) / 2 for a, b in box), 1])[:3]
    mesh = surface(labelmap, value)
    rounded = np.round((mesh.vertices_mm - middle) * 8) / 8  # equal last bits compress well
    return base64.b64encode(zlib.compress(pack(Mesh(rounded, mesh.faces)), 9)).decode()


# ---- words


def _words(report: Mapping[str, Any], colours: Mapping[int, tuple[int, int, int]]) -> dict[str, str]:
    scan, model = report["scan"], report["model"]
    shape = " × ".join(str(n) for n in scan.get("shape", ()))
    spacing = " × ".join(f"{mm:.4g}" for mm in scan.get("spacing_mm", ()))
    software = report["software"]
    facts = {
        "Scan": f"{shape} voxels of {spacing} mm, {scan.get('kind', '')}, {scan.get('orientation', '')}",
        "Sides": report["sides"].get("detail", ""),
        "Network": f"{model['name']} (sha256 {model['sha256'][:16]}…)",
        "Trained on": model.get("provenance", {}).get("training_data", "not stated"),
        "Device": report["device"].get("used", ""),
        "Software": f"lls {software['lls']}, Python {software['python']}, {software['platform']}",
    }
    steps = (f"{s['step']}: {s['seconds']:.1f} s" for s in report["steps"] if s["seconds"] is not None)
    return {
        "title": escape(f"Bones of the leg: {report['name']}"),
        "subtitle": escape(f"{shape} voxels of {spacing} mm"),
        "warnings": _warnings(report["warnings"]),
        "rows": "\n".join(_row(row, colours) for row in report["bones"]),
        "facts": "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items()),
        "plausibility": _checks(report["plausibility"]),
        "checks": _checks(report["checks"]),
        "steps": "\n".join(f"<li>{escape(step)}</li>" for step in steps),
        "use": escape(f"For {report['intended_use']}."),
    }


def _warnings(warnings: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f'<section class="warning"><b>Look at this</b><ul>{items}</ul></section>' if items else ""


def _row(row: Mapping[str, Any], colours: Mapping[int, tuple[int, int, int]]) -> str:
    label, status = int(row["label"]), str(row["status"])
    tick = f'<input type="checkbox" checked disabled value="{label}">'
    colour = f'<i style="background: rgb{colours.get(label, (128, 128, 128))}"></i>'
    volume = f"{row['volume_cm3']:.1f}" if row["voxels"] else "–"
    cells = (
        f"<label>{tick}{colour}{escape(row['bone'])}</label>",
        escape(row["side"]),
        "not found" if status == "empty" else escape(status),
        volume,
        "–" if row["length_mm"] is None else f"{row['length_mm']:.0f}",
        "–" if row["confidence"] is None else f"{row['confidence']:.2f}",
    )
    return f'<tr class="{escape(status)}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _checks(checks: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for check in checks:
        opening = "<li>" if check["passed"] else '<li class="failed">failed: '
        lines.append(f"{opening}{escape(check['check'])} ({escape(check['detail'])})</li>")
    return "\n".join(lines)
