import copy
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage
from scipy.spatial.transform import Rotation

from seg_core.dicom import choose_series, find_series, read_series
from seg_core.errors import ScanError
from seg_core.geometry import Geometry, Volume
from trainers.dicom_writer import SeriesInfo, write_series

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def make_volume(shape, rotation=None):
    array = np.random.default_rng(0).integers(-900, 900, shape).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = FLIP[:3, :3] @ (np.eye(3) if rotation is None else rotation) * (0.9375, 1.25, 3.0)
    affine[:3, 3] = [101.25, -33.5, -740.5]
    return Volume(array, Geometry(shape, affine))


def enhanced(path, volume, shuffle, times=1):
    """Write an enhanced multi-frame file: position of each frame, the rest shared; slopes 0.5, 1, 1.5, ..."""
    single = pydicom.dcmread(write_series(path.parent / "single", volume, SeriesInfo("seed"))[0])
    dataset = copy.deepcopy(single)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = single.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = single.PixelSpacing, single.SliceThickness
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    for name in (
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "PixelSpacing",
        "SliceThickness",
        "ImageType",
    ):
        delattr(dataset, name)
    lps = FLIP @ volume.geometry.affine
    groups, pixels = [], []
    for time in range(times):
        for k in shuffle:
            group, position, content, kind, values = (Dataset() for _ in range(5))
            position.ImagePositionPatient = [float(v) for v in lps[:3, 3] + k * lps[:3, 2]]
            content.TemporalPositionIndex = time + 1
            kind.FrameType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
            values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 0.5 + 0.5 * k, -k, "US"
            group.PlanePositionSequence, group.FrameContentSequence = [position], [content]
            group.MRImageFrameTypeSequence, group.PixelValueTransformationSequence = [kind], [values]
            groups.append(group)
            pixels.append(volume.array[:, :, k].T + time)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.NumberOfFrames = len(groups)
    dataset.PixelData = np.array(pixels, "<i2").tobytes()
    shutil.rmtree(path.parent / "single")
    dataset.save_as(path)


def test_enhanced_multi_frame(tmp_path):
    volume = make_volume((4, 5, 6), Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix())
    enhanced(tmp_path / "multi", volume, shuffle=(3, 0, 5, 1, 4, 2))
    result = read_series(choose_series(find_series(tmp_path))[0])
    k = np.arange(6)
    assert np.array_equal(result.array, volume.array * (0.5 + 0.5 * k) - k)
    assert result.geometry.is_close(volume.geometry, 1e-6)
    series = find_series(tmp_path)[0]
    assert series.kind.image_type == ("ORIGINAL", "PRIMARY", "M", "NONE")
    assert len(series.files) == 1


def test_enhanced_multi_frame_in_time(tmp_path):
    volume = make_volume((4, 5, 3))
    enhanced(tmp_path / "multi", volume, shuffle=(2, 0, 1), times=2)
    found = find_series(tmp_path)
    with pytest.raises(ScanError, match="2 volumes"):
        choose_series(found)
    k = np.arange(3)
    assert np.array_equal(
        read_series(choose_series(found, "1:2")[0]).array, (volume.array + 1) * (0.5 + 0.5 * k) - k
    )


def test_fewer_headers_than_frames_are_told_of(tmp_path):
    path = tmp_path / "scan.dcm"
    enhanced(path, make_volume((4, 3, 5)), range(5))
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 4
    dataset.save_as(path)
    with pytest.raises(ScanError, match="4 frames, but headers of 5"):
        find_series(path)
