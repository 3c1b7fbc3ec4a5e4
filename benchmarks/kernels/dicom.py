"""A series of DICOM files to a volume in memory, headers read and slices put in order."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.kernels.row import Goal, Peers, Row
from benchmarks.timing import Action
from seg_core.dicom import choose_series, read_series, search
from seg_core.geometry import Geometry, Volume
from trainers.dicom_writer import SeriesInfo, write_series

Array = npt.NDArray[Any]
READING = "just reading the pixels"
COMPRESSED = ("RLE", "JPEG 2000")


def rows(small: bool) -> Iterator[Row]:
    """Give a row for plain files and one for each compression, each with files of its own."""
    folder = tempfile.TemporaryDirectory(prefix="lls-benchmark-")
    sizes = {"plain": 12 if small else 1015} | dict.fromkeys(COMPRESSED, 5 if small else 64)
    yield from (_row(Path(folder.name) / name, n, small, folder) for name, n in sizes.items())


def _row(place: Path, slices: int, small: bool, folder: "tempfile.TemporaryDirectory[str]") -> Row:
    name, size = place.name, 32 if small else 512
    array = _scan(slices, size)
    affine = np.diag([-0.9375, -0.9375, 1.5, 1.0])
    paths = write_series(place, Volume(array.T, Geometry(array.T.shape, affine)), SeriesInfo("benchmark"))
    if name in COMPRESSED:
        _compress(paths, name)
    peers = Peers()
    for peer, make in PEERS.items():
        peers.add(peer, lambda make=make: make(place))

    def ours() -> Array:
        series, _ = choose_series(search(place).series)
        return read_series(series).array.T

    def agree(answers: Mapping[str, Any]) -> str:
        assert folder  # the files are there until now
        np.testing.assert_array_equal(answers["ours"], array, err_msg="ours")
        for peer, answer in answers.items():
            if answer is not None:
                turned = answer[0].mean() > answer[-1].mean()  # peers may begin at the other end of a stack
                np.testing.assert_array_equal(answer[::-1] if turned else answer, array, err_msg=peer)
        return (
            "All have the slices that were written, in order; files of dcm2niix and dicom2nifti are not read."
        )

    what = f"{slices} files of {size} x {size}, {name}"
    if name in COMPRESSED:
        return Row(f"dicom {name}", what, ours, Goal(1.0), peers, agree)
    return Row(
        "dicom", what, ours, Goal(4.0, READING), peers, agree, {READING: lambda: _just_read(paths, size)}
    )


def _scan(slices: int, size: int) -> npt.NDArray[np.int16]:
    """Return (slice, row, column) with the noise of a scan, each slice brighter than the one before."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 40, (slices, size, size), np.int16)
    noise += np.arange(slices, dtype=np.int16)[:, None, None]
    return noise


def _just_read(paths: list[Path], size: int) -> Array:
    """Read the last bytes of each file, where its pixels are, into one array; on one core."""
    array = np.empty((len(paths), size, size), np.int16)
    for path, plane in zip(paths, array, strict=True):
        with path.open("rb", buffering=0) as file:
            file.seek(-plane.nbytes, 2)
            file.readinto(plane.data.cast("B"))
    return array


def _compress(paths: list[Path], name: str) -> None:
    import pydicom
    from pydicom.uid import JPEG2000Lossless, RLELossless

    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless if name == "RLE" else JPEG2000Lossless)
        dataset.save_as(path)


def _dcm2niix(folder: Path) -> Action:
    from dcm2niix import bin as program

    command = [program, "-z", "n", "-b", "n", str(folder)]

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as out:
            subprocess.run([*command[:-1], "-o", out, command[-1]], check=True, capture_output=True)

    return run


def _pydicom(folder: Path) -> Action:
    import pydicom

    def run() -> Array:
        files = [pydicom.dcmread(path) for path in folder.iterdir()]
        files.sort(key=lambda file: float(file.ImagePositionPatient[2]))
        return np.stack([file.pixel_array for file in files])

    return run


def _simpleitk(folder: Path) -> Action:
    import SimpleITK as sitk  # noqa: N813 (its usual name)

    def run() -> Array:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        found: Array = sitk.GetArrayFromImage(reader.Execute())
        return found

    return run


def _dicom2nifti(folder: Path) -> Action:
    import dicom2nifti

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as out:
            dicom2nifti.dicom_series_to_nifti(str(folder), f"{out}/scan.nii", reorient_nifti=False)

    return run


def _monai(folder: Path) -> Action:
    from monai.data import PydicomReader

    def run() -> Array:
        reader = PydicomReader()
        array, _ = reader.get_data(reader.read(str(folder)))
        return np.asarray(array).transpose(2, 1, 0)

    return run


PEERS: Mapping[str, Callable[[Path], Action]] = {
    "dcm2niix": _dcm2niix,
    "pydicom loop": _pydicom,
    "SimpleITK": _simpleitk,
    "dicom2nifti": _dicom2nifti,
    "MONAI": _monai,
}
