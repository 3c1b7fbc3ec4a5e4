"""Two label maps that are compared: which value is which structure, where a file itself does not say it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from seg_core.errors import UsageError
from seg_core.geometry import LabelMap
from seg_core.labels import BONES, IGNORED, plain_labels, sided_labels, structure_name
from seg_core.moments import label_moments
from seg_core.nifti import names_beside, read_labels, stem


@dataclass(frozen=True, eq=False)
class Compared:
    """A prediction and its truth, as they are compared: by their values.

    Parameters
    ----------
    predicted, truth : LabelMap
        Of a mask of one structure, that structure alone, in both.
    given : mapping of int to str
        Names that a table, or a mask's file name, gives.
    assumed : mapping of int to str
        Names that nobody gave.
    notes : tuple of str
        What was assumed.
    """

    predicted: LabelMap
    truth: LabelMap
    given: Mapping[int, str]
    assumed: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_pair(predicted: Path, truth: Path) -> Compared:
    """Read two label maps that are to be compared.

    Names are those of the table beside a file. A file without one that holds a single value is a mask of what
    it is called (``right_femur.nii.gz``), as those of `lls phantom` are, and says nothing of other
    structures. Other values without names are those of lls, and that is said.

    Raises
    ------
    ScanError
        If a file cannot be read.
    UsageError
        If a value has two names, or a mask's structure is not in the other file.
    """
    paths = (predicted, truth)
    maps = (read_labels(predicted), read_labels(truth))
    tables = (names_beside(predicted), names_beside(truth))
    _refuse_other_names(paths, tables)
    masks = [mask_of_one(maps[n], paths[n], tables[1 - n] or {}) for n in range(2)]
    if any(masks):
        return _one_structure(paths, tables, maps, masks)
    return _whole(paths, tables, maps)


def mask_of_one(labels: LabelMap, path: Path, known: Mapping[int, str]) -> LabelMap | None:
    """Return a mask as a label map of the structure that its file is called after; None if it is no mask.

    Parameters
    ----------
    labels : LabelMap
        As `read_labels` gives it.
    path : Path
        Its file.
    known : mapping of int to str
        Value -> name in what it is compared with; the bones have lls's values where that names none.
    """
    values = set(label_moments(labels.array)) - {IGNORED}
    if len(values) > 1 or names_beside(path) is not None:
        return None
    name = structure_name(stem(path), letters=True)
    for table in (known, sided_labels(BONES), plain_labels(BONES)):
        for value, other in table.items():
            if structure_name(other, letters=True) == name:
                return _only(labels, values.pop() if values else value, {value: other})
    return None


def _only(labels: LabelMap, stored: int, names: Mapping[int, str]) -> LabelMap:
    """Return one stored value, under the value that ``names`` has, and what is ignored."""
    (value,) = names
    lut = np.zeros(256, np.uint8)
    lut[stored], lut[IGNORED] = value, IGNORED
    return replace(labels, array=lut[labels.array], labels=dict(names))


def _one_structure(
    paths: tuple[Path, Path],
    tables: tuple[Mapping[int, str] | None, ...],
    maps: tuple[LabelMap, LabelMap],
    masks: list[LabelMap | None],
) -> Compared:
    """Compare what a mask shows with the same structure of the other file."""
    which = 0 if masks[0] is not None else 1
    other, named = 1 - which, masks[which]
    assert named is not None
    ((value, name),) = named.labels.items()
    rest, notes, shown = masks[other], list[str](), tables[other] or {}
    if rest is None and tables[other] is None:
        held = sorted(set(label_moments(maps[other].array)) - {IGNORED})
        if held in ([], [1]):  # a mask too, whose name says nothing
            notes.append(f"{paths[other].name} names no structure: {name} was assumed, as of the other file")
            rest = _only(maps[other], 1, named.labels)
        else:
            shown = {v: n for v, n in sided_labels(BONES).items() if v in held or v == value}
            notes.append(_assumption(paths[other], shown))
    if rest is None and shown.get(value) == name:
        rest = _only(maps[other], value, named.labels)
    if rest is None or rest.labels != named.labels:
        found = ", ".join((rest.labels if rest else shown).values()) or "nothing that has a name"
        raise UsageError(
            f"{paths[which].name} is a mask of {name}, and {paths[other].name} shows {found}",
            "the same structure in both",
            "call the mask after side and bone, as right_femur.nii.gz, or give each file its table (.json)",
        )
    pair = (named, rest) if which == 0 else (rest, named)
    return Compared(*pair, named.labels, notes=tuple(notes))


def _whole(
    paths: tuple[Path, Path],
    tables: tuple[Mapping[int, str] | None, ...],
    maps: tuple[LabelMap, LabelMap],
) -> Compared:
    """Compare all values; those that no table names are lls's, if they can be."""
    given: dict[int, str] = {}
    assumed: dict[int, str] = {}
    notes = []
    for n in range(2):
        values = set(maps[n].labels) - {IGNORED}
        ours = tables[1 - n] or sided_labels(BONES)
        given.update(tables[n] or {})
        if tables[n] is None and values <= set(ours):
            assumed.update(ours)
            if values:
                notes.append(_assumption(paths[n], {value: ours[value] for value in sorted(values)}))
    return Compared(*maps, given, assumed, tuple(notes))


def _assumption(path: Path, names: Mapping[int, str]) -> str:
    taken = ", ".join(f"{value} as {name}" for value, name in names.items())
    return f"{path.name} has no table of names ({stem(path)}.json): {taken} was assumed"


def _refuse_other_names(paths: tuple[Path, Path], tables: tuple[Mapping[int, str] | None, ...]) -> None:
    """Refuse tables that give a value different names: labels are compared by their values."""
    ours, theirs = (table or {} for table in tables)
    for value in sorted(ours.keys() & theirs.keys()):
        spelled = [re.sub(r"[\W_]+", "_", table[value]).casefold() for table in (ours, theirs)]
        if spelled[0] != spelled[1]:
            raise UsageError(
                f"{value} is {ours[value]} in {paths[0].name} and {theirs[value]} in {paths[1].name}",
                "the same values for the same structures",
                "change the values of one; where a side is unknown, give the prediction its side first",
            )
