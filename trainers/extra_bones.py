"""Bones beside those of the shape model: feet, hands, forearms and lumbar spine, from simple closed shapes.

They are no labelled structures: they are in the picture so that a network learns to leave them alone.
Sizes are fractions of the femur's length, after the proportions of adults.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from seg_core.ply import Mesh
from trainers.landmarks import side_sign

FloatArray = npt.NDArray[np.float64]


def blob(centre: npt.ArrayLike, axes: npt.ArrayLike, squareness: float = 1.0) -> Mesh:
    """Return a closed superellipsoid.

    Parameters
    ----------
    centre : array_like, (3,)
        RAS+ mm.
    axes : array_like, (3, 3)
        Rows: the three half axes as vectors in mm; the third is the one with flattened ends.
    squareness : float
        1 for an ellipsoid; towards 0 its profile along the third axis becomes a box.
    """
    ball, faces = _ball()
    around = np.linalg.norm(ball[:, :2], axis=1)
    profile = around**squareness
    local = np.column_stack(
        [
            ball[:, :2] * (profile / np.maximum(around, 1e-12))[:, None],
            np.sign(ball[:, 2]) * np.abs(ball[:, 2]) ** squareness,
        ]
    )
    matrix = np.asarray(axes, np.float64)
    faces = faces if np.linalg.det(matrix) > 0 else faces[:, ::-1]
    return Mesh(local @ matrix + np.asarray(centre, np.float64), faces)


def capsule(start: npt.ArrayLike, end: npt.ArrayLike, radii: tuple[float, float]) -> Mesh:
    """Return a closed tapered rod with round ends between two points (RAS+ mm), radii (mm) at both."""
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    ball, faces = _ball()
    frame = _frame(b - a)
    upper = ball[:, 2] > 0
    vertices = np.where(upper[:, None], b, a) + (ball @ frame) * np.where(upper, radii[1], radii[0])[:, None]
    return Mesh(vertices, faces)


def joined(parts: Sequence[Mesh]) -> Mesh:
    """Return several closed meshes as one; where they overlap they are united when filled."""
    starts = np.concatenate([[0], np.cumsum([len(p.vertices_mm) for p in parts])])
    return Mesh(
        np.concatenate([p.vertices_mm for p in parts]),
        np.concatenate([p.faces + n for p, n in zip(parts, starts[:-1], strict=True)]).astype(np.int32),
    )


def foot(
    side: str, ankle: FloatArray, shank: FloatArray, size: float, rng: np.random.Generator
) -> tuple[dict[str, Mesh], dict[str, FloatArray]]:
    """Draw the bones of a foot.

    Parameters
    ----------
    side : {"right", "left"}
        Which foot.
    ankle : ndarray, (3,)
        Centre of the ankle, RAS+ mm.
    shank : ndarray, (3,)
        Unit vector from knee to ankle.
    size : float
        Length of the femur in mm.
    rng : numpy.random.Generator
        For plantar flexion and the direction of the toes.

    Returns
    -------
    bones : dict of str to Mesh
        ``right_talus``, ``right_calcaneus``, ``right_tarsus``, ``right_metatarsals``, ``right_toes``.
    landmarks : dict of str to ndarray, (3,)
        ``right_toe`` and ``right_heel``, on the bones' tips.
    """
    plantar, outward = np.radians(rng.uniform(15, 45)), np.radians(rng.uniform(5, 30))
    sign = side_sign(side)
    ahead = np.array([sign * np.sin(outward), np.cos(outward), 0.0])
    ahead = _unit(ahead - (ahead @ shank) * shank)
    forward = _unit(np.cos(plantar) * ahead + np.sin(plantar) * shank)
    sole = _unit(shank - (shank @ forward) * forward)
    lateral = np.cross(forward, -sole) * sign

    def at(f: float, down: float, out: float) -> FloatArray:
        point: FloatArray = ankle + size * (f * forward + down * sole + out * lateral)
        return point

    def box(f: float, down: float, out: float, half: tuple[float, float, float]) -> Mesh:
        axes = np.array([half[0] * lateral, half[1] * sole, half[2] * forward]) * size
        return blob(at(f, down, out), axes, 0.7)

    heads = np.linspace(-0.07, 0.085, 5)
    bases = heads * 0.6
    reach = np.array([0.315, 0.325, 0.315, 0.295, 0.27])
    metatarsals = [
        capsule(at(0.175 - 0.03 * n / 4, 0.075, bases[n]), at(reach[n], 0.115, heads[n]), (s, 0.9 * s))
        for n, s in enumerate(size * np.array([0.02, 0.014, 0.013, 0.013, 0.014]))
    ]
    toes = [
        capsule(at(reach[n] + 0.04, 0.12, heads[n]), at(reach[n] + 0.115 - 0.01 * n, 0.13, heads[n]), (s, s))
        for n, s in enumerate(size * np.array([0.018, 0.011, 0.011, 0.01, 0.01]))
    ]
    bones = {
        "talus": box(0.025, 0.045, 0.0, (0.042, 0.032, 0.07)),
        "calcaneus": capsule(at(0.045, 0.095, 0.015), at(-0.085, 0.125, 0.005), (0.036 * size, 0.046 * size)),
        "tarsus": joined(
            [box(0.115, 0.06, -0.015, (0.042, 0.03, 0.028)), box(0.125, 0.085, 0.045, (0.028, 0.025, 0.035))]
        ),
        "metatarsals": joined(metatarsals),
        "toes": joined(toes),
    }
    points = {"toe": at(0.44, 0.13, -0.06), "heel": at(-0.13, 0.13, 0.005)}
    return {f"{side}_{k}": v for k, v in bones.items()}, {f"{side}_{k}": v for k, v in points.items()}


def arm(
    side: str, landmarks: Mapping[str, FloatArray], size: float, rng: np.random.Generator
) -> tuple[dict[str, Mesh], dict[str, FloatArray]]:
    """Draw forearm and hand, beside the thigh or on it.

    Parameters
    ----------
    side : {"right", "left"}
        Which arm.
    landmarks : mapping of str to ndarray
        Needs ``right_trochanter`` and ``right_hip`` of that side, RAS+ mm.
    size : float
        Length of the femur in mm.
    rng : numpy.random.Generator
        For where the hand lies.

    Returns
    -------
    bones : dict of str to Mesh
        ``right_radius``, ``right_ulna``, ``right_humerus`` (its lower end), ``right_hand``.
    landmarks : dict of str to ndarray, (3,)
        ``right_elbow``, ``right_wrist``, ``right_fingertip``.
    """
    sign = side_sign(side)
    hip, trochanter = landmarks[f"{side}_hip"], landmarks[f"{side}_trochanter"]
    beside = rng.random() < 0.65
    out, front = (
        (rng.uniform(0.15, 0.24), rng.uniform(0.0, 0.12)) if beside else (-0.05, rng.uniform(0.3, 0.36))
    )
    wrist = np.array([trochanter[0] + sign * out * size, hip[1] + front * size, hip[2]])
    wrist[2] += size * rng.uniform(-0.05, 0.25)
    lean = np.array([sign * rng.uniform(-0.08, 0.12), -rng.uniform(0.0, 0.2), 1.0])
    if not beside:
        lean = np.array([sign * rng.uniform(0.35, 0.5), -rng.uniform(0.2, 0.35), 1.0])
    up = _unit(lean)
    # A hand in front lies flat on the belly or thigh.
    down = _unit(-up * [1.0, 1.0 if beside else 0.0, 1.0] + np.array([0.0, rng.uniform(-0.1, 0.1), 0.0]))
    elbow = wrist + 0.55 * size * up
    # Across the palm towards the thumb: to the front when the palm faces the thigh.
    across = _unit(np.cross(down, [sign, 0.0, 0.0]) * -sign) if beside else np.array([-sign, 0.0, 0.0])
    across = _unit(across - (across @ down) * down)
    across = across if beside is False or across[1] > 0 else -across
    ulna_side, radius_side = wrist - 0.035 * size * across, wrist + 0.035 * size * across
    bones = {
        "ulna": capsule(elbow - 0.03 * size * across, ulna_side, (0.03 * size, 0.015 * size)),
        "radius": capsule(elbow + 0.03 * size * across, radius_side, (0.02 * size, 0.028 * size)),
        "humerus": joined(
            [
                blob(elbow + 0.05 * size * up, 0.01 * size * np.diag([7.0, 3.5, 3.5]), 0.8),
                capsule(elbow + 0.06 * size * up, elbow + 0.45 * size * up, (0.025 * size, 0.025 * size)),
            ]
        ),
        "hand": _hand(wrist, down, across, size),
    }
    points = {"elbow": elbow, "wrist": wrist, "fingertip": wrist + 0.4 * size * down}
    return {f"{side}_{k}": v for k, v in bones.items()}, {f"{side}_{k}": v for k, v in points.items()}


def _hand(wrist: FloatArray, down: FloatArray, across: FloatArray, size: float) -> Mesh:
    through = np.cross(down, across)

    def at(along: float, out: float, off: float = 0.0) -> FloatArray:
        point: FloatArray = wrist + size * (along * down + out * across + off * through)
        return point

    palm_axes = size * np.array([0.055 * across, 0.022 * through, 0.035 * _unit(np.cross(across, through))])
    parts = [blob(at(0.055, 0.0), palm_axes, 0.7)]
    for n, out in enumerate((-0.055, -0.02, 0.015, 0.05)):
        r = size * (0.012 if n == 0 else 0.014)
        knuckle = 0.215 - 0.012 * abs(n - 2)
        tip = 0.40 - (0.07 if n == 0 else 0.02 * abs(n - 2))
        middle = (knuckle + tip) / 2
        parts += [
            capsule(at(0.1, out * 0.7), at(knuckle, out), (r, r)),
            capsule(at(knuckle + 0.035, out), at(middle - 0.012, out), (0.8 * r, 0.75 * r)),
            capsule(at(middle + 0.012, out), at(tip, out), (0.7 * r, 0.6 * r)),
        ]
    parts += [
        capsule(at(0.08, 0.055, 0.02), at(0.15, 0.095, 0.035), (0.016 * size, 0.015 * size)),
        capsule(at(0.18, 0.105, 0.035), at(0.245, 0.115, 0.035), (0.012 * size, 0.01 * size)),
    ]
    return joined(parts)


def lumbar_spine(
    promontory: FloatArray, size: float, rng: np.random.Generator
) -> tuple[dict[str, Mesh], dict[str, FloatArray]]:
    """Draw seven vertebrae above the sacrum.

    Parameters
    ----------
    promontory : ndarray, (3,)
        Middle of the sacrum's upper end, RAS+ mm.
    size : float
        Length of the femur in mm.
    rng : numpy.random.Generator
        For lordosis and a slight bend to the side.

    Returns
    -------
    bones : dict of str to Mesh
        ``L5`` ... ``L1``, ``T12``, ``T11``: body, arch, spinous and transverse processes.
    landmarks : dict of str to ndarray, (3,)
        ``promontory`` and ``spine_top``.
    """
    bend, lordosis = rng.uniform(-0.05, 0.05), rng.uniform(0.06, 0.14)
    levels = np.arange(9)
    fraction = (levels + 0.55) / 8
    centres = promontory + size * np.column_stack(
        [
            bend * fraction * (1 - fraction),
            lordosis * np.sin(np.pi * (0.1 + 0.8 * fraction)) - lordosis * np.sin(0.1 * np.pi),
            0.082 * (levels + 0.55),
        ]
    )
    names = ("L5", "L4", "L3", "L2", "L1", "T12", "T11")
    bones = {}
    for n, name in enumerate(names):
        up = _unit(centres[n + 1] - centres[max(n - 1, 0)])
        bones[name] = _vertebra(centres[n], up, size * (1 - 0.025 * n))
    return bones, {"promontory": promontory, "spine_top": centres[7]}


def _vertebra(centre: FloatArray, up: FloatArray, size: float) -> Mesh:
    right = _unit(np.array([1.0, 0.0, 0.0]) - up[0] * up)
    front = np.cross(up, right)

    def at(out: float, ahead: float, high: float) -> FloatArray:
        point: FloatArray = centre + size * (out * right + ahead * front + high * up)
        return point

    parts = [blob(centre, size * np.array([0.055 * right, 0.04 * front, 0.03 * up]), 0.35)]
    parts.append(capsule(at(0, -0.1, 0.0), at(0, -0.155, -0.02), (0.012 * size, 0.015 * size)))
    for s in (-1.0, 1.0):
        parts += [
            capsule(at(s * 0.035, -0.025, 0.015), at(s * 0.04, -0.07, 0.008), (0.013 * size, 0.015 * size)),
            capsule(at(s * 0.04, -0.07, 0.005), at(0, -0.1, -0.002), (0.014 * size, 0.013 * size)),
            capsule(at(s * 0.045, -0.06, 0.008), at(s * 0.1, -0.07, 0.01), (0.01 * size, 0.009 * size)),
        ]
    return joined(parts)


def _ball(rings: int = 12, spokes: int = 20) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    """Return a closed unit sphere: points (n, 3) from -z to +z, and faces (m, 3) looking outwards."""
    theta = np.pi * np.arange(1, rings) / rings
    phi = 2 * np.pi * np.arange(spokes) / spokes
    t, p = np.meshgrid(theta, phi, indexing="ij")
    belt = np.stack([np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), -np.cos(t)], axis=-1).reshape(-1, 3)
    points = np.concatenate([[[0.0, 0.0, -1.0]], belt, [[0.0, 0.0, 1.0]]])
    here = np.arange(spokes)
    beside = (here + 1) % spokes
    last, top = 1 + (rings - 2) * spokes, len(points) - 1
    faces = [np.column_stack([np.zeros(spokes, int), 1 + beside, 1 + here])]
    for ring in range(rings - 2):
        a, b = 1 + ring * spokes, 1 + (ring + 1) * spokes
        faces += [
            np.column_stack([a + here, a + beside, b + beside]),
            np.column_stack([a + here, b + beside, b + here]),
        ]
    faces.append(np.column_stack([last + here, last + beside, np.full(spokes, top)]))
    return points, np.concatenate(faces).astype(np.int32)


def _frame(axis: FloatArray) -> FloatArray:
    """Return a right-handed frame (3, 3) in rows whose third row lies along the axis."""
    third = _unit(axis)
    helper = np.eye(3)[np.argmin(np.abs(third))]
    first = _unit(np.cross(helper, third))
    return np.array([first, np.cross(third, first), third])


def _unit(vector: FloatArray) -> FloatArray:
    unit: FloatArray = np.asarray(vector, np.float64) / np.linalg.norm(vector)
    return unit
