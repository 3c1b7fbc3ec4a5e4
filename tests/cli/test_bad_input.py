"""Each bad input: its typed error, its exit code, what to do, and nothing half-written."""

import errno
import os
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from seg_core.geometry import Geometry, Volume
from seg_core.nifti import write_volume
from trainers.dicom_writer import SeriesInfo, write_series


@pytest.fixture
def refused(lls, tiny_model, tmp_path):
    """Segment into a folder that does not exist, and check that no trace of it is left."""

    def call(scan, *flags, model=tiny_model):
        code, out, err = lls("segment", scan, "-o", tmp_path / "new" / "out", "--model", model, *flags)
        assert "Traceback" not in err
        assert out == ""
        assert not (tmp_path / "new").exists()
        assert "error:" in err
        assert "what to do:" in err
        return code, err

    return call


def planes(folder):
    return sorted(folder.iterdir(), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))


def test_a_path_that_is_not_there(refused, tmp_path):
    assert refused(tmp_path / "nowhere")[0] == 3


def test_an_empty_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    code, err = refused(tmp_path / "empty")
    assert code == 3
    assert "empty" in err


def test_a_folder_without_an_image(refused, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello")
    code, err = refused(tmp_path / "texts")
    assert code == 3
    assert "no image" in err


def test_a_truncated_nifti(refused, scan, tmp_path):
    (tmp_path / "cut.nii.gz").write_bytes(scan.read_bytes()[:-500])
    assert refused(tmp_path / "cut.nii.gz")[0] == 3


def test_a_truncated_dicom_file(refused, dicom):
    file = planes(dicom)[10]
    file.write_bytes(file.read_bytes()[:-3000])
    assert refused(dicom)[0] == 3


def test_a_missing_slice(refused, dicom):
    planes(dicom)[20].unlink()
    code, err = refused(dicom)
    assert code == 4
    assert "gap" in err or "missing" in err


def test_two_orientations(refused, dicom, legs):
    volume = legs[0]
    array = volume.array.astype(np.int16).transpose(0, 2, 1)[:, ::-1]
    affine = volume.geometry.affine[:, [0, 2, 1, 3]].copy()
    affine[:3, 3] += affine[:3, 1] * (array.shape[1] - 1)
    affine[:3, 1] *= -1
    write_series(dicom, Volume(array, Geometry(array.shape, affine)), SeriesInfo("coronal"))
    uid = pydicom.dcmread(next(dicom.iterdir())).SeriesInstanceUID
    for file in dicom.iterdir():
        header = pydicom.dcmread(file)
        header.SeriesInstanceUID = uid
        header.save_as(file)
    code, err = refused(dicom)
    assert code == 3
    assert "mixed orientations" in err


def test_a_4d_nifti(refused, tmp_path):
    image = nibabel.Nifti1Image(np.zeros((5, 5, 5, 3), np.int16), np.eye(4))
    nibabel.save(image, tmp_path / "four.nii.gz")
    code, err = refused(tmp_path / "four.nii.gz")
    assert code == 3
    assert "3 volumes" in err


def test_nan(refused, legs, tmp_path):
    array = legs[0].array.astype(np.float32)
    array[3, 4, 5] = np.nan
    write_volume(tmp_path / "nan.nii.gz", Volume(array, legs[0].geometry))
    code, err = refused(tmp_path / "nan.nii.gz")
    assert code == 3
    assert "NaN" in err


def test_a_constant_image(refused, tmp_path):
    write_volume(
        tmp_path / "flat.nii.gz", Volume(np.full((5, 5, 5), 7, np.int16), Geometry((5, 5, 5), np.eye(4)))
    )
    code, err = refused(tmp_path / "flat.nii.gz")
    assert code == 3
    assert "every voxel" in err


def test_a_singular_affine(refused, tmp_path):
    image = nibabel.Nifti1Image(np.arange(125, dtype=np.int16).reshape(5, 5, 5), None)
    image.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    nibabel.save(image, tmp_path / "singular.nii.gz")
    code, err = refused(tmp_path / "singular.nii.gz")
    assert code == 4
    assert "singular" in err


def test_a_zip_that_leads_out_of_its_folder(refused, dicom, tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for file in planes(dicom):
            archive.write(file, f"../{file.name}")
    before = sorted(tmp_path.rglob("*"))
    code, err = refused(tmp_path / "evil.zip")
    assert code == 3
    assert "leads out" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_series_that_is_not_there(refused, dicom, scan):
    assert refused(dicom, "--series", "9")[0] == 3
    assert refused(scan, "--series", "1")[0] == 2


def test_a_hip_slice_outside_the_scan(refused, scan):
    assert refused(scan, "--hip-slice", "4000")[0] == 2


def test_a_model_that_is_not_there(refused, scan, tmp_path):
    code, err = refused(scan, model=tmp_path / "none.onnx")
    assert code == 5
    assert "none.onnx" in err


def test_the_model_is_opened_before_the_scan(refused, tmp_path):
    assert refused(tmp_path / "nowhere", model=tmp_path / "none.onnx")[0] == 5


def test_a_file_that_is_no_onnx(refused, scan, tmp_path):
    (tmp_path / "m.onnx").write_text("no network")
    assert refused(scan, model=tmp_path / "m.onnx")[0] == 5


def test_an_onnx_without_our_description(refused, scan, tmp_path, make_onnx, make_spec):
    (tmp_path / "m.onnx").write_bytes(make_onnx(make_spec(), metadata=False))
    code, err = refused(scan, model=tmp_path / "m.onnx")
    assert code == 5
    assert "description" in err


@pytest.mark.parametrize("changes", [{"channels": 3}, {"classes": ("tibia",)}])
def test_an_onnx_of_other_sizes_than_described(refused, scan, tmp_path, make_onnx, make_spec, changes):
    import onnx

    model = onnx.ModelProto.FromString(make_onnx(make_spec()))
    model.metadata_props[0].value = make_spec(**changes).to_json()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert refused(scan, model=tmp_path / "m.onnx")[0] == 5


def test_a_device_that_is_not_there(refused, scan):
    from onnxruntime import get_available_providers

    missing = "openvino" if "OpenVINOExecutionProvider" not in get_available_providers() else "cuda"
    code, err = refused(scan, "--device", missing)
    assert code == 6
    assert missing in err


def test_no_scan_and_a_wrong_flag(refused, scan, lls, tmp_path):
    assert lls("segment", "-o", tmp_path / "out")[0] == 2
    assert lls("segment", scan)[0] == 2
    assert lls("segment", scan, "-o", tmp_path / "out", "--side", "top")[0] == 2
    assert refused(scan, "--name", "../x")[0] == 2
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be(lls, scan, tiny_model, tmp_path):
    (tmp_path / "out").write_text("mine")
    for target in (tmp_path / "out", tmp_path / "out" / "deeper"):
        code, _, err = lls("segment", scan, "-o", target, "--model", tiny_model)
        assert code == 10
        assert "is a file" in err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder with a scan that nobody, not even root, may read, write or look into."""
    folder, stat, access = tmp_path / "closed", Path.stat, os.access
    folder.mkdir()
    (folder / "leg.nii.gz").write_bytes(b"")

    def refuse(path, *args, **kwargs):
        if folder in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and access(path, mode))
    return folder


def test_no_permission_to_read(lls, closed, tiny_model, tmp_path):
    scan = closed / "leg.nii.gz"
    for call in (
        ["segment", scan, "-o", tmp_path / "out", "--model", tiny_model],
        ["inspect", scan],
        ["convert", scan, "-o", tmp_path / "out.nii"],
        ["evaluate", scan, scan],
    ):
        code, _, err = lls(*call)
        assert code == 3
        assert "error: no permission to read" in err
    assert [path.name for path in tmp_path.iterdir()] == ["closed"]


def test_no_permission_to_write_is_said_before_any_work(lls, closed, tiny_model, tmp_path):
    nowhere = tmp_path / "no scan"  # which nobody gets to
    for call in (
        ["segment", nowhere, "-o", closed, "--model", tiny_model],
        ["segment", nowhere, "-o", closed / "new" / "out", "--model", tiny_model],
        ["convert", nowhere, "-o", closed / "out.nii"],
        ["evaluate", nowhere, nowhere, "--csv", closed / "out.csv"],
    ):
        code, _, err = lls(*call)
        assert code == 10
        assert "error: no permission to write" in err
        assert "what to do: choose a folder that you may write to" in err


@pytest.mark.parametrize("there", ["preview.png", "confidence.nii.gz", "report.html"])
def test_every_file_in_the_way_is_found_before_any_work(lls, tiny_model, tmp_path, there):
    (tmp_path / f"leg_{there}").write_text("mine")
    call = ["segment", tmp_path / "leg.nii", "-o", tmp_path, "--model", tiny_model, "--confidence", "--html"]
    code, _, err = lls(*call)  # the scan is not even there
    assert code == 10
    assert f"leg_{there} exists already" in err


@pytest.mark.parametrize("where", ["nifti.os.replace", "ply.Path.write_bytes"])
def test_a_full_disk_is_said_in_the_users_own_words(lls, scan, tiny_model, tmp_path, monkeypatch, where):
    replace = os.replace

    def full(*paths):
        if not Path(paths[0]).is_relative_to(tmp_path):  # os is everyone's: compiled kernels are kept, too
            return replace(*paths)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"seg_core.{where}", full)
    code, _, err = lls("segment", scan, "-o", tmp_path / "out", "--model", tiny_model, "-q")
    assert code == 10
    assert err.startswith(f"error: no space left for {tmp_path / 'out'}/leg_")
    assert "what to do: free some space" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 10, "no space"),
        (PermissionError(errno.EACCES, "Permission denied"), 10, "no permission"),
        (MemoryError(), 7, "memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("odd"), 1, "--debug"),
    ],
)
@pytest.mark.parametrize("where", ["write_labels", "write_ply", "write_preview", "write_report"])
def test_a_failure_while_writing_leaves_nothing(
    lls, scan, tiny_model, tmp_path, monkeypatch, where, error, code, said
):
    import cli.job
    import seg_core.preview

    def fail(path, *rest):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(seg_core.preview, "write_preview", lambda path, *rest: path.write_bytes(b""))
    monkeypatch.setattr(seg_core.preview if where == "write_preview" else cli.job, where, fail)
    found, out, err = lls("segment", scan, "-o", tmp_path / "new" / "out", "--model", tiny_model)
    assert found == code
    assert said in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_only_with_debug(lls, scan, tiny_model, tmp_path, monkeypatch):
    import cli.job

    monkeypatch.setattr(cli.job, "segment", lambda *a: 1 / 0)
    call = ["segment", scan, "-o", tmp_path / "out", "--model", tiny_model]
    code, _, err = lls(*call)
    assert (code, "Traceback" in err) == (1, False)
    assert "ZeroDivisionError" in err.splitlines()[-1]
    code, _, err = lls(*call, "--debug")
    assert code == 1
    assert "Traceback" in err
