"""What the viewer shows: a scan, its labels, a second label map, surfaces."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """Paths of what belongs together.

    Parameters
    ----------
    name : str
        What is shown; never a patient's name.
    scan : Path
        Anything that :func:`seg_core.scan.read_scan` takes.
    series : str, optional
        Which DICOM series.
    labels : Path, optional
        A label map on the scan's grid; without it an empty one is there to paint in.
    other : Path, optional
        A second label map on the same grid, to compare with.
    meshes : mapping of str to Path
        Label's name -> PLY, e.g. ``{"right_tibia": ...}``; surfaces that are not given are made from labels.
    """

    name: str
    scan: Path
    series: str | None = None
    labels: Path | None = None
    other: Path | None = None
    meshes: Mapping[str, Path] = field(default_factory=dict)
