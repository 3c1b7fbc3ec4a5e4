"""NIfTI files: volumes and label maps, read and written with their geometry.

Affines are RAS+ millimetres. Files are written little endian, with sform equal to qform, and the same
content gives the same bytes.
"""

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from seg_core.checks import refuse_values
from seg_core.errors import GeometryError, MemoryLimitError, ScanError, UsageError
from seg_core.geometry import FloatArray, Geometry, LabelMap, Volume
from seg_core.labels import IGNORED
from seg_core.output import output_error

_UNITS = {1: ("metres", 1000.0), 3: ("microns", 0.001)}  # codes other than millimetres, 2
_WRITABLE = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
_LABEL_INTENT = 1002
_DATA_OFFSET = 352
_CHUNK = 1 << 20
"""Bytes that are read at a time."""
_SLAB = 16


@dataclass(frozen=True)
class NiftiImage:
    """A volume with what is to be said about its header.

    Parameters
    ----------
    volume : Volume
        Intensities on their grid.
    warnings : tuple of str
        Where the header leaves something open.
    """

    volume: Volume
    warnings: tuple[str, ...]


def is_nifti(path: Path) -> bool:
    """Whether a file is called ``.nii`` or ``.nii.gz``."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def stem(path: Path) -> str:
    """Return the file's name without ``.nii`` or ``.nii.gz``."""
    name = path.name[:-3] if path.name.lower().endswith(".nii.gz") else path.name
    return name[:-4] if name.lower().endswith(".nii") else name


def read_image(path: str | Path) -> NiftiImage:
    """Read a volume of intensities.

    Returns
    -------
    NiftiImage
        Whole numbers keep their type where no slope is set, else float32; stored floats keep theirs.
        sform where it is coded, else qform, else voxel sizes alone with a warning.

    Raises
    ------
    ScanError
        Not there, no NIfTI, truncated, several volumes, colour or complex, NaN or infinite, constant.
    GeometryError
        If the affine is singular or not finite.
    """
    path = Path(path)
    image = _load(path)
    affine, notes = _affine(path, image)
    array = _array(path, image)
    geometry = Geometry(array.shape, affine)
    refuse_values(array, path.name)
    return NiftiImage(Volume(array, geometry), notes)


def read_volume(path: str | Path) -> Volume:
    """Read a volume of intensities as :func:`read_image` does, without the remarks."""
    return read_image(path).volume


def read_labels(path: str | Path, labels: Mapping[int, str] | None = None) -> LabelMap:
    """Read a label map; an empty one is no error.

    Parameters
    ----------
    path : str or Path
        Whole numbers 0 to 255 in any type.
    labels : mapping of int to str, optional
        Names; without it those of the ``.json`` beside the file, else ``label_<value>`` of what occurs.

    Raises
    ------
    ScanError
        Not readable, several volumes, or values that are no labels.
    GeometryError
        If the affine is singular or not finite.
    """
    path = Path(path)
    image = _load(path)
    affine, _ = _affine(path, image)
    array = _array(path, image)
    if array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):  # NaN is not equal to itself
        raise ScanError(f"{path.name} holds values that are no whole numbers", "labels 0 to 255")
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        raise ScanError(f"{path.name} holds values from {low:g} to {high:g}", "labels 0 to 255")
    if labels is None:
        labels = names_beside(path)
    values = array.astype(np.uint8, copy=False)
    if labels is None:
        # Slice by slice: bincount makes whole numbers of eight bytes first.
        counts = sum(
            np.bincount(values[..., k].ravel(order="K"), minlength=256) for k in range(values.shape[2])
        )
        labels = {int(v): f"label_{v}" for v in np.flatnonzero(counts) if v}
    return LabelMap(values, Geometry(values.shape, affine), dict(labels))


def label_slabs(path: str | Path) -> tuple[Geometry, Iterator[npt.NDArray[np.uint8]]]:
    """Read a label map as `write_labels` writes it, slab by slab along k, so that no volume is made.

    Returns
    -------
    geometry : Geometry
    slabs : iterator of ndarray of uint8, (i, j, some k)

    Raises
    ------
    ScanError
        If it is not readable or of another type; also later, where it is truncated.
    GeometryError
        If the affine is singular or not finite.
    """
    path = Path(path)
    image = _load(path)
    proxy = image.dataobj
    if proxy.dtype != np.uint8 or len(proxy.shape) != 3 or (proxy.slope, proxy.inter) != (1, 0):
        raise ScanError(
            f"{path.name} holds {proxy.dtype} of shape {proxy.shape}", "labels as lls writes them"
        )
    return Geometry(proxy.shape, _affine(path, image)[0]), _parts(path, proxy.shape)


def _parts(path: Path, shape: tuple[int, int, int]) -> Iterator[npt.NDArray[np.uint8]]:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            file.read(_DATA_OFFSET)
            for k in range(0, shape[2], _SLAB):
                count = min(_SLAB, shape[2] - k)
                data = file.read(shape[0] * shape[1] * count)
                yield np.frombuffer(data, np.uint8).reshape((*shape[:2], count), order="F")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(path) from error


def write_volume(path: str | Path, volume: Volume) -> tuple[str, ...]:
    """Write a volume as ``.nii`` or ``.nii.gz``, complete or not at all.

    Returns
    -------
    tuple of str
        Warnings: a sheared affine fits no qform and is written as sform alone.

    Raises
    ------
    UsageError
        If the name does not end so, or NIfTI has no such type of numbers.
    OutputError
        If the file cannot be written.
    """
    return _write(Path(path), volume.array, volume.geometry, intent=0)


def write_labels(path: str | Path, labelmap: LabelMap) -> tuple[str, ...]:
    """Write a label map as uint8; otherwise as :func:`write_volume`."""
    return _write(Path(path), labelmap.array, labelmap.geometry, intent=_LABEL_INTENT)


def write_label_table(path: Path, labels: Mapping[int, str]) -> None:
    """Write the names of the values as JSON: ``{"LabelMap": {"1": "right_tibia", ...}, ...}``.

    ``Colors`` has their colours as ``"1": "#8b9dfc"``, those of all pictures.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from seg_core.colours import bone_colours  # which draws; reading a file needs none of that

    colours = bone_colours(labels)
    table = {
        "Description": "Label map: the value of a voxel names the structure; 0 is background",
        "SpatialReference": "orig",
        "LabelMap": {str(value): labels[value] for value in sorted(labels)},
        "Colors": {str(value): "#{:02x}{:02x}{:02x}".format(*colours[value]) for value in sorted(labels)},
    }
    try:
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise output_error(error, path) from error


def read_label_table(path: Path) -> dict[int, str]:
    """Read what :func:`write_label_table` wrote, or another program.

    Returns
    -------
    dict
        Value -> name of the values 1 to 254: 0 is background and 255 what nobody labelled, whatever their
        names, and label maps hold no greater ones.

    Raises
    ------
    ScanError
        If it is not such a table.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["LabelMap"]
        return {int(value): str(name) for value, name in table.items() if 0 < int(value) < IGNORED}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScanError(f"{path.name} is no label table", '{"LabelMap": {"1": "name", ...}}') from error


def names_beside(path: Path) -> dict[int, str] | None:
    """Return the names that the ``.json`` beside a label map gives.

    Returns
    -------
    dict or None
        None where there is no such file, or it is about something else, as BIDS' sidecars are.

    Raises
    ------
    ScanError
        If it is to be a table and is none.
    """
    table = path.with_name(f"{stem(path)}.json")
    if not table.is_file():
        return None
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads(table.read_text(encoding="utf-8"))
        if isinstance(facts, dict) and "LabelMap" not in facts:
            return None
    return read_label_table(table)


def _load(path: Path) -> Any:
    import nibabel

    try:
        image = nibabel.load(path, mmap=False) if path.is_file() else None
    except PermissionError as error:
        raise ScanError(f"no permission to read {path.name}", fix="change the file's permissions") from error
    except Exception as error:  # nibabel raises anything on damaged headers
        raise _damaged(path) from error
    if image is None and path.is_dir():
        raise ScanError(f"{path} is a folder", "a NIfTI file", "name the file in it")
    if image is None:
        raise ScanError(f"{path} is not there", "a NIfTI file", "check the path")
    if not isinstance(image, nibabel.Nifti1Pair):
        raise ScanError(f"{path.name} is a {type(image).__name__}", "NIfTI")
    return image


def _damaged(path: Path) -> ScanError:
    return ScanError(
        f"{path.name} is not NIfTI, or truncated or damaged",
        "a complete NIfTI file",
        "copy or export it again",
    )


def _affine(path: Path, image: Any) -> tuple[FloatArray, tuple[str, ...]]:
    """Return voxel index to RAS+ mm, and what was not clear about it."""
    notes, header = [], image.header
    affine, qform = header.get_sform(coded=True)[0], _qform(header)
    if affine is None:
        _refuse_no_distance(path, image)
    if affine is None and qform is None:
        affine = np.diag([*_zooms(header), 1.0])
        notes.append("the file does not say how it lies in the patient: taken as right, front, head (RAS+)")
    elif affine is None:
        affine = qform
    elif qform is not None and not np.allclose(affine, qform, atol=0.1, equal_nan=True):
        notes.append("sform and qform of the file differ: sform taken")
    if (code := int(header["xyzt_units"]) & 7) in _UNITS:
        unit, millimetres = _UNITS[code]
        affine = np.diag([*[millimetres] * 3, 1.0]) @ affine
        notes.append(f"the file counts in {unit}: converted to mm")
    return np.asarray(affine, dtype=np.float64), tuple(notes)


def _refuse_no_distance(path: Path, image: Any) -> None:
    """Refuse a distance of 0 between voxels, of which nibabel makes 1 mm."""
    holder = image.file_map.get("header", image.file_map["image"])
    with holder.get_prepare_fileobj("rb") as file:
        raw = type(image.header).from_fileobj(file, check=False)
    axes = min(int(raw["dim"][0]), 3)
    if not all(raw["pixdim"][1 : axes + 1] != 0):
        raise GeometryError(
            f"{path.name} gives a distance of 0 mm between voxels",
            "the distance on each axis",
            "convert it anew from DICOM",
        )


def _qform(header: Any) -> FloatArray | None:
    """Return the qform where it is coded and a rotation."""
    try:
        qform: FloatArray | None = header.get_qform(coded=True)[0]
    except ValueError:  # a quaternion longer than 1: nibabel's HeaderDataError
        return None
    return qform


def _zooms(header: Any) -> list[float]:
    zooms = [float(z) for z in header.get_zooms()[:3]]
    return zooms + [1.0] * (3 - len(zooms))


def _array(path: Path, image: Any) -> npt.NDArray[Any]:
    """Return the values (i, j, k), k slowest in memory."""
    proxy = image.dataobj
    if proxy.dtype.kind not in "iuf":
        raise ScanError(
            f"{path.name} holds colour or complex values ({proxy.dtype})", "one grey value a voxel"
        )
    if len(proxy.shape) > 3 and (volumes := int(np.prod(proxy.shape[3:]))) > 1:
        raise ScanError(
            f"{path.name} holds {volumes} volumes (shape {proxy.shape})",
            "one volume",
            "write the wanted volume into a file of its own",
        )
    try:
        stored = _stored(image)
    except MemoryError as error:
        raise MemoryLimitError(f"no memory for {proxy.shape} voxels") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(path) from error
    if 0 in stored.shape:
        raise ScanError(f"{path.name} holds no voxel (shape {proxy.shape})", "an image")
    if proxy.slope != 1.0 or proxy.inter != 0.0:
        stored = _scaled(stored, float(proxy.slope), float(proxy.inter))
    shape = (*stored.shape, 1, 1)[:3]
    native = stored.dtype.newbyteorder("=")
    return np.asarray(stored, dtype=native, order="F").reshape(shape, order="F")


def _stored(image: Any) -> npt.NDArray[Any]:
    """Read the values as they are stored; nibabel holds a compressed file four times meanwhile."""
    from nibabel.openers import ImageOpener

    proxy, header = image.dataobj, image.header
    # Some writers leave the offset 0: nothing lies before the header's end.
    first = max(proxy.offset, header.single_vox_offset if header.is_single else 0)
    stored = np.empty(proxy.shape, proxy.dtype, order="F")
    flat, done = stored.reshape(-1, order="F").view(np.uint8), 0
    with ImageOpener(proxy.file_like) as file:
        file.seek(first)
        while done < len(flat):
            part = np.frombuffer(file.read(min(_CHUNK, len(flat) - done)), np.uint8)
            if not len(part):
                raise EOFError
            flat[done : done + len(part)] = part
            done += len(part)
        while file.read(_CHUNK):  # gzip compares its checksum at the very end
            pass
    return stored


def _scaled(stored: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[Any]:
    """Return stored x slope + intercept in float32, a slice at a time, rounded once."""
    scaled = np.empty(stored.shape, np.float32, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused, in words
        for k in range(stored.shape[-1]):
            scaled[..., k] = stored[..., k] * np.float64(slope) + intercept
    return scaled


def _write(path: Path, array: npt.NDArray[Any], geometry: Geometry, intent: int) -> tuple[str, ...]:
    if not is_nifti(path):
        raise UsageError(f"cannot write {path.name} as NIfTI", "a name that ends in .nii or .nii.gz")
    if array.dtype.name not in _WRITABLE:
        raise UsageError(f"numbers of type {array.dtype}", f"one of {', '.join(_WRITABLE)}")
    header, notes = _header(array, geometry, intent)
    little = array.dtype.newbyteorder("<")
    part = path.with_name(f".{path.name}.part")
    try:
        with _stream(part, compress=path.name.lower().endswith(".gz")) as file:
            file.write(header.binaryblock)
            file.write(b"\0" * (_DATA_OFFSET - len(header.binaryblock)))
            for k in range(0, array.shape[2], _SLAB):
                file.write(np.ascontiguousarray(array[:, :, k : k + _SLAB].T, dtype=little).tobytes())
        os.replace(part, path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return notes


@contextlib.contextmanager
def _stream(path: Path, compress: bool) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Open for writing; compressed without time and name, so that equal content is equal bytes."""
    with path.open("wb") as file:
        if not compress:
            yield file
            return
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            yield packed


def _header(array: npt.NDArray[Any], geometry: Geometry, intent: int) -> tuple[Any, tuple[str, ...]]:
    from nibabel.nifti1 import Nifti1Header

    header = Nifti1Header(endianness="<")
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_xyzt_units("mm")
    header["vox_offset"] = _DATA_OFFSET
    header["magic"] = b"n+1"
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["intent_code"] = intent
    header.set_qform(geometry.affine, code=1, strip_shears=True)
    header.set_sform(geometry.affine, code=1)
    # Near LPS a quaternion in float32 may be off by a third of a millimetre.
    if Geometry(geometry.shape, header.get_qform()).is_close(geometry, min(geometry.voxel_sizes) / 20):
        return header, ()
    header.set_qform(None, code=0)
    return header, ("the affine is sheared or tilted as no qform can say: written as sform alone",)
