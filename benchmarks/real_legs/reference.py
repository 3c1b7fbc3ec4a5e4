"""Outlines of bones in slices of real scans, in patient coordinates, and the labels that follow from them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.measure import grid_points_in_poly

from seg_core.errors import ScanError
from seg_core.geometry import Geometry, Volume
from seg_core.labels import BONES, sided_labels
from seg_core.scan import read_scan

REFERENCE = Path(__file__).with_name("reference.json")
SOURCE = "github.com/mfroeling/QMRITools, DemoData (BSD 3-clause)"
LABELS = {name: value for value, name in sided_labels(BONES).items()}
Polygon = Sequence[Sequence[float]]
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ReferenceSlice:
    """A slice with its bones.

    Parameters
    ----------
    z_mm : float
        Where it lies, RAS.
    part : {"shaft", "end"}
        Whether it cuts the shafts of bones, or a bone near its end.
    outlines : mapping of str to polygon
        The outer edge of the cortex of each bone in the slice: RAS x, y in mm.
    doubtful : sequence of polygon
        Zones in which nobody can see where the edge is, likewise.
    """

    z_mm: float
    part: str
    outlines: Mapping[str, Polygon]
    doubtful: Sequence[Polygon]


@dataclass(frozen=True)
class ReferenceScan:
    """A scan whose slices were outlined.

    Parameters
    ----------
    name : str
        Of its file, without ``.nii.gz``.
    sha256 : str
        Of its voxels, as `fingerprint` has it.
    slices : sequence of ReferenceSlice
        Those that were outlined; all bones in them were, those of other slices were not.
    """

    name: str
    sha256: str
    slices: Sequence[ReferenceSlice]

    def read(self, folder: Path) -> Volume:
        """Read the scan.

        Raises
        ------
        ScanError
            If it is not in the folder, or is another one.
        """
        path = folder / f"{self.name}.nii.gz"
        if not path.is_file():
            raise ScanError(f"no {path.name} in {folder}", f"the scans of {SOURCE}", "name their folder")
        volume = read_scan(path).volume
        if fingerprint(volume) != self.sha256:
            raise ScanError(f"another scan in {path.name}", f"that of {SOURCE}, in which bones were outlined")
        return volume


def fingerprint(volume: Volume) -> str:
    """Return the SHA-256 of a scan's intensities and of where they lie."""
    facts = [volume.geometry.shape, np.round(volume.geometry.affine, 3).tolist()]
    values = np.ascontiguousarray(volume.array, np.float32).tobytes()
    return hashlib.sha256(json.dumps(facts).encode() + values).hexdigest()


def read_reference(path: Path = REFERENCE) -> list[ReferenceScan]:
    """Return the scans with their outlines; two images of one person share theirs."""
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    drawn: dict[str, list[ReferenceSlice]] = {}
    for entry in known["slices"]:
        drawn.setdefault(entry.pop("drawn_on"), []).append(ReferenceSlice(**entry))
    return [
        ReferenceScan(name, scan["sha256"], drawn[scan["drawn_on"]]) for name, scan in known["scans"].items()
    ]


def rasterise(
    slices: Sequence[ReferenceSlice], geometry: Geometry
) -> tuple[list[int], Labels, npt.NDArray[np.bool_]]:
    """Make labels of outlines: a pixel belongs to a bone when its centre lies within.

    Parameters
    ----------
    slices : sequence of ReferenceSlice
        May be empty.
    geometry : Geometry
        Of an axial scan whose third axis runs along z.

    Returns
    -------
    numbers : list of int
        Of the slices in the scan.
    bones : ndarray of uint8, (i, j, slices)
        Label values by patient side, all of each bone.
    doubtful : ndarray of bool, (i, j, slices)
        What is in doubt, in bones or beside them.

    Raises
    ------
    ScanError
        If the grid has no such slice.
    """
    bones = np.zeros((*geometry.shape[:2], len(slices)), np.uint8)
    doubtful = np.zeros(bones.shape, np.bool_)
    for n, one in enumerate(slices):
        for name, polygon in one.outlines.items():
            bones[_within(polygon, one.z_mm, geometry), n] = LABELS[name]
        for polygon in one.doubtful:
            doubtful[_within(polygon, one.z_mm, geometry), n] = True
    return [_slice_number(geometry, one.z_mm) for one in slices], bones, doubtful


def _slice_number(geometry: Geometry, z_mm: float) -> int:
    """Return the slice that lies at a height, within a tenth of the slices' distance."""
    axes = np.abs(geometry.affine[:3, :3]) / geometry.voxel_sizes
    at = (z_mm - geometry.affine[2, 3]) / geometry.affine[2, 2] if axes[2, 2] > 0.999 else np.nan
    if not np.isfinite(at) or abs(at - round(at)) > 0.1 or not 0 <= round(at) < geometry.shape[2]:
        raise ScanError(f"no axial slice at z = {z_mm} mm", "the scan in which bones were outlined")
    return round(at)


def _within(polygon: Polygon, z_mm: float, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Return which pixel centres lie in a polygon, (i, j)."""
    points = np.column_stack([np.asarray(polygon, float), np.full(len(polygon), z_mm)])
    inside: npt.NDArray[np.bool_] = grid_points_in_poly(geometry.shape[:2], geometry.to_index(points)[:, :2])
    return inside
