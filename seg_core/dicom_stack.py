"""Planes of one series, put in order: volumes, positions along the normal, the affine.

This is the one place where DICOM's LPS becomes RAS.
"""

from collections.abc import Sequence

import numpy as np

from seg_core.dicom_headers import Plane
from seg_core.errors import GeometryError, LlsError, ScanError
from seg_core.geometry import FloatArray, Geometry

SAME_PLACE_MM = 0.01
"""Planes nearer than this along the normal lie at one position."""
SAME_DIRECTION = 1e-3
"""Slices whose direction cosines differ by no more are parallel."""
SPACING_TOLERANCE = 0.05
"""How far a slice may lie off its regular place, as a share of the distance between slices."""
SHEAR_TOLERANCE = 0.25
"""How far a slice may lie off the stack's axis, as a share of a pixel."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def same_grid(a: Plane, b: Plane) -> bool:
    """Whether two planes of one kind are parallel, have equal pixels and equal echo times."""
    pairs = ((a.orientation, b.orientation, SAME_DIRECTION), (a.spacing, b.spacing, 1e-3))
    for one, other, tolerance in pairs:
        if (one is None) != (other is None):
            return False
        if one and other and max(abs(p - q) for p, q in zip(one, other, strict=True)) > tolerance:
            return False
    if a.echo_time is None or b.echo_time is None:
        return a.echo_time == b.echo_time
    return abs(a.echo_time - b.echo_time) < 0.01


def refuse_unfit(planes: Sequence[Plane]) -> None:
    """Refuse what is no volume of intensities at all.

    Raises
    ------
    ScanError
        Colour, a mosaic, a localizer, bits other than 8 to 16, no place in the patient.
    """
    kind, first = planes[0].kind, planes[0]
    if not kind.photometric.startswith("MONOCHROME"):
        raise ScanError(f"a colour image ({kind.photometric})", "grey values", "choose the series itself")
    if "MOSAIC" in kind.image_type:
        raise ScanError(
            "a mosaic (Siemens: all slices tiled in one picture)",
            "one slice a file or frame",
            "convert it with dcm2niix and give the NIfTI",
        )
    if "LOCALIZER" in kind.image_type:
        raise ScanError("a localizer", "a stack of slices", "choose another series")
    for pixels in {p.pixels for p in planes}:
        if not 8 <= pixels.stored <= pixels.high_bit + 1 <= pixels.allocated <= 16:
            raise ScanError(
                f"pixels of {pixels.stored} in {pixels.allocated} bits, high bit {pixels.high_bit}",
                "8 to 16 bits",
            )
    if any(p.position is None or p.orientation is None or p.spacing is None for p in planes):
        what = (
            "a multi-frame file" if first.frame or len(planes) > len({p.path for p in planes}) else "images"
        )
        raise ScanError(
            f"{what} without position, orientation or pixel spacing ({first.path.name})",
            "Image Position and Image Orientation (Patient) and Pixel Spacing",
            "export the original series, not screen captures",
        )


def axes(plane: Plane) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return unit vectors of increasing column, increasing row and their cross product, the normal, LPS+.

    Raises
    ------
    GeometryError
        If the header's two directions are not unit vectors at a right angle (tolerance 1e-3).
    """
    directions = np.array(plane.orientation, dtype=np.float64).reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=1e-3):
        raise GeometryError(
            f"image axes that are not at right angles ({plane.path.name})",
            "two orthogonal unit vectors in Image Orientation (Patient)",
        )
    column = directions[0] / np.linalg.norm(directions[0])
    row = directions[1] - (directions[1] @ column) * column
    row /= np.linalg.norm(row)
    return column, row, np.cross(column, row)


def split_volumes(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Sort planes along the normal; planes at the same places become volumes, in the order of acquisition.

    Parameters
    ----------
    planes : sequence of Plane
        Of one grid, in any order, with positions.

    Returns
    -------
    list of list of Plane
        One list a volume, each in slice order.

    Raises
    ------
    GeometryError
        If some places hold more planes than others.
    """
    _, _, normal = axes(planes[0])
    distance = np.array([p.position for p in planes], dtype=np.float64) @ normal
    order = np.argsort(distance, kind="stable")
    starts = np.flatnonzero(np.diff(distance[order], prepend=-np.inf) > SAME_PLACE_MM)
    places = [[planes[n] for n in part] for part in np.split(order, starts[1:])]
    places = [sorted(place, key=lambda p: (*p.order, p.frame, p.path)) for place in places]
    count = len(places[0])
    uneven = next((place for place in places if len(place) != count), None)
    crowded = uneven if uneven and len(uneven) > count else places[0]
    if uneven or _has_copies(crowded):
        names = ", ".join(p.path.name for p in crowded[:3])
        what = "copies of one image" if _has_copies(crowded) else "images"
        raise GeometryError(
            f"duplicate positions: {len(crowded)} {what} at the same place ({names})",
            "one image at each position",
            "remove the copies, or export the series alone",
        )
    return [[place[v] for place in places] for v in range(count)]


def _has_copies(place: Sequence[Plane]) -> bool:
    return len({(p.instance, p.frame) for p in place}) < len(place)


def stack_geometry(planes: Sequence[Plane]) -> Geometry:
    """Return the grid of planes in slice order: i along columns, j along rows, k along the normal.

    Returns
    -------
    Geometry
        RAS+ mm; the distance of slices is the mean one, of a single slice its thickness.

    Raises
    ------
    GeometryError
        A gap, varying distances, a tilted (sheared) stack, a single slice without thickness.
    """
    column, row, normal = axes(planes[0])
    positions = np.array([p.position for p in planes], dtype=np.float64)
    between_rows, between_columns = planes[0].spacing or (0.0, 0.0)
    _refuse_shear(planes, positions, normal, SHEAR_TOLERANCE * min(between_rows, between_columns))
    distance = positions @ normal
    if len(planes) > 1:
        step = float(distance[-1] - distance[0]) / (len(planes) - 1)
        _refuse_irregular(planes, distance)
    elif planes[0].thickness:
        step = planes[0].thickness
    else:
        raise GeometryError("a single slice without Slice Thickness", "its thickness in mm")
    lps = np.eye(4)
    lps[:3, 0] = column * between_columns
    lps[:3, 1] = row * between_rows
    lps[:3, 2] = normal * step
    lps[:3, 3] = positions[0]
    return Geometry((planes[0].kind.columns, planes[0].kind.rows, len(planes)), _LPS_TO_RAS @ lps)


def _refuse_shear(
    planes: Sequence[Plane], positions: FloatArray, normal: FloatArray, limit_mm: float
) -> None:
    offset = positions - positions[0]
    sideways = np.linalg.norm(offset - np.outer(offset @ normal, normal), axis=1)
    worst = int(np.argmax(sideways))
    if sideways[worst] <= limit_mm:
        return
    angle = np.degrees(np.arctan2(sideways[worst], abs(offset[worst] @ normal)))
    raise GeometryError(
        f"a tilted or shifted stack: slice {worst} ({planes[worst].path.name}) lies {sideways[worst]:.3g} mm "
        f"off the axis of the first one ({angle:.2g} degrees)",
        f"slices straight above each other within {limit_mm:.2g} mm",
        "resample the scan to a straight grid first",
    )


def _refuse_irregular(planes: Sequence[Plane], distance: FloatArray) -> None:
    steps = np.diff(distance)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])  # the lower median: of two steps the shorter one
    limit = SPACING_TOLERANCE * usual
    worst = int(np.argmax(np.abs(steps - usual)))
    regular = distance[0] + np.arange(len(planes)) * (distance[-1] - distance[0]) / (len(planes) - 1)
    if abs(steps[worst] - usual) <= limit and np.abs(distance - regular).max() <= limit:
        return
    between = f"slices {worst} ({planes[worst].path.name}) and {worst + 1} ({planes[worst + 1].path.name})"
    missing = round(steps[worst] / usual) - 1
    whole = missing > 0 and abs(steps[worst] - (missing + 1) * usual) < 0.2 * usual
    if whole and int((np.abs(steps - usual) > limit).sum()) <= len(steps) // 4 + 1:
        raise GeometryError(
            f"a gap between {between}: {steps[worst]:.3f} mm where others are {usual:.3f} mm apart; "
            f"{missing} slice{'s' if missing > 1 else ''} missing",
            "a complete stack",
            "export the series again with all its slices",
        )
    raise GeometryError(
        f"varying distances between slices: {steps.min():.3f} to {steps.max():.3f} mm, "
        f"worst between {between}",
        f"equal distances within {SPACING_TOLERANCE:.0%}",
        "resample the scan to equal distances first",
    )


def several_volumes(count: int) -> LlsError:
    """Return the refusal of a series that holds several volumes."""
    return ScanError(
        f"{count} volumes at the same positions (a series in time, or several contrasts)",
        "one volume",
        f"name one with --series NUMBER:VOLUME, the volume from 1 to {count}",
    )
