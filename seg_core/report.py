"""``<name>_report.json``: how the result came about, and what the run proved about itself.

Nothing in it identifies the patient: no path, no date, no header value but what the readers give out.
"""

import hashlib
import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from seg_core.errors import LlsError
from seg_core.geometry import Geometry, LabelMap
from seg_core.statistics import BoneStatistics

SCHEMA_VERSION = 1
INTENDED_USE = "research; not a medical device, not for diagnosis"

_PACKAGES = (
    "numpy", "scipy", "numba", "nibabel", "pydicom", "scikit-image", "pillow",
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One step of the work: what it was told and how long it took."""

    step: str
    seconds: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One thing that was held against what must be so: of the run's own files, or of the anatomy."""

    check: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class RunFacts:
    """What the report says beyond the files themselves.

    Parameters
    ----------
    name : str
        What the files' names begin with.
    scan : mapping
        How the scan was read: kind, which series and why, geometry.
    model : mapping
        The network's name and sha256 and where its description says it comes from.
    device : mapping
        The provider asked for and used.
    steps : sequence of Step
        In their order.
    sides : mapping
        How right and left were told apart.
    bones : sequence of BoneStatistics
        The measurements.
    warnings : sequence of str
        As they were shown.
    plausibility : sequence of Check
        Whether these can be the bones of a leg.
    """

    name: str
    scan: Mapping[str, Any]
    model: Mapping[str, Any]
    device: Mapping[str, Any]
    steps: Sequence[Step]
    sides: Mapping[str, Any]
    bones: Sequence[BoneStatistics]
    warnings: Sequence[str] = ()
    plausibility: Sequence[Check] = ()


def build_report(facts: RunFacts, folder: str | Path, checks: Sequence[Check]) -> dict[str, Any]:
    """Return the report on the files that lie in a folder, as plain JSON values.

    Parameters
    ----------
    facts : RunFacts
        What was done.
    folder : str or Path
        Holds this run's files and nothing else; each is listed with size and sha256.
    checks : sequence of Check
        What was proved.

    Returns
    -------
    dict
        Ready for ``json.dumps``; numbers that are not finite have become null.
    """
    report = {
        "schema_version": SCHEMA_VERSION,
        "intended_use": INTENDED_USE,
        "name": facts.name,
        "software": software_versions(),
        "model": facts.model,
        "device": facts.device,
        "scan": facts.scan,
        "steps": [asdict(step) for step in facts.steps],
        "sides": facts.sides,
        "bones": [asdict(row) for row in facts.bones],
        "warnings": list(facts.warnings),
        "plausibility": [asdict(check) for check in facts.plausibility],
        "checks": [asdict(check) for check in checks],
        "peak_memory_bytes": peak_memory(),
        "outputs": [
            {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)}
            for file in sorted(Path(folder).iterdir())
        ],
    }
    plain: dict[str, Any] = _plain(report)
    return plain


def write_report(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON (UTF-8, two spaces, short lists on one line)."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    text = re.sub(r"\[\n\s+([^][{}\"]*?)\n\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    Path(path).write_text(text + "\n", encoding="utf-8")


def check_label_file(path: str | Path, labelmap: LabelMap, scan: Geometry) -> list[Check]:
    """Reopen a label map and compare it with what was meant and with the scan's grid."""
    from seg_core.nifti import label_slabs

    try:
        geometry, slabs = label_slabs(Path(path))
        same_grid = geometry.shape == scan.shape and np.allclose(
            geometry.affine, scan.affine, rtol=1e-6, atol=1e-4
        )
        same, voxels, k = same_grid, 0, 0
        for slab in slabs:  # a whole label map is a volume more in memory
            same = same and np.array_equal(slab, labelmap.array[:, :, k : k + slab.shape[2]])
            voxels, k = voxels + int(np.count_nonzero(slab)), k + slab.shape[2]
    except LlsError as error:
        return [Check("the label map can be reopened", False, error.found)]
    shape = " x ".join(map(str, geometry.shape))
    return [
        Check("the label map has the scan's shape and affine", bool(same_grid), f"{shape}, reopened"),
        Check("the label map reopens with the same labels", bool(same), f"{voxels} voxels"),
    ]


def check_mesh_file(path: str | Path, row: BoneStatistics, geometry: Geometry) -> list[Check]:
    """Reopen a mesh: it is closed, and its centroid and volume are those of the label's voxels.

    The centroids may lie half a voxel's diagonal apart, the volumes 2 % or five voxels.
    """
    from seg_core.ply import read_ply

    try:
        mesh = read_ply(path)
    except LlsError as error:
        return [Check(f"{row.name}: the mesh can be reopened", False, error.found)]
    centroid = np.array(row.centroid_mm if row.centroid_mm else (np.nan,) * 3)
    gap = float(np.linalg.norm(mesh.centroid - centroid))
    allowed = float(np.linalg.norm(geometry.voxel_sizes)) / 2
    volume = row.volume_cm3 * 1000
    difference = mesh.volume_mm3 - volume
    tolerance = max(0.02 * volume, 5 * geometry.voxel_volume)
    return [
        Check(f"{row.name}: the mesh is watertight", mesh.is_watertight, f"{len(mesh.faces)} triangles"),
        Check(f"{row.name}: mesh and label centroids agree", gap <= allowed, f"{gap:.3f} mm apart"),
        Check(
            f"{row.name}: mesh and label volumes agree",
            abs(difference) <= tolerance,
            f"{difference / 1000:+.4f} cm3",
        ),
    ]


def software_versions() -> dict[str, Any]:
    """Return the versions of lls, Python and the packages that take part, and the kind of machine."""
    packages = {name: _version(name) for name in _PACKAGES}
    return {
        "lls": _version("lls"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: found for name, found in packages.items() if found},
    }


def peak_memory() -> int | None:
    """Return the greatest resident memory of this process, in bytes; None where the system is silent."""
    status = Path("/proc/self/status")  # the other counter begins with the peak of the parent process
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def sha256(path: str | Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """Turn NumPy values, tuples and paths of dicts and lists into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
