"""A fibula is one piece in every slice: what lies beside it, and apart from it, is not of it.

Vessels in fat beside it look like one. Pieces in line with each other stay, since between them a network may
have missed a stretch. Other bones are in pieces where a scan cuts their condyles, or a child's hip bone has
not grown together.
"""

import numpy as np

from seg_core.components import Components, find_components
from seg_core.denoise import Removed
from seg_core.geometry import LabelMap

SINGLE = ("fibula",)
"""Bones of which that is true, by name."""
APART_MM = 5.0
"""Nearer pieces may be of one bone that is seen badly. Chosen on a real scan: vessels 6 mm from the bone."""
SAME_SLICES = 0.5
"""Share of a piece's slices in which the larger one lies too."""
MOST = 0.5
"""A piece of more than this share of the largest one's voxels stays: it may be another leg's."""


def drop_beside(
    labels: LabelMap, axis: int, n_classes: int, overwrite: bool = False
) -> tuple[LabelMap, Removed]:
    """Remove pieces of a fibula that lie beside a larger piece of it.

    Parameters
    ----------
    labels : LabelMap, (i, j, k)
        Values 1 to twice ``n_classes``, a bone of one side each, named ``right_fibula``. May be empty.
    axis : int
        Array axis along the body.
    n_classes : int
        Bones without sides.
    overwrite : bool
        Whether the result may take the place of the labels' own array, which saves memory.

    Returns
    -------
    LabelMap
    Removed
        Counts by bone, sides together; nothing is filled.
    """
    found = find_components(labels.array, 26)
    reach = [int(np.ceil(APART_MM / mm)) for mm in labels.geometry.voxel_sizes]
    reach[axis] = 0
    drop = np.zeros(len(found.labels), np.bool_)
    single = [value for value, name in labels.labels.items() if name.partition("_")[2] in SINGLE]
    for value in np.intersect1d(found.labels, single):
        pieces = np.flatnonzero(found.labels == value)  # large ones first
        kept = [int(pieces[0])]
        for piece in pieces[1:]:
            small = found.sizes[piece] <= MOST * found.sizes[kept[0]]
            if small and _beside(found, int(piece), kept, axis) and not _near(found, int(piece), kept, reach):
                drop[piece] = True
            else:
                kept.append(int(piece))
    counts = np.zeros((3, n_classes + 1), np.int64)
    bones = (found.labels[drop].astype(np.int64) - 1) % n_classes + 1
    np.add.at(counts[0], bones, 1)
    np.add.at(counts[1], bones, found.sizes[drop])
    array = found.remove(labels.array, drop, overwrite) if drop.any() else labels.array
    return LabelMap(array, labels.geometry, labels.labels), Removed(*counts)


def _beside(found: Components, piece: int, kept: list[int], axis: int) -> bool:
    """Say whether one of the pieces that are kept lies in most of a piece's slices."""
    first, last = found.boxes[piece, axis]
    boxes = found.boxes[kept, axis]
    shared = np.minimum(boxes[:, 1], last) - np.maximum(boxes[:, 0], first)
    return bool((shared >= SAME_SLICES * (last - first)).any())


def _near(found: Components, piece: int, kept: list[int], reach: list[int]) -> bool:
    """Say whether any of the pieces that are kept comes near a piece's box, in its own slices."""
    low, high = found.boxes[piece, :, 0] - reach, found.boxes[piece, :, 1] + reach
    for other in kept:
        corner = found.boxes[other, :, 0]
        first, last = np.maximum(low, corner), np.minimum(high, found.boxes[other, :, 1])
        if (first < last).all():
            place = tuple(slice(*ends) for ends in zip(first - corner, last - corner, strict=True))
            if found.mask(other)[place].any():
                return True
    return False
