import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from seg_core.errors import GeometryError, OutputError, UsageError
from seg_core.geometry import Geometry, Volume
from trainers.dicom_writer import SeriesInfo, write_series

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def make_volume(dtype=np.int16, degrees=0.0, shape=(7, 6, 5)):
    generator = np.random.default_rng(3)
    low = -900 if dtype == np.int16 else 0
    array = generator.integers(low, 900, shape).astype(dtype)
    lps = np.eye(4)
    lps[:3, :3] = Rotation.from_euler("xyz", [degrees, -degrees / 2, degrees / 3], degrees=True).as_matrix()
    lps[:3, :3] *= [0.9375, 1.25, 3.1]
    lps[:3, 3] = [-101.25, 33.123456789, -740.5]
    return Volume(array, Geometry(shape, LPS @ lps))


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_simpleitk_reads_the_same_volume(tmp_path, dtype, degrees):
    volume = make_volume(dtype, degrees)
    write_series(tmp_path, volume, SeriesInfo("a"))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).T, volume.array)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    assert np.allclose(LPS @ affine, volume.geometry.affine, atol=1e-4)


NO_TIMES = dict.fromkeys(("repetition_time_ms", "echo_time_ms", "flip_degrees", "tesla"))
COMPUTED = SeriesInfo("a", image_type=("DERIVED", "SECONDARY", "OTHER"), sequence="RM", **NO_TIMES)
SPIN_ECHO = SeriesInfo(
    "a", study="b", sequence="SE", repetition_time_ms=550, echo_time_ms=12, flip_degrees=90
)


@pytest.mark.parametrize(
    ("degrees", "info"), [(0.0, SeriesInfo("a")), (17.0, SeriesInfo("a")), (0.0, SPIN_ECHO), (0.0, COMPUTED)]
)
def test_dcm2niix_reads_the_same_volume(tmp_path, degrees, info):
    from dcm2niix import bin as dcm2niix

    volume = make_volume(degrees=degrees)
    write_series(tmp_path / "dicom", volume, info)
    command = [dcm2niix, "-f", "scan", "-z", "n", "-b", "n", "-o", str(tmp_path), str(tmp_path / "dicom")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    unknown_maker = "Warning: Unable to determine manufacturer"  # true: no scanner made it
    assert "Warning" not in done.stdout.replace(unknown_maker, ""), done.stdout
    # dcm2niix turns axes over: compare both turned to RAS
    image = nibabel.as_closest_canonical(nibabel.load(tmp_path / "scan.nii"))
    wanted = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.array, volume.geometry.affine))
    assert np.array_equal(np.asarray(image.dataobj), np.asarray(wanted.dataobj))
    assert np.allclose(image.affine, wanted.affine, atol=1e-3)


def test_same_seed_same_bytes_and_other_seed_other_uids(tmp_path):
    volume = make_volume()
    first = write_series(tmp_path / "1", volume, SeriesInfo("a"))
    again = write_series(tmp_path / "2", volume, SeriesInfo("a"))
    other = write_series(tmp_path / "3", volume, SeriesInfo("b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert [p.name for p in first] == [p.name for p in again] != [p.name for p in other]
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in first + other}
    assert len(uids) == len(first) + len(other)
    assert {pydicom.dcmread(p).SeriesInstanceUID for p in first}.isdisjoint(
        pydicom.dcmread(p).SeriesInstanceUID for p in other
    )


def test_headers_say_how_it_was_scanned_and_of_whom(tmp_path):
    volume = make_volume()
    infos = (SPIN_ECHO, COMPUTED, SeriesInfo("c", study="b"))
    spin_echo, computed, plain = (
        pydicom.dcmread(write_series(tmp_path / str(n), volume, info)[0]) for n, info in enumerate(infos)
    )
    assert (spin_echo.ScanningSequence, spin_echo.SequenceVariant, spin_echo.MRAcquisitionType) == (
        "SE",
        "NONE",
        "2D",
    )
    assert (spin_echo.RepetitionTime, spin_echo.EchoTime, spin_echo.FlipAngle) == (550, 12, 90)
    assert computed.ScanningSequence == "RM"
    for name in ("RepetitionTime", "EchoTime", "FlipAngle", "MagneticFieldStrength"):
        assert name in computed
        assert computed[name].value is None
    for same in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert spin_echo[same] == plain[same] != computed[same]
    assert spin_echo.SeriesInstanceUID != plain.SeriesInstanceUID


def test_names_are_in_no_order(tmp_path):
    names = [p.name for p in write_series(tmp_path, make_volume(shape=(3, 3, 20)), SeriesInfo("a"))]
    assert names != sorted(names)
    assert names != sorted(names, reverse=True)


def test_type_one_and_two_attributes_are_there(tmp_path):
    path = write_series(tmp_path, make_volume(), SeriesInfo("a", laterality="L"))[0]
    dataset = pydicom.dcmread(path)
    one = (
        "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality ImageType"
    )
    one += " PixelSpacing ImageOrientationPatient ImagePositionPatient Rows Columns ScanningSequence"
    one += " SequenceVariant SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit"
    one += " PixelRepresentation PixelData PatientPosition Laterality BodyPartExamined SliceThickness"
    assert all(dataset.get(name) not in (None, "") for name in one.split())
    two = (
        "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID"
    )
    two += " AccessionNumber SeriesNumber PositionReferenceIndicator Manufacturer InstanceNumber ScanOptions"
    two += " MRAcquisitionType EchoTime EchoTrainLength"
    assert all(name in dataset for name in two.split())
    assert dataset.Laterality == dataset.ImageLaterality == "L"
    assert dataset.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian


def test_refusals(tmp_path):
    volume = make_volume()
    with pytest.raises(UsageError, match="float32"):
        write_series(tmp_path, Volume(volume.array.astype(np.float32), volume.geometry), SeriesInfo("a"))
    sheared = volume.geometry.affine.copy()
    sheared[0, 2] += 0.5
    with pytest.raises(GeometryError, match="sheared"):
        write_series(tmp_path, Volume(volume.array, Geometry(volume.array.shape, sheared)), SeriesInfo("a"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_series(Path(tmp_path / "file" / "below"), volume, SeriesInfo("a"))
