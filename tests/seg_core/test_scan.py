import errno
import json
import os
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from seg_core.checks import refuse_values
from seg_core.errors import GeometryError, OutputError, ScanError, UsageError
from seg_core.geometry import Geometry, Volume
from seg_core.scan import inspect_scan, middle_slices, read_scan
from trainers.dicom_writer import SeriesInfo, write_series


@pytest.fixture
def volume():
    array = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
    affine = np.diag([-1.0, -1.5, 3, 1])
    affine[:3, 3] = [10, 20, -30]
    return Volume(array, Geometry(array.shape, affine))


@pytest.fixture
def folder(tmp_path, volume):
    """A DICOM series under a patient's name, with a text file beside it."""
    path = tmp_path / "Doe_Jane"
    write_series(path / "IMAGES", volume, SeriesInfo("a", laterality="R"))
    (path / "notes.txt").write_text("text")
    return path


def pack(folder, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def nifti(path, array):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 2, 3, 1])), path)
    return path


def test_folder_of_dicom(folder, volume):
    scan = read_scan(folder)
    assert np.array_equal(scan.volume.array, volume.array)
    assert scan.volume.geometry.is_close(volume.geometry)
    assert (scan.name, scan.kind, scan.laterality, scan.warnings) == ("scan", "dicom", "R", ())
    facts = json.loads(json.dumps(scan.series))
    assert facts["why"] == "the only series"
    assert facts["ignored_files"] == 1
    assert facts["shape"] == [6, 5, 4]
    assert facts["spacing_mm"] == [1.0, 1.5, 3.0]
    assert facts["orientation"] == "LPS"
    assert not any(word in repr(facts) for word in ("Doe", "phantom", "2.25."))


def test_zip_of_dicom(folder, volume, tmp_path):
    scan = read_scan(pack(folder, tmp_path / "Doe_Jane.zip"))
    assert np.array_equal(scan.volume.array, volume.array)
    assert scan.name == "scan"
    (tmp_path / "Doe_Jane.zip").rename(tmp_path / "export")
    assert read_scan(tmp_path / "export").name == "scan"


def test_files_of_one_name_in_a_zip_do_not_replace_each_other(folder, volume, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n, file in enumerate(sorted((folder / "IMAGES").iterdir())):
            archive.write(file, f"{n}/IM1")
    assert np.array_equal(read_scan(path).volume.array, volume.array)


def test_one_file(folder, volume):
    path = next((folder / "IMAGES").iterdir()).rename(folder / "calf.dcm")
    scan = read_scan(path)
    k = pydicom.dcmread(path).InstanceNumber - 1
    assert np.array_equal(scan.volume.array[..., 0], volume.array[..., k])
    assert scan.name == "calf"
    assert "a single slice" in scan.warnings[0]


@pytest.mark.parametrize("name", ["thigh.nii", "thigh.nii.gz"])
def test_nifti_file_and_folder_with_one(tmp_path, volume, name):
    (tmp_path / "in").mkdir()
    path = nifti(tmp_path / "in" / name, volume.array)
    (tmp_path / "in" / "notes.txt").write_text("text")
    for place in (path, tmp_path / "in"):
        scan = read_scan(place)
        assert np.array_equal(scan.volume.array, volume.array)
        assert (scan.name, scan.kind, scan.laterality) == ("thigh", "nifti", None)
        assert scan.series["orientation"] == "RAS"
    with pytest.raises(UsageError, match="asked for"):
        read_scan(path, "1")
    nifti(tmp_path / "in" / "other.nii", volume.array)
    with pytest.raises(ScanError, match=r"2 NIfTI files \(other.nii, thigh"):
        read_scan(tmp_path / "in")


def test_single_slice_nifti_warns(tmp_path, volume):
    scan = read_scan(nifti(tmp_path / "a.nii", volume.array[..., :1]))
    assert "a single slice" in scan.warnings[0]


def test_nothing_to_read(tmp_path):
    with pytest.raises(ScanError, match="is not there"):
        read_scan(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="empty is empty"):
        read_scan(tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("text")
    with pytest.raises(ScanError, match="text holds no image among its 1 files"):
        read_scan(tmp_path / "text")
    with pytest.raises(ScanError, match=r"a\.txt is no image"):
        read_scan(tmp_path / "text" / "a.txt")


def test_zip_that_leads_out_of_itself(folder, tmp_path):
    image = next((folder / "IMAGES").iterdir())
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for n, entry in enumerate(
        ["../evil.dcm", "a/../../evil.dcm", "/evil.dcm", "..\\evil.dcm", "C:/evil.dcm", link]
    ):
        path = tmp_path / f"{n}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("fine.dcm", image.read_bytes())
            archive.writestr(entry, image.read_bytes())
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ScanError, match="leads out of it"):
            read_scan(path)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["", ".", ".\\"])
def test_a_zip_with_an_entry_without_a_name(folder, volume, tmp_path, name):
    path = pack(folder, tmp_path / "a.zip")
    nameless = zipfile.ZipInfo("a")
    nameless.filename = name
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(nameless, b"")
    assert np.array_equal(read_scan(path).volume.array, volume.array)


def test_zip_that_is_encrypted_damaged_or_too_big(folder, tmp_path, monkeypatch):
    path = pack(folder, tmp_path / "a.zip")
    data = path.read_bytes()
    locked = bytearray(data)
    at = locked.rindex(b"PK\x01\x02")
    locked[at + 8] |= 1
    path.write_bytes(locked)
    with pytest.raises(ScanError, match="encrypted"):
        read_scan(path)
    broken = bytearray(data)
    at = broken.index(b".dcm") + 200
    broken[at : at + 50] = bytes(50)
    for damaged in (data[:-30], data[: len(data) // 2], b"", bytes(broken)):
        path.write_bytes(damaged)
        with pytest.raises(ScanError, match="no zip file, or a damaged one"):
            read_scan(path)
    path.write_bytes(data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))
    with pytest.raises(OutputError, match="10 are free"):
        read_scan(path)
    monkeypatch.undo()
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(shutil, "copyfileobj", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OutputError, match="no space left"):
        read_scan(path)


def test_no_permission(folder, monkeypatch):
    image = next((folder / "IMAGES").iterdir())
    opened, listed = Path.open, os.scandir

    def refuse_file(path, *args, **kwargs):
        if path == image:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    def refuse_folder(path):
        if str(path).endswith("IMAGES"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse_file)
        with pytest.raises(ScanError, match=f"no permission to read {image.name}"):
            read_scan(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse_folder)
        with pytest.raises(ScanError, match=r"cannot read folder .*IMAGES: Permission denied"):
            read_scan(folder)


def test_constant_and_not_finite(tmp_path, volume):
    flat = Volume(np.full_like(volume.array, 5), volume.geometry)
    write_series(tmp_path / "flat", flat, SeriesInfo("a"))
    with pytest.raises(ScanError, match="series 1: every voxel has the value 5"):
        read_scan(tmp_path / "flat")
    write_series(tmp_path / "slope", volume, SeriesInfo("a"))
    for path in (tmp_path / "slope").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.0, 0.25
        dataset.save_as(path)
    with pytest.raises(ScanError, match=r"value 0\.25"):
        read_scan(tmp_path / "slope")
    array = np.ones((2, 2, 2), np.float32)
    array[0, 0] = np.nan, np.inf
    with pytest.raises(ScanError, match="x: 2 of 8 values are NaN or infinite"):
        refuse_values(array, "x")


def test_modality_that_is_not_mr_warns(folder):
    for path in (folder / "IMAGES").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.Modality = "CT"
        dataset.save_as(path)
    assert read_scan(folder).warnings == ("the modality is CT, not MR",)


def test_inspect_names_the_choice(folder, volume, tmp_path):
    inspection = inspect_scan(folder)
    assert (inspection.kind, inspection.taken, inspection.reason) == ("dicom", 1, "the only series")
    assert (inspection.problem, inspection.ignored) == (None, 1)
    assert inspection.entries[0]["uid"].startswith("2.25.")
    fat = SeriesInfo("a", 2, "fat", ("ORIGINAL", "PRIMARY", "M", "FAT"))
    paths = write_series(folder / "fat", volume, fat)
    inspection = inspect_scan(pack(folder, tmp_path / "both.zip"))
    assert [e["description"] for e in inspection.entries] == ["t1 dixon axial water", "fat"]
    assert (inspection.taken, inspection.reason) == (1, "the water series among 2 stacks")
    assert inspect_scan(folder, "fat").taken == 2
    paths[1].unlink()
    inspection = inspect_scan(folder, "2")
    assert inspection.taken is None
    assert isinstance(inspection.problem, GeometryError)
    assert "gap" in inspection.entries[1]["problem"]
    json.dumps(inspection.entries)


def test_inspect_nifti(tmp_path, volume):
    inspection = inspect_scan(nifti(tmp_path / "a.nii", volume.array))
    assert (inspection.kind, inspection.taken) == ("nifti", 1)
    assert inspection.entries[0]["shape"] == [6, 5, 4]
    with pytest.raises(ScanError, match="is not there"):
        inspect_scan(tmp_path / "b.nii")
    for look in (inspect_scan, read_scan):
        with pytest.raises(UsageError, match=r"series '2' asked for in a\.nii"):
            look(tmp_path / "a.nii", "2")


def test_middle_slices_of_dicom_and_nifti(folder, volume, tmp_path):
    (folder / "IMAGES" / "damaged").mkdir()
    damaged = sorted(write_series(folder / "IMAGES" / "damaged", volume, SeriesInfo("b", number=2)))
    for file in damaged:
        file.write_bytes(file.read_bytes()[:-20])
    slices = middle_slices(folder)
    assert list(slices) == [1]
    np.testing.assert_array_equal(slices[1], volume.array[:, :, 2].T)
    (shown,) = middle_slices(nifti(tmp_path / "a.nii", volume.array)).values()
    # Stored towards right, front and head; shown towards left and back.
    np.testing.assert_array_equal(shown, volume.array[::-1, ::-1, 2].T)


def test_a_damaged_file_beside_the_series_that_is_asked_for(folder, volume):
    wanted = read_scan(folder).volume.array
    (folder / "later").mkdir()
    files = sorted(write_series(folder / "later", volume, SeriesInfo("b", number=2)))
    for file in files[:2]:
        file.write_bytes(file.read_bytes()[:400])
    said = rf"{files[0].name} is a damaged .*, and 1 more file cannot be read[\s\S]*--series NUMBER"
    with pytest.raises(ScanError, match=said):
        read_scan(folder)
    inspection = inspect_scan(folder)
    assert (len(inspection.entries), inspection.taken) == (2, None)
    assert "damaged" in inspection.reason
    scan = read_scan(folder, "1")
    np.testing.assert_array_equal(scan.volume.array, wanted)
    assert [w.split(" is a ")[0] for w in scan.warnings] == [f"passed over: {f.name}" for f in files[:2]]
    for file in files[2:]:
        file.unlink()
    with pytest.raises(ScanError, match=f"{files[0].name} is a damaged"):
        read_scan(folder / "later")


@pytest.mark.parametrize("how", ["empty", "link"])
def test_images_that_were_never_copied_are_missed(folder, volume, how):
    files = (folder / "IMAGES").iterdir()
    last = max(files, key=lambda file: float(pydicom.dcmread(file).ImagePositionPatient[2]))
    last.unlink()
    last.touch() if how == "empty" else last.symlink_to("nowhere.dcm")
    with pytest.raises(ScanError, match=f"{last.name} is empty, or a link"):
        read_scan(folder)
    last.rename(last.with_suffix(".flag"))  # what no image is called is no image
    (folder / "IMAGES" / ".hidden.dcm").touch()
    assert read_scan(folder).series["ignored_files"] == 3


def test_a_nifti_beside_what_was_made_of_it_and_of_macos(tmp_path, volume):
    nifti(tmp_path / "leg.nii.gz", volume.array)
    nifti(tmp_path / "leg_dseg.nii.gz", volume.array)
    (tmp_path / "._leg.nii.gz").write_bytes(bytes(99))
    with pytest.raises(ScanError, match="2 NIfTI files"):
        read_scan(tmp_path)
    report = {"outputs": [{"file": "leg_dseg.nii.gz"}]}
    (tmp_path / "leg_report.json").write_text(json.dumps(report))
    assert read_scan(tmp_path).name == "leg"
