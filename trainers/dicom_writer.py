"""A volume as an MR DICOM series: one file a slice, the same bytes for the same volume and headers.

The attributes are those of PS3.3 A.4 (MR Image Storage) of type 1 and 2; the patient is no one.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import DSfloat

from seg_core.errors import GeometryError, OutputError, UsageError
from seg_core.geometry import FloatArray, Geometry, Volume


@dataclass(frozen=True)
class SeriesInfo:
    """What the headers of a series say beside its geometry.

    Parameters
    ----------
    seed : str
        Every UID and file name is a hash of it.
    number : int
        Series number, 1 or more; another number makes other UIDs.
    description : str
        Series description, at most 64 characters.
    image_type : tuple of str
        Image Type (0008,0008), e.g. ``("ORIGINAL", "PRIMARY", "M", "WATER")``.
    echo_number, echo_time_ms : int, float or None
        Which echo, and its time in ms; a time that is None is left empty, and so are those below.
    laterality : {"R", "L"} or None
        The leg that is shown; None writes Image Laterality ``B``: both.
    body_part : str
        Body Part Examined (0018,0015).
    study : str, optional
        Of what patient, study and frame of reference are a hash, ``seed`` by default: series with the same
        one show the same body at the same place.
    sequence : {"GR", "SE", "RM"}
        Scanning Sequence (0018,0020): spoiled gradient echo in 3D, spin echo, or none that MR has.
    repetition_time_ms, flip_degrees, tesla : float or None
        Of the sequence, and the magnet's field.
    """

    seed: str
    number: int = 1
    description: str = "t1 dixon axial water"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "WATER")
    echo_number: int = 1
    echo_time_ms: float | None = 2.46
    laterality: Literal["R", "L"] | None = None
    body_part: str = "EXTREMITY"
    study: str | None = None
    sequence: Literal["GR", "SE", "RM"] = "GR"
    repetition_time_ms: float | None = 6.0
    flip_degrees: float | None = 10.0
    tesla: float | None = 3.0


def write_series(folder: Path, volume: Volume, info: SeriesInfo) -> list[Path]:
    """Write a volume as single-frame MR Image Storage files, explicit VR little endian.

    Rows run along j and columns along i, so ``array[:, :, k].T`` is the picture of slice k. A reader orders
    slices along the normal (i x j in LPS): a volume whose k runs against it comes back with k reversed, at
    the same place in the patient.

    Parameters
    ----------
    folder : Path
        Made when it is not there; files of the same names are replaced.
    volume : Volume
        int16 or uint16 (i, j, k) on an RAS+ affine in mm with orthogonal axes.
    info : SeriesInfo
        Seed and headers.

    Returns
    -------
    list of Path
        The files in the order of k; their names are hashes, in no order.

    Raises
    ------
    UsageError
        If the array is of another type.
    GeometryError
        If the axes are not orthogonal: DICOM cannot say so.
    OutputError
        If the folder cannot be written.
    """
    if volume.array.dtype not in (np.dtype(np.int16), np.dtype(np.uint16)):
        raise UsageError(f"a volume of {volume.array.dtype}", "int16 or uint16", "convert it before writing")
    lps = _lps_affine(volume.geometry)
    dataset = _series_dataset(volume, info, lps)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(volume.array.shape[2]):
            pixels = np.ascontiguousarray(volume.array[:, :, k].T)
            _set_slice(dataset, pixels, k, info, lps)
            paths.append(folder / f"{_digest(info.seed, info.number, 'file', k)[:16]}.dcm")
            dataset.save_as(paths[-1], enforce_file_format=True)
    except OSError as error:
        raise OutputError(
            f"cannot write DICOM into {folder}: {error.strerror}", fix="choose another folder"
        ) from error
    return paths


def make_uid(*parts: object) -> str:
    """Return a UID under 2.25 (ISO/IEC 9834-8) from the SHA-256 of the parts, at most 44 characters."""
    return f"2.25.{int(_digest(*parts)[:32], 16)}"


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _lps_affine(geometry: Geometry) -> FloatArray:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    cosines = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > 1e-5:
        raise GeometryError("a sheared grid", "orthogonal axes", "resample the volume before writing DICOM")
    return lps


def _number(value: float | None) -> DSfloat | None:
    return None if value is None else DSfloat(value, auto_format=True)


def _numbers(values: object) -> list[DSfloat]:
    return [DSfloat(float(v), auto_format=True) for v in np.ravel(np.asarray(values))]


def _series_dataset(volume: Volume, info: SeriesInfo, lps: FloatArray) -> FileDataset:
    """Return what all slices share."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = make_uid("lls")
    meta.ImplementationVersionName = "LLS"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    _set_patient_and_study(dataset, info)
    _set_series(dataset, info)
    _set_plane(dataset, volume, lps)
    return dataset


def _set_patient_and_study(dataset: Dataset, info: SeriesInfo) -> None:
    study = info.study or info.seed
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "lls^phantom"
    dataset.PatientID = f"lls-{_digest(study)[:8]}"
    dataset.StudyInstanceUID = make_uid(study, "study")
    dataset.StudyDescription = "synthetic legs"
    for name in (
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PositionReferenceIndicator",
    ):
        setattr(dataset, name, "")  # type 2: there, and empty
    dataset.FrameOfReferenceUID = make_uid(study, "frame of reference")


def _set_series(dataset: Dataset, info: SeriesInfo) -> None:
    dataset.SOPClassUID = MRImageStorage
    dataset.Modality = "MR"
    dataset.Manufacturer = "lls"
    dataset.ManufacturerModelName = "phantom"
    dataset.SeriesInstanceUID = make_uid(info.seed, info.number, "series")
    dataset.SeriesNumber = info.number
    dataset.AcquisitionNumber = 1
    dataset.SeriesDescription = info.description
    dataset.ProtocolName = info.description
    dataset.ImageType = list(info.image_type)
    dataset.BodyPartExamined = info.body_part
    dataset.PatientPosition = "HFS"
    dataset.ImageLaterality = info.laterality or "B"
    if info.laterality:
        dataset.Laterality = info.laterality
    dataset.ScanningSequence = info.sequence
    dataset.SequenceVariant = "SP" if info.sequence == "GR" else "NONE"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "3D" if info.sequence == "GR" else "2D"
    dataset.MagneticFieldStrength = _number(info.tesla)
    dataset.RepetitionTime = _number(info.repetition_time_ms)
    dataset.EchoTime = _number(info.echo_time_ms)
    dataset.EchoNumbers = info.echo_number
    dataset.EchoTrainLength = 1
    dataset.FlipAngle = _number(info.flip_degrees)


def _set_plane(dataset: Dataset, volume: Volume, lps: FloatArray) -> None:
    array = volume.array
    columns, rows, _ = array.shape
    width, height, thickness = volume.geometry.voxel_sizes
    cosines = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    dataset.ImageOrientationPatient = _numbers(cosines[:, :2].T)
    dataset.PixelSpacing = _numbers([height, width])  # between rows, then between columns
    dataset.SliceThickness, dataset.SpacingBetweenSlices = _numbers([thickness, thickness])
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(array.dtype == np.int16)
    low, high = np.percentile(array[::4, ::4, ::4], [1, 99.5])
    dataset.WindowCenter, dataset.WindowWidth = _numbers([(low + high) / 2, max(high - low, 1)])


def _set_slice(
    dataset: FileDataset, pixels: npt.NDArray[Any], k: int, info: SeriesInfo, lps: FloatArray
) -> None:
    uid = make_uid(info.seed, info.number, "image", k)
    dataset.SOPInstanceUID = uid
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.InstanceNumber = k + 1
    position = lps[:3, 3] + k * lps[:3, 2]
    dataset.ImagePositionPatient = _numbers(position)
    normal = np.cross(lps[:3, 0], lps[:3, 1])
    dataset.SliceLocation = _numbers(position @ normal / np.linalg.norm(normal))[0]
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
