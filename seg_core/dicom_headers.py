"""Headers of DICOM images, one record a slice, without pixels and without anything about the patient.

Coordinates here are DICOM's own, LPS+ millimetres; ``dicom_stack`` turns them into RAS+.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seg_core.errors import ScanError

_PLAIN_TAGS = [
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesDescription",
    "ProtocolName",
    "SliceThickness",
    "EchoTime",
    "EchoNumbers",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Laterality",
    "ImageLaterality",
    "TemporalPositionIdentifier",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
UNCOMPRESSED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
"""Transfer syntaxes, both little endian: implicit, explicit."""
_STANDARD_UIDS = "1.2.840.10008."
# without preamble the first element is (0002,0000), (0008,0000), (0008,0005) or (0008,0008)
_BARE_STARTS = (b"\2\0\0\0", b"\x08\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0")


@dataclass(frozen=True)
class Kind:
    """What the slices of one stack have in common; planes of different kinds never share a stack."""

    uid: str
    series_number: int
    description: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    echo: int | None
    photometric: str


@dataclass(frozen=True)
class PixelFormat:
    """How a slice's numbers are stored, and what they mean.

    Parameters
    ----------
    allocated, stored, high_bit : int
        Bits of a pixel, how many of them count, and the highest of these.
    signed : bool
        Two's complement.
    slope, intercept : float
        Value = stored value x slope + intercept.
    syntax : str
        The transfer syntax's UID.
    """

    allocated: int
    stored: int
    high_bit: int
    signed: bool
    slope: float
    intercept: float
    syntax: str

    @property
    def stored_range(self) -> tuple[int, int]:
        """Least and greatest number that can be stored."""
        half = 1 << (self.stored - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    @property
    def stored_type(self) -> np.dtype[Any]:
        """Type of the stored numbers, little endian."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.allocated // 8}")

    @property
    def is_compressed(self) -> bool:
        """Whether pixels are anything but numbers, one after another, little endian."""
        return self.syntax not in UNCOMPRESSED

    @property
    def is_value(self) -> bool:
        """Whether what is stored is the value itself."""
        return self.stored == self.allocated and self.slope == 1.0 and self.intercept == 0.0


@dataclass(frozen=True)
class Plane:
    """One image plane: a file, or a frame of a multi-frame file.

    Parameters
    ----------
    path : Path
        The file.
    frame : int
        0-based index of the frame in it.
    kind : Kind
        What it shares with its stack.
    pixels : PixelFormat
        How its numbers are stored.
    position : tuple of float or None
        Centre of the first pixel, LPS+ mm.
    orientation : tuple of float or None
        Direction of increasing column, then of increasing row, LPS+ (6 numbers).
    spacing : tuple of float or None
        Distance between rows, then between columns, in mm.
    thickness : float or None
        Slice thickness in mm.
    order : tuple of int
        Temporal position and instance number: tells planes at one place apart.
    instance : str
        SOP instance UID.
    echo_time : float or None
        In ms.
    laterality : str or None
        ``"R"`` or ``"L"``.
    offset : int or None
        Where its pixels, compressed or not, begin in the file, if the quick reader found them.
    """

    path: Path
    frame: int
    kind: Kind
    pixels: PixelFormat
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    order: tuple[int, int]
    instance: str
    echo_time: float | None
    laterality: str | None
    offset: int | None = None


def read_planes(path: Path) -> list[Plane] | None:
    """Read the planes that a file holds.

    Returns
    -------
    list of Plane or None
        One a frame; None when the file is not DICOM, or DICOM that holds no image.

    Raises
    ------
    ScanError
        If the file cannot be opened, or is DICOM and damaged.
    """
    try:
        dataset = read_dataset(path)
    except PermissionError as error:
        raise ScanError(f"no permission to read {path.name}", fix="change the file's permissions") from error
    except OSError as error:
        raise ScanError(f"cannot read {path.name}: {error.strerror or error}") from error
    if dataset is None:
        return None
    try:
        if "Rows" in dataset and "Columns" in dataset:
            return list(_planes(path, dataset))
        meant = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    except ScanError:
        raise
    except Exception as error:  # pydicom decodes lazily and raises anything on damaged bytes
        raise _damaged(path, type(error).__name__) from error
    # without preamble and class it may be anything
    if _is_image_class(str(meant)) if meant else dataset.preamble:
        raise _damaged(path, "no Rows and Columns")
    return None


def _is_image_class(uid: str) -> bool:
    """Whether a SOP class is one of images; also when it is a standard one cut short."""
    from pydicom.uid import UID

    name = UID(uid).name
    cut = name == uid and (uid.startswith(_STANDARD_UIDS) or _STANDARD_UIDS.startswith(uid))
    return cut or "Image Storage" in name


def read_dataset(path: Path) -> Any:
    """Return the header as a pydicom Dataset, or None when the file is not DICOM.

    Files without preamble are taken when they begin as DICOM does.
    """
    import pydicom

    with path.open("rb") as file:
        start = file.read(132)
        bare = start[:4] in _BARE_STARTS
        if start[128:] != b"DICM" and not bare:
            return None
        file.seek(0)
        try:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=bare, specific_tags=_PLAIN_TAGS)
        except OSError:
            raise
        except Exception as error:  # pydicom raises anything on damaged bytes
            raise _damaged(path, type(error).__name__) from error
    return dataset


def _damaged(path: Path, why: str) -> ScanError:
    return ScanError(
        f"{path.name} is a damaged DICOM file ({why})", "a complete file", "copy it again or export it anew"
    )


def _planes(path: Path, dataset: Any) -> Iterator[Plane]:
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    frames = int(dataset.get("NumberOfFrames") or 1)
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    if groups is not None and len(groups) != frames:
        raise _damaged(path, f"{frames} frames, but headers of {len(groups)}")
    for frame in range(frames):
        sources = [dataset] if groups is None else [*_items(groups[frame]), *_items(shared), dataset]
        yield _plane(path, frame, dataset, sources)


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _items(group: Any) -> Iterable[Any]:
    """Yield the first item of every functional group: PlanePositionSequence, PixelMeasuresSequence, ..."""
    for element in group if group is not None else ():
        if element.VR == "SQ" and element.value:
            yield element.value[0]


def _plane(path: Path, frame: int, dataset: Any, sources: list[Any]) -> Plane:
    def find(*names: str) -> Any:
        for name in names:
            for source in sources:
                value = source.get(name)
                if value not in (None, ""):
                    return value
        return None

    kind = Kind(
        uid=str(dataset.get("SeriesInstanceUID", "")),
        series_number=int(dataset.get("SeriesNumber") or 0),
        description=str(dataset.get("SeriesDescription") or dataset.get("ProtocolName") or "").strip(),
        modality=str(dataset.get("Modality") or ""),
        image_type=_strings(find("FrameType", "ImageType")),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        echo=_first_int(find("EchoNumbers")),
        photometric=str(dataset.get("PhotometricInterpretation") or "MONOCHROME2"),
    )
    temporal = _first_int(find("TemporalPositionIndex", "TemporalPositionIdentifier")) or 0
    return Plane(
        path=path,
        frame=frame,
        kind=kind,
        pixels=_pixel_format(dataset, find),
        position=_floats(find("ImagePositionPatient"), 3),
        orientation=_floats(find("ImageOrientationPatient"), 6),
        spacing=_floats(find("PixelSpacing"), 2),
        thickness=_float(find("SliceThickness")),
        order=(temporal, int(dataset.get("InstanceNumber") or 0)),
        instance=str(dataset.get("SOPInstanceUID", "")),
        echo_time=_float(find("EffectiveEchoTime", "EchoTime")),
        laterality=_side(find("FrameLaterality", "ImageLaterality", "Laterality")),
    )


def _pixel_format(dataset: Any, find: Any) -> PixelFormat:
    allocated = int(dataset.get("BitsAllocated") or 0)
    stored = int(dataset.get("BitsStored") or allocated)
    slope, intercept = _float(find("RescaleSlope")), _float(find("RescaleIntercept"))
    return PixelFormat(
        allocated=allocated,
        stored=stored,
        high_bit=int(dataset.get("HighBit", stored - 1)),
        signed=bool(dataset.get("PixelRepresentation") or 0),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        syntax=str(dataset.file_meta.get("TransferSyntaxUID") or _bare_syntax(dataset)),
    )


def _bare_syntax(dataset: Any) -> str:
    """Return the syntax of a file without preamble, as pydicom guessed it."""
    implicit, explicit = UNCOMPRESSED
    return implicit if dataset.original_encoding[0] else explicit


def _strings(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(v) for v in value)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _floats(value: Any, count: int) -> tuple[float, ...] | None:
    return tuple(float(v) for v in value) if value is not None and len(value) == count else None


def _first_int(value: Any) -> int | None:
    if value is None:
        return None
    return int(value if isinstance(value, (int, str)) else next(iter(value), 0))


def _side(value: Any) -> str | None:
    return value if value in ("R", "L") else None
