"""How much an outline depends on where the point was set: drawn again from points that were moved.

    python -m benchmarks.real_legs.repeat --data DIR

Each point is moved ``TIMES`` times by ``MOVED_MM`` in a random direction, anchors and sectors of doubt stay.
DSC of the new with the kept outline, outside of what was in doubt: how far two drawings by this method agree,
and so what no score against them can be asked to exceed. It says nothing of an error that all share.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from skimage.measure import grid_points_in_poly

from benchmarks.command import command, parser_of
from benchmarks.real_legs.draw import SEEDS, doubtful_zones, draw, drawn_images
from benchmarks.real_legs.outline import Outline
from benchmarks.real_legs.reference import SOURCE
from seg_core.metrics import dice

MOVED_MM, TIMES = 1.5, 3


def agreement(first: Outline, second: Outline, doubtful: Sequence[npt.NDArray[np.float64]]) -> float:
    """Return the DSC of two outlines' pixels outside of zones (points, 2) that are in doubt."""
    end = int(np.ceil(max(first.points.max(), second.points.max()))) + 2
    a, b = (grid_points_in_poly((end, end), outline.points) for outline in (first, second))
    unknown = np.zeros_like(a)
    for zone in doubtful:
        unknown |= grid_points_in_poly((end, end), zone)
    counts = (np.array([np.count_nonzero(mask & ~unknown)]) for mask in (a, b, a & b))
    return float(dice(*counts)[0])


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Draw again and print how well the drawings agree."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of the scans: {SOURCE}")
    chosen = parser.parse_args(arguments)
    seeds = json.loads(SEEDS.read_text(encoding="utf-8"))
    images = drawn_images(seeds["images"], chosen.data)
    rng, found = np.random.default_rng(0), dict[str, list[float]]()
    for entry in seeds["slices"]:
        whole, geometry = images[entry["drawn_on"]]
        pixel_mm = geometry.voxel_sizes[0]
        kept = draw(entry, whole[..., entry["k"]], pixel_mm)
        for _ in range(TIMES):
            moved = {}
            for name, seed in entry["seeds"].items():
                angle = rng.uniform(0, 2 * np.pi)
                moved[name] = [*(np.array([np.cos(angle), np.sin(angle)]) * MOVED_MM / pixel_mm + seed)]
            again = draw({**entry, "seeds": moved}, whole[..., entry["k"]], pixel_mm)
            for name, outline in kept.items():
                zones = list(doubtful_zones(outline, entry["seeds"][name], pixel_mm))
                found.setdefault(name.split("_")[1], []).append(agreement(outline, again[name], zones))
    print("| bone | drawings | mean DSC | 5 % are below | least |\n|---|---|---|---|---|")
    for bone, values in found.items():
        low = np.quantile(values, 0.05)
        print(f"| {bone} | {len(values)} | {np.mean(values):.3f} | {low:.3f} | {min(values):.3f} |")


if __name__ == "__main__":
    sys.exit(main())
