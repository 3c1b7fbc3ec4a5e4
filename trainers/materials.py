"""What a slice is made of, on the network's own pixels: to be drawn with another scanner's eyes each time.

A pixel is a mixture of at most two materials, since it may lie across a border. A material is a tissue, or
one muscle or loop of bowel among others. To draw a slice is to look into a table: `trainers.contrast`.
"""

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.geometry import Geometry
from seg_core.kernel import kernel
from trainers.anatomy import Anatomy
from trainers.draw import Drawing, Plane, draw_tissue
from trainers.soft_tissue import Tissue

Uint8Array = npt.NDArray[np.uint8]

Mixtures = npt.NDArray[np.uint32]
"""A pixel's first material, 256 times its second one, and 65536 times 255 times the share of the first."""

MATERIALS = 128
_FIRST_SHADE = 16
_ORGANS = range(30, 60)  # shades of loops of bowel; all others are muscles'


def material_tissues() -> Uint8Array:
    """Return the tissue of each material (``MATERIALS``,)."""
    tissues = np.full(MATERIALS, Tissue.MUSCLE, np.uint8)
    tissues[: len(Tissue)] = list(Tissue)
    tissues[_FIRST_SHADE + _ORGANS.start : _FIRST_SHADE + _ORGANS.stop] = Tissue.ORGAN
    return tissues


def materials(plane: Plane) -> Uint8Array:
    """Return the material of each point of a plane (rows, columns)."""
    tissue, shade = plane
    shaded = (shade > 0) & ((tissue == Tissue.MUSCLE) | (tissue == Tissue.ORGAN))
    result: Uint8Array = np.where(shaded, shade + np.uint8(_FIRST_SHADE), tissue)
    return result


def mix(planes: Uint8Array, factor: int) -> Mixtures:
    """Count the materials of blocks of points.

    Parameters
    ----------
    planes : ndarray of uint8, (planes, rows, columns)
        Materials of a slice's planes; rows and columns are multiples of ``factor``.
    factor : int
        Points a pixel, along rows and columns.

    Returns
    -------
    ndarray of uint32, (rows / factor, columns / factor)
        `Mixtures`: the most frequent material, the second one, and the share of the first among the two. Of
        equally frequent ones the smaller number comes first.

    Raises
    ------
    UsageError
        If the blocks do not fit.
    """
    _, rows, columns = planes.shape
    if factor < 1 or rows % factor or columns % factor:
        raise UsageError(f"{rows} x {columns} points in blocks of {factor}", "whole blocks")
    out = np.empty((rows // factor, columns // factor), np.uint32)
    _mix(np.ascontiguousarray(planes), factor, out)
    return out


def draw_materials(
    anatomy: Anatomy, geometry: Geometry, drawing: Drawing, factor: int = 2, threads: int = 2
) -> Mixtures:
    """Return the mixtures of each slice of a scan, (slices, rows / factor, columns / factor), as `mix`."""
    columns, rows, slices = geometry.shape
    out = np.empty((slices, rows // factor, columns // factor), np.uint32)

    def take(k: int, planes: list[Plane]) -> None:
        out[k] = mix(np.stack([materials(plane) for plane in planes]), factor)

    draw_tissue(anatomy, geometry, drawing, take, threads)
    return out


@kernel
def _mix(planes, factor, out):  # type: ignore[no-untyped-def]
    counts = np.zeros(256, np.int64)
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            block = planes[:, r * factor : (r + 1) * factor, c * factor : (c + 1) * factor]
            same = True
            for value in block.flat:
                counts[value] += 1
                same &= value == block[0, 0, 0]
            if same:
                first = second = block[0, 0, 0]
            else:
                first = second = 255
                for value in block.flat:
                    n = counts[value]
                    if first == 255 or n > counts[first] or (n == counts[first] and value < first):
                        first = value
                for value in block.flat:
                    n = counts[value]
                    if value != first and (
                        second == 255 or n > counts[second] or (n == counts[second] and value < second)
                    ):
                        second = value
            share = 255.0 if same else counts[first] / (counts[first] + counts[second]) * 255
            out[r, c] = first + 256 * second + 65536 * int(share + 0.5)
            for value in block.flat:
                counts[value] = 0
