"""DICOM series: found in a folder, chosen by rule, read as a volume."""

import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seg_core import dicom_pixels, dicom_stack
from seg_core.dicom_headers import Kind, Plane, read_planes
from seg_core.dicom_plain import read_plain
from seg_core.errors import GeometryError, LlsError, ScanError
from seg_core.files import files_below
from seg_core.geometry import Volume

# "w" alone too, but not that of "T1-w", "PD w" or "w/o contrast"
_WATER = re.compile(
    r"water(?![ _-]*(sat|sup))|(?<![a-z0-9])(?<!(?:t[12]|pd|2\*)[ _-])(w|wat)(?![a-z0-9/])", re.IGNORECASE
)
_SURVEY = re.compile(r"locali[sz]er|scout|survey|3[ _-]?plane|three[ _-]?plane", re.IGNORECASE)


@dataclass(frozen=True)
class Series:
    """A stack of parallel slices of one kind, with nothing about the patient.

    Parameters
    ----------
    number : int
        1-based place in the listing of its folder.
    kind : Kind
        UID, description, modality, image type, matrix, echo.
    volumes : tuple of tuple of Plane
        Planes in slice order, for each volume at these positions; a chosen one stands alone.
    volume : int or None
        1-based number of the chosen volume where there were several.
    problem : LlsError or None
        Why it cannot be read as one volume.
    """

    number: int
    kind: Kind
    volumes: tuple[tuple[Plane, ...], ...]
    volume: int | None = None
    problem: LlsError | None = None

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes of the first volume in slice order."""
        return self.volumes[0]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the first volume in slice order, each once."""
        return tuple(dict.fromkeys(p.path for p in self.planes))

    @property
    def n_slices(self) -> int:
        """Number of slices of a volume."""
        return len(self.planes)

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Distances of columns, rows and slices in mm; None where the headers do not say."""
        first, last = self.planes[0], self.planes[-1]
        if first.spacing is None or first.position is None or last.position is None:
            return None
        step = first.thickness or 0.0
        if len(self.planes) > 1:
            step = float(np.linalg.norm(np.subtract(last.position, first.position))) / (len(self.planes) - 1)
        return first.spacing[1], first.spacing[0], step

    @property
    def orientation(self) -> str:
        """``"axial"``, ``"coronal"`` or ``"sagittal"``, the nearest; ``"unknown"`` without a header."""
        if self.planes[0].orientation is None:
            return "unknown"
        directions = np.array(self.planes[0].orientation).reshape(2, 3)
        return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(np.cross(*directions))))]

    @property
    def laterality(self) -> str | None:
        """``"R"`` or ``"L"`` where the headers agree on it."""
        sides = {p.laterality for p in self.planes}
        return sides.pop() if len(sides) == 1 else None

    @property
    def is_water(self) -> bool:
        """Whether image type or description name the water of a Dixon series."""
        return any(_WATER.search(text) for text in (*self.kind.image_type, self.kind.description))

    def __str__(self) -> str:
        x, y, z = self.spacing or (0.0, 0.0, 0.0)
        parts = [
            self.orientation,
            f"{self.kind.columns} x {self.kind.rows} of {x:.4g} x {y:.4g} mm",
            f"{self.n_slices} slice{'s' * (self.n_slices > 1)} of {z:.4g} mm",
            "\\".join(self.kind.image_type),
        ]
        if len(self.volumes) > 1:
            parts.append(f"{len(self.volumes)} volumes")
        if self.kind.echo is not None:
            parts.append(f"echo {self.kind.echo}")
        return f"{self.number}: {self.kind.description or '(no description)'} ({', '.join(parts)})"


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Parameters
    ----------
    series : tuple of Series
        In the order of series number, UID and image type.
    ignored : int
        Files that are not DICOM, or DICOM without an image.
    damaged : tuple of ScanError
        Why a file could not be read, a file each: it may belong to any of the series. An empty file, or a
        link that leads nowhere, counts where it lies and ends as images do.
    """

    series: tuple[Series, ...]
    ignored: int
    damaged: tuple[ScanError, ...] = ()


def search(path: Path) -> Found:
    """Search a folder, and the folders below it, for DICOM images; or look at one file.

    File names mean nothing. Planes are grouped by series, image type, matrix, echo and orientation.

    Returns
    -------
    Found
        Empty when there is no image.

    Raises
    ------
    ScanError
        If the path is not there, a folder cannot be read, or all that is there is damaged.
    """
    if not path.exists():
        raise ScanError(f"{path} is not there", "a file or folder", "check the path")
    files = [path] if path.is_file() else files_below(path)
    planes: list[Plane] = []
    empty = dict.fromkeys(filter(_is_empty, files))
    ignored, damaged = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on values that are not used here
        for file in (file for file in files if file not in empty):
            try:
                plain = read_plain(file)
                found = read_planes(file) if plain is None else [plain]
            except ScanError as error:
                damaged.append(error)
                continue
            planes += found or []
            ignored += found is None
    lost = _lost(list(empty), planes)
    damaged += lost
    ignored += len(empty) - len(lost)
    if damaged and not planes:
        raise damaged[0]
    stacks = sorted(_group(planes), key=_listing_key)
    return Found(tuple(_series(n, stack) for n, stack in enumerate(stacks, 1)), ignored, tuple(damaged))


def _is_empty(file: Path) -> bool:
    try:
        return file.stat().st_size == 0
    except FileNotFoundError:  # a link that leads nowhere
        return True
    except OSError:  # whoever reads it says so
        return False


def _lost(empty: Sequence[Path], planes: Sequence[Plane]) -> list[ScanError]:
    """Return the empty files that were to be images, such as an aborted copy leaves, as damaged ones."""
    places = {(plane.path.parent, plane.path.suffix.lower()) for plane in planes}
    return [
        ScanError(
            f"{file.name} is empty, or a link to what is not there", "an image, as beside it", "copy it again"
        )
        for file in empty
        if (file.parent, file.suffix.lower()) in places and not file.name.startswith(".")
    ]


def find_series(path: Path) -> list[Series]:
    """Return the series below a folder, or in a file, as :func:`search` finds them; raise a damaged file."""
    found = search(path)
    if found.damaged:
        raise found.damaged[0]
    return list(found.series)


def choose_series(found: Sequence[Series], wanted: str | None = None) -> tuple[Series, str]:
    """Take the one series that is meant.

    Parameters
    ----------
    found : sequence of Series
        As :func:`find_series` lists them.
    wanted : str, optional
        Number in the listing, UID, or a part of the description that only one has; ``:N`` after it names
        volume N of a series that holds several. Without it: the only one that fits, else the water series
        of a Dixon scan.

    Returns
    -------
    series : Series
        Readable as one volume.
    reason : str
        Why this one.

    Raises
    ------
    ScanError
        No series, several that fit, none that does, or none that is called so.
    GeometryError
        If the series that is meant has a gap, duplicate positions, a tilt or varying distances.
    """
    if not found:
        raise ScanError("no DICOM image", "at least one series", "give the folder that holds the images")
    if wanted is not None:
        series, reason = _take_wanted(found, wanted)
    else:
        series, reason = _take_fitting(found)
        _refuse_other_orientations(series, found)
    if series.problem is not None:
        raise series.problem
    return series, reason


def read_series(series: Series) -> Volume:
    """Decode a series.

    Returns
    -------
    Volume
        (i, j, k): columns, rows, slices along the normal; k slowest in memory; RAS+ mm. Stored value x
        slope + intercept of each slice, in uint8, int16 or uint16 where these hold them, else float32.

    Raises
    ------
    ScanError
        Unfit, truncated or not decodable.
    GeometryError
        If the slices are no regular stack.
    """
    if series.problem is not None:
        raise series.problem
    geometry = dicom_stack.stack_geometry(series.planes)
    return Volume(dicom_pixels.decode(series.planes).T, geometry)


def list_series(found: Sequence[Series]) -> str:
    """Return one line a series, each after a line break, with what is wrong with it."""
    return "".join(f"\n  {s}" + (f": {s.problem.found}" if s.problem else "") for s in found)


def _group(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Put planes of one kind and grid together."""
    kinds: dict[Kind, list[list[Plane]]] = defaultdict(list)
    for plane in planes:
        stacks = kinds[plane.kind]
        fitting = next((stack for stack in stacks if dicom_stack.same_grid(stack[0], plane)), None)
        if fitting is None:
            stacks.append([plane])
        else:
            fitting.append(plane)
    return [stack for stacks in kinds.values() for stack in stacks]


def _listing_key(stack: Sequence[Plane]) -> tuple[object, ...]:
    kind, plane = stack[0].kind, stack[0]
    first = min(p.order for p in stack)
    rest = kind.image_type, kind.echo or 0, plane.echo_time or 0, plane.orientation or ()
    return kind.series_number, kind.uid, first, *rest


def _series(number: int, stack: Sequence[Plane]) -> Series:
    """Order a stack; what is wrong with it is kept as its problem."""
    series = Series(number, stack[0].kind, (tuple(stack),))
    try:
        dicom_stack.refuse_unfit(stack)
        series = replace(series, volumes=tuple(map(tuple, dicom_stack.split_volumes(stack))))
        dicom_stack.stack_geometry(series.planes)
        if len(series.volumes) > 1:
            raise dicom_stack.several_volumes(len(series.volumes))
    except LlsError as problem:
        return replace(series, problem=problem)
    return series


def _take_fitting(found: Sequence[Series]) -> tuple[Series, str]:
    if len(found) == 1:
        return found[0], "the only series"
    # a gap does not make another series the one that is meant
    fitting = [s for s in found if s.problem is None or isinstance(s.problem, GeometryError)]
    if not fitting:
        what = f"{len(found)} series, none of which is one volume"
        raise ScanError(what + list_series(found), "a stack of slices")
    stacks = [s for s in fitting if s.n_slices > 1 and not _SURVEY.search(s.kind.description)] or fitting
    if len(stacks) == 1:
        return stacks[0], f"the only stack of slices among {len(found)} series"
    water = [s for s in stacks if s.is_water]
    if len(water) == 1:
        return water[0], f"the water series among {len(stacks)} stacks"
    raise _ambiguous(f"{len(stacks)} series that fit", water or stacks)


def _refuse_other_orientations(series: Series, found: Sequence[Series]) -> None:
    """Refuse to take a part of a series whose other slices, readable or not, lie in another orientation."""
    turned = [s for s in found if _is_turned(s, series) and "LOCALIZER" not in s.kind.image_type]
    if turned:
        mixed = sorted([series, *turned], key=lambda s: s.number)
        raise _ambiguous(f"{len(mixed)} stacks that belong together", mixed)


def _is_turned(a: Series, b: Series) -> bool:
    """Whether two stacks belong to one series and are not parallel."""
    one, other = a.planes[0].orientation, b.planes[0].orientation
    if a.kind.uid != b.kind.uid or one is None or other is None:
        return False
    return max(abs(p - q) for p, q in zip(one, other, strict=True)) > dicom_stack.SAME_DIRECTION


def _ambiguous(what: str, candidates: Sequence[Series]) -> ScanError:
    mixed = any(_is_turned(a, b) for a in candidates for b in candidates)
    note = " (mixed orientations in one series)" if mixed else ""
    return ScanError(what + note + list_series(candidates), "one series", "name one with --series NUMBER")


def _take_wanted(found: Sequence[Series], wanted: str) -> tuple[Series, str]:
    name, colon, volume = wanted.rpartition(":")
    if colon and volume.isdecimal() and (matches := _matches(found, name)):
        series = _pick_volume(_single(matches, name), int(volume))
        return series, f"asked for: series {series.number}, volume {series.volume}"
    matches = _matches(found, wanted)
    if not matches:
        raise ScanError(
            f"no series is called {wanted!r}" + list_series(found),
            "a number in this listing, a UID, or part of a description",
            "name one with --series NUMBER",
        )
    series = _single(matches, wanted)
    return series, f"asked for: series {series.number}"


def _matches(found: Sequence[Series], name: str) -> list[Series]:
    """Return the series with this number; else with this UID; else with this in their description."""
    by_number = [s for s in found if name == str(s.number)]
    by_uid = [s for s in found if name == s.kind.uid]
    return by_number or by_uid or [s for s in found if name.lower() in s.kind.description.lower()]


def _single(matches: Sequence[Series], name: str) -> Series:
    if len(matches) > 1:
        raise _ambiguous(f"{len(matches)} series are called {name!r}", matches)
    return matches[0]


def _pick_volume(series: Series, volume: int) -> Series:
    count = len(series.volumes)
    if not 1 <= volume <= count:
        raise ScanError(f"series {series.number} has no volume {volume}", f"1 to {count}")
    if series.problem is not None and count == 1:
        raise series.problem
    return replace(series, volumes=(series.volumes[volume - 1],), volume=volume, problem=None)
