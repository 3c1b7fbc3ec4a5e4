"""Labels of every kind -> one label map on the scan's grid, always by geometry."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from seg_core.errors import GeometryError, ScanError, UsageError
from seg_core.geometry import Geometry, LabelMap
from seg_core.kernel import kernel
from seg_core.labels import plain_labels, sided_labels
from seg_core.moments import label_moments
from seg_core.nifti import is_nifti, read_labels
from seg_core.ply import Mesh, Space, read_ply
from seg_core.statistics import split_name
from seg_core.voxelize import voxelize
from trainers.config import IGNORED
from trainers.subjects import NAME_THEM, Classes, SubjectInput, labelled_side, map_table

Overlap = Literal["background", "priority"]
Box = tuple[slice, slice, slice]
BoolArray = npt.NDArray[np.bool_]
OVERLAP_RULES: Mapping[Overlap, str] = {"background": "made background", "priority": "given to the first"}
"""What becomes of voxels that two classes claim, in words."""
LEAK = 0.05  # share by which voxels may miss the volume that a closed surface has


@dataclass(frozen=True, eq=False)
class Part:
    """A structure's voxels.

    Parameters
    ----------
    name : str
        With or without a side.
    box : tuple of slice
        Where they lie in the scan's array.
    inside : ndarray of bool, the box's shape
        Which they are.
    """

    name: str
    box: Box
    inside: BoolArray


@dataclass(frozen=True, eq=False)
class Labelled:
    """A subject's labels.

    Parameters
    ----------
    labels : LabelMap
        On the scan's grid: right 1 to n and left n + 1 to 2n where all sides are known, else 1 to n; value
        minus 1, modulo n, is the class. 255 where nobody has labelled.
    side : {"right", "left", "both"}
        What was labelled.
    overlaps : mapping of str to int
        Voxels that two classes claim: ``"femur, pelvis"`` -> how many.
    notes : tuple of str
        What was odd.
    """

    labels: LabelMap
    side: str
    overlaps: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MaskOptions:
    """How labels are put together.

    Parameters
    ----------
    overlap : {"background", "priority"}
        What voxels become that two classes claim: nothing, or the class that comes first.
    mesh_space : {"lps", "ras"}
        Of PLY files that do not say.
    side : {"auto", "right", "left", "both"}
        Side that was labelled; ``auto``: the one that all names have, else both.
    """

    overlap: Overlap = "background"
    mesh_space: Space = "lps"
    side: Literal["auto", "right", "left", "both"] = "auto"


def label_subject(
    subject: SubjectInput, geometry: Geometry, classes: Classes, options: MaskOptions
) -> Labelled:
    """Read a subject's labels onto the grid of its scan.

    Parameters
    ----------
    subject : SubjectInput
        Where the labels are.
    geometry : Geometry
        Of the scan.
    classes : Classes
        Structures of other names are left out, as are those of a side that is not the labelled one.
    options : MaskOptions
        How.

    Raises
    ------
    ScanError
        If a file cannot be read, a mask is not binary, or a label map has values without a name.
    GeometryError
        If no label lies within the scan.
    """
    if subject.structures:
        names: Mapping[int, str] = dict(enumerate(subject.structures))
    else:
        names = map_table(_map_of(subject), classes.values)
    side = labelled_side(subject, list(names.values()), options.side)
    values, table = _values(list(names.values()), classes, side)
    if values and not any(values.values()):
        raise ScanError(
            f"{subject.name} has labels of {', '.join(sorted(values))}",
            f"{', '.join(classes.names)}, {side if side != 'both' else 'either'} side",
        )
    if subject.structures:
        kept = {name: path for name, path in subject.structures.items() if values.get(name)}
        made = _from_structures(kept, geometry, values, (len(classes.names), options))
    else:
        made = _from_map(_map_of(subject), geometry, names, values)
    array, overlaps, notes = made
    if not ((array > 0) & (array != IGNORED)).any():
        raise GeometryError(
            f"no label of {subject.name} lies within its scan",
            "labels and scan in the same patient coordinates",
            "look at both in 3D Slicer; of surfaces, try --mesh-space ras",
        )
    named = {value: table[value] for value in sorted(set(values.values()) - {0})}
    pairs = {_pair(pair, table): count for pair, count in overlaps.items()}
    return Labelled(LabelMap(array, geometry, named), side, pairs, tuple(notes))


def _map_of(subject: SubjectInput) -> Path:
    if subject.label_map is None:
        raise ScanError(f"{subject.name} has no labels", "surfaces, masks or a label map")
    return subject.label_map


def _values(names: Sequence[str], classes: Classes, side: str) -> tuple[dict[str, int], dict[int, str]]:
    """Return name -> value in the dataset, 0 for what is left out, and value -> name."""
    wanted = [name for name in names if split_name(name)[0] in classes.names]
    known = side != "both" or all(split_name(name)[1] != "unknown" for name in wanted)
    known = known and classes.sided
    values = dict.fromkeys(names, 0)
    for name in wanted:
        bone, own = split_name(name)
        own = side if own == "unknown" else own
        if side in ("both", own):
            values[name] = classes.names.index(bone) + 1 + (known and own == "left") * len(classes.names)
    return values, (sided_labels if known else plain_labels)(classes.names)


def _pair(values: tuple[int, int], table: Mapping[int, str]) -> str:
    return ", ".join(table[value] for value in sorted(values))


@dataclass
class _Union:
    """Structures put together, one after the other; the first claim stands until the end."""

    array: npt.NDArray[np.uint8]
    contested: BoolArray
    counts: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, part: Part, value: int, classes: int) -> None:
        """Claim voxels; both sides of one class have no quarrel."""
        here = self.array[part.box]
        clash = part.inside & (here > 0) & ((here - 1) % classes != (value - 1) % classes)
        for other, count in enumerate(np.bincount(here[clash])):
            if count:
                self.counts[min(value, other), max(value, other)] += int(count)
        self.contested[part.box] |= clash
        here[part.inside & (here == 0)] = value


def _from_structures(
    paths: Mapping[str, Path], geometry: Geometry, values: Mapping[str, int], how: tuple[int, MaskOptions]
) -> tuple[npt.NDArray[np.uint8], Mapping[tuple[int, int], int], list[str]]:
    classes, options = how
    notes: list[str] = []
    array = np.zeros(geometry.shape, np.uint8, order="F")
    union = _Union(array, np.zeros(geometry.shape, np.bool_, order="F"))
    for name in sorted(paths, key=lambda name: (values[name], name)):
        if is_nifti(paths[name]):
            part, more = mask_part(name, read_labels(paths[name], {}), geometry)
        else:
            part, more = mesh_part(name, read_ply(paths[name], options.mesh_space), geometry)
        union.add(part, values[name], classes)
        notes += more
    if options.overlap == "background":
        array[union.contested] = 0
    return array, union.counts, notes


def mesh_part(name: str, mesh: Mesh, geometry: Geometry) -> tuple[Part, list[str]]:
    """Return the voxels whose centres lie in a surface, and what is odd about it.

    Parameters
    ----------
    name : str
        The structure's.
    mesh : Mesh
        RAS+ mm.
    geometry : Geometry
        The scan's grid.

    Returns
    -------
    Part
        Empty for a surface without faces, or beyond the scan.
    list of str
        An open surface, one that leaks, one that reaches beyond the scan.
    """
    mesh, notes = _united(mesh), list[str]()
    points = geometry.to_index(mesh.vertices_mm) if len(mesh.faces) else np.full((1, 3), -1.0)
    low, high = np.floor(points.min(0)), np.ceil(points.max(0))
    start = np.clip(low, 0, geometry.shape).astype(int)
    stop = np.clip(high + 1, start, geometry.shape).astype(int)
    box = (slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2]))
    if (stop <= start).any():
        return Part(name, box, np.zeros(tuple(stop - start), np.bool_)), notes
    size = stop - start
    window = geometry.window((start[0], start[1], start[2]), (size[0], size[1], size[2]))
    part = Part(name, box, voxelize(mesh, window))
    if not mesh.is_watertight:
        notes.append(f"the surface of {name} is not closed")
    whole = (low >= 0).all() and (high < geometry.shape).all()
    expected, volume = abs(mesh.volume_mm3), np.count_nonzero(part.inside) * geometry.voxel_volume
    # Few voxels say little about a volume.
    if whole and abs(volume - expected) > LEAK * expected + 50 * geometry.voxel_volume:
        notes.append(
            f"{name}: {volume / 1000:.1f} cm3 of voxels, {expected / 1000:.1f} cm3 within the surface"
        )
    return part, notes


def _united(mesh: Mesh) -> Mesh:
    """Give points of equal coordinates one number: some programs write three for each triangle."""
    points, which = np.unique(mesh.vertices_mm, axis=0, return_inverse=True)
    return Mesh(points, which.reshape(-1).astype(np.int32)[mesh.faces])


def mask_part(name: str, mask: LabelMap, geometry: Geometry) -> tuple[Part, list[str]]:
    """Return the voxels of a binary mask on the scan's grid.

    Raises
    ------
    ScanError
        If it has more than one value beside 0.
    """
    present = label_moments(mask.array)
    if len(present) > 1:
        raise ScanError(
            f"the mask of {name} has the values {', '.join(map(str, present))}",
            "0 and one other",
            "name it labels.nii.gz if it holds several structures",
        )
    array, notes = onto_grid(mask, geometry)
    # Cut out: structures are put together in boxes, and no more arrays of the scan's size are made.
    box = next((moments.box for moments in label_moments(array).values()), (slice(0, 0),) * 3)
    return Part(name, box, array[box] > 0), [f"{name}: {note}" for note in notes]


def _from_map(
    path: Path, geometry: Geometry, names: Mapping[int, str], values: Mapping[str, int]
) -> tuple[npt.NDArray[np.uint8], Mapping[tuple[int, int], int], list[str]]:
    stored = read_labels(path, names)
    unknown = [v for v in label_moments(stored.array) if v != IGNORED and v not in names]
    if unknown:
        raise ScanError(
            f"{path.name} has the values {', '.join(map(str, unknown))} without a name",
            ", ".join(f"{v} {n}" for v, n in names.items()) or "a table of names",
            NAME_THEM,
        )
    lut = np.zeros(256, np.uint8)
    lut[IGNORED] = IGNORED
    for value, name in names.items():
        lut[value] = values[name]
    array, notes = onto_grid(stored, geometry)
    return lut[array], {}, notes


def onto_grid(labels: LabelMap, geometry: Geometry) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Resample labels by geometry: each voxel takes the label of the voxel in which its centre lies.

    Parameters
    ----------
    labels : LabelMap
        In any orientation, also oblique to the scan.
    geometry : Geometry
        The scan's grid.

    Returns
    -------
    ndarray of uint8, (i, j, k)
        0 beyond the labels' grid; the labels' own array where the two grids are equal.
    list of str
        That another grid was met.
    """
    if labels.geometry.is_close(geometry, 0.01):
        return labels.array, []
    matrix = np.linalg.inv(labels.geometry.affine) @ geometry.affine
    out = np.zeros(geometry.shape[::-1], np.uint8)
    _sample(np.ascontiguousarray(labels.array.T), np.ascontiguousarray(matrix[:3]), out)
    shape = " x ".join(map(str, labels.geometry.shape))
    return out.T, [f"labels on another grid ({shape}) were resampled by geometry"]


@kernel
def _sample(source, matrix, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` (k, j, i) from ``source`` (k, j, i); ``matrix`` (3, 4) takes (i, j, k, 1) there."""
    slices, rows, columns = out.shape
    position = np.empty(3, np.int64)
    for k in range(slices):
        for j in range(rows):
            for i in range(columns):
                inside = True
                for axis in range(3):
                    m = matrix[axis]
                    place = np.floor(m[0] * i + m[1] * j + m[2] * k + m[3] + 0.5)
                    inside &= 0 <= place < source.shape[2 - axis]
                    position[axis] = np.int64(place)
                if inside:
                    out[k, j, i] = source[position[2], position[1], position[0]]


def keep_region(labels: npt.NDArray[np.uint8], region: LabelMap, geometry: Geometry) -> int:
    """Ignore, in place, what lies outside a labelled region and has no label; return how many voxels.

    Raises
    ------
    UsageError
        If the region is empty on the scan's grid.
    """
    inside = onto_grid(region, geometry)[0] > 0
    if not inside.any():
        raise UsageError("the region of labels lies outside the scan", "the same patient coordinates")
    outside = ~inside & (labels == 0)
    labels[outside] = IGNORED
    return int(np.count_nonzero(outside))
