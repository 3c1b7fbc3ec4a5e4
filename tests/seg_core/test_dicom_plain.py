"""The quick reader gives what pydicom gives, or leaves the file to it."""

import sys
import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecodecs import jpeg2k_encode
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from seg_core.dicom import find_series, read_series
from seg_core.dicom_headers import read_planes
from seg_core.dicom_pixels import decode
from seg_core.dicom_plain import read_plain
from seg_core.errors import LlsError, ScanError
from seg_core.geometry import Geometry, Volume
from trainers.dicom_writer import SeriesInfo, write_series

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom"
PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
COMPRESSED = [RLELossless, JPEG2000Lossless]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The bytes of a small plain file."""
    array = np.random.default_rng(0).integers(-900, 900, (5, 3, 1)).astype(np.int16)
    volume = Volume(array, Geometry(array.shape, np.diag([-1.5, -1.25, 3.0, 1.0])))
    (path,) = write_series(tmp_path_factory.mktemp("sample"), volume, SeriesInfo("seed"))
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plain")


def encoded(sample, syntax=ExplicitVRLittleEndian, change=None):
    dataset = pydicom.dcmread(BytesIO(sample))
    dataset.remove_private_tags()
    if change:
        change(dataset)
    out = BytesIO()
    if syntax == RLELossless:
        # gdcm, where it is installed, may end the whole process
        dataset.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        dataset.save_as(out)
    elif syntax == JPEG2000Lossless:  # pydicom encodes no image as small as this
        options = {"level": 0, "reversible": True, "codecformat": "J2K", "resolutions": 1}
        dataset.PixelData = encapsulate([bytes(jpeg2k_encode(dataset.pixel_array, **options))])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(out)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        pydicom.dcmwrite(out, dataset)
    return out.getvalue()


def quick(folder, content):
    path = folder / "file"
    path.write_bytes(content)
    return path, read_plain(path)


def agrees(folder, content):
    """Whether the quick reader takes these bytes; then pydicom must give the same."""
    path, plane = quick(folder, content)
    if plane is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = read_planes(path)
    assert expected == [replace(plane, offset=None)]
    assert plane.offset is not None
    ours, theirs = pixels_or_error([plane]), pixels_or_error(expected)
    if isinstance(ours, ScanError) and plane.pixels.syntax == JPEG2000Lossless:
        return True  # the quick decoder refuses more of what is damaged
    assert type(ours) is type(theirs)
    if isinstance(theirs, ScanError):
        assert str(ours) == str(theirs)
    else:
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    return True


def pixels_or_error(planes):
    """Return what is decoded, or the error for compressed pixels that are damaged."""
    try:
        return decode(planes)
    except ScanError as error:
        assert planes[0].pixels.is_compressed
        return error


def items(undefined, inner):
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    item.PurposeOfReferenceCodeSequence = inner
    item.is_undefined_length_sequence_item = undefined
    sequence = Sequence([item, Dataset()])
    sequence.is_undefined_length = undefined
    return sequence


def add_sequences(dataset, undefined=True):
    dataset.ReferencedImageSequence = items(undefined, items(undefined, Sequence()))
    dataset["ReferencedImageSequence"].is_undefined_length = undefined
    block = dataset.private_block(0x0019, "LLS", create=True)
    block.add_new(1, "SQ", items(undefined, Sequence()))
    block[1].is_undefined_length = undefined
    block.add_new(2, "UN", b"\1\2\3\4")
    block.add_new(3, "OB", b"x" * 300)


@pytest.mark.parametrize("syntax", [*PLAIN, *COMPRESSED])
@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_and_private_tags(folder, sample, syntax, undefined):
    assert agrees(folder, encoded(sample, syntax, lambda d: add_sequences(d, undefined)))


@pytest.mark.parametrize("syntax", PLAIN)
def test_headers_longer_than_what_is_read_at_first(folder, sample, syntax):
    def lengthen(size):
        return lambda d: d.private_block(0x0029, "LLS", create=True).add_new(1, "OB", bytes(size))

    assert agrees(folder, encoded(sample, syntax, lengthen(100_000)))
    assert not agrees(folder, encoded(sample, syntax, lengthen(2_000_000)))


@pytest.mark.parametrize(
    "values",
    [
        {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "PixelData": bytes(16)},
        {"BitsStored": 12, "HighBit": 11},
        {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0},
        {"RescaleSlope": "0.5", "RescaleIntercept": "-3"},
        {"RescaleSlope": "2", "RescaleIntercept": None, "PixelRepresentation": 0},
        {"NumberOfFrames": 1, "TemporalPositionIdentifier": 3, "SpecificCharacterSet": "ISO_IR 100"},
        {"ImageType": "ORIGINAL", "SeriesDescription": None, "EchoTime": None, "EchoNumbers": None},
        {"SeriesDescription": "", "Laterality": "L", "ImageLaterality": ""},
        {"ImagePositionPatient": None, "PixelSpacing": None, "InstanceNumber": None, "SliceThickness": ""},
        {"SpecificCharacterSet": None, "SeriesDescription": "  knee, left", "Modality": ""},
    ],
)
@pytest.mark.parametrize("syntax", [*PLAIN, *COMPRESSED])
def test_what_plain_files_may_say(folder, sample, syntax, values):
    def change(dataset):
        for name, value in values.items():
            if value is None:
                dataset.pop(name, None)
            else:
                setattr(dataset, name, value)

    assert agrees(folder, encoded(sample, syntax, change))


@pytest.mark.parametrize(
    "values",
    [
        {"NumberOfFrames": 2, "PixelData": bytes(60)},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
        {"SeriesDescription": "Fibula, kräftig"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"]},
        {"EchoTime": ["1.5", "3"]},
        {"ImagePositionPatient": ["1", "2"]},
        {"BitsStored": 12, "HighBit": 13},
        {"PixelData": bytes(28)},
        {"PixelData": bytes(32)},
        {"PixelData": None},
        {"Rows": None},
        {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31, "PixelData": bytes(60)},
        {"SharedFunctionalGroupsSequence": [Dataset()]},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_left_to_pydicom(folder, sample, values):
    def change(dataset):
        dataset.SpecificCharacterSet = "ISO_IR 192"
        for name, value in values.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)

    assert quick(folder, encoded(sample, change=change))[1] is None


@pytest.mark.parametrize("syntax", COMPRESSED)
@pytest.mark.parametrize(
    "values", [{"BitsStored": 12, "HighBit": 11}, {"PixelRepresentation": 0}, {"Rows": 2}]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_header_that_contradicts_its_compressed_pixels(folder, sample, syntax, values):
    dataset, out = pydicom.dcmread(BytesIO(encoded(sample, syntax))), BytesIO()
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.save_as(out)
    assert agrees(folder, out.getvalue())


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_compressed_pixels_in_several_fragments(folder, sample, syntax):
    dataset, out = pydicom.dcmread(BytesIO(encoded(sample, syntax))), BytesIO()
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=3)
    dataset.save_as(out)
    assert agrees(folder, out.getvalue())


def test_jpeg_2000_without_imagecodecs(folder, sample, monkeypatch):
    plane = quick(folder, encoded(sample, JPEG2000Lossless))[1]
    with_it = decode([plane])
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert np.array_equal(decode([plane]), with_it)
    assert np.array_equal(with_it, decode([quick(folder, sample)[1]]))


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings_are_left_to_pydicom(folder, sample, syntax):
    path, plane = quick(folder, encoded(sample, syntax))
    assert plane is None
    assert np.array_equal(decode(read_planes(path))[0], decode([quick(folder, sample)[1]])[0])


def test_no_file_and_no_dicom(folder, sample):
    assert read_plain(folder / "none") is None
    assert quick(folder, b"")[1] is None
    assert quick(folder, sample[132:])[1] is None


def test_every_truncated_file_is_left_to_pydicom(folder, sample):
    assert agrees(folder, sample)
    assert [n for n in range(len(sample)) if quick(folder, sample[:n])[1] is not None] == []


TEXT = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=12)
NUMBERS = st.one_of(st.from_regex(r"\A ?[+-]?[0-9]{1,3}(\.[0-9]{0,3})?(e[+-]?[0-9])? ?\Z"), TEXT)
ELEMENTS = """
    00080005CS 00080008CS 00080018UI 00080060CS 0008103eLO 00180050DS 00180081DS 00180086IS 00181030LO
    0020000eUI 00200011IS 00200013IS 00200032DS 00200060CS 00200062CS 00200100IS 00280004CS 00280008IS
    00280030DS 00280101US 00281052DS 00281053DS
"""
VALUES = st.dictionaries(
    st.sampled_from([(int(name[:4], 16), int(name[4:8], 16), name[8:]) for name in ELEMENTS.split()]),
    st.one_of(TEXT, NUMBERS, st.lists(NUMBERS, min_size=1, max_size=3).map("\\".join)),
    max_size=4,
)


def _bytes(value):
    return value if isinstance(value, bytes) else value.encode()


def with_values(sample, values, implicit):
    """Return the file with raw values in place of its own, whatever they are."""
    dataset = pydicom.dcmread(BytesIO(sample))
    head, body = sample[: sample.index(b"\x08\0\5\0CS")], BytesIO()
    items = [dataset.get_item(tag) for tag in dataset.keys()]  # noqa: SIM118 (elements would be decoded)
    raw = {(item.tag.group, item.tag.elem): (item.VR, _bytes(item.value)) for item in items}
    raw |= {(group, number): (vr, value.encode("latin-1")) for (group, number, vr), value in values.items()}
    for (group, number), (vr, value) in sorted(raw.items()):
        tag = group.to_bytes(2, "little") + number.to_bytes(2, "little")
        if implicit:
            body.write(tag + len(value).to_bytes(4, "little") + value)
        elif vr in ("OW", "OB", "SQ", "UN"):
            body.write(tag + vr.encode() + b"\0\0" + len(value).to_bytes(4, "little") + value)
        else:
            body.write(tag + vr.encode() + len(value).to_bytes(2, "little") + value)
    if implicit:
        at = head.index(b"1.2.840.10008.1.2.1\0")
        head = head[:at] + b"1.2.840.10008.1.2\0\0\0" + head[at + 20 :]
    return head + body.getvalue()


@settings(deadline=None, max_examples=200)
@given(values=VALUES, implicit=st.booleans())
def test_any_value_is_read_as_pydicom_reads_it(folder, sample, values, implicit):
    agrees(folder, with_values(sample, values, implicit))


def test_rewriting_values_leaves_the_file_plain(folder, sample):
    assert with_values(sample, {}, False) == sample
    assert agrees(folder, with_values(sample, {}, True))


@settings(deadline=None, max_examples=200)
@given(data=st.data(), syntax=st.sampled_from([*PLAIN, *COMPRESSED]))
def test_damaged_bytes_are_read_as_pydicom_reads_them(folder, sample, data, syntax):
    content = bytearray(encoded(sample, syntax, add_sequences))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(128, len(content) - 1))
        new = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"UN", b"SQ"]))
        )
        content[at : at + data.draw(st.sampled_from([len(new), 0, 1, 2]))] = new
    agrees(folder, bytes(content))


@pytest.mark.parametrize(("syntax", "at", "new"), [(RLELossless, -44, 0), (JPEG2000Lossless, -113, 255)])
def test_what_makes_a_decoder_panic_is_a_scan_error(folder, sample, syntax, at, new):
    content = bytearray(encoded(sample, syntax))
    content[at] = new
    assert agrees(folder, bytes(content))
    _, plane = quick(folder, bytes(content))
    with pytest.raises(ScanError):
        decode([plane])


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path, sample):
    path, plane = quick(tmp_path, sample)
    path.write_bytes(sample[:-1])
    with pytest.raises(ScanError, match="truncated"):
        decode([plane])
    path.unlink()
    with pytest.raises(LlsError):
        decode([plane])


def test_plain_and_other_files_in_one_series(tmp_path):
    array = np.random.default_rng(0).integers(0, 900, (6, 5, 9)).astype(np.int16)
    volume = Volume(array, Geometry(array.shape, np.diag([-1.0, -1.0, 3.0, 1.0])))
    paths = write_series(tmp_path, volume, SeriesInfo("seed"))
    for path in paths[::3]:
        path.write_bytes(encoded(path.read_bytes(), ExplicitVRBigEndian))
    for path, syntax in zip(paths[1::3], [*COMPRESSED, RLELossless], strict=True):
        path.write_bytes(encoded(path.read_bytes(), syntax))
    (series,) = find_series(tmp_path)
    assert [plane.offset is None for plane in series.planes] == [True, False, False] * 3
    assert [plane.pixels.is_compressed for plane in series.planes] == [True, True, False] * 3
    assert np.array_equal(read_series(series).array, array)


FILES = [
    path
    for folder in (SHARED, Path(pydicom.__file__).parent / "data" / "test_files")
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.stat().st_size < 5_000_000
]


def test_real_files(folder):
    """Those that pydicom brings, odd ones among them, and those of scanners where they are at hand."""
    plain = sum(agrees(folder, path.read_bytes()) for path in FILES)
    assert plain >= 10
