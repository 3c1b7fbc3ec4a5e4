"""A subject's skeleton from the waist down: both legs, pelvis, and the bones beside them.

The shapes are real adults' (``trainers.shape_model``) or anyone's meshes. A child is a scaled adult: a proxy,
not a child's anatomy. All coordinates are RAS+ mm with z up along the body and the midline near x = 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seg_core.errors import ScanError, UsageError
from seg_core.geometry import LabelMap
from seg_core.labels import BONES, SIDES
from seg_core.mesh import surface
from seg_core.nifti import read_labels
from seg_core.ply import Mesh, Space, read_ply
from trainers.contact import SignedSurface, carve, contact_shift
from trainers.extra_bones import arm, foot, lumbar_spine
from trainers.hip import make_room, part_symphysis, socket_centre, socket_vertices
from trainers.landmarks import (
    FEMUR_OF_STATURE,
    bone_landmarks,
    femoral_head,
    greatest_length,
    reflection,
    side_sign,
)
from trainers.shape_model import ShapeModel, load_shape_model, truncated_normal

FloatArray = npt.NDArray[np.float64]

BONE_NAMES = tuple(f"{side}_{bone}" for side in SIDES for bone in BONES)
LEG = ("femur", "tibia", "fibula", "patella")


@dataclass(frozen=True)
class AnatomyConfig:
    """Whose skeleton, how large, and how it lies.

    Parameters
    ----------
    seed : int
        Decides everything that is drawn: shape (unless ``subject`` or ``bones`` is given), differences
        between the legs, pose, feet and hands.
    subject : int, optional
        One of the 26 real adults, 0 to 25.
    bones : Path, optional
        Folder of meshes or masks ``right_tibia.ply`` or ``.nii.gz`` ... ``left_pelvis``, any of them, and
        ``right_patella``, ``left_patella``, ``sacrum`` if there; taken in the pose in which they are.
    bones_space : {"lps", "ras"}, optional
        Space of meshes whose header does not say it; LPS if neither says.
    scale : float, optional
        Factor on the adult's size. 0.55 to 0.85 for children.
    stature_cm : float, optional
        Scale so that the femur's length is 0.2674 of it. Not together with ``scale``.
    asymmetry : float
        Standard deviation of the difference of the right leg's scores from the left's, in units of the
        population's standard deviation.
    pose : float
        Size of the random turns of hips and knees; 0 for none, 1 for a few degrees.

    Raises
    ------
    UsageError
        If two sources or two sizes are given, or a size is not positive.
    """

    seed: int = 0
    subject: int | None = None
    bones: Path | None = None
    bones_space: Space | None = None
    scale: float | None = None
    stature_cm: float | None = None
    asymmetry: float = 0.2
    pose: float = 1.0

    def __post_init__(self) -> None:
        if self.subject is not None and self.bones is not None:
            raise UsageError("both a subject and a folder of bones", "one of them")
        if self.scale is not None and self.stature_cm is not None:
            raise UsageError("both a scale and a stature", "one of them")
        if self.scale is not None and not 0.2 <= self.scale <= 2:
            raise UsageError(f"a scale of {self.scale}", "0.2 to 2; children 0.55 to 0.85")
        if self.stature_cm is not None and not 40 <= self.stature_cm <= 250:
            raise UsageError(f"a stature of {self.stature_cm} cm", "40 to 250 cm")
        if self.seed < 0 or not 0 <= self.asymmetry <= 2 or not 0 <= self.pose <= 3:
            raise UsageError(
                f"seed {self.seed}, asymmetry {self.asymmetry}, pose {self.pose}",
                "a seed of 0 or more, an asymmetry of 0 to 2, a pose of 0 to 3",
            )


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A skeleton in RAS+ mm, z up along the body.

    Parameters
    ----------
    bones : mapping of str to Mesh
        The labelled bones, ``right_tibia`` ... ``left_pelvis``; all eight unless meshes were missing.
    others : mapping of str to Mesh
        Bones that are not labelled: patellae, sacrum, feet, hands and forearms, lumbar spine.
    landmarks : mapping of str to ndarray, (3,)
        For both sides ``right_`` ``hip`` (centre of the femoral head), ``trochanter``, ``knee``, ``ankle``,
        ``toe``, ``heel``, ``asis``, ``crest``, ``ischium``, ``elbow``, ``wrist``, ``fingertip``; and
        ``pubis``, ``promontory``, ``spine_top``. Always all of them: those that no bone shows are estimated.
    femur_mm : float
        Length of the femur, by which soft tissue is proportioned.
    """

    bones: Mapping[str, Mesh]
    others: Mapping[str, Mesh]
    landmarks: Mapping[str, FloatArray]
    femur_mm: float


def make_anatomy(config: AnatomyConfig, model: ShapeModel | None = None) -> Anatomy:
    """Make a skeleton; the same configuration gives the same numbers on one kind of processor.

    Parameters
    ----------
    config : AnatomyConfig
        What to make.
    model : ShapeModel, optional
        The shape model, if already loaded.

    Raises
    ------
    MissingPackageError
        If the shape model's package is not installed.
    UsageError
        If there is no such subject, or no bone in the folder beside fibulae.
    ScanError
        If a mesh cannot be read.
    """
    model = model or load_shape_model()
    rng = np.random.default_rng(config.seed)
    if config.bones is not None:
        meshes = _read_bones(config.bones, config.bones_space)
        template = bone_landmarks(_posed(model, _config_of_stand_in(config), rng))
        meshes = _scaled(meshes, _factor(config, meshes))
    else:
        meshes = _posed(model, config, rng)
        template = {}
    return _completed(meshes, template, rng)


def _config_of_stand_in(config: AnatomyConfig) -> AnatomyConfig:
    """Return that of a drawn adult, who has the landmarks that the given bones do not show."""
    return replace(config, bones=None, scale=1.0, stature_cm=None)


def _posed(model: ShapeModel, config: AnatomyConfig, rng: np.random.Generator) -> dict[str, Mesh]:
    """Return both legs, hip bones and sacrum of a real or drawn subject, scaled and posed."""
    own = model.draw_scores(rng) if config.subject is None else model.subject_scores(config.subject)
    _, axes = model.training_basis
    other = own + config.asymmetry * (axes @ truncated_normal(rng, axes.shape[1], 2.0))
    left, right = model.meshes(own), model.meshes(other)
    matrix, offset = reflection(left["left_hip"], left["right_hip"])
    frame = _body_frame(matrix, offset, left["sacrum"].centroid)
    names = {"left_hip": "left_pelvis", "right_hip": "right_pelvis", "sacrum": "sacrum"}
    meshes = {new: _moved(left[old], *frame) for old, new in names.items()}
    meshes |= {f"left_{bone}": _moved(left[bone], *frame) for bone in LEG}
    meshes |= {f"right_{bone}": _mirrored(_moved(right[bone], *frame)) for bone in LEG}
    sockets = socket_vertices(model)
    for side in SIDES:
        head = femoral_head(meshes[f"{side}_femur"], side)[0]
        shift = socket_centre(meshes[f"{side}_pelvis"], sockets[side]) - head
        meshes |= {f"{side}_{bone}": _shifted(meshes[f"{side}_{bone}"], shift) for bone in LEG}
    meshes = _scaled(meshes, _factor(config, meshes))
    for side in SIDES:
        meshes |= _pose_leg(meshes, side, config.pose, rng)
        pelvis, femur = meshes[f"{side}_pelvis"], meshes[f"{side}_femur"]
        meshes[f"{side}_pelvis"] = make_room(pelvis, femur, side, 2.0)
    meshes["right_pelvis"], meshes["left_pelvis"] = part_symphysis(
        meshes["right_pelvis"], meshes["left_pelvis"], 2.5
    )
    return _without_overlaps(meshes)


def _body_frame(matrix: FloatArray, offset: FloatArray, amid: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the rotation (3, 3) and origin (3,) that bring the plane of a reflection to x = 0."""
    normal = np.linalg.eigh(matrix + matrix.T)[1][:, 0]
    normal = normal * np.sign(normal[0])
    front = np.array([0.0, 1.0, 0.0])
    front = front - (front @ normal) * normal
    front = front / np.linalg.norm(front)
    return np.array([normal, front, np.cross(normal, front)]), (amid + matrix @ amid + offset) / 2


def _pose_leg(
    meshes: Mapping[str, Mesh], side: str, amount: float, rng: np.random.Generator
) -> dict[str, Mesh]:
    """Turn a leg in its hip and knee by a few degrees; the feet come apart, as in a scanner."""
    sign = side_sign(side)
    spread, turned, raised, bent = truncated_normal(rng, 4, 2.0) * amount
    hip_turn = (
        _turn("x", 2.0 + 2.0 * raised)
        @ _turn("y", -sign * (2.5 + 1.2 * spread))
        @ _turn("z", -sign * 6 * turned)
    )
    hip = femoral_head(meshes[f"{side}_femur"], side)[0]
    leg = {bone: _about(meshes[f"{side}_{bone}"], hip_turn, hip) for bone in LEG}
    knee = bone_landmarks({f"{side}_femur": leg["femur"]})[f"{side}_knee"]
    flexion = (4.0 + 2.0 * bent) * min(amount, 1.0)
    for bone, share in (("tibia", 1.0), ("fibula", 1.0), ("patella", 0.6)):
        leg[bone] = _about(leg[bone], _turn("x", -share * flexion), knee)
    return {f"{side}_{bone}": mesh for bone, mesh in leg.items()}


def _without_overlaps(meshes: dict[str, Mesh]) -> dict[str, Mesh]:
    """Move the legs' bones until cartilage fits between them; what still touches is pushed back."""
    out = dict(meshes)
    for side in SIDES:
        for bone, neighbour, moved, gap, towards in _FITTED:
            solid = SignedSurface.of(out[f"{side}_{neighbour}"])
            way = None if towards is None else np.array(towards)
            shift = contact_shift(out[f"{side}_{bone}"].vertices_mm, solid, gap, way)
            for name in moved:
                out[f"{side}_{name}"] = _shifted(out[f"{side}_{name}"], shift)
    for name, solid_name, keep in _CARVED:
        for side in SIDES:
            first, second = name.format(side), solid_name.format(side)
            out[first] = carve(out[first], SignedSurface.of(out[second]), keep)
    return out


# A bone, its neighbour, what moves with it, the least gap between them (mm: from, to), and the direction in
# which it may be brought nearer.
_FITTED: tuple[
    tuple[str, str, tuple[str, ...], tuple[float, float], tuple[float, float, float] | None], ...
] = (
    ("tibia", "femur", ("tibia", "fibula", "patella"), (3.0, 4.0), (0.0, 0.0, 1.0)),
    ("fibula", "tibia", ("fibula",), (1.5, 3.0), None),
    ("patella", "femur", ("patella",), (3.0, 5.0), (0.0, -1.0, 0.0)),
    ("patella", "tibia", ("patella",), (2.0, 5.0), None),
)
# A bone, what it gives way to, and the distance (mm) that its vertices then keep.
_CARVED = (
    ("{}_pelvis", "{}_femur", 1.5),
    ("{}_tibia", "{}_femur", 2.0),
    ("{}_fibula", "{}_tibia", 1.0),
    ("{}_fibula", "{}_femur", 2.0),
    ("{}_patella", "{}_femur", 2.0),
    ("{}_patella", "{}_tibia", 1.5),
    ("sacrum", "{}_pelvis", 1.5),
)


def _completed(
    meshes: Mapping[str, Mesh], template: Mapping[str, FloatArray], rng: np.random.Generator
) -> Anatomy:
    """Add the bones that no shape model has, and all landmarks."""
    bones = {name: meshes[name] for name in BONE_NAMES if name in meshes}
    others = {name: mesh for name, mesh in meshes.items() if name not in bones}
    points = _with_missing(bone_landmarks(bones), template)
    femurs = [greatest_length(bones[f"{s}_femur"]) for s in SIDES if f"{s}_femur" in bones]
    size = float(np.mean(femurs or [1.1 * float(np.linalg.norm(points["left_hip"] - points["left_knee"]))]))
    for side in SIDES:
        shank = points[f"{side}_ankle"] - points[f"{side}_knee"]
        parts, places = foot(side, points[f"{side}_ankle"], shank / np.linalg.norm(shank), size, rng)
        arms, arm_places = arm(side, points, size, rng)
        others |= parts | arms
        points |= places | arm_places
    spine, places = lumbar_spine(_promontory(others.get("sacrum"), points), size, rng)
    others |= spine
    points |= places
    for side in SIDES:
        for name, near in (
            ("{}_talus", "{}_tibia"),
            ("{}_talus", "{}_fibula"),
            ("{}_calcaneus", "{}_fibula"),
        ):
            if near.format(side) in bones:
                solid = SignedSurface.of(bones[near.format(side)])
                others[name.format(side)] = carve(others[name.format(side)], solid, 3.0)
    return Anatomy(bones, others, points, size)


def _with_missing(known: dict[str, FloatArray], template: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Add landmarks that no bone shows from a template, scaled and moved to fit the known ones."""
    both = [name for name in known if name in template]
    if not both:
        return known
    here, there = np.array([known[n] for n in both]), np.array([template[n] for n in both])
    spread = np.linalg.norm(there - there.mean(axis=0))
    scale = np.linalg.norm(here - here.mean(axis=0)) / spread if len(both) > 1 else 1.0
    return {n: (p - there.mean(axis=0)) * scale + here.mean(axis=0) for n, p in template.items()} | known


def _promontory(sacrum: Mesh | None, points: Mapping[str, FloatArray]) -> FloatArray:
    """Return the middle of the sacrum's upper front end; above the hips where there is no sacrum."""
    if sacrum is None:
        middle = (points["right_hip"] + points["left_hip"]) / 2
        size = np.linalg.norm(points["right_hip"] - points["left_hip"])
        return np.asarray(middle + size * np.array([0.0, -0.1, 0.6]))
    vertices = sacrum.vertices_mm
    near = vertices[np.abs(vertices[:, 0] - sacrum.centroid[0]) < 0.15 * np.ptp(vertices[:, 0])]
    height = near[:, 2] > near[:, 2].max() - 0.12 * np.ptp(near[:, 2])
    point: FloatArray = near[height].mean(axis=0)
    return point


def _read_bones(folder: Path, space: Space | None) -> dict[str, Mesh]:
    names = (*BONE_NAMES, "right_patella", "left_patella", "sacrum")
    found = {name: _read_bone(Path(folder), name, space) for name in names}
    meshes = {name: mesh for name, mesh in found.items() if mesh is not None}
    # A fibula shows no joint, and without one nothing says where the rest of the body lies.
    if not any(name in meshes for name in BONE_NAMES if not name.endswith("fibula")):
        raise UsageError(
            f"no bone in {folder} that shows a joint",
            "right_tibia.ply or .nii.gz ... left_pelvis.ply, at least one tibia, femur or pelvis of them",
        )
    for name, mesh in meshes.items():
        if not mesh.is_watertight:
            raise ScanError(f"{name} is not closed", "every edge in exactly two faces", "repair the mesh")
    return meshes


def _read_bone(folder: Path, name: str, space: Space | None) -> Mesh | None:
    """Read a bone's surface, or make one of its mask; None where there is neither."""
    if (folder / f"{name}.ply").is_file():
        return read_ply(folder / f"{name}.ply", space)
    if not (folder / f"{name}.nii.gz").is_file():
        return None
    mask = read_labels(folder / f"{name}.nii.gz")
    if not mask.array.any():
        raise ScanError(f"{name}.nii.gz is empty", "a mask of the bone")
    return surface(LabelMap((mask.array > 0).astype(np.uint8), mask.geometry, {1: name}), 1)


def _factor(config: AnatomyConfig, meshes: Mapping[str, Mesh]) -> float:
    """Return the scale that the configuration asks for."""
    if config.stature_cm is None:
        return config.scale or 1.0
    lengths = [greatest_length(meshes[f"{s}_femur"]) for s in SIDES if f"{s}_femur" in meshes]
    if not lengths:
        raise UsageError(
            "a stature, but no femur to scale by", "a femur among the bones", "give a scale instead"
        )
    return FEMUR_OF_STATURE * 10 * config.stature_cm / float(np.mean(lengths))


def _turn(axis: str, degrees: float) -> FloatArray:
    """Return the rotation (3, 3) about a body axis, right-handed."""
    a, b = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = cosine, -sine, sine, cosine
    return matrix


def _moved(mesh: Mesh, turn: FloatArray, origin: FloatArray) -> Mesh:
    return Mesh((mesh.vertices_mm - origin) @ turn.T, mesh.faces)


def _about(mesh: Mesh, turn: FloatArray, centre: FloatArray) -> Mesh:
    return Mesh((mesh.vertices_mm - centre) @ turn.T + centre, mesh.faces)


def _shifted(mesh: Mesh, shift: FloatArray) -> Mesh:
    return Mesh(mesh.vertices_mm + shift, mesh.faces)


def _mirrored(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices_mm * [-1.0, 1.0, 1.0], mesh.faces[:, ::-1])


def _scaled(meshes: Mapping[str, Mesh], factor: float) -> dict[str, Mesh]:
    return {name: Mesh(mesh.vertices_mm * factor, mesh.faces) for name, mesh in meshes.items()}
