"""How the outlines were drawn: points set by eye, the edge of the cortex found from them, looked at, mended.

    python -m benchmarks.real_legs.draw --data DIR --out reference.json --pictures PICTURES

``seeds.json`` holds what was set by eye on enlarged slices, in voxel coordinates i, j: a point in every
bone, in three or four slices of a scan, and between these interpolated; where the outline found from it
(`benchmarks.real_legs.outline`) left the edge, anchors on the edge; and where no edge can be seen, sectors
around the point, in degrees from i towards j. Such sectors, and rays at which the edge is too faint, are in
doubt: ``DOUBT_MM`` on either side of the outline. The calf whose water and fat were imaged apart was drawn
on the sum of the two, in which all but cortex and air is bright; its labels hold for both. Pictures show
outlines (red), doubt (orange), points (blue) and anchors (green) on enlarged slices.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks.command import command, parser_of
from benchmarks.real_legs.outline import RAYS, Outline, find_outline
from benchmarks.real_legs.reference import REFERENCE, SOURCE, fingerprint
from seg_core.geometry import Geometry, Volume
from seg_core.scan import read_scan

SEEDS = Path(__file__).with_name("seeds.json")
DOUBT_MM, ZOOM, MARGIN = 3.0, 10, 12
_RED, _ORANGE, _BLUE, _GREEN = (255, 0, 0), (255, 150, 0), (60, 60, 255), (0, 255, 0)
Array = npt.NDArray[np.float64]


def draw(entry: Mapping[str, Any], image: Array, pixel_mm: float) -> dict[str, Outline]:
    """Find the outlines of a slice's bones from what was set by eye."""
    found = {}
    for name, seed in entry["seeds"].items():
        anchors = entry.get("anchors", {}).get(name, [])
        outline = find_outline(image, seed, name.split("_")[1], pixel_mm, anchors)
        for first, last in entry.get("doubtful", {}).get(name, []):
            turned = (np.arange(RAYS) * 360 / RAYS - first) % 360
            outline.doubtful[turned <= (last - first) % 360] = True
        found[name] = outline
    return found


def doubtful_zones(outline: Outline, seed: Sequence[float], pixel_mm: float) -> Iterator[Array]:
    """Yield a zone (points, 2; i, j) for each run of rays in doubt, a ray beyond it at both ends."""
    doubtful = outline.doubtful
    starts = np.flatnonzero(doubtful & ~np.roll(doubtful, 1))
    if doubtful.all():
        starts = np.array([0])
    for start in starts:
        count = next((n for n in range(RAYS) if not doubtful[(start + n) % RAYS]), RAYS)
        rays = np.arange(start - 1, start + count + 1) % RAYS
        away = outline.points[rays] - seed
        away *= DOUBT_MM / pixel_mm / np.linalg.norm(away, axis=1, keepdims=True)
        yield np.concatenate([outline.points[rays] + away, (outline.points[rays] - away)[::-1]])


def picture(image: Array, entry: Mapping[str, Any], outlines: Mapping[str, Outline]) -> Image.Image:
    """Show a slice's outlines, anterior up and i to the right, with a grid every 10 voxels."""
    points = np.concatenate([outline.points for outline in outlines.values()])
    (i0, j0), (i1, j1) = (
        np.floor(points.min(0)).astype(int) - MARGIN,
        np.ceil(points.max(0)).astype(int) + MARGIN,
    )
    part = image[i0:i1, j0:j1].T[::-1]
    grey = (255 * np.clip(part / np.percentile(part, 95), 0, 1) ** 0.7).astype(np.uint8)
    page = (
        Image.fromarray(grey)
        .resize(((i1 - i0) * ZOOM, (j1 - j0) * ZOOM), Image.Resampling.BICUBIC)
        .convert("RGB")
    )
    pen = ImageDraw.Draw(page)

    def place(point: Sequence[float] | Array) -> tuple[float, float]:
        return (point[0] - i0 + 0.5) * ZOOM, (j1 - point[1] - 0.5) * ZOOM

    for i in range(-(-i0 // 10) * 10, i1, 10):
        pen.line((place((i, j0)), place((i, j1))), (70, 70, 0))
        pen.text((place((i, j1))[0] + 2, 2), str(i), (255, 255, 0))
    for j in range(-(-j0 // 10) * 10, j1, 10):
        pen.line((place((i0, j)), place((i1, j))), (70, 70, 0))
        pen.text((2, place((i0, j))[1] + 2), str(j), (0, 255, 255))
    for name, outline in outlines.items():
        for ray in range(RAYS):
            ends = place(outline.points[ray - 1]), place(outline.points[ray])
            pen.line(ends, _ORANGE if outline.doubtful[[ray - 1, ray]].any() else _RED, 2)
        pen.circle(place(entry["seeds"][name]), 2, _BLUE)
        for anchor in entry.get("anchors", {}).get(name, []):
            pen.circle(place(anchor), 3, outline=_GREEN)
    return page


def drawn_images(groups: Mapping[str, Sequence[str]], folder: Path) -> dict[str, tuple[Array, Geometry]]:
    """Return what is drawn on, (i, j, k), by name: the sum of one person's images, and where it lies."""
    images = {}
    for group, names in groups.items():
        volumes = [_read(folder, name) for name in names]
        images[group] = np.sum([v.array.astype(np.float64) for v in volumes], axis=0), volumes[0].geometry
    return images


def _read(folder: Path, name: str) -> Volume:
    return read_scan(folder / f"{name}.nii.gz").volume


def reference_entry(
    entry: Mapping[str, Any], outlines: Mapping[str, Outline], geometry: Geometry
) -> dict[str, Any]:
    """Return a slice as `benchmarks.real_legs.reference` reads it, to a tenth of a millimetre."""

    def world(points: Array) -> list[list[float]]:
        index = np.column_stack([points, np.full(len(points), entry["k"])])
        rounded: list[list[float]] = np.round(geometry.to_world(index)[:, :2], 1).tolist()
        return rounded

    zones = [
        world(zone)
        for name, outline in outlines.items()
        for zone in doubtful_zones(outline, entry["seeds"][name], geometry.voxel_sizes[0])
    ]
    return {
        "drawn_on": entry["drawn_on"],
        "z_mm": float(geometry.to_world([0, 0, entry["k"]])[2]),
        "part": entry["part"],
        "outlines": {name: world(outline.points) for name, outline in outlines.items()},
        "doubtful": zones,
    }


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all slices."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of the scans: {SOURCE}")
    parser.add_argument("--out", type=Path, default=REFERENCE)
    parser.add_argument("--pictures", type=Path, help="folder for pictures to check by eye")
    chosen = parser.parse_args(arguments)
    seeds = json.loads(SEEDS.read_text(encoding="utf-8"))
    images = drawn_images(seeds["images"], chosen.data)
    scans = {
        name: {"sha256": fingerprint(_read(chosen.data, name)), "drawn_on": group}
        for group, names in seeds["images"].items()
        for name in names
    }
    slices = []
    for entry in seeds["slices"]:
        whole, geometry = images[entry["drawn_on"]]
        image = whole[..., entry["k"]]
        outlines = draw(entry, image, geometry.voxel_sizes[0])
        slices.append(reference_entry(entry, outlines, geometry))
        if chosen.pictures:
            chosen.pictures.mkdir(parents=True, exist_ok=True)
            picture(image, entry, outlines).save(
                chosen.pictures / f"{entry['drawn_on']}-{entry['k']:02d}.png"
            )
    lines = ",\n".join(json.dumps(one) for one in slices)
    head = json.dumps({"source": SOURCE, "scans": scans}, indent=1)
    chosen.out.write_text(f'{head[:-2]},\n "slices": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
