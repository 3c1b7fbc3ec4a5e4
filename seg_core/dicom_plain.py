"""Headers of plain DICOM files, many times sooner than pydicom: most of a series is read by this.

Plain is a little endian file of one grey frame with 8 or 16 bits a pixel, compressed or not, whose elements
are as PS3.5 wants them. Whatever is not, or looks odd in any way, is left to pydicom (``dicom_headers``), so
that this reader needs no opinion on damaged files; what it does return equals what pydicom would have given.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from struct import Struct, error
from types import MappingProxyType

from seg_core.dicom_headers import UNCOMPRESSED, Kind, PixelFormat, Plane

_IMPLICIT, _EXPLICIT = (uid.encode() for uid in UNCOMPRESSED)
_COMPRESSED = re.compile(rb"1\.2\.840\.10008\.1\.2\.(5|4\.(50|51|57|70|80|81|90|91))")
"""RLE, JPEG, JPEG-LS and JPEG 2000; the elements of all are explicit."""
_PIXEL_DATA, _FIRST_PIXEL_TAG = 0x7FE00010, 0x7FE00001
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARACTER_SET, _FRAMES, _SAMPLES = 0x00080005, 0x00280008, 0x00280002
_SHARED_GROUPS, _FRAME_GROUPS = 0x52009229, 0x52009230
_UNDEFINED = 0xFFFFFFFF
_HEADS = (1 << 14, 1 << 20)
"""Bytes of a file that are read at first, and where the header is longer."""
_DEPTH = 16
"""Sequences within sequences that are followed."""

_US, _IS, _DS, _CS, _LO, _UI, _SQ = b"US", b"IS", b"DS", b"CS", b"LO", b"UI", b"SQ"
_WANTED: Mapping[int, bytes] = MappingProxyType(
    {
        _CHARACTER_SET: _CS,
        0x00080008: _CS,  # Image Type
        0x00080018: _UI,  # SOP Instance UID
        0x00080060: _CS,  # Modality
        0x0008103E: _LO,  # Series Description
        0x00180050: _DS,  # Slice Thickness
        0x00180081: _DS,  # Echo Time
        0x00180086: _IS,  # Echo Numbers
        0x00181030: _LO,  # Protocol Name
        0x0020000E: _UI,  # Series Instance UID
        0x00200011: _IS,  # Series Number
        0x00200013: _IS,  # Instance Number
        0x00200032: _DS,  # Image Position (Patient)
        0x00200037: _DS,  # Image Orientation (Patient)
        0x00200060: _CS,  # Laterality
        0x00200062: _CS,  # Image Laterality
        0x00200100: _IS,  # Temporal Position Identifier
        _SAMPLES: _US,
        0x00280004: _CS,  # Photometric Interpretation
        _FRAMES: _IS,
        0x00280010: _US,  # Rows
        0x00280011: _US,  # Columns
        0x00280030: _DS,  # Pixel Spacing
        0x00280100: _US,  # Bits Allocated
        0x00280101: _US,  # Bits Stored
        0x00280102: _US,  # High Bit
        0x00280103: _US,  # Pixel Representation
        0x00281052: _DS,  # Rescale Intercept
        0x00281053: _DS,  # Rescale Slope
        _SHARED_GROUPS: _SQ,
        _FRAME_GROUPS: _SQ,
    }
)
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_NUMBER = re.compile(rb"[+-]?\d{1,16}(\.\d{0,16})?([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(rb"[+-]?\d{1,9}", re.ASCII)
_UID = re.compile(r"[0-9.]+")
_TEXT = re.compile(rb"[ -~]*")
# These hold ASCII's letters where ASCII has them.
_SINGLE_BYTE = re.compile(rb"(ISO_IR (6|100|101|109|110|126|127|138|144|148|166|192))?")

_element = Struct("<HH2sH").unpack_from
_implicit_element = Struct("<HHL").unpack_from
_long = Struct("<L").unpack_from
_short = Struct("<H").unpack


class _NotPlainError(Exception):
    """The file is pydicom's."""


def read_plain(path: Path) -> Plane | None:
    """Read the one plane of a plain file.

    Returns
    -------
    Plane or None
        With ``offset``, where its pixels begin; None where the file is not plain, damaged or not readable.
    """
    try:
        with path.open("rb", buffering=0) as file:
            size = file.seek(0, 2)
            for length in _HEADS:
                file.seek(0)
                head = file.read(length)
                try:
                    return _plane(path, head, size)
                except error:  # the header is longer than what was read of it
                    if len(head) == size:
                        return None
    except (_NotPlainError, OSError):
        pass
    return None


def _plane(path: Path, head: bytes, size: int) -> Plane:
    syntax, start = _file_meta(head)
    values, offset, length = _dataset(head, start, syntax != _IMPLICIT)
    plane = _Header(values).plane(path, syntax.decode(), offset)
    if plane.pixels.is_compressed:
        _need(length == _UNDEFINED and _tag(head, offset) == _ITEM)
    else:
        pixel_bytes = plane.kind.rows * plane.kind.columns * plane.pixels.allocated // 8
        _need(length != _UNDEFINED)
        _need(pixel_bytes <= min(length, size - offset) <= pixel_bytes + pixel_bytes % 2)
    return plane


def _need(condition: bool) -> None:
    if not condition:
        raise _NotPlainError


def _file_meta(head: bytes) -> tuple[bytes, int]:
    """Return the transfer syntax, and where the dataset begins."""
    _need(head[128:140] == b"DICM\2\0\0\0UL\4\0")
    at, end, tag, syntax = 144, 144 + _long(head, 140)[0], 0x00020000, b""
    while at < end:
        previous, (tag, vr, length, at) = tag, _next(head, at, True)
        _need(previous < tag < 0x00030000 and length <= end - at)
        if tag == 0x00020010:
            _need(vr == _UI)
            syntax = head[at : at + length].rstrip(b"\0 ")
        at += length
    _need(syntax in (_IMPLICIT, _EXPLICIT) or _COMPRESSED.fullmatch(syntax) is not None)
    return syntax, at


def _next(head: bytes, at: int, explicit: bool) -> tuple[int, bytes, int, int]:
    """Return tag, VR (none of implicit ones), length and where the value begins of the element at a place."""
    if not explicit:
        group, number, length = _implicit_element(head, at)
        return group << 16 | number, b"", length, at + 8
    group, number, vr, length = _element(head, at)
    if vr in _SHORT:
        return group << 16 | number, vr, length, at + 8
    if vr in _LONG:
        return group << 16 | number, vr, _long(head, at + 8)[0], at + 12
    raise _NotPlainError


def _dataset(head: bytes, at: int, explicit: bool) -> tuple[dict[int, bytes], int, int]:
    """Return the values that are wanted, where the pixels begin and how many bytes they are."""
    if not explicit:  # pydicom would take this for explicit ones
        _need(not (0x40 < head[at + 4] < 0x5B and 0x40 < head[at + 5] < 0x5B))
    values: dict[int, bytes] = {}
    tag = 0x0007FFFF
    while True:
        previous = tag
        tag, vr, length, at = _next(head, at, explicit)
        if tag <= previous:
            raise _NotPlainError
        if tag >= _FIRST_PIXEL_TAG:
            break
        if length == _UNDEFINED:
            _need(tag not in _WANTED and _is_sequence(head, at, tag, vr))
            at = _end_of_sequence(head, at, explicit, _DEPTH)
            continue
        if tag in _WANTED:
            _need(vr in (b"", _WANTED[tag]))
            values[tag] = _value(head, at, length)
        at += length
    _need(tag == _PIXEL_DATA and vr in (b"", b"OB", b"OW"))
    return values, at, length


def _value(head: bytes, at: int, length: int) -> bytes:
    if at + length > len(head):
        raise error
    return head[at : at + length]


def _is_sequence(head: bytes, at: int, tag: int, vr: bytes) -> bool:
    """Whether an element of undefined length is a sequence, as pydicom sees it."""
    if vr:
        return vr == _SQ
    from pydicom.datadict import dictionary_VR

    try:
        return bool(dictionary_VR(tag) == "SQ")
    except KeyError:  # a private one
        return _tag(head, at) == _ITEM


def _tag(head: bytes, at: int) -> int:
    group, number, _ = _implicit_element(head, at)
    return int(group << 16 | number)


def _end_of_sequence(head: bytes, at: int, explicit: bool, depth: int) -> int:
    """Return the place after a sequence of undefined length, whose items are well formed."""
    _need(depth > 0)
    while True:
        tag, length, at = _tag(head, at), _long(head, at + 4)[0], at + 8
        if tag == _SEQUENCE_END:
            _need(length == 0)
            return at
        _need(tag == _ITEM)
        end = None if length == _UNDEFINED else at + length
        while at != end:
            if _tag(head, at) == _ITEM_END:
                _need(end is None and _long(head, at + 4)[0] == 0)
                at += 8
                break
            tag, vr, length, at = _next(head, at, explicit)
            if length == _UNDEFINED:
                _need(_is_sequence(head, at, tag, vr))
                at = _end_of_sequence(head, at, explicit, depth - 1)
            else:
                _need(tag != _CHARACTER_SET and (end is None or at + length <= end))
                at += length


class _Header:
    """Values by their tag, as bytes; one that has no bytes counts as absent."""

    def __init__(self, values: dict[int, bytes]) -> None:
        self._values = values

    def plane(self, path: Path, syntax: str, offset: int) -> Plane:
        _need(_SHARED_GROUPS not in self._values and _FRAME_GROUPS not in self._values)
        _need(_SINGLE_BYTE.fullmatch(self._bytes(_CHARACTER_SET)) is not None)
        _need(self._whole(_FRAMES) in (None, 1) and self._count(_SAMPLES) == 1)
        kind, pixels = self._kind(), self._pixels(syntax)
        _need(kind.rows > 0 and kind.columns > 0)
        laterality = self._text(0x00200062) or self._text(0x00200060)
        return Plane(
            path=path,
            frame=0,
            kind=kind,
            pixels=pixels,
            position=self._numbers(0x00200032, 3),
            orientation=self._numbers(0x00200037, 6),
            spacing=self._numbers(0x00280030, 2),
            thickness=self._number(0x00180050),
            order=(self._whole(0x00200100) or 0, self._whole(0x00200013) or 0),
            instance=self._uid(0x00080018),
            echo_time=self._number(0x00180081),
            laterality=laterality if laterality in ("R", "L") else None,
            offset=offset,
        )

    def _kind(self) -> Kind:
        image_type, photometric = self._text(0x00080008, several=True), self._text(0x00280004)
        _need(photometric.startswith("MONOCHROME"))
        return Kind(
            uid=self._uid(0x0020000E),
            series_number=self._whole(0x00200011) or 0,
            description=(self._text(0x0008103E) or self._text(0x00181030)).strip(),
            modality=self._text(0x00080060),
            image_type=tuple(image_type.split("\\")) if image_type else (),
            rows=self._count(0x00280010),
            columns=self._count(0x00280011),
            echo=self._whole(0x00180086),
            photometric=photometric,
        )

    def _pixels(self, syntax: str) -> PixelFormat:
        allocated, stored = self._count(0x00280100), self._count(0x00280101)
        high_bit, signed = self._count(0x00280102), self._count(0x00280103)
        _need(allocated in (8, 16) and 8 <= stored == high_bit + 1 <= allocated and signed in (0, 1))
        slope, intercept = self._number(0x00281053), self._number(0x00281052)
        return PixelFormat(
            allocated=allocated,
            stored=stored,
            high_bit=high_bit,
            signed=bool(signed),
            slope=1.0 if slope is None else slope,
            intercept=0.0 if intercept is None else intercept,
            syntax=syntax,
        )

    def _bytes(self, tag: int) -> bytes:
        value = self._values.get(tag, b"")
        stripped = value.rstrip(b"\0 ")
        _need(bool(stripped) or not value)  # nothing but padding
        return stripped

    def _text(self, tag: int, several: bool = False) -> str:
        value = self._values.get(tag, b"").rstrip(b"\0 ")
        _need(_TEXT.fullmatch(value) is not None and (several or b"\\" not in value))
        return value.decode("ascii")

    def _uid(self, tag: int) -> str:
        value = self._text(tag)
        _need(_UID.fullmatch(value) is not None)
        return value

    def _count(self, tag: int) -> int:
        value = self._values.get(tag, b"")
        _need(len(value) == 2)
        return int(_short(value)[0])

    def _whole(self, tag: int) -> int | None:
        value = self._bytes(tag)
        _need(not value or _WHOLE.fullmatch(value) is not None)
        return int(value) if value else None

    def _number(self, tag: int) -> float | None:
        numbers = self._numbers(tag, 1)
        return None if numbers is None else numbers[0]

    def _numbers(self, tag: int, count: int) -> tuple[float, ...] | None:
        value = self._bytes(tag)
        if not value:
            return None
        parts = value.split(b"\\")
        _need(len(parts) == count and all(map(_NUMBER.fullmatch, parts)))
        return tuple(map(float, parts))
