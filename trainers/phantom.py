"""Legs to segment: an MR DICOM series of a synthetic person, with the truth beside it."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from seg_core.errors import OutputError, UsageError
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.nifti import write_label_table, write_labels
from seg_core.output import check_writable
from seg_core.ply import Mesh, write_ply
from trainers.anatomy import Anatomy, AnatomyConfig, make_anatomy
from trainers.dicom_writer import SeriesInfo, write_series
from trainers.draw import Drawing, draw_scan, scan_geometry, true_labels
from trainers.landmarks import FEMUR_OF_STATURE
from trainers.mr import Contrast, draw_hard_look, draw_look
from trainers.soft_tissue import draw_body

Difficulty = Literal["ordinary", "hard"]
_AIR_BELOW_MM = 12.0
_LEAST_SIZE = 3  # of a ghost that is shifted by an eighth to a third of the rows
_PARTS = {"dicom", "labels.nii.gz", "labels.json", "masks", "meshes", "phantom.json"}
# Median stature of girls and boys together, cm: Kuczmarski et al., CDC growth charts, 2000.
_AGES = (4.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0)
_STATURES_CM = (102.0, 115.0, 122.0, 128.0, 138.5, 150.0, 162.0, 168.0, 170.0)


@dataclass(frozen=True)
class PhantomConfig:
    """A synthetic person and how he is scanned.

    Parameters
    ----------
    seed : int
        Of everything that is drawn. The same configuration gives the same bytes on one kind of processor; on
        another, whose linear algebra rounds otherwise, the surfaces may differ in their last digits.
    subject : int, optional
        One of the 26 measured subjects instead of a draw.
    bones : str, optional
        Folder of meshes (``right_tibia.ply`` ...) instead of a draw; as large as they are, unless a stature
        or scale is given.
    stature_cm, scale : float, optional
        Body height, or factor on the adult bones; drawn between 110 and 175 cm by default.
    size : int
        Rows and columns of a slice, 3 or more.
    pixel_mm, slice_mm : float
        Distance of pixels and of slices, mm.
    slices : int, optional
        Number of slices; from the feet upwards; to above the hip by default.
    trunk_mm : float
        Trunk above the hip bones in view, mm, when ``slices`` is not given.
    difficulty : {"ordinary", "hard"}
        Noise, shading, blur and motion.
    contrast : {"water", "in_phase", "fat"}
        The scan's look.
    bare_shin, flesh : float
    joints : bool
        See `trainers.soft_tissue.Body`.
    planes : int
        Planes a slice that are averaged.
    """

    seed: int = 0
    subject: int | None = None
    bones: str | None = None
    stature_cm: float | None = None
    scale: float | None = None
    size: int = 512
    pixel_mm: float = 0.9375
    slice_mm: float = 3.0
    slices: int | None = None
    trunk_mm: float = 90.0
    difficulty: Difficulty = "ordinary"
    contrast: Contrast = "water"
    bare_shin: float = 0.0
    joints: bool = False
    planes: int = 2
    flesh: float = 1.0

    def __post_init__(self) -> None:
        slices = 1 if self.slices is None else self.slices
        if min(self.size, self.pixel_mm, self.slice_mm, slices, self.planes) <= 0:
            raise UsageError(
                "a size, spacing or number of slices or planes that is not positive", "numbers above 0"
            )
        if self.size < _LEAST_SIZE:
            raise UsageError(
                f"slices of {self.size} x {self.size}", f"{_LEAST_SIZE} rows and columns or more"
            )
        if self.seed < 0:
            raise UsageError(f"seed {self.seed}", "0 or more")
        if self.contrast not in (contrasts := get_args(Contrast)):
            raise UsageError(f"a contrast {self.contrast!r}", f"one of {', '.join(contrasts)}")
        if self.difficulty not in (difficulties := get_args(Difficulty)):
            raise UsageError(f"a difficulty {self.difficulty!r}", f"one of {', '.join(difficulties)}")
        if self.subject is not None and self.bones is not None:
            raise UsageError("both a subject and a folder of bones", "one of them")


@dataclass(frozen=True)
class Phantom:
    """A scan with its truth.

    Parameters
    ----------
    volume : Volume
        int16 intensities, axial.
    labels : LabelMap
        The true bones on the same grid.
    anatomy : Anatomy
        The surfaces behind them.
    facts : mapping
        How it was made, as JSON.
    series : SeriesInfo
        What its DICOM headers say.
    """

    volume: Volume
    labels: LabelMap
    anatomy: Anatomy
    facts: Mapping[str, Any]
    series: SeriesInfo


def make_phantom(config: PhantomConfig, threads: int = 2) -> Phantom:
    """Draw a person and scan him; the same for every number of threads.

    Raises
    ------
    MissingPackageError
        If the shape model's package is not installed and no folder of bones is given.
    """
    anatomy, geometry, drawing, facts = place(config)
    volume = draw_scan(anatomy, geometry, drawing, threads)
    series = name_series(
        facts,
        anatomy,
        description=f"{config.contrast} phantom",
        image_type=("ORIGINAL", "PRIMARY", "M", config.contrast.upper()),
    )
    return Phantom(volume, true_labels(anatomy, geometry), anatomy, facts, series)


def name_series(facts: Mapping[str, Any], anatomy: Anatomy, **headers: Any) -> SeriesInfo:
    """Name a series by all that is known of it; whatever differs makes another series.

    Parameters
    ----------
    facts : mapping
        How the scan is made, as JSON.
    anatomy : Anatomy
        Where it lies in the scanner. Scans of one body at one place belong to one patient and study.
    headers
        Of `SeriesInfo`.
    """
    body = [facts["anatomy"], facts["drawing"]["body"], anatomy.landmarks["right_hip"].tolist()]
    seed, study = (json.dumps(known, sort_keys=True) for known in (facts, body))
    return SeriesInfo(seed, study=study, **headers)


def place(config: PhantomConfig) -> tuple[Anatomy, Geometry, Drawing, dict[str, Any]]:
    """Draw a person in a scanner before any scan: anatomy, grid, soft tissue and look, how it was made."""
    rng = np.random.default_rng([config.seed, 0])
    anatomy_config, drawing = _draw(config, rng)
    # A scanner's axes begin anywhere in the patient.
    anatomy = _moved(make_anatomy(anatomy_config), rng.uniform(-150, 150, 3))
    if config.bones is not None and config.stature_cm is None:  # their size tells how old they are
        drawing = replace(drawing, age_years=_age(anatomy.femur_mm / (10 * FEMUR_OF_STATURE)))
    geometry = _field_of_view(anatomy, config, rng)
    facts = {
        "schema": 1,
        "config": asdict(config),
        "anatomy": _plain(anatomy_config),
        "drawing": asdict(drawing),
        "affine": geometry.affine.tolist(),
        "shape": list(geometry.shape),
        "note": "synthetic; a scaled adult is a proxy for a child",
    }
    return anatomy, geometry, drawing, facts


def check_place(folder: Path, overwrite: bool = False) -> None:
    """Refuse, before anything is drawn, a folder that :func:`write_phantom` would refuse.

    Raises
    ------
    OutputError
        If it exists and is not an earlier phantom to be overwritten, or cannot be written.
    """
    check_writable(folder)
    if folder.exists() and not (overwrite and _is_phantom(folder)):
        raise OutputError(
            f"{folder.name} exists", "a new folder", "choose another, or --overwrite an earlier phantom"
        )


def write_phantom(phantom: Phantom, folder: Path, overwrite: bool = False) -> None:
    """Write ``dicom/``, ``labels.nii.gz``, ``masks/``, ``meshes/`` and ``phantom.json``, all or nothing.

    Raises
    ------
    OutputError
        If the folder exists and is not an earlier phantom to be overwritten, or cannot be written.
    """
    check_place(folder, overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".lls-", dir=folder.parent) as temporary:
            made = Path(temporary) / "phantom"
            _write_parts(phantom, made)
            if folder.exists():
                folder.rename(Path(temporary) / "earlier")
            made.rename(folder)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder.name}: {error.strerror}", fix="choose another folder"
        ) from error


def _draw(config: PhantomConfig, rng: np.random.Generator) -> tuple[AnatomyConfig, Drawing]:
    """Draw what the configuration leaves open."""
    stature = config.stature_cm
    if stature is None and config.scale is None and config.bones is None:
        stature = float(rng.uniform(110, 175))
    anatomy = AnatomyConfig(
        seed=config.seed,
        subject=config.subject,
        bones=Path(config.bones) if config.bones is not None else None,
        stature_cm=stature,
        scale=config.scale,
    )
    height = stature if stature is not None else 172.0 * (config.scale or 1.0)
    age = _age(height)
    look = (draw_hard_look if config.difficulty == "hard" else draw_look)(rng, config.contrast)
    body = replace(draw_body(rng), bare_shin=config.bare_shin, joints=config.joints, flesh=config.flesh)
    return anatomy, Drawing(body, look, age, config.planes)


def _age(stature_cm: float) -> float:
    return float(np.interp(stature_cm, _STATURES_CM, _AGES))


def _field_of_view(anatomy: Anatomy, config: PhantomConfig, rng: np.random.Generator) -> Geometry:
    """Both legs in the middle, from below the feet; axes that begin anywhere."""
    points = np.concatenate([mesh.vertices_mm for mesh in anatomy.bones.values()])
    everything = np.concatenate([points, *(mesh.vertices_mm for mesh in anatomy.others.values())])
    low, high = points.min(0), points.max(0)
    bottom = everything[:, 2].min() - _AIR_BELOW_MM
    slices = config.slices or int(np.ceil((high[2] + config.trunk_mm - bottom) / config.slice_mm))
    centre = (low + high) / 2 + np.append(rng.uniform(-12, 12, 2), 0)
    centre[2] = bottom + slices * config.slice_mm / 2
    return scan_geometry(centre, config.size, config.pixel_mm, slices, config.slice_mm)


def _moved(anatomy: Anatomy, by_mm: npt.NDArray[np.float64]) -> Anatomy:
    def move(meshes: Mapping[str, Mesh]) -> dict[str, Mesh]:
        return {name: Mesh(mesh.vertices_mm + by_mm, mesh.faces) for name, mesh in meshes.items()}

    landmarks = {name: point + by_mm for name, point in anatomy.landmarks.items()}
    return replace(anatomy, bones=move(anatomy.bones), others=move(anatomy.others), landmarks=landmarks)


def _plain(anatomy: AnatomyConfig) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(anatomy).items()}


def _is_phantom(folder: Path) -> bool:
    """Whether a folder holds an earlier phantom and nothing else."""
    if not (folder / "phantom.json").is_file() or not {path.name for path in folder.iterdir()} <= _PARTS:
        return False
    kinds = {"dicom": ".dcm", "masks": ".nii.gz", "meshes": ".ply"}
    inner = [(path, end) for part, end in kinds.items() for path in (folder / part).glob("*")]
    return all(path.is_file() and path.name.endswith(end) for path, end in inner)


def _write_parts(phantom: Phantom, folder: Path) -> None:
    (folder / "masks").mkdir(parents=True)
    (folder / "meshes").mkdir()
    write_series(folder / "dicom", phantom.volume, phantom.series)
    write_labels(folder / "labels.nii.gz", phantom.labels)
    write_label_table(folder / "labels.json", phantom.labels.labels)
    for value, name in phantom.labels.labels.items():
        if name in phantom.anatomy.bones:
            mask = (phantom.labels.array == value).astype(np.uint8)
            one = LabelMap(mask, phantom.labels.geometry, {1: name})
            write_labels(folder / "masks" / f"{name}.nii.gz", one)
            write_ply(folder / "meshes" / f"{name}.ply", phantom.anatomy.bones[name])
    (folder / "phantom.json").write_text(json.dumps(phantom.facts, indent=1, sort_keys=True) + "\n")
