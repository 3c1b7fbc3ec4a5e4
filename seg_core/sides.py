"""Right and left, in patient coordinates: the origin of the axes says nothing, and networks know bones only.

Where both legs are there, two components of a bone lie beside each other at the same heights, and the one
nearer to the patient's right is the right one. Hips decide before knees and knees before ankles, so that
crossed shins keep the sides of their thighs. The midline is the plane halfway between the two upper ends of
the best pair; hip bones that the network has joined at the symphysis are cut there. Without a pair, joined
hip bones show the midline themselves. A single leg goes by DICOM's laterality, else by the fibula, which lies
lateral to the tibia; else its side is unknown.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from seg_core.components import Components, find_components
from seg_core.errors import UsageError
from seg_core.geometry import FloatArray, LabelMap
from seg_core.joined_hips import midline_of_hips
from seg_core.labels import plain_labels, sided_labels
from seg_core.strands import Strands, count_right, cut, least_distance, trace_strands

Side = Literal["right", "left", "both", "unknown"]
SideArray = npt.NDArray[np.int8]

MAIN_SHARE = 0.1  # of the largest component of the class: smaller ones decide nothing
OTHER_LEG_SHARE = 0.1  # of the larger leg's volume: less may be noise, and makes no second leg
# Two legs' bones are so far apart or more (shins of a small child with legs together: 50), mostly sideways.
# Loose parts of one hip bone (ischium and pubis) are so too, but nearer to each other or behind each other.
APART_MM, APART_MM_ELSE = {"pelvis": 50.0}, 30.0
SIDEWAYS, SIDEWAYS_ELSE = {"pelvis": 0.8}, 0.5
UPPER_END_MM = 40.0
MAX_TILT = 0.4  # rise over run of the line from hip to hip; steeper: one upper end is missing
# Beyond the midline, of a component that is cut there; others only without a pair: a crossed shin is not cut.
CUT_SHARE, CUT_SHARE_ELSE = {"pelvis": 0.05}, 0.2
# So far on the inner side of a single leg lies the other leg; a hip bone itself lies inwards of its femur.
ASIDE_MM, FIRST_HIP_ASIDE_MM = 40.0, 90.0
# Sideways share of the distance from tibia to fibula: so much at one end tells the side, where it is nowhere
# less than so little.
LATERAL, LATERAL_ANYWHERE = 0.3, 0.1
KIN_MM = 50.0  # pieces of one bone lie no farther apart, nor do the bones of two legs lie so near


@dataclass(frozen=True)
class ComponentSide:
    """A component that took part in the decision.

    Parameters
    ----------
    name : str
        The class, e.g. ``"tibia"``.
    side : {"right", "left", "both", "unknown"}
        ``both``: it was cut at the midline.
    volume_cm3 : float
        Its volume.
    centroid_mm : tuple of float
        RAS+ mm.
    """

    name: str
    side: Side
    volume_cm3: float
    centroid_mm: tuple[float, float, float]


@dataclass(frozen=True)
class SideEvidence:
    """Why the sides are what they are.

    Parameters
    ----------
    kind : {"midline", "laterality", "fibula", "unknown"}
        What decided.
    detail : str
        A sentence for the report.
    components : tuple of ComponentSide
        The larger components.
    conflict : bool
        Whether the fibula contradicts the laterality in the header, which was followed.
    """

    kind: Literal["midline", "laterality", "fibula", "unknown"]
    detail: str
    components: tuple[ComponentSide, ...] = ()
    conflict: bool = False


@dataclass(frozen=True, eq=False)
class _Bones:
    labels: LabelMap
    classes: tuple[str, ...]
    all: Components
    main: npt.NDArray[np.int64]  # indices of the larger components, by class, large ones first
    strands: Strands  # of the main ones, in that order
    centroids_mm: FloatArray  # of all
    overwrite: bool

    def name(self, index: int) -> str:
        return self.classes[int(self.all.labels[index]) - 1]

    def of(self, name: str) -> list[int]:
        """Return the places in `main` of a class's components."""
        return [place for place, index in enumerate(self.main) if self.name(int(index)) == name]

    def size(self, place: int) -> int:
        return int(self.all.sizes[self.main[place]])


def split_sides(
    labels: LabelMap, classes: tuple[str, ...], laterality: str | None = None, overwrite: bool = False
) -> tuple[LabelMap, SideEvidence]:
    """Tell right from left.

    Parameters
    ----------
    labels : LabelMap, (i, j, k)
        Classes 1 to n in any orientation. May hold one leg, both, parts of them, or nothing.
    classes : tuple of str
        Names of the values 1 to n. ``femur``, ``pelvis``, ``tibia`` and ``fibula`` are known by name; others
        only take part as things that come in pairs.
    laterality : {"R", "L"}, optional
        DICOM's laterality of a scan of one leg; anything else counts as none. Not used where both legs show.
    overwrite : bool
        Whether the result may take the place of the labels' own array, which saves memory.

    Returns
    -------
    LabelMap
        Right 1 to n and left n + 1 to 2n, or 1 to n with plain names where the side is unknown.
    SideEvidence

    Raises
    ------
    UsageError
        If a value exceeds the number of classes, or there are more than 127 classes.
    """
    components = find_components(labels.array, 26)
    if len(classes) > 127 or int(components.labels.max(initial=0)) > len(classes):
        raise UsageError(f"label values above {len(classes)}", "one value a class, at most 127 classes")
    if components.sizes.size == 0:
        return _plain(labels, classes), SideEvidence("unknown", "no bone was found")
    bones = _gather(labels, classes, components, overwrite)
    pairs = _pairs(bones)
    if _two_legs(bones, pairs):
        return _by_midline(bones, pairs, _midline(bones, pairs))
    plane = _plane_of_joined_hips(bones)
    if plane is not None:
        return _by_midline(bones, {}, plane)
    return _single_leg(bones, laterality)


def keep_side(labels: LabelMap, side: Literal["right", "left"]) -> LabelMap:
    """Return the label map with one side's classes only; their values and names stay.

    Parameters
    ----------
    labels : LabelMap
        With names ``right_...`` and ``left_...``, as `split_sides` makes them.
    side : {"right", "left"}
        The side that stays.

    Raises
    ------
    UsageError
        If the sides are unknown, or the side is another word.
    """
    names = {value: name for value, name in labels.labels.items() if name.startswith(f"{side}_")}
    if side not in ("right", "left") or not names:
        raise UsageError(
            f"side {side!r} of labels without sides", "labels such as right_tibia", "segment without --side"
        )
    table = np.zeros(256, np.uint8)
    table[list(names)] = list(names)
    return LabelMap(table[labels.array], labels.geometry, names)


def _plain(labels: LabelMap, classes: tuple[str, ...]) -> LabelMap:
    return LabelMap(labels.array, labels.geometry, plain_labels(classes))


def _gather(labels: LabelMap, classes: tuple[str, ...], components: Components, overwrite: bool) -> _Bones:
    largest = np.zeros(256, np.int64)
    np.maximum.at(largest, components.labels, components.sizes)
    main = np.flatnonzero(components.sizes >= MAIN_SHARE * largest[components.labels])
    strands = trace_strands(components, labels.geometry, main)
    centroids = labels.geometry.to_world(components.centroids)
    return _Bones(labels, classes, components, main, strands, centroids, overwrite)


def _upper_half(bones: _Bones, a: int, b: int) -> FloatArray:
    """Return the median of a - b (3,) over the upper half of their shared levels; NaN if they share none."""
    shared = bones.strands.shared(a, b)
    if len(shared) == 0:
        return np.full(3, np.nan)
    median: FloatArray = np.median(shared[len(shared) // 2 :], axis=0)
    return median


def _apart(bones: _Bones, name: str, a: int, b: int) -> tuple[bool, bool]:
    """Return whether two components lie apart at the same heights, and whether they do so sideways."""
    x, y, _ = _upper_half(bones, a, b)
    distance = np.hypot(x, y)
    apart = bool(distance >= APART_MM.get(name, APART_MM_ELSE))
    return apart, apart and bool(abs(x) >= SIDEWAYS.get(name, SIDEWAYS_ELSE) * distance)


def _pairs(bones: _Bones) -> dict[str, tuple[int, int]]:
    """Return for each class the two largest components beside each other: places in `main`, (right, left)."""
    pairs: dict[str, tuple[int, int]] = {}
    hips_first = sorted(bones.classes, key=lambda name: {"femur": 0, "pelvis": 1, "tibia": 2}.get(name, 3))
    for name in hips_first:
        places = bones.of(name)  # large ones first, so the first that fits is the largest
        fits = [(a, b) for j, b in enumerate(places) for a in places[:j] if _apart(bones, name, a, b)[1]]
        if not fits:
            continue
        a, b = fits[0]
        above = {"tibia": "femur", "fibula": "tibia"}.get(name, "")
        if above in pairs:  # crossed legs: the shin belongs to the nearer knee
            right, left = pairs[above]
            gap = bones.strands.distance
            swap = gap(a, right) + gap(b, left) > gap(a, left) + gap(b, right)
        else:
            swap = _upper_half(bones, a, b)[0] < 0
        pairs[name] = (b, a) if swap else (a, b)
    return pairs


def _two_legs(bones: _Bones, pairs: dict[str, tuple[int, int]]) -> bool:
    """Whether the pairs are two legs: the lesser is more than noise beside the greater."""
    volumes = [sum(bones.size(pair[side]) for pair in pairs.values()) for side in (0, 1)]
    paired = {place for name in pairs for place in bones.of(name)}
    # A bone without partner belongs to one leg (joined hip bones to both, which changes little).
    rest = sum(bones.size(p) for p in range(bones.main.size) if p not in paired)
    return min(volumes) > 0 and min(volumes) >= OTHER_LEG_SHARE * (max(volumes) + 0.5 * rest)


def _midline(bones: _Bones, pairs: dict[str, tuple[int, int]]) -> FloatArray:
    """Return the plane (4,) halfway between a pair's upper ends; its normal points to the right."""
    name = next(iter(pairs))  # hips first
    a, b = pairs[name]
    level = _upper_half(bones, a, b) * (1, 1, 0)
    both = (bones.strands.counts[[a, b]] > 0).all(axis=0)
    middle = bones.strands.points[[a, b]][:, both].mean(axis=(0, 1))
    # A bone may be in pieces: its upper end is that of all pieces on its side.
    strands = [bones.strands.own(place) for place in bones.of(name)]
    sides = [float(np.mean((own - middle) @ level)) > 0 for own in strands]
    ends = []
    for side in (True, False):
        parts = [s for s, right in zip(strands, sides, strict=True) if right == side]
        own = np.concatenate(parts) if parts else middle[None]
        ends.append(own[own[:, 2] >= own[:, 2].max() - UPPER_END_MM].mean(axis=0))
    normal = ends[0] - ends[1]
    if abs(normal[2]) > MAX_TILT * np.hypot(normal[0], normal[1]):
        normal = level
    else:
        middle = (ends[0] + ends[1]) / 2
    normal = normal / np.linalg.norm(normal)
    return np.append(normal, -normal @ middle)


def _plane_of_joined_hips(bones: _Bones) -> FloatArray | None:
    """Return the plane (4,) between hip bones that are one component, the largest; None without such."""
    hips = bones.of("pelvis")
    if not hips:
        return None
    index = int(bones.main[hips[0]])
    voxels = np.argwhere(bones.all.mask(index)) + bones.all.boxes[index, :, 0]
    geometry = bones.labels.geometry
    return midline_of_hips(geometry.to_world(voxels), max(geometry.voxel_sizes))


def _by_midline(
    bones: _Bones, pairs: dict[str, tuple[int, int]], plane: FloatArray
) -> tuple[LabelMap, SideEvidence]:
    right_share = count_right(bones.all, bones.labels.geometry, plane) / bones.all.sizes
    sides = np.zeros(bones.all.sizes.size, np.int8)
    for right, left in pairs.values():
        sides[bones.main[right]], sides[bones.main[left]] = 1, -1
    across = np.zeros(sides.size, np.bool_)
    for index in bones.main:
        name = bones.name(int(index))
        share = CUT_SHARE.get(name, 1.0 if name in pairs else CUT_SHARE_ELSE)
        across[index] = share <= right_share[index] <= 1 - share
    # Hip bones meet at the midline, where the nearest bone may be the other side's.
    hips = np.array([bones.classes[label - 1] == "pelvis" for label in bones.all.labels])
    by_place = np.where(right_share > 0.5, 1, -1).astype(np.int8)
    sides[hips & (sides == 0)] = by_place[hips & (sides == 0)]
    femurs = bones.main[bones.of("femur")]  # thighs lie on their own side, shins may not
    sides[femurs] = np.where(sides[femurs] == 0, by_place[femurs], sides[femurs])
    if not (sides[bones.main] * ~across[bones.main]).any():
        sides[:] = by_place
    _join_nearest(bones, sides, across)
    result = _painted(bones, np.where(across, 1, sides).astype(np.int8))
    n = len(bones.classes)
    if across.any():
        left_values = np.where(across, bones.all.labels + np.uint8(n), 0).astype(np.uint8)
        cut(bones.all, result.geometry, plane, left_values, result.array)
    cut_names = sorted({bones.name(int(index)) for index in np.flatnonzero(across)})
    beside = ", ".join(pairs) if pairs else "hip bones, joined,"
    detail = f"both legs show: {beside} on either side of the midline"
    detail += f"; cut at the midline: {', '.join(cut_names)}" if cut_names else ""
    return result, SideEvidence("midline", detail, _listed(bones, sides, across))


def _join_nearest(bones: _Bones, sides: SideArray, across: npt.NDArray[np.bool_]) -> None:
    """Give every component without a side that of the nearest one with a side, if possible of its own class.

    The nearest first, so that a bone in pieces is followed from piece to piece. Fills in ``sides``
    (components,).
    """
    place_of = {int(index): place for place, index in enumerate(bones.main)}
    known = [index for index in place_of if sides[index] != 0 and not across[index]]
    waiting = [index for index in place_of if sides[index] == 0]
    while waiting:
        found = [(*_neighbour(bones, i, bones.strands.own(place_of[i]), known, sides), i) for i in waiting]
        _, neighbour, index = min(found)
        sides[index] = sides[neighbour]
        known.append(index)
        waiting.remove(index)
    for index in map(int, np.flatnonzero(sides == 0)):
        points = bones.centroids_mm[index][None]
        sides[index] = sides[_neighbour(bones, index, points, known, sides)[1]]


def _neighbour(
    bones: _Bones, index: int, points: FloatArray, known: list[int], sides: SideArray
) -> tuple[float, int]:
    """Return distance (mm) and index of the known component that decides the side of a component at points.

    The nearest of its own class where both sides have one, else the nearest of all; and of all, too, where
    its own class is so far away that it is no piece of the same bone (arms that were taken for shins).
    """
    kin = [k for k in known if bones.all.labels[k] == bones.all.labels[index]]
    if len({int(sides[k]) for k in kin}) == 2:
        nearest = _nearest(bones, points, kin)
        if nearest[0] <= KIN_MM:
            return nearest
    return _nearest(bones, points, known)


def _nearest(bones: _Bones, points: FloatArray, among: list[int]) -> tuple[float, int]:
    """Return the distance in mm and the index of the main component that is nearest to some points (n, 3)."""
    place_of = {int(index): place for place, index in enumerate(bones.main)}
    return min((least_distance(points, bones.strands.own(place_of[k])), k) for k in among)


def _single_leg(bones: _Bones, laterality: str | None) -> tuple[LabelMap, SideEvidence]:
    header = {"R": 1, "L": -1}.get(laterality or "", 0)
    fibula = 0 if _undecided_pair(bones) else _fibula_side(bones)
    side = header or fibula
    if side == 0:
        nothing = np.zeros(bones.all.sizes.size, np.int8)
        detail = "one leg, without laterality in the header, and no fibula beside the tibia tells its side"
        if _undecided_pair(bones):
            detail = "two bones of a kind that do not lie side by side"
        evidence = SideEvidence("unknown", detail, _listed(bones, nothing, nothing > 0))
        return _plain(bones.labels, bones.classes), evidence
    conflict = header * fibula < 0
    # Where header and anatomy contradict each other, the inner side of the leg is not known.
    sides = np.full(bones.all.sizes.size, side, np.int8) if conflict else _set_aside(bones, side)
    word = "right" if side > 0 else "left"
    detail = f"one leg: the {word} one, as the fibula lies on the {word} of the tibia"
    if header:
        detail = f"one leg: the {word} one by the laterality in the header"
        detail += ", which the place of the fibula contradicts" if conflict else ""
    listed = _listed(bones, sides, np.zeros(sides.size, np.bool_))
    evidence = SideEvidence("laterality" if header else "fibula", detail, listed, conflict)
    return _painted(bones, sides), evidence


def _undecided_pair(bones: _Bones) -> bool:
    """Whether two components of a bone lie apart at the same heights, but not sideways."""
    for name in bones.classes:
        places = bones.of(name) if name != "pelvis" else []  # ischium lies behind pubis
        found = [_apart(bones, name, a, b) for j, b in enumerate(places) for a in places[:j]]
        if (True, False) in found:
            return True
    return False


def _fibula_side(bones: _Bones) -> int:
    """Return 1 if the fibula lies to the right of its tibia, -1 to the left, 0 if that cannot be said."""
    tibiae, fibulae = bones.of("tibia"), bones.of("fibula")
    if not tibiae or not fibulae:
        return 0
    offset = bones.strands.shared(fibulae[0], tibiae[0])
    if len(offset) == 0:
        return 0
    # Half way down it lies rather behind; at head and malleolus it is clearly beside the tibia.
    end = max(1, len(offset) // 8)
    parts = [np.median(part, axis=0) for part in (offset[:end], offset, offset[-end:])]
    share = np.array([part[0] / np.hypot(part[0], part[1]) for part in parts])
    sure = np.abs(share).max() >= LATERAL and np.abs(share).min() >= LATERAL_ANYWHERE
    return int(np.sign(share[0])) if sure and abs(np.sign(share).sum()) == len(parts) else 0


def _set_aside(bones: _Bones, side: int) -> SideArray:
    """Give all components the leg's side, but those far on its inner side the other."""
    sides = np.zeros(bones.all.sizes.size, np.int8)
    place_of = {int(index): place for place, index in enumerate(bones.main)}
    leg: dict[int, FloatArray] = {}
    for index in map(int, np.argsort(-bones.all.sizes, kind="stable")):
        inwards = 0.0
        if leg:
            points = np.concatenate(list(leg.values()))
            offset = bones.centroids_mm[index] - points
            inwards = float(-side * offset[np.linalg.norm(offset, axis=1).argmin(), 0])
        first_hip = bones.name(index) == "pelvis" and not any(bones.name(k) == "pelvis" for k in leg)
        far = inwards > (FIRST_HIP_ASIDE_MM if first_hip else ASIDE_MM)
        sides[index] = -side if far else side
        if not far and index in place_of:
            leg[index] = bones.strands.own(place_of[index])
    return sides


def _painted(bones: _Bones, sides: SideArray) -> LabelMap:
    n = len(bones.classes)
    values = (bones.all.labels + np.where(sides < 0, n, 0)).astype(np.uint8)
    array = bones.all.paint(bones.labels.array, values, bones.overwrite)
    return LabelMap(array, bones.labels.geometry, sided_labels(bones.classes))


def _listed(bones: _Bones, sides: SideArray, across: npt.NDArray[np.bool_]) -> tuple[ComponentSide, ...]:
    words: dict[int, Side] = {1: "right", -1: "left", 0: "unknown"}
    cm3 = bones.labels.geometry.voxel_volume / 1000
    listed = []
    for index in map(int, bones.main):
        x, y, z = (float(value) for value in bones.centroids_mm[index])
        side: Side = "both" if across[index] else words[int(sides[index])]
        listed.append(ComponentSide(bones.name(index), side, float(bones.all.sizes[index]) * cm3, (x, y, z)))
    return tuple(listed)
