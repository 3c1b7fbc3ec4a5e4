"""Pixels of DICOM planes, decoded straight into one array."""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.dicom_headers import PixelFormat, Plane
from seg_core.errors import MemoryLimitError, ScanError

_THREADS = 4
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_LOSSY = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91))


def output_type(planes: Sequence[Plane]) -> np.dtype[Any]:
    """Return the type that holds every value of the planes exactly, from the headers alone.

    uint8, uint16 or int16 where slope and intercept are whole numbers and the range fits, else float32.
    """
    formats = {p.pixels for p in planes}
    if not all(f.slope.is_integer() and f.intercept.is_integer() for f in formats):
        return np.dtype(np.float32)
    ends = [stored * f.slope + f.intercept for f in formats for stored in f.stored_range]
    for candidate in (np.uint8, np.uint16, np.int16):
        if min(ends) >= np.iinfo(candidate).min and max(ends) <= np.iinfo(candidate).max:
            return np.dtype(candidate)
    return np.dtype(np.float32)


def decode(planes: Sequence[Plane]) -> npt.NDArray[Any]:
    """Decode planes: stored values x slope + intercept of each.

    Where the least value is meant to be white (MONOCHROME1, PS3.3 C.7.6.3.1.2), the least and the greatest of
    all planes change places, and so do all between.

    Parameters
    ----------
    planes : sequence of Plane
        Of one kind, in slice order.

    Returns
    -------
    ndarray, (slice, row, column)
        Of ``output_type``. Besides it only a few planes are in memory at any time.

    Raises
    ------
    ScanError
        A truncated file, one without pixels, a compression that cannot be decoded.
    MemoryLimitError
        If the array does not fit into memory.
    """
    kind = planes[0].kind
    shape = (len(planes), kind.rows, kind.columns)
    try:
        array = np.empty(shape, output_type(planes))
    except MemoryError as error:
        raise MemoryLimitError(
            f"no memory for {shape} pixels", fix="use a machine with more memory"
        ) from error
    plain: list[int] = []
    files: dict[Path, list[int]] = defaultdict(list)
    for k, plane in enumerate(planes):
        is_plain = plane.offset is not None and not plane.pixels.is_compressed
        (plain if is_plain else files[plane.path]).append(k)

    def read(first: int) -> None:
        _read_plain(planes, plain[first::_THREADS], array)

    def fill(path: Path) -> None:
        wanted = files[path]
        for k, pixels in zip(wanted, _frames(path, [planes[k] for k in wanted]), strict=True):
            array[k] = _values(pixels, planes[k].pixels, array.dtype)

    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore")  # pydicom's remarks on padding and on values not used here
        for _ in (*pool.map(read, range(_THREADS)), *pool.map(fill, files)):
            pass
    if kind.photometric == "MONOCHROME1":
        ends = np.float64(array.min()) + np.float64(array.max())
        np.subtract(ends, array, out=array, casting="unsafe")
    return array


def _read_plain(planes: Sequence[Plane], wanted: Sequence[int], array: npt.NDArray[Any]) -> None:
    """Read planes whose numbers lie in their files as they are, where they fit straight into the array."""
    buffer = np.empty(array.shape[1:], np.uint16)
    for k in wanted:
        layout = planes[k].pixels
        stored = layout.stored_type
        fits = stored == array.dtype and layout.is_value
        target = array[k] if fits else buffer.reshape(-1).view(stored)[: buffer.size].reshape(buffer.shape)
        _read_numbers(planes[k], target)
        if not fits:
            array[k] = _values(target, layout, array.dtype)


def _read_numbers(plane: Plane, target: npt.NDArray[Any]) -> None:
    try:
        with plane.path.open("rb", buffering=0) as file:
            file.seek(plane.offset or 0)
            count = file.readinto(target.data.cast("B"))
    except PermissionError as error:
        raise ScanError(f"no permission to read {plane.path.name}") from error
    except OSError as error:
        raise _undecodable(plane.path, "uncompressed", error) from error
    if count != target.nbytes:
        raise _undecodable(plane.path, "uncompressed", EOFError())


def _frames(path: Path, planes: Sequence[Plane]) -> Iterator[npt.NDArray[Any]]:
    """Yield the stored values (row, column) of some frames of one file, in the order given."""
    from pydicom.uid import UID

    expected = (planes[0].kind.rows, planes[0].kind.columns)
    quick = planes[0].offset is not None
    frames = map(_only_frame, planes) if quick else _frames_by_pydicom(path, planes)
    for _ in planes:
        try:
            pixels = next(frames)
        except PermissionError as error:
            raise ScanError(f"no permission to read {path.name}") from error
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # decoders raise anything on damaged bytes, Rust's a panic
            raise _undecodable(path, UID(planes[0].pixels.syntax).name, error) from error
        if pixels.shape != expected:
            raise ScanError(f"{path.name} holds {pixels.shape} pixels", f"{expected}, as its header says")
        yield pixels


def _frames_by_pydicom(path: Path, planes: Sequence[Plane]) -> Iterator[npt.NDArray[Any]]:
    """Yield frames of a file of any kind."""
    from pydicom import dcmread
    from pydicom.pixels import iter_pixels
    from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

    syntax = UID(planes[0].pixels.syntax)
    # pydicom looks for a file's pixels without inflating it first
    source = dcmread(path) if syntax == DeflatedExplicitVRLittleEndian else path
    # unused bits are corrected below: pydicom takes the lowest for those stored
    options = {"transfer_syntax_uid": syntax, "correct_unused_bits": False}
    yield from iter_pixels(source, indices=[p.frame for p in planes], raw=True, **options)


def _only_frame(plane: Plane) -> npt.NDArray[Any]:
    """Return the frame of a compressed file whose header needs no second reading."""
    from pydicom.pixels import get_decoder

    with plane.path.open("rb", buffering=0) as file:
        file.seek(plane.offset or 0)
        content = file.read()
    if not _is_whole(content):
        return next(_frames_by_pydicom(plane.path, [plane]))
    layout = plane.pixels
    pixels = _jpeg_2000(content, plane) if layout.syntax in _JPEG_2000 else None
    if pixels is None:
        pixels, _ = get_decoder(layout.syntax).as_array(
            content,
            raw=True,
            rows=plane.kind.rows,
            columns=plane.kind.columns,
            samples_per_pixel=1,
            bits_allocated=layout.allocated,
            bits_stored=layout.stored,
            number_of_frames=1,
            pixel_representation=int(layout.signed),
            photometric_interpretation=plane.kind.photometric,
            pixel_keyword="PixelData",
            correct_unused_bits=False,
        )
    return pixels


def _is_whole(content: bytes) -> bool:
    """Whether a table of no offset but 0 begins, and fragments follow up to the end of their sequence."""
    at, first = 0, int.from_bytes(content[4:8], "little")
    if first not in (0, 4) or any(content[8 : 8 + first]):
        return False
    while content[at : at + 4] == b"\xfe\xff\x00\xe0":
        at += 8 + int.from_bytes(content[at + 4 : at + 8], "little")
    return content[at : at + 8] == b"\xfe\xff\xdd\xe0\0\0\0\0"


def _jpeg_2000(content: bytes, plane: Plane) -> npt.NDArray[Any] | None:
    """Decode without holding the interpreter, so that several threads can; None where that is pydicom's.

    imagecodecs is not needed: pydicom's decoder gives the same of what it can read, a frame after the other.
    """
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import get_j2k_parameters

    try:
        from imagecodecs import jpeg2k_decode
    except ImportError:
        return None
    frame = get_frame(content, 0, number_of_frames=1)
    said = get_j2k_parameters(frame)
    layout = plane.pixels
    if (said.get("precision"), said.get("is_signed")) != (layout.stored, layout.signed):
        return None  # which of the two counts is pydicom's to know
    pixels: npt.NDArray[Any] = jpeg2k_decode(frame)
    as_said = pixels.dtype == layout.stored_type and pixels.shape == (plane.kind.rows, plane.kind.columns)
    return pixels if as_said else None


def _undecodable(path: Path, syntax: str, error: BaseException) -> ScanError:
    if isinstance(error, AttributeError) and "no pixel data" in str(error):
        return ScanError(f"{path.name} has no pixel data", "an image", "export the series again")
    if isinstance(error, (NotImplementedError, ImportError)) or "missing dependencies" in str(error):
        return ScanError(
            f"{path.name} is compressed as {syntax}, which cannot be decoded here",
            "uncompressed, RLE, JPEG, JPEG lossless, JPEG-LS or JPEG 2000",
            "export the series uncompressed",
        )
    return ScanError(
        f"the pixels of {path.name} ({syntax}) are truncated or damaged",
        "a complete file",
        "copy it again or export it anew",
    )


def _values(pixels: npt.NDArray[Any], layout: PixelFormat, output: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the values of stored pixels; bits outside those stored (old overlays) do not count."""
    if layout.stored < layout.allocated and layout.syntax in _LOSSY and not layout.signed:
        pixels = np.minimum(pixels, layout.stored_range[1])  # a decoder may overshoot: 4098 of 12 bits
    elif layout.stored < layout.allocated:
        wide = pixels.dtype.itemsize * 8
        pixels = np.left_shift(pixels, wide - 1 - layout.high_bit)
        pixels = np.right_shift(pixels, wide - layout.stored)  # arithmetic on signed types
    if layout.slope == 1.0 and layout.intercept == 0.0:
        return pixels
    # float64 holds 16-bit numbers, slope and intercept; the result is rounded once
    return (pixels * np.float64(layout.slope) + layout.intercept).astype(output)
