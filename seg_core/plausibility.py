"""Can these be the bones of a leg? Labels are held against the anatomy of children and adults.

What a check may say depends on what is in view: of a bone that is cut only the greatest length and volume can
be judged, of two bones of which one is cut only one end of their ratio.

The ranges were measured over the true labels of 120 synthetic people, 108 to 190 cm tall, half of them the 26
measured adults of the shape model, scaled (`python -m benchmarks.plausibility`), and widened by a margin that
is stated beside them. A scaled adult is a proxy for a child, so they were held against measured children:
mean lengths of boys at 5, 10 and 18 years are 259, 363 and 472 mm of the femur and 205, 285 and 373 mm of the
tibia, a ratio of 0.79 at each age (Anderson, Messner and Green, J Bone Joint Surg Am 1964); adult populations
differ in it from 0.79 to 0.86 (Trinkaus, in Aspects of Human Evolution, 1981). Legs differ in length by 5 mm
in the mean, SD 4 mm (Knutson, Chiropr Osteopat 2005). Limbs that illness has shortened, bent or thinned may
lie outside: a check that fails is a reason to look, not a diagnosis.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seg_core.components import Components, IntArray, find_components
from seg_core.geometry import FloatArray, LabelMap
from seg_core.moments import Box
from seg_core.report import Check
from seg_core.statistics import BoneStatistics
from seg_core.strands import trace_strands

Limits = tuple[float, float]


@dataclass(frozen=True)
class BoneLimits:
    """What one bone may measure.

    Parameters
    ----------
    length_mm : tuple of float
        Least and greatest length; measured, less 20 % and plus 15 %.
    volume_cm3 : tuple of float
        Least and greatest volume; measured, divided by 1.8 and multiplied by 1.5.
    stoutness : tuple of float
        Volume divided by the cube of the length, whatever the age; measured, divided and multiplied by 2.
    """

    length_mm: Limits
    volume_cm3: Limits
    stoutness: Limits


LIMITS: Mapping[str, BoneLimits] = {
    # Measured: 238 to 438 mm, 73 to 622 cm3, 0.0041 to 0.0084.
    "tibia": BoneLimits((190, 504), (40, 933), (0.0020, 0.0168)),
    # 289 to 513 mm, 124 to 921 cm3, 0.0041 to 0.0081.
    "femur": BoneLimits((231, 590), (69, 1381), (0.0020, 0.0161)),
    # 235 to 423 mm, 9.6 to 126 cm3, 0.00051 to 0.0021.
    "fibula": BoneLimits((188, 487), (5.3, 190), (0.00025, 0.0043)),
    # 136 to 272 mm, 73 to 614 cm3, 0.0237 to 0.0364.
    "pelvis": BoneLimits((109, 312), (41, 921), (0.0118, 0.0728)),
}
# Measured 0.779 to 0.878, 0.937 to 1.006 and 0.415 to 0.565; the margin is 10 % below and above, 15 % for
# the hip bone, which grows in its own time.
LENGTH_RATIOS: Mapping[tuple[str, str], Limits] = {
    ("tibia", "femur"): (0.70, 0.97),
    ("fibula", "tibia"): (0.84, 1.11),
    ("pelvis", "femur"): (0.35, 0.65),
}
# How far (mm) the lower bone of a pair may reach up past the lower end of the upper one. Measured at most 12,
# 6, 105, -228 and -236, legs nearly straight; a knee bent by 30 degrees lifts the tibia's edge by 25 mm.
OVERLAP_MM: Mapping[tuple[str, str], float] = {
    ("femur", "tibia"): 40.0,
    ("femur", "fibula"): 40.0,
    ("pelvis", "femur"): 160.0,
    ("pelvis", "tibia"): 0.0,
    ("pelvis", "fibula"): 0.0,
}
# Right and left, as shares of their mean. Measured at most 0.055, on slices of 10 mm, and 0.20 (a fibula).
LENGTH_DIFFERENCE, VOLUME_DIFFERENCE = 0.06, 0.30
# Where a bone is wholly in view parts of its neighbours are too: measured, femur and tibia overlap by 0 to
# 12 mm in height, and a fibula begins 11 to 60 mm inwards of its tibia's outer edge. So much (mm) must be in
# view beside the bone, or below or above it (and a voxel more), so that there is more of them than a corner.
NEIGHBOURS = (
    ("fibula", "tibia", "beside"),
    ("tibia", "fibula", "beside"),
    ("tibia", "femur", "below"),
    ("femur", "tibia", "above"),
)
BESIDE_MM, BEYOND_MM = 10.0, 15.0
# From a bone's inner edge to the other leg's, as a share of its length: measured at most 0.31, 0.51 and 0.81,
# and a quarter more. What is seen beside a bone so far or farther shows some of the other leg's.
LEGS_APART: Mapping[str, float] = {"femur": 0.39, "tibia": 0.64, "fibula": 1.02}
LEAST_CONFIDENCE = 0.6
MAIN_SHARE = 0.1  # of a bone's largest component: what is smaller makes no second piece
NEAR_MM = 5.0  # so near to the edge of what was looked at a bone may go on beyond it
TAIL = 0.02  # of a bone's volume: its ends are where this much lies beyond, so that a speck is no end


@dataclass(frozen=True, eq=False)
class _Bone:
    """A bone as it lies in view; ``room`` (3, 2) is what was seen beyond it, in mm.

    To the left and right, the back and front, the feet and the head.
    """

    row: BoneStatistics
    pieces: int
    room: FloatArray
    bottom_mm: float
    top_mm: float

    @property
    def name(self) -> str:
        return self.row.name.replace("_", " ")

    @property
    def length_mm(self) -> float:
        return self.row.length_mm or 0.0

    @property
    def cut(self) -> bool:
        return bool((self.room < NEAR_MM).any())

    @property
    def whole(self) -> bool:
        return not self.cut and self.pieces == 1

    @property
    def long_enough(self) -> bool:
        """Whether it may be a bone: specks in a head or a fruit tell nothing."""
        return self.cut or self.length_mm >= LIMITS[self.row.bone].length_mm[0]

    @property
    def tells(self) -> bool:
        """Whether others may be expected near it."""
        return self.whole and self.long_enough


Leg = Mapping[str, _Bone]
"""The bones of one side by name."""


def check_plausibility(
    labels: LabelMap, rows: Sequence[BoneStatistics], seen: Box | None = None, air_mm: Limits = (0.0, 0.0)
) -> list[Check]:
    """Say what in the labels cannot be, or cannot be judged.

    Parameters
    ----------
    labels : LabelMap, (i, j, k)
        Bones by side, in any orientation. Classes other than tibia, femur, fibula and pelvis are not judged.
    rows : sequence of BoneStatistics
        Of these labels; a bone without a row is not missed.
    seen : tuple of slice, optional
        The part of the grid that was looked at; all of it by default. Bones at its edge are cut.
    air_mm : tuple of float
        How much of that, from its edges at the patient's left and right, shows air: no leg is missed there.

    Returns
    -------
    list of Check
        One that fails has a detail for the reader of the images. Without any bone a single one, which fails.
    """
    if not any(row.voxels for row in rows):
        return [Check("bones", False, "no bone was found: this may be no scan of a leg")]
    legs = _legs(labels, rows, seen or _everything(labels))
    checks = [_view(legs)] if legs else []
    for leg in legs.values():
        for bone in leg.values():
            checks += [_one_piece(bone), *_size(bone), *_confidence(bone)]
        checks += [*_order(leg), *_ratios(leg)]
    voxel_mm = max(labels.geometry.voxel_sizes)
    return [*checks, *_missing(rows, legs, voxel_mm, air_mm), *_agreement(legs, voxel_mm)]


def _everything(labels: LabelMap) -> Box:
    i, j, k = (slice(0, n) for n in labels.geometry.shape)
    return i, j, k


def _legs(labels: LabelMap, rows: Sequence[BoneStatistics], seen: Box) -> dict[str, dict[str, _Bone]]:
    """Return the bones in view by side and name."""
    components = find_components(labels.array, 26)
    known = [row for row in rows if row.voxels and row.bone in LIMITS]
    main = [_main(components, row.label) for row in known]
    rooms = _rooms(components, labels, seen)
    strands = trace_strands(components, labels.geometry, np.concatenate([*main, np.empty(0, np.int64)]))
    legs: dict[str, dict[str, _Bone]] = {}
    start = 0
    for row, own in zip(known, main, strict=True):
        counts = strands.counts[start : start + own.size]
        heights = strands.points[start : start + own.size, :, 2]
        start += own.size
        there = counts > 0
        bottom, top = _ends(counts[there], heights[there])
        touching = np.asarray((rooms[own] < NEAR_MM).any(axis=(1, 2)))
        # Pieces that reach the edge may be joined beyond it.
        pieces = 1 + int(np.count_nonzero(~(touching[1:] & touching[0])))
        bone = _Bone(row, pieces, rooms[own].min(axis=0), bottom, top)
        legs.setdefault(row.side, {})[row.bone] = bone
    return legs


def _main(components: Components, label: int) -> IntArray:
    """Return the larger components of a label, the largest first."""
    own = np.flatnonzero(components.labels == label)
    main: IntArray = own[components.sizes[own] >= MAIN_SHARE * components.sizes[own[0]]]
    return main


def _rooms(components: Components, labels: LabelMap, seen: Box) -> FloatArray:
    """Return the room (n, 3, 2) of components, as of a `_Bone`."""
    result = np.empty((components.sizes.size, 3, 2))
    geometry = labels.geometry
    axes = zip(seen, geometry.voxel_sizes, geometry.orientation, strict=True)
    for axis, (part, mm, towards) in enumerate(axes):
        low, high = components.boxes[:, axis].T
        ends = mm * np.stack([low - part.start, part.stop - high], axis=1)
        result[:, "LPIRAS".index(towards) % 3] = ends[:, ::-1] if towards in "LPI" else ends
    return result


def _ends(counts: FloatArray, heights: FloatArray) -> Limits:
    """Return the heights (mm) below and above which hardly any of a bone lies."""
    order = np.argsort(heights)
    share = np.cumsum(counts[order]) / counts.sum()
    low, high = np.searchsorted(share, [TAIL, 1 - TAIL])
    return float(heights[order][low]), float(heights[order][high])


def _view(legs: Mapping[str, Leg]) -> Check:
    bones = [bone for leg in legs.values() for bone in leg.values()]
    whole = [bone.name for bone in bones if bone.row.status == "found"]
    if whole:
        return Check("view", True, f"wholly in view: {', '.join(whole)}")
    detail = (
        "no bone lies wholly in view: names, lengths and volumes can hardly be checked; "
        "if this is no part of a leg, the labels mean nothing"
    )
    return Check("view", False, detail)


def _one_piece(bone: _Bone) -> Check:
    passed = bone.pieces == 1
    detail = "one piece" if passed else f"the {bone.name} is in {bone.pieces} pieces"
    return Check(f"{bone.name}: one piece", passed, detail)


def _size(bone: _Bone) -> Iterator[Check]:
    """Check length and volume, then their proportion; a bone in pieces has been told of."""
    if bone.pieces > 1:
        return
    limits, volume, length = LIMITS[bone.row.bone], bone.row.volume_cm3, bone.length_mm
    part = "visible part of the " if bone.cut else ""
    passed = []
    for what, value, (low, high), unit in (
        ("length", length, limits.length_mm, "mm"),
        ("volume", volume, limits.volume_cm3, "cm3"),
    ):
        passed.append(value <= high and (bone.cut or value >= low))
        detail = f"the {part}{bone.name} measures {_number(value)} {unit}; in children and adults "
        detail += f"a whole {bone.row.bone} has {_number(low)} to {_number(high)} {unit}"
        yield Check(f"{bone.name}: {what}", passed[-1], detail)
    if not bone.cut and all(passed):
        low, high = (1e-3 * share * length**3 for share in limits.stoutness)
        detail = f"the {bone.name} has {_number(volume)} cm3 at a length of {length:.0f} mm; "
        detail += f"{_number(low)} to {_number(high)} cm3 go with that length"
        yield Check(f"{bone.name}: stoutness", low <= volume <= high, detail)


def _number(value: float) -> str:
    """Return three digits, or all before the point."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _confidence(bone: _Bone) -> Iterator[Check]:
    if bone.row.confidence is None:
        return
    detail = f"the network's confidence in the {bone.name} is {bone.row.confidence:.2f}"
    passed = bone.row.confidence >= LEAST_CONFIDENCE
    yield Check(f"{bone.name}: confidence", passed, detail + f", of at least {LEAST_CONFIDENCE}")


def _order(leg: Leg) -> Iterator[Check]:
    """Check that pelvis, femur, and tibia with fibula follow one another from the head to the feet."""
    pairs = [(leg[a], leg[b]) for a, b in OVERLAP_MM if a in leg and b in leg]
    wrong = [pair for pair in pairs if _out_of_order(*pair)]
    if not pairs:
        return
    name = _named(pairs[0][0].row.side, "order along the leg")
    passed = "from head to feet: " + ", ".join(f"{a.row.bone} above {b.row.bone}" for a, b in pairs)
    if not wrong:
        yield Check(name, True, passed)
    elif all(_below(*pair) for pair in pairs) and all(bone.long_enough for pair in pairs for bone in pair):
        said = ", ".join(f"the {a.name} lies below the {b.name}" for a, b in wrong)
        detail = f"the scan may be upside down: {said}; if its header takes the feet for the head, "
        yield Check(name, False, detail + "right and left may be exchanged too")
    else:
        said = ", ".join(f"the {a.name} does not lie above the {b.name}" for a, b in wrong)
        yield Check(name, False, f"bones that follow one another along the leg are mixed up: {said}")


def _named(side: str, check: str) -> str:
    return check if side == "unknown" else f"{side}: {check}"


def _out_of_order(upper: _Bone, lower: _Bone) -> bool:
    """Whether the lower bone reaches up too far, or the hip bone ends below the top of its femur."""
    allowed = OVERLAP_MM[upper.row.bone, lower.row.bone]
    return lower.top_mm - upper.bottom_mm > allowed or (
        upper.room[2, 1] >= NEAR_MM and upper.top_mm < lower.top_mm - NEAR_MM
    )


def _below(upper: _Bone, lower: _Bone) -> bool:
    return upper.top_mm + upper.bottom_mm < lower.top_mm + lower.bottom_mm


def _ratios(leg: Leg) -> Iterator[Check]:
    """Check lengths against each other, where at least one end of the ratio can be judged."""
    for (first, second), (low, high) in LENGTH_RATIOS.items():
        if first not in leg or second not in leg:
            continue
        a, b = leg[first], leg[second]
        if a.pieces + b.pieces > 2 or (a.cut and b.cut):
            continue
        ratio = a.length_mm / b.length_mm
        passed = (b.cut or ratio <= high) and (a.cut or ratio >= low)
        part = " in view" if a.cut or b.cut else ""
        detail = f"the length of the {a.name} is {ratio:.2f} of the {b.name}'s{part}; "
        yield Check(f"{a.name} to {second}: length", passed, detail + f"{low} to {high} is usual")


def _missing(
    rows: Sequence[BoneStatistics], legs: Mapping[str, Leg], voxel_mm: float, air_mm: Limits
) -> Iterator[Check]:
    """Check that bones are there where others say that they must be in view."""
    for side in dict.fromkeys(row.side for row in rows):
        known = {row.bone for row in rows if row.side == side}
        leg = legs.get(side, {})
        reasons: dict[str, str] = {}
        for bone, why in (*_by_neighbours(leg, voxel_mm), *_by_other_leg(side, legs, air_mm)):
            if bone in known:
                reasons.setdefault(bone, why)
        if not reasons:
            continue
        lost = {bone: why for bone, why in reasons.items() if bone not in leg}
        detail = f"bones that must be in view are there: {', '.join(reasons)}"
        if lost:
            word = "" if side == "unknown" else f"{side} "
            detail = "; ".join(f"no {word}{bone} was found, but {why}" for bone, why in lost.items())
        yield Check(_named(side, "missing"), not lost, detail)


def _by_neighbours(leg: Leg, voxel_mm: float) -> Iterator[tuple[str, str]]:
    """Yield bones that must be in view since a neighbour of the same leg is, and the reason."""
    for name, neighbour, place in NEIGHBOURS:
        bone = leg.get(neighbour)
        if bone is None or not bone.tells:
            continue
        aside, _, along = bone.room
        room = {"beside": aside.min(), "below": along[0], "above": along[1]}[place]
        if room >= (BESIDE_MM if place == "beside" else BEYOND_MM + voxel_mm):
            yield name, f"the {bone.name}, {place} which it lies, is wholly in view"


def _by_other_leg(side: str, legs: Mapping[str, Leg], air_mm: Limits) -> Iterator[tuple[str, str]]:
    """Yield bones that must be in view since the other leg's are, with room for both, and the reason."""
    other, inwards = legs.get({"right": "left", "left": "right"}.get(side, ""), {}), int(side == "right")
    if any((bone.room[:2] < NEAR_MM).any() for bone in legs.get(side, {}).values()):
        return  # the leg leaves the view sideways
    for name, share in LEGS_APART.items():
        bone = other.get(name)
        if bone is None or not bone.tells:
            continue
        room = bone.room[0, inwards] - air_mm[inwards]
        if room >= share * bone.length_mm:
            yield name, f"the {bone.name} is wholly in view, and {room:.0f} mm beside it"


def _agreement(legs: Mapping[str, Leg], voxel_mm: float) -> Iterator[Check]:
    """Compare bones that are whole on both sides; lengths are known to the length of a voxel."""
    right, left = legs.get("right", {}), legs.get("left", {})
    for name in right:
        if name not in left or not (right[name].whole and left[name].whole):
            continue
        lengths = right[name].length_mm, left[name].length_mm
        volumes = right[name].row.volume_cm3, left[name].row.volume_cm3
        for what, (a, b), share, slack, unit in (
            ("length", lengths, LENGTH_DIFFERENCE, voxel_mm, "mm"),
            ("volume", volumes, VOLUME_DIFFERENCE, 0.0, "cm3"),
        ):
            passed = abs(a - b) <= share * (a + b) / 2 + slack
            detail = f"the {name} has {_number(a)} {unit} on the right and {_number(b)} {unit} on the left"
            yield Check(f"{name}: {what} right and left", passed, detail)
