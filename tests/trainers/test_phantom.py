import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

import trainers
from seg_core.dicom import choose_series, find_series
from seg_core.errors import OutputError, UsageError
from seg_core.nifti import read_labels
from seg_core.ply import read_ply
from seg_core.scan import read_scan
from seg_core.voxelize import voxelize
from trainers.landmarks import greatest_length
from trainers.phantom import Phantom, PhantomConfig, make_phantom, write_phantom

SMALL = PhantomConfig(seed=11, stature_cm=130, size=128, pixel_mm=3.75, slice_mm=12.0)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(SMALL)


@pytest.fixture(scope="module")
def folder(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "person"
    write_phantom(phantom, folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(folder: Path, tmp_path: Path) -> None:
    write_phantom(make_phantom(SMALL, threads=1), tmp_path / "again")
    assert files(tmp_path / "again") == files(folder)


def test_another_seed_gives_another_person(phantom: Phantom) -> None:
    other = make_phantom(replace(SMALL, seed=12))
    assert other.labels.geometry.affine.tolist() != phantom.labels.geometry.affine.tolist()
    assert not np.array_equal(other.anatomy.bones["right_femur"].vertices_mm,
                              phantom.anatomy.bones["right_femur"].vertices_mm)  # fmt: skip


def test_what_differs_is_another_series_and_who_lies_still_has_one_study(tmp_path: Path) -> None:
    short = replace(SMALL, size=16, pixel_mm=30.0, slices=2)
    different = {
        "water": short,
        "fat": replace(short, contrast="fat"),
        "in_phase": replace(short, contrast="in_phase"),
        "taller": replace(short, stature_cm=150),
    }
    headers = {}
    for name, config in different.items():
        write_phantom(make_phantom(config), tmp_path / name)
        headers[name] = [pydicom.dcmread(path) for path in (tmp_path / name / "dicom").iterdir()]
    assert len({path.name for path in tmp_path.glob("*/dicom/*")}) == 8
    assert len({image.SOPInstanceUID for images in headers.values() for image in images}) == 8
    first = {name: images[0] for name, images in headers.items()}
    assert len({image.SeriesInstanceUID for image in first.values()}) == 4
    for same in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        of = {name: image[same].value for name, image in first.items()}
        assert of["water"] == of["fat"] == of["in_phase"] != of["taller"]
    assert [first[name].ImageType[-1] for name in ("water", "fat", "in_phase")] == [
        "WATER",
        "FAT",
        "IN_PHASE",
    ]
    shutil.rmtree(tmp_path / "taller")
    chosen, reason = choose_series(find_series(tmp_path))
    assert (chosen.kind.uid, reason) == (first["water"].SeriesInstanceUID, "the water series among 3 stacks")


def test_the_series_is_read_back_with_the_truth_on_its_grid(phantom: Phantom, folder: Path) -> None:
    scan = read_scan(folder / "dicom")
    truth = read_labels(folder / "labels.nii.gz")
    assert np.array_equal(scan.volume.array, phantom.volume.array)
    assert scan.volume.geometry.is_close(truth.geometry)
    assert set(np.unique(truth.array)) == set(range(9))


def test_every_labelled_voxel_has_its_centre_in_its_bone(phantom: Phantom) -> None:
    labels = phantom.labels
    for value, name in labels.labels.items():
        inside = voxelize(phantom.anatomy.bones[name], labels.geometry) > 0
        assert np.array_equal(labels.array == value, inside), name


def test_masks_and_meshes_are_those_of_the_labels(folder: Path) -> None:
    truth = read_labels(folder / "labels.nii.gz")
    names = sorted(truth.labels.values())
    assert sorted(p.name for p in (folder / "masks").iterdir()) == [f"{n}.nii.gz" for n in names]
    for value, name in truth.labels.items():
        mask = read_labels(folder / "masks" / f"{name}.nii.gz").array
        assert np.array_equal(mask > 0, truth.array == value)
        mesh = read_ply(folder / "meshes" / f"{name}.ply")
        centre = truth.geometry.to_world(np.argwhere(truth.array == value)).mean(0)
        assert np.linalg.norm(centre - mesh.centroid) < 6, name  # half a slice of 12 mm


def test_the_other_bones_are_not_labelled_and_the_fibula_is_lateral(phantom: Phantom) -> None:
    centre = {name: mesh.centroid for name, mesh in phantom.anatomy.bones.items()}
    for side, sign in (("right", 1), ("left", -1)):
        assert sign * (centre[f"{side}_fibula"][0] - centre[f"{side}_tibia"][0]) > 0
    sacrum = voxelize(phantom.anatomy.others["sacrum"], phantom.labels.geometry) > 0
    assert sacrum.any()
    assert not phantom.labels.array[sacrum].any()


def test_dixon_water_marrow_is_darker_than_muscle_and_brighter_than_nothing(phantom: Phantom) -> None:
    femur = np.isin(phantom.labels.array, (2, 6))
    middle = np.zeros_like(femur)
    ks = np.flatnonzero(femur.any((0, 1)))
    middle[:, :, ks[len(ks) // 3] : ks[2 * len(ks) // 3]] = True
    inside = binary_erosion(femur) & middle
    around = binary_dilation(femur, iterations=3) & ~binary_dilation(femur) & middle
    air = phantom.volume.array[:5].mean()
    assert phantom.volume.array[inside].mean() < 0.5 * phantom.volume.array[around].mean()
    assert phantom.volume.array[around].mean() > 5 * air


@pytest.mark.parametrize("kind", ["meshes", "masks"])
def test_anyones_bones_can_be_dressed_and_keep_their_size_and_age(kind: str, folder: Path) -> None:
    mine = make_phantom(replace(SMALL, stature_cm=None, bones=str(folder / kind)))
    truth = read_labels(folder / "labels.nii.gz")
    voxels = np.bincount(mine.labels.array.ravel(), minlength=9)[1:] * mine.labels.geometry.voxel_volume
    expected = np.bincount(truth.array.ravel(), minlength=9)[1:] * truth.geometry.voxel_volume
    assert np.all(np.abs(voxels / expected - 1) < 0.15)
    assert mine.facts["drawing"]["age_years"] == pytest.approx(8.4, abs=0.5)  # of 130 cm


def test_a_stature_is_asked_for_or_not(folder: Path, tmp_path: Path) -> None:
    short = replace(SMALL, size=16, pixel_mm=30.0, slices=2, stature_cm=None)
    grown = make_phantom(replace(short, bones=str(folder / "meshes"), stature_cm=160.0))
    lengths = [greatest_length(grown.anatomy.bones[f"{side}_femur"]) for side in ("right", "left")]
    assert np.mean(lengths) == pytest.approx(2.674 * 160, rel=0.002)
    assert grown.facts["drawing"]["age_years"] == pytest.approx(13.65, abs=0.05)
    shutil.copy(folder / "meshes" / "left_tibia.ply", tmp_path)
    one = make_phantom(replace(short, bones=str(tmp_path)))
    tibia = read_ply(tmp_path / "left_tibia.ply")
    assert greatest_length(one.anatomy.bones["left_tibia"]) == pytest.approx(greatest_length(tibia))
    assert 6 < one.facts["drawing"]["age_years"] < 11  # by the femur that such a tibia may have


def test_a_folder_is_not_overwritten_unless_asked_and_a_phantom(phantom: Phantom, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write_phantom(phantom, taken, overwrite=True)
    assert (taken / "thesis.txt").read_text() == "mine"
    write_phantom(phantom, tmp_path / "new")
    with pytest.raises(OutputError, match="exists"):
        write_phantom(phantom, tmp_path / "new")
    write_phantom(phantom, tmp_path / "new", overwrite=True)
    (tmp_path / "new" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write_phantom(phantom, tmp_path / "new", overwrite=True)
    assert (tmp_path / "new" / "notes.txt").read_text() == "mine"
    (tmp_path / "new" / "notes.txt").unlink()
    for part in ("dicom", "masks", "meshes"):
        mine = tmp_path / "new" / part / "mine"
        mine.mkdir()
        with pytest.raises(OutputError, match="exists"):
            write_phantom(phantom, tmp_path / "new", overwrite=True)
        assert mine.is_dir()
        mine.rmdir()
    assert json.loads((tmp_path / "new" / "phantom.json").read_text())["config"]["seed"] == 11
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "taken"]


def test_the_smallest_slices_can_be_drawn_and_read(tmp_path: Path) -> None:
    for size in range(3, 7):
        phantom = make_phantom(replace(SMALL, size=size, pixel_mm=480 / size, slices=2))
        write_phantom(phantom, tmp_path / str(size))
        assert np.array_equal(read_scan(tmp_path / str(size) / "dicom").volume.array, phantom.volume.array)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 2},
        {"slice_mm": -1.0},
        {"subject": 3, "bones": "x"},
        {"planes": 0},
        {"contrast": "T1"},
        {"difficulty": "Hard"},
    ],
)
def test_senseless_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PhantomConfig(**wrong)  # type: ignore[arg-type]


def test_its_kernels_need_no_place_to_be_kept(tmp_path: Path) -> None:
    """As in a locked-down container: neither the installation nor the home folder can be written."""
    for package in ("seg_core", "trainers"):
        source = Path(trainers.__file__).parent.parent / package
        ignored = shutil.ignore_patterns("__pycache__", "models")
        shutil.copytree(source, tmp_path / package, ignore=ignored)
        (tmp_path / package / "__pycache__").touch()
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), str(tmp_path / "seg_core" / "errors.py"))
    environment = os.environ | places | {"PYTHONPATH": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    code = "import trainers.phantom; print(trainers.phantom.__file__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "trainers" / "phantom.py")
