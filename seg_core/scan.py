"""A scan, from whatever the user has: a folder of DICOM, a zip of one, one file, NIfTI."""

import errno
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy.typing as npt

from seg_core import dicom, dicom_pixels, dicom_stack, nifti
from seg_core.checks import refuse_values
from seg_core.errors import LlsError, OutputError, ScanError, UsageError
from seg_core.files import files_below
from seg_core.geometry import Geometry, Volume
from seg_core.output import earlier_outputs
from seg_core.views import lps_axes

_SYMLINK = 0o120000


@dataclass(frozen=True)
class Scan:
    """A volume with how it was read; nothing in it identifies the patient.

    Parameters
    ----------
    volume : Volume
        Intensities (i, j, k), RAS+ mm.
    name : str
        The file's stem, or ``scan`` for a folder or zip of DICOM.
    kind : {"dicom", "nifti"}
        Where it comes from.
    series : mapping
        Facts for the report, as JSON can hold them: matrix, spacing, which series, why.
    laterality : {"R", "L"} or None
        The side that the headers name.
    warnings : tuple of str
        What the user should know.
    """

    volume: Volume
    name: str
    kind: Literal["dicom", "nifti"]
    series: Mapping[str, Any]
    laterality: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What a path holds, without reading pixels of DICOM.

    Parameters
    ----------
    kind : {"dicom", "nifti"}
        What it is.
    entries : tuple of mapping
        Facts of each series; those of one NIfTI.
    taken : int or None
        The ``number`` of the entry that would be read; None where that is refused.
    reason : str
        Why this one, or why none.
    problem : LlsError or None
        What :func:`read_scan` would raise.
    ignored : int
        Files that hold no image.
    """

    kind: Literal["dicom", "nifti"]
    entries: tuple[Mapping[str, Any], ...]
    taken: int | None
    reason: str
    problem: LlsError | None
    ignored: int


def read_scan(path: str | Path, series: str | None = None) -> Scan:
    """Read a scan.

    Parameters
    ----------
    path : str or Path
        A folder of DICOM (searched through), a zip of one, one DICOM file, ``.nii`` or ``.nii.gz``, or a
        folder with exactly one NIfTI and no DICOM.
    series : str, optional
        Which DICOM series, see :func:`seg_core.dicom.choose_series`.

    Raises
    ------
    ScanError
        Nothing there, no image, ambiguous, unreadable, NaN, constant.
    GeometryError
        A gap, a tilt, duplicate positions, a singular affine.
    UsageError
        If a series is asked for in a NIfTI file.
    """
    path = Path(path)
    with _opened(path) as found:
        if isinstance(found, dicom.Found):
            return _read_dicom(_dicom_name(path), found, series)
        image = _read_nifti(found, series)
        facts = _geometry_facts(image.volume.geometry) | {"type": image.volume.array.dtype.name}
        warnings = image.warnings + _single_slice(image.volume.geometry.shape[2])
        return Scan(image.volume, nifti.stem(found), "nifti", facts, None, warnings)


def inspect_scan(path: str | Path, series: str | None = None) -> Inspection:
    """List what is there, which series would be taken and why; arguments and errors as :func:`read_scan`.

    An unfit or ambiguous choice is no error here but the ``problem``.
    """
    path = Path(path)
    with _opened(path) as found:
        if isinstance(found, Path):
            image = _read_nifti(found, series)
            facts = {"number": 1, "type": image.volume.array.dtype.name, "warnings": list(image.warnings)}
            entry = facts | _geometry_facts(image.volume.geometry)
            return Inspection("nifti", (entry,), 1, "the only image", None, 0)
        entries = tuple(
            _series_facts(s) | {"uid": s.kind.uid, "folder": _folder(path, s)} for s in found.series
        )
        try:
            chosen, reason = _choose(found, series)
        except LlsError as problem:
            return Inspection("dicom", entries, None, problem.found, problem, found.ignored)
        return Inspection("dicom", entries, chosen.number, reason, None, found.ignored)


def middle_slices(path: str | Path) -> dict[int, npt.NDArray[Any]]:
    """Return the middle slice of each series that can be read, to look at; errors as :func:`read_scan`.

    Returns
    -------
    dict of int to ndarray, (row, column)
        ``number`` of the entry in :func:`inspect_scan` -> values as stored; of NIfTI the middle axial slice,
        columns towards the patient's left, rows towards the back. What cannot be decoded is left out.
    """
    with _opened(Path(path)) as found:
        if isinstance(found, Path):
            volume = nifti.read_image(found).volume
            order, flips = lps_axes(volume.geometry)
            step = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
            turned = volume.array.transpose(order)[step]
            return {1: turned[:, :, turned.shape[2] // 2].T.copy()}
        slices = {}
        for series in found.series:
            with suppress(LlsError):
                slices[series.number] = dicom_pixels.decode([series.planes[series.n_slices // 2]])[0]
        return slices


def _read_nifti(path: Path, series: str | None) -> nifti.NiftiImage:
    if series is not None:
        raise UsageError(f"series {series!r} asked for in {path.name}", "a DICOM scan", "leave it out")
    return nifti.read_image(path)


def _choose(found: dicom.Found, wanted: str | None) -> tuple[dicom.Series, str]:
    """Choose a series; beside damaged files only one that was asked for: they may be slices of any."""
    if found.damaged and wanted is None:
        first, more = found.damaged[0], len(found.damaged) - 1
        raise ScanError(
            first.found + (f", and {more} more file{'s' * (more > 1)} cannot be read" if more else ""),
            first.expected,
            f"{first.fix or 'copy it again'}; or, if another series is meant, name it with --series NUMBER",
        )
    return dicom.choose_series(found.series, wanted)


def _read_dicom(name: str, found: dicom.Found, wanted: str | None) -> Scan:
    series, reason = _choose(found, wanted)
    volume = dicom.read_series(series)
    refuse_values(volume.array, f"series {series.number}")
    facts = _series_facts(series) | {
        "why": reason,
        "n_series": len(found.series),
        "ignored_files": found.ignored,
        "type": volume.array.dtype.name,
    }
    warnings = list(_single_slice(series.n_slices))
    warnings += (f"passed over: {error.found}" for error in found.damaged)
    if series.kind.modality != "MR":
        warnings.append(f"the modality is {series.kind.modality or 'not given'}, not MR")
    return Scan(volume, name, "dicom", facts, series.laterality, tuple(warnings))


def _single_slice(slices: int) -> tuple[str, ...]:
    return ("a single slice: volumes and meshes of it mean little",) if slices == 1 else ()


def _series_facts(series: dicom.Series) -> dict[str, Any]:
    kind, pixels = series.kind, series.planes[0].pixels
    facts: dict[str, Any] = {
        "number": series.number,
        "description": kind.description,
        "modality": kind.modality,
        "image_type": list(kind.image_type),
        "plane": series.orientation,
        "echo": kind.echo,
        "laterality": series.laterality,
        "volumes": len(series.volumes),
        "volume": series.volume,
        "files": len(series.files),
        "photometric": kind.photometric,
        "bits": pixels.stored,
        "signed": pixels.signed,
        "transfer_syntax": pixels.syntax,
        "shape": [kind.columns, kind.rows, series.n_slices],
        "spacing_mm": [round(s, 6) for s in series.spacing or ()],
        "problem": series.problem.found if series.problem else None,
    }
    if series.problem is None:
        facts |= _geometry_facts(dicom_stack.stack_geometry(series.planes))
    return facts


def _folder(path: Path, series: dicom.Series) -> str | None:
    """Return where a series lies in the folder that was looked into; None of a file, or a zip."""
    if not path.is_dir():
        return None
    return Path(os.path.commonpath([file.parent for file in series.files])).relative_to(path).as_posix()


def _geometry_facts(geometry: Geometry) -> dict[str, Any]:
    return {
        "shape": list(geometry.shape),
        "spacing_mm": [round(s, 6) for s in geometry.voxel_sizes],
        "orientation": geometry.orientation,
        "affine": geometry.affine.tolist(),
    }


def _dicom_name(path: Path) -> str:
    """Return the stem of a single file; folders and zips are often called after the patient: ``scan``."""
    return "scan" if path.is_dir() or _is_zip(path) else path.stem


@contextmanager
def _opened(path: Path) -> Iterator[dicom.Found | Path]:
    """Yield the DICOM series or the one NIfTI that a path holds; of a zip, as long as it is unpacked."""
    _refuse_missing(path)
    if path.is_file() and nifti.is_nifti(path):
        yield path
    elif path.is_file() and _is_zip(path):
        with tempfile.TemporaryDirectory(prefix="lls-") as temporary:
            _unpack(path, Path(temporary))
            yield _contents(Path(temporary), path.name)
    else:
        yield _contents(path, path.name or str(path))


def _refuse_missing(path: Path) -> None:
    try:
        there = path.exists()
    except PermissionError as error:
        raise ScanError(f"no permission to read {path}", fix="change its permissions") from error
    if not there:
        raise ScanError(f"{path} is not there", "a file or folder", "check the path")


def _contents(place: Path, name: str) -> dicom.Found | Path:
    found = dicom.search(place)
    if found.series:
        return found
    if place.is_file():
        raise ScanError(
            f"{name} is no image",
            "DICOM, a zip of DICOM, .nii or .nii.gz",
            "give one of these or a folder of them",
        )
    images = [file for file in files_below(place) if nifti.is_nifti(file) and not _is_by_product(file)]
    if len(images) == 1:
        return images[0]
    if images:
        names = ", ".join(p.name for p in images[:5])
        raise ScanError(f"{name} holds {len(images)} NIfTI files ({names})", "one scan", "name one of them")
    if not found.ignored:
        raise ScanError(f"{name} is empty", "a scan", "check the path")
    raise ScanError(
        f"{name} holds no image among its {found.ignored} files",
        "DICOM or one NIfTI",
        "give the folder that the scanner's images are in",
    )


def _is_by_product(file: Path) -> bool:
    """Whether a NIfTI is what macOS writes beside a file, or what lls made of a scan."""
    ends = [end for end in ("_dseg.nii.gz", "_confidence.nii.gz") if file.name.endswith(end)]
    ours = any(file.name in earlier_outputs(file.parent, file.name.removesuffix(end)) for end in ends)
    return ours or file.name.startswith("._")


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" or (not path.suffix and zipfile.is_zipfile(path))


def _unpack(path: Path, folder: Path) -> None:
    """Unpack every file into a numbered folder of its own, so that no name can lead elsewhere."""
    try:
        with zipfile.ZipFile(path) as archive:
            # A name of nothing or of dots alone, which only a forged zip has, is no file's.
            members = [m for m in archive.infolist() if PurePosixPath(m.filename).name and not m.is_dir()]
            for member in members:
                _refuse_member(path, member)
            needed, free = sum(m.file_size for m in members), shutil.disk_usage(folder).free
            if needed > free:
                raise OutputError(f"{path.name} unpacks to {needed} bytes, {free} are free", "more free disk")
            for number, member in enumerate(members):
                target = folder / str(number) / PurePosixPath(member.filename).name
                target.parent.mkdir()
                with archive.open(member) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ScanError(
            f"{path.name} is no zip file, or a damaged one", "a readable zip", "pack it again"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"no space left to unpack {path.name}", fix="free some space") from error
        raise ScanError(f"cannot unpack {path.name}: {error.strerror or error}") from error


def _refuse_member(path: Path, member: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(member.filename.replace("\\", "/"))
    link = (member.external_attr >> 16) & 0o170000 == _SYMLINK
    if parts.is_absolute() or ".." in parts.parts or ":" in "".join(parts.parts[:1]) or link:
        raise ScanError(
            f"{path.name} holds an entry that leads out of it ({member.filename})",
            "files below the zip's own folder",
            "do not trust this file",
        )
    if member.flag_bits & 1:
        raise ScanError(
            f"{path.name} is encrypted", "a zip without password", "unpack it and give the folder"
        )
