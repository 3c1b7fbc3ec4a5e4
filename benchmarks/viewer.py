"""How fast the viewer's server gives slices of the longest scan of the report: 1015 of 512 x 512.

python -m benchmarks.viewer
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.command import parser_of
from gui.viewer.case import Case
from gui.viewer.opened import OpenedCase
from gui.viewer.painting import Painting
from gui.viewer.routes import packed
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import BONES, sided_labels
from seg_core.planes import PLANES


def made_up(slices: int, size: int) -> OpenedCase:
    """Return noise in an LPS grid with long boxes for bones, 16 bits a voxel as MR has."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 900, (size, size), dtype=np.int16)
    shape = (size, size, slices)
    image, labels = np.zeros(shape, np.int16, order="F"), np.zeros(shape, np.uint8, order="F")
    for k in range(slices):
        image[:, :, k] = np.roll(noise, 7 * k, axis=0)
    for value in range(1, 9):
        first = size * value // 10
        labels[first : first + size // 20, size // 3 : size // 2, slices // 10 : -slices // 10] = value
    geometry = Geometry(shape, np.diag([-0.9375, -0.9375, 1.0, 1.0]))
    labelmap = LabelMap(labels, geometry, sided_labels(BONES))
    return OpenedCase(Case("benchmark", Path()), Volume(image, geometry), Painting(labelmap))


def milliseconds(give: Callable[[int], bytes], levels: range) -> np.ndarray:
    """Return the time of each slice, one after the other as a user scrolls: (levels, wall and processor)."""
    times = []
    for level in levels:
        begun = time.perf_counter(), time.thread_time()
        give(level)
        times.append((time.perf_counter() - begun[0], time.thread_time() - begun[1]))
    return 1000 * np.array(times)


def main() -> None:
    """Print a row a plane and layer."""
    parser = parser_of(__doc__)
    parser.add_argument("--slices", type=int, default=1015)
    parser.add_argument("--size", type=int, default=512)
    given = parser.parse_args()
    case = made_up(given.slices, given.size)
    print(f"{given.slices} slices of {given.size} x {given.size}; ms a slice at the server, scrolling")
    print(f"{'plane':10}{'layer':8}{'median':>8}{'95 %':>8}{'processor':>11}{'kB sent':>9}")
    for plane in PLANES:
        layers: dict[str, Callable[[int], bytes]] = {
            "scan": lambda level, plane=plane: case.image(plane, level),
            "labels": lambda level, plane=plane: packed(case.labels("labels", plane, level)),
        }
        count = case.planes.count(plane)
        for layer, give in layers.items():
            wall, processor = milliseconds(give, range(count // 4, min(count // 4 + 200, count))).T
            print(
                f"{plane:10}{layer:8}{np.median(wall):8.1f}{np.percentile(wall, 95):8.1f}"
                f"{np.median(processor):11.1f}{len(give(count // 2)) / 1000:9.1f}"
            )


if __name__ == "__main__":
    main()
