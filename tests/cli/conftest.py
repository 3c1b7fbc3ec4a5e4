import shutil

import numpy as np
import pytest

from seg_core.geometry import Volume
from seg_core.nifti import write_labels, write_volume
from trainers.dicom_writer import SeriesInfo, write_series


@pytest.fixture
def lls(capsys):
    """Run `lls` in this process; returns exit code, standard output, standard error."""
    from cli.main import run

    def call(*arguments):
        code = run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session")
def scan_files(tmp_path_factory, legs):
    """The made-up legs as `leg.nii.gz`, `truth.nii.gz` and a folder `dicom`."""
    folder = tmp_path_factory.mktemp("scan")
    volume, labels = legs
    write_volume(folder / "leg.nii.gz", volume)
    write_labels(folder / "truth.nii.gz", labels)
    write_series(folder / "dicom", Volume(volume.array.astype(np.int16), volume.geometry), SeriesInfo("legs"))
    return folder


@pytest.fixture
def scan(scan_files):
    """The made-up legs as NIfTI."""
    return scan_files / "leg.nii.gz"


@pytest.fixture
def dicom(scan_files, tmp_path):
    """A folder of DICOM of one's own, to be damaged."""
    return shutil.copytree(scan_files / "dicom", tmp_path / "Doe_Jane")
