"""How much of a bone the Dixon fat image shows: its marrow, for compact bone there is as black as muscle.

    python -m benchmarks.real_legs.marrow --data DIR

Within the outlines of shaft slices (drawn on the sum of water and fat) pixels brighter than ``BRIGHT`` of the
scan's range are marrow. Their DSC with the whole bone is what a network reaches that finds all marrow and
nothing else: to reach more it must guess how thick the compact bone around it is.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.command import command, parser_of
from benchmarks.real_legs.reference import LABELS, SOURCE, ReferenceScan, rasterise, read_reference
from seg_core.geometry import Volume
from seg_core.metrics import dice

BRIGHT = 0.2


def marrow_dice(scan: ReferenceScan, volume: Volume) -> dict[str, float]:
    """Return the DSC of each outlined bone with its own bright pixels, doubt left out, over shaft slices."""
    numbers, bones, doubtful = rasterise([one for one in scan.slices if one.part == "shaft"], volume.geometry)
    bright = volume.array[..., numbers] > BRIGHT * np.percentile(volume.array, 99.5)
    found = {}
    for name, value in LABELS.items():
        whole = (bones == value) & ~doubtful
        if whole.any():
            counts = (np.array([np.count_nonzero(mask)]) for mask in (whole & bright, whole, whole & bright))
            found[name] = float(dice(*counts)[0])
    return found


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of the scans: {SOURCE}")
    parser.add_argument("--scan", default="fat", choices=["fat", "water"])
    chosen = parser.parse_args(arguments)
    scan = next(scan for scan in read_reference() if scan.name == chosen.scan)
    for bone, dsc in marrow_dice(scan, scan.read(chosen.data)).items():
        print(f"{bone}: DSC of all marrow with the whole bone {dsc:.3f}")


if __name__ == "__main__":
    sys.exit(main())
