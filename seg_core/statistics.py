"""The row a bone and side."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seg_core.geometry import LabelMap
from seg_core.labels import SIDES
from seg_core.moments import Box, Moments, extent_along, label_moments

Status = Literal["found", "empty", "truncated"]


@dataclass(frozen=True)
class BoneStatistics:
    """What is said about one bone of one side.

    Parameters
    ----------
    label : int
        Value in the label map.
    name : str
        Its name there, e.g. ``"right_tibia"``.
    bone : str
        Name without side.
    side : {"right", "left", "unknown"}
        Unknown where the name has none.
    status : {"found", "empty", "truncated"}
        ``truncated``: touches an edge of the scan, or of the slices that were segmented, so that volume and
        length are those of the visible part.
    voxels : int
        Number of voxels.
    volume_cm3 : float
        Voxels times the volume of one.
    length_mm : float or None
        Greatest extent along the bone's own long axis (the principal axis of its voxels), from outer edge
        to outer edge of the voxels; None if empty.
    centroid_mm : tuple of float or None
        Mean of the voxel centres, RAS+ mm; None if empty.
    components_removed : int
        Pieces that cleaning took away from the bone's class; both sides together, since cleaning comes first.
    confidence : float or None
        Mean over the voxels that the network itself called this bone, 0 to 1: the share of them that it
        expects to be right. Holes that cleaning filled do not count. None if empty or not available.
    """

    label: int
    name: str
    bone: str
    side: str
    status: Status
    voxels: int
    volume_cm3: float
    length_mm: float | None
    centroid_mm: tuple[float, float, float] | None
    components_removed: int
    confidence: float | None


def bone_statistics(
    labelmap: LabelMap,
    confidence: npt.NDArray[Any] | None = None,
    removed: Mapping[int, int] | None = None,
    seen: Box | None = None,
) -> list[BoneStatistics]:
    """Measure every bone that the label map may contain.

    Parameters
    ----------
    labelmap : LabelMap
        Labels on the scan's grid; a row for each entry of its table, also for a bone that is not there.
    confidence : ndarray, (i, j, k), optional
        Confidence a voxel; integers are read as 0 to 255, other numbers as 0 to 1.
    removed : mapping of int to int, optional
        Label value -> components that cleaning removed.
    seen : tuple of slice, optional
        The part of the grid that was looked at; all of it by default.

    Returns
    -------
    list of BoneStatistics
        In the order of the label values.

    Raises
    ------
    GeometryError
        If the confidence has another shape than the labels.
    """
    moments = label_moments(labelmap.array, confidence)
    scale = 255.0 if confidence is not None and np.issubdtype(confidence.dtype, np.integer) else 1.0
    edges = [(0, n - 1) for n in labelmap.geometry.shape]
    if seen is not None:
        edges = [(part.start, part.stop - 1) for part in seen]
    rows = []
    for value in sorted(labelmap.labels):
        found = moments.get(value)
        cut = found is not None and _touches(found, edges)
        rows.append(_row(labelmap, value, found, (removed or {}).get(value, 0), scale, cut))
    return rows


def split_name(name: str) -> tuple[str, str]:
    """Return (bone, side) of a label's name: ``"left_tibia"`` -> ``("tibia", "left")``."""
    side, _, bone = name.partition("_")
    return (bone, side) if side in SIDES and bone else (name, "unknown")


def write_statistics(path: str | Path, rows: Sequence[BoneStatistics]) -> None:
    """Write the rows as CSV (UTF-8, a header line, nothing in a field that has no value)."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*_COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: _cell(value) for column, value in as_record(row).items()} for row in rows)


def as_record(row: BoneStatistics) -> dict[str, Any]:
    """Return a row as a flat dict of plain numbers, the centroid split into its coordinates."""
    record = asdict(row)
    centroid = record.pop("centroid_mm") or (None, None, None)
    record |= {f"centroid_{axis}_mm": value for axis, value in zip("xyz", centroid, strict=True)}
    return {column: record[column] for column in _COLUMNS}


_COLUMNS = (
    "label", "name", "bone", "side", "status", "voxels", "volume_cm3", "length_mm",
    "centroid_x_mm", "centroid_y_mm", "centroid_z_mm", "components_removed", "confidence",
)  # fmt: skip


def _cell(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def _row(
    labelmap: LabelMap, value: int, moments: Moments | None, removed: int, scale: float, cut: bool
) -> BoneStatistics:
    name = labelmap.labels[value]
    bone, side = split_name(name)
    if moments is None:
        return BoneStatistics(value, name, bone, side, "empty", 0, 0.0, None, None, removed, None)
    x, y, z = (float(c) for c in labelmap.geometry.to_world(moments.mean))
    return BoneStatistics(
        value,
        name,
        bone,
        side,
        "truncated" if cut else "found",
        moments.voxels,
        moments.voxels * labelmap.geometry.voxel_volume / 1000,
        _length(labelmap, value, moments),
        (x, y, z),
        removed,
        None if moments.confidence is None else moments.confidence / scale,
    )


def _touches(moments: Moments, edges: Sequence[tuple[int, int]]) -> bool:
    ends = zip(moments.low, moments.high, edges, strict=True)
    return any(low == first or high == last for low, high, (first, last) in ends)


def _length(labelmap: LabelMap, value: int, moments: Moments) -> float:
    """Extent along the eigenvector of the greatest eigenvalue of the covariance in mm."""
    axes = labelmap.geometry.affine[:3, :3]
    long_axis = np.linalg.eigh(axes @ moments.covariance @ axes.T).eigenvectors[:, -1]
    return extent_along(labelmap.array[moments.box], value, axes.T @ long_axis)
