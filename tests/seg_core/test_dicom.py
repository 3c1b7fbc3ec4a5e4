import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSNearLossless,
    RLELossless,
)
from scipy.spatial.transform import Rotation

from seg_core.dicom import Series, choose_series, find_series, read_series, search
from seg_core.dicom_headers import read_planes
from seg_core.dicom_pixels import decode
from seg_core.errors import GeometryError, LlsError, ScanError
from seg_core.geometry import Geometry, Volume
from trainers.dicom_writer import SeriesInfo, write_series

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom"
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
FAT = ("ORIGINAL", "PRIMARY", "M", "FAT")


def make_volume(
    shape=(6, 5, 7), dtype=np.int16, degrees=(0.0, 0.0, 0.0), spacing=(0.9375, 1.25, 3.0), seed=0
):
    low = -900 if dtype == np.int16 else 0
    array = np.random.default_rng(seed).integers(low, 900, shape).astype(dtype)
    lps = np.eye(4)
    lps[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * spacing
    lps[:3, 3] = [-101.25, 33.5, -740.5]
    return Volume(array, Geometry(shape, FLIP @ lps))


def write(folder, volume=None, **info):
    volume = volume or make_volume()
    return write_series(folder, volume, SeriesInfo("seed", **info)), volume


def edit(path, **attributes):
    dataset = pydicom.dcmread(path)
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)


def read(folder, wanted=None):
    return read_series(choose_series(find_series(folder), wanted)[0])


def refused(folder, error, *words, wanted=None):
    with pytest.raises(error) as caught:
        read(folder, wanted)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


@settings(deadline=None, max_examples=10)
@given(
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(2, 5)),
    dtype=st.sampled_from([np.int16, np.uint16]),
)
def test_what_was_written_comes_back(tmp_path_factory, degrees, shape, dtype):
    folder = tmp_path_factory.mktemp("dicom")
    _, volume = write(folder, make_volume(shape, dtype, degrees))
    result = read(folder)
    assert np.array_equal(result.array, volume.array)
    assert result.array.dtype == dtype
    assert result.array.T.flags.c_contiguous
    assert result.geometry.is_close(volume.geometry, 1e-6)


def test_agrees_with_simpleitk(tmp_path):
    write(tmp_path, make_volume(degrees=(20, -10, 35)))
    result = read(tmp_path)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), result.array.T)
    last = [n - 1 for n in result.array.shape]
    lps = image.TransformIndexToPhysicalPoint(last)
    assert np.allclose(FLIP[:3, :3] @ lps, result.geometry.to_world(last), atol=1e-4)


def test_only_the_position_orders_slices(tmp_path):
    paths, volume = write(tmp_path)
    for number, path in enumerate(paths):
        shuffled = (number * 5) % 7
        edit(path, InstanceNumber=shuffled + 1, SliceLocation=str(-shuffled), AcquisitionNumber=shuffled)
        path.rename(tmp_path / f"{shuffled}.dcm")
    assert np.array_equal(read(tmp_path).array, volume.array)


@pytest.mark.parametrize(
    ("slopes", "intercepts", "dtype"),
    [([1, 1], [0, -1024], np.float32), ([1, 2], [0, 3], np.float32), ([0.5, 2.25], [-3.5, 0], np.float32)],
)
def test_slope_and_intercept_of_each_slice(tmp_path, slopes, intercepts, dtype):
    paths, volume = write(tmp_path, make_volume((4, 4, 2)))
    for path, slope, intercept in zip(paths, slopes, intercepts, strict=True):
        edit(path, RescaleSlope=slope, RescaleIntercept=intercept)
    result = read(tmp_path).array
    assert result.dtype == dtype
    assert np.array_equal(result, volume.array * np.array(slopes, float) + intercepts)


def test_whole_numbers_stay_whole_where_they_fit(tmp_path):
    paths, volume = write(tmp_path, make_volume((4, 4, 2), np.uint16))
    for path in paths:
        edit(path, BitsStored=12, HighBit=11, RescaleSlope=2, RescaleIntercept=-1024)
    result = read(tmp_path).array
    assert result.dtype == np.int16
    assert np.array_equal(result, volume.array.astype(int) * 2 - 1024)


def test_eight_bits(tmp_path):
    paths, _ = write(tmp_path, make_volume((4, 4, 2), np.uint16))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 4, 4)).astype(np.uint8)
    for path, plane in zip(paths, pixels, strict=True):
        edit(path, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=plane.tobytes())
    result = read(tmp_path).array
    assert result.dtype == np.uint8
    assert np.array_equal(result.T, pixels)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("high_bit", [11, 13, 15])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_bits_beyond_those_stored_do_not_count(tmp_path, signed, high_bit, syntax):
    paths, _ = write(tmp_path, make_volume((4, 4, 2), np.uint16))
    raw = np.random.default_rng(1).integers(0, 1 << 16, (2, 4, 4)).astype(np.uint16)
    little = syntax != ExplicitVRBigEndian
    for path, plane in zip(paths, raw, strict=True):
        dataset = pydicom.dcmread(path)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, high_bit, signed
        dataset.PixelData = plane.tobytes() if little else plane.byteswap().tobytes()
        if syntax == RLELossless:
            dataset.compress(syntax)
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=little)
    expected = (raw >> (high_bit - 11) & 0xFFF).astype(int)
    if signed:
        expected[expected >= 2048] -= 4096
    assert np.array_equal(read(tmp_path).array.T, expected)


@pytest.mark.parametrize(("slope", "kind"), [("1", np.int16), ("0.5", np.float32)])
def test_what_shall_be_white_where_it_is_least_is_turned_round(tmp_path, slope, kind):
    paths, volume = write(tmp_path)
    for path in paths:
        edit(path, PhotometricInterpretation="MONOCHROME1", RescaleSlope=slope, RescaleIntercept="0")
    array = volume.array * float(slope)
    result = read(tmp_path).array
    assert result.dtype == kind
    assert np.array_equal(result, array.min() + array.max() - array)


def test_other_byte_orders_and_compressed(tmp_path):
    paths, volume = write(tmp_path)
    for path, syntax in zip(paths, [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless], strict=False):
        dataset = pydicom.dcmread(path)
        if syntax == RLELossless:
            dataset.compress(syntax)
            dataset.save_as(path)
            continue
        pixels = dataset.pixel_array
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = pixels.astype(">i2").tobytes()
        little = syntax == ImplicitVRLittleEndian
        pydicom.dcmwrite(path, dataset, implicit_vr=little, little_endian=little)
    assert np.array_equal(read(tmp_path).array, volume.array)


def test_files_without_preamble(tmp_path):
    paths, volume = write(tmp_path)
    paths[0].write_bytes(paths[0].read_bytes()[132:])
    for path in paths[1:]:
        dataset = pydicom.dcmread(path)
        del dataset.preamble, dataset.file_meta
        pydicom.dcmwrite(path, dataset, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[:2] == b"\x08\x00"
    assert np.array_equal(read(tmp_path).array, volume.array)


def test_nine_transfer_syntaxes_decode_to_the_same_pixels():
    folder = SHARED / "transfer-syntaxes" / "In"
    if not folder.is_dir():
        pytest.skip(f"the shared data are not here: {folder}")
    images = [decode(read_planes(path)) for path in sorted(folder.glob("*.dcm"))]
    assert len(images) == 9
    assert images[0].shape == (1, 384, 384)
    assert images[0].std() > 0
    assert all(np.array_equal(image, images[0]) for image in images)
    refused(folder / "1.dcm", ScanError, "mosaic", "dcm2niix")


def test_ge_series_in_time():
    folder = SHARED / "ge-timeseries"
    if not folder.is_dir():
        pytest.skip(f"the shared data are not here: {folder}")
    import nibabel

    found = search(folder)
    assert len(found.series) == 1
    assert found.ignored == 3
    with pytest.raises(ScanError, match="10 volumes at the same positions"):
        choose_series(found.series)
    series, reason = choose_series(found.series, "1:3")
    assert "volume 3" in reason
    volume = read_series(series)
    reference = nibabel.load(folder / "reference.nii")  # its rows run the other way
    assert np.array_equal(volume.array[:, ::-1], np.asarray(reference.dataobj)[..., 2])
    turned = reference.affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 63], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert np.allclose(volume.geometry.affine, turned, atol=1e-3)
    with pytest.raises(ScanError, match="no volume 11"):
        choose_series(found.series, "1:11")


def test_a_missing_slice_is_named(tmp_path):
    paths, _ = write(tmp_path)
    paths[3].unlink()
    text = refused(tmp_path, GeometryError, "gap between slices 2", "1 slice missing", "6.000 mm")
    assert paths[2].name in text
    assert paths[4].name in text


def test_varying_distances(tmp_path):
    paths, volume = write(tmp_path)
    lps = FLIP @ volume.geometry.affine
    for k, path in enumerate(paths):
        edit(path, ImagePositionPatient=list(lps[:3, 3] + [0, 0, 3.0 * k + 0.05 * k * k]))
    refused(tmp_path, GeometryError, "varying distances", "3.050 to 3.550")


def test_rounded_positions_are_no_gap(tmp_path):
    paths, volume = write(tmp_path, make_volume((4, 4, 60), spacing=(0.5, 0.5, 1.2345678)))
    for path in paths:
        edit(
            path,
            ImagePositionPatient=[round(float(v), 2) for v in pydicom.dcmread(path).ImagePositionPatient],
        )
    result = read(tmp_path)
    assert np.array_equal(result.array, volume.array)
    assert result.geometry.is_close(volume.geometry, 0.01)


def test_duplicate_positions(tmp_path):
    paths, _ = write(tmp_path)
    shutil.copy(paths[2], tmp_path / "copy.dcm")
    refused(tmp_path, GeometryError, "duplicate positions", "copies of one image", "copy.dcm")
    edit(tmp_path / "copy.dcm", SOPInstanceUID="2.25.7")
    refused(tmp_path, GeometryError, "duplicate positions: 2 images", "copy.dcm")


def test_the_whole_series_twice_is_refused(tmp_path):
    write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    refused(tmp_path, GeometryError, "copies of one image")


@pytest.mark.parametrize("shift", [0.2, -3.0])
def test_tilted_stack(tmp_path, shift):
    paths, volume = write(tmp_path)
    lps = FLIP @ volume.geometry.affine
    for k, path in enumerate(paths):
        edit(path, ImagePositionPatient=list(lps[:3, 3] + [0, shift * k, 3.0 * k]))
    refused(tmp_path, GeometryError, "tilted", "degrees")


def test_two_orientations_in_one_series(tmp_path):
    write(tmp_path)
    paths, _ = write(tmp_path / "below", make_volume(degrees=(90, 0, 0)), number=2)
    uid = find_series(tmp_path)[0].kind.uid
    for path in paths:
        edit(path, SeriesInstanceUID=uid, SeriesNumber=1)
    text = refused(tmp_path, ScanError, "2 series that fit (mixed orientations in one series)", "--series")
    assert "1: t1 dixon axial water (coronal, 6 x 5" in text
    assert "2: t1 dixon axial water (axial, 6 x 5" in text
    assert np.array_equal(read(tmp_path, "2").array, make_volume().array)


CORONAL, TILTED = (1, 0, 0, 0, 0, -1), (1, 0, 0, 0, np.cos(0.1), np.sin(0.1))


@pytest.mark.parametrize("turned", [CORONAL, TILTED])
@pytest.mark.parametrize("which", [slice(1, None, 2), slice(4, None), slice(6, None)])
def test_a_part_of_a_series_is_not_taken_for_the_whole(tmp_path, turned, which):
    # Of the turned slices no volume can be made, so that the others are the only stack that fits.
    paths, _ = write(tmp_path)
    for path in paths[which]:
        edit(path, ImageOrientationPatient=list(turned))
    refused(tmp_path, ScanError, "mixed orientations in one series", "2:", "--series")
    with pytest.raises(ScanError, match="mixed orientations"):
        choose_series(find_series(tmp_path), find_series(tmp_path)[0].kind.uid)


def test_a_localizer_in_the_same_series_does_not_count(tmp_path):
    paths, volume = write(tmp_path)
    for path in write(tmp_path / "below", make_volume((6, 5, 3), degrees=(90, 0, 0)), number=2)[0]:
        kind = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        edit(path, SeriesInstanceUID=pydicom.dcmread(paths[0]).SeriesInstanceUID, ImageType=kind)
    assert np.array_equal(read(tmp_path).array, volume.array)


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour"),
        ({"ImagePositionPatient": None}, "without position"),
        ({"PixelSpacing": None}, "pixel spacing"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 in 32 bits"),
        ({"BitsStored": 12, "HighBit": 3}, "high bit 3"),
        ({"PixelData": None}, "no pixel data"),
        ({"PixelData": b"\0" * 20}, "truncated"),
    ],
)
def test_what_is_no_stack_of_grey_slices(tmp_path, attributes, word):
    for path in write(tmp_path)[0]:
        edit(path, **attributes)
    refused(tmp_path, ScanError, word)


def test_axes_that_are_no_axes(tmp_path):
    for path in write(tmp_path)[0]:
        edit(path, ImageOrientationPatient=[1, 0, 0, 0.5, 0.5, 0])
    refused(tmp_path, GeometryError, "right angles")


@pytest.mark.parametrize("keep", [0.5, 0.97])
def test_truncated_file(tmp_path, keep):
    paths, _ = write(tmp_path, make_volume((64, 64, 3)))
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[: int(len(data) * keep)])
    refused(tmp_path, ScanError, paths[1].name, "truncated")


def test_file_cut_in_its_header(tmp_path):
    paths, _ = write(tmp_path)
    data = paths[-1].read_bytes()  # the last: its absence would leave no gap
    for length in (132, *range(133, 900, 13)):
        paths[-1].write_bytes(data[:length])
        refused(tmp_path, ScanError, paths[-1].name)


def test_any_damage_is_a_typed_error_or_none(tmp_path):
    paths, _ = write(tmp_path)
    data, generator = paths[1].read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(data)
        for at in generator.integers(132, len(data), 3):
            damaged[at] = generator.integers(256)
        paths[1].write_bytes(damaged)
        try:
            outcomes.add(read(tmp_path).array.shape)
        except LlsError as error:
            outcomes.add(type(error))
    assert {ScanError, GeometryError, (6, 5, 7)} == outcomes


def test_single_slice_takes_its_thickness(tmp_path):
    paths, volume = write(tmp_path, make_volume((4, 5, 1)))
    result = read(tmp_path)
    assert np.array_equal(result.array, volume.array)
    assert result.geometry.is_close(volume.geometry, 1e-6)
    assert result.geometry.voxel_sizes[2] == pytest.approx(3.0)
    edit(paths[0], SliceThickness=None)
    refused(tmp_path, GeometryError, "without Slice Thickness")


def test_other_files_are_ignored_and_counted(tmp_path):
    _, volume = write(tmp_path / "deep" / "below")
    (tmp_path / "readme.txt").write_text("notes")
    (tmp_path / "empty").write_bytes(b"")
    report = pydicom.dcmread(next((tmp_path / "deep" / "below").iterdir()))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    del report.PixelData, report.Rows, report.Columns
    report.save_as(tmp_path / "report.dcm")
    found = search(tmp_path)
    assert found.ignored == 3
    assert np.array_equal(read_series(found.series[0]).array, volume.array)


def test_the_water_series_is_preferred(tmp_path):
    _, water = write(tmp_path / "w", make_volume(seed=1), number=2, description="dixon_W")
    write(tmp_path / "f", make_volume(seed=2), number=1, description="dixon_F", image_type=FAT)
    write(tmp_path / "l", make_volume((6, 5, 1)), number=3, description="single")
    found = find_series(tmp_path)
    series, reason = choose_series(found)
    assert (series.number, reason) == (2, "the water series among 2 stacks")
    assert np.array_equal(read_series(series).array, water.array)
    assert choose_series(found, "1")[0].kind.description == "dixon_F"
    assert choose_series(found, "XON_f")[0].number == 1
    assert choose_series(found, found[2].kind.uid)[0].number == 3
    with pytest.raises(ScanError, match="2 series are called 'dixon'"):
        choose_series(found, "dixon")
    with pytest.raises(ScanError, match="no series is called 'muscle'"):
        choose_series(found, "muscle")


def test_echoes_and_image_types_of_one_series_are_told_apart(tmp_path):
    write(tmp_path / "1", make_volume(seed=1), description="dixon", echo_time_ms=1.2, image_type=FAT)
    paths, _ = write(tmp_path / "2", make_volume(seed=2), number=2, description="dixon", image_type=FAT)
    uid = find_series(tmp_path / "1")[0].kind.uid
    for path in paths:
        edit(path, SeriesInstanceUID=uid, SeriesNumber=1, EchoNumbers=1)
    refused(tmp_path, ScanError, "2 series that fit\n", "1: dixon", "2: dixon")
    for path in paths:
        edit(path, EchoTime=1.2, ImageType=["ORIGINAL", "PRIMARY", "M", "WATER"])
    assert np.array_equal(read(tmp_path).array, make_volume(seed=2).array)


@pytest.mark.parametrize(
    ("description", "image_type", "water"),
    [
        ("AutoBindWATER_650_9B", (), True),
        ("t1_vibe_dixon_W", (), True),
        ("WATER: LAVA", (), True),
        ("mDIXON", ("ORIGINAL", "PRIMARY", "W", "W"), True),
        ("t2 watersat", (), False),
        ("t1_vibe_dixon_F", FAT, False),
        ("tra W1 low", ("M",), False),
        ("T1-W TSE tra", (), False),
        ("T2* w", (), False),
        ("pd_w spair", (), False),
        ("t1 tra w/o contrast", (), False),
        ("T1 dixon tra w", (), True),
    ],
)
def test_names_of_water(tmp_path, description, image_type, water):
    write(tmp_path, description=description, image_type=image_type or ("ORIGINAL", "PRIMARY", "M"))
    assert find_series(tmp_path)[0].is_water is water


def test_a_survey_is_not_the_scan_but_can_be_asked_for(tmp_path):
    write(tmp_path / "s", number=1, description="Localizer legs", image_type=FAT)
    write(tmp_path / "m", number=2, description="t1", image_type=FAT)
    series, reason = choose_series(find_series(tmp_path))
    assert (series.number, reason) == (2, "the only stack of slices among 2 series")
    assert choose_series(find_series(tmp_path), "1")[0].number == 1


def test_a_gap_in_the_water_series_does_not_make_the_fat_one_right(tmp_path):
    paths, _ = write(tmp_path / "w", number=1, description="water")
    write(tmp_path / "f", number=2, description="fat", image_type=FAT)
    paths[2].unlink()
    refused(tmp_path, GeometryError, "gap")
    assert np.array_equal(read(tmp_path, "fat").array, make_volume().array)


def test_none_fits_and_none_there(tmp_path):
    for number in (1, 2):
        write(tmp_path / str(number), number=number, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    refused(tmp_path, ScanError, "2 series, none of which is one volume", "a localizer")
    with pytest.raises(ScanError, match="no DICOM image"):
        choose_series([])
    with pytest.raises(ScanError, match="is not there"):
        find_series(tmp_path / "nowhere")


def test_laterality(tmp_path):
    paths, _ = write(tmp_path / "l", laterality="L")
    write(tmp_path / "b", number=2)
    found = find_series(tmp_path)
    assert [s.laterality for s in found] == ["L", None]
    edit(paths[0], Laterality="R", ImageLaterality="R")
    assert find_series(tmp_path / "l")[0].laterality is None
    for path in paths:
        edit(path, Laterality="R", ImageLaterality=None)
    assert find_series(tmp_path / "l")[0].laterality == "R"


def test_nothing_tells_who_the_patient_is(tmp_path):
    for path in write(tmp_path)[0]:
        edit(path, PatientName="Secret^Name", PatientID="Hidden7", InstitutionName="Clinic")
    text = repr(find_series(tmp_path))
    assert "water" in text
    assert not any(word in text for word in ("Secret", "Hidden7", "Clinic"))


def test_multi_frame_without_positions(tmp_path):
    paths, volume = write(tmp_path)
    for path in paths[1:]:
        path.unlink()
    edit(paths[0], NumberOfFrames=7, ImagePositionPatient=None, PixelData=volume.array.T.tobytes())
    refused(tmp_path, ScanError, "a multi-frame file without position")


def test_a_series_is_frozen_and_prints_its_facts(tmp_path):
    write(tmp_path)
    series = find_series(tmp_path)[0]
    assert isinstance(series, Series)
    assert str(series) == (
        "1: t1 dixon axial water (axial, 6 x 5 of 0.9375 x 1.25 mm, 7 slices of 3 mm, "
        "ORIGINAL\\PRIMARY\\M\\WATER, echo 1)"
    )
    assert series.spacing == pytest.approx((0.9375, 1.25, 3.0))


@pytest.mark.parametrize(("syntax", "level"), [(JPEG2000, 60), (JPEGLSNearLossless, 3)])
def test_a_lossy_decoder_overshoots_to_white_and_not_to_black(tmp_path, syntax, level):
    (path,), _ = write(tmp_path, make_volume((64, 64, 1), np.uint16))
    image = np.random.default_rng(0).integers(0, 200, (64, 64)).astype(np.uint16)
    image[16:48, 16:48] = 4095
    encoded = (
        imagecodecs.jpeg2k_encode(image, level=level, reversible=False, codecformat="J2K")
        if syntax == JPEG2000
        else imagecodecs.jpegls_encode(image, level=level)
    )
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.PixelData = encapsulate([bytes(encoded)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    result = read(tmp_path).array[..., 0].T
    assert result.max() == 4095
    assert result[20:44, 20:44].min() > 3900
