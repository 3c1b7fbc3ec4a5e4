"""What a user has of each subject: a scan, and labels as surfaces, binary masks or one label map."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from seg_core.errors import LlsError, ScanError, UsageError
from seg_core.labels import BONES, SIDES, structure_name
from seg_core.nifti import is_nifti, names_beside, stem
from seg_core.statistics import split_name

LabelledSide = Literal["auto", "right", "left", "both"]
_SCANS = ("scan", "dicom", "scan.nii.gz", "scan.nii", "scan.zip", "scan.dcm")
_MAPS = ("labels.nii.gz", "labels.nii", "mask.nii.gz", "mask.nii")
NAME_THEM = 'name them with --classes, or in a .json beside the file: {"LabelMap": {"1": "tibia"}}'
_COLUMNS = ("subject", "scan", "series", "labels", "region", "side", "hip_slice")


@dataclass(frozen=True)
class SubjectInput:
    """Where a subject's files are.

    Parameters
    ----------
    name : str
        What the subject is called in the dataset.
    scan : Path
        As `seg_core.scan.read_scan` takes it.
    structures : mapping of str to Path
        Name (``right_tibia``, ``tibia``) -> a PLY surface or a binary NIfTI.
    label_map : Path, optional
        One NIfTI with a value a structure, used where there are no ``structures``.
    region : Path, optional
        NIfTI that is not 0 where everything was labelled.
    series : str, optional
        Which DICOM series.
    side : {"auto", "right", "left", "both"}, optional
        The side that was labelled; by default the dataset's setting.
    hip_slice : int, optional
        Stored slice where the hip begins; by default the first labelled one.
    """

    name: str
    scan: Path
    structures: Mapping[str, Path] = field(default_factory=dict)
    label_map: Path | None = None
    region: Path | None = None
    series: str | None = None
    side: LabelledSide | None = None
    hip_slice: int | None = None

    @property
    def files(self) -> list[tuple[str, Path]]:
        """Role and path of everything that is read."""
        roles = [("scan", self.scan), *sorted(self.structures.items())]
        if self.label_map is not None:
            roles.append(("labels", self.label_map))
            table = _table_beside(self.label_map)
            roles += [("table", table)] if table.is_file() else []
        return [*roles, ("region", self.region)] if self.region is not None else roles


@dataclass(frozen=True)
class Classes:
    """What the network shall know.

    Parameters
    ----------
    names : tuple of str
        Of the values 1, 2, ..., without sides.
    sided : bool
        Whether each is a pair, right and left, to be told apart after inference.
    values : mapping of int to str
        Names of the values in label maps that have no table of their own.
    """

    names: tuple[str, ...]
    sided: bool
    values: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names) or len(self.names) > 127:
            raise UsageError(f"classes {', '.join(self.names) or '(none)'}", "1 to 127 different names")


def read_subjects(paths: Sequence[Path]) -> dict[str, SubjectInput | LlsError]:
    """Find the files of each subject; what is wrong with one stands in its place.

    Parameters
    ----------
    paths : sequence of Path
        Folders as ``lls phantom`` writes them (``scan/`` or ``dicom/`` or a scan file beside ``meshes/``,
        ``masks/`` or ``labels.nii.gz``), or tables (``.csv``, ``.json``) with a row a subject.

    Raises
    ------
    UsageError
        If there is no subject, two have one name, or a table cannot be read.
    """
    subjects: dict[str, SubjectInput | LlsError] = {}
    for path in paths:
        is_table = path.suffix.lower() in (".csv", ".json")
        for name, found in _read_table(path) if is_table else [_from_folder(path)]:
            if name.casefold() in {known.casefold() for known in subjects}:
                raise UsageError(
                    f"two subjects called {name}", "a name each", "rename one, or name them in a table"
                )
            subjects[name] = found
    if not subjects:
        raise UsageError("no subject", "one or more")
    return subjects


def _from_folder(path: Path) -> tuple[str, SubjectInput | LlsError]:
    name = path.resolve().name
    try:
        if not path.is_dir():
            raise ScanError(f"{path} is no folder", "a subject's folder, or a .csv or .json table")
        scan = next((path / entry for entry in _SCANS if (path / entry).exists()), None)
        if scan is None:
            raise ScanError(f"{path} holds no scan", f"one of {', '.join(_SCANS)}")
        folders = {entry.name.lower(): entry for entry in sorted(path.iterdir())}
        structures = structures_in(folders.get("masks", path / "masks"))
        structures |= structures_in(folders.get("meshes", path / "meshes"))
        label_map = next((path / entry for entry in _MAPS if (path / entry).is_file()), None)
        region = path / "region.nii.gz"
        return name, _checked(
            SubjectInput(
                name,
                scan,
                structures,
                None if structures else label_map,
                region if region.is_file() else None,
            )
        )
    except LlsError as error:
        return name, error


def structures_in(folder: Path) -> dict[str, Path]:
    """Return name -> path of the surfaces and binary masks in a folder; empty where it is not there.

    Raises
    ------
    ScanError
        If two are of one structure.
    """
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    files = sorted(f for f in folder.iterdir() if f.is_file() and _is_structure(f))
    stems = {file: stem(file) if is_nifti(file) else file.stem for file in files}
    known = structure_names_of(stems.values())
    for file in files:
        name = known[stems[file]]
        if name in found:
            raise ScanError(f"{found[name].name} and {file.name} are both {name}", "a file a structure")
        found[name] = file
    return found


def _is_structure(path: Path) -> bool:
    return not path.name.startswith(".") and (is_nifti(path) or path.suffix.lower() == ".ply")


def structure_names_of(texts: Iterable[str]) -> dict[str, str]:
    """Return text -> structure's name; ``tibia_R`` is ``right_tibia`` where there is a ``tibia_L`` too."""
    plain = {text: structure_name(text) for text in texts}
    long = {text: structure_name(text, letters=True) for text in plain}
    there = set(long.values())
    return {text: long[text] if _other_side(long[text]) in there else name for text, name in plain.items()}


def lone_letters(names: Iterable[str]) -> dict[str, str]:
    """Return name -> what it may mean, of names whose letter was taken for no side: the other is missing."""
    long = {name: structure_name(name, letters=True) for name in names}
    return {name: text for name, text in long.items() if text != name and _other_side(text)}


def _other_side(name: str) -> str:
    side, _, rest = name.partition("_")
    return f"{'left' if side == 'right' else 'right'}_{rest}" if side in SIDES else ""


def _checked(subject: SubjectInput) -> SubjectInput:
    """Refuse a subject without labels, or with a name that is no file's."""
    name = subject.name
    if not name or Path(name).name != name or name.startswith(".") or name.casefold() == "cache":
        raise UsageError(f"a subject called {subject.name!r}", "a plain name such as subject1")
    if not subject.structures and subject.label_map is None:
        raise ScanError(
            f"{subject.name} has no labels",
            "meshes/ with .ply, masks/ with .nii.gz, or labels.nii.gz",
            "add them: a scan without labels teaches nothing",
        )
    missing = [str(path) for _, path in subject.files if not path.exists()]
    if missing:
        raise ScanError(f"{', '.join(missing)}: not there", "the files that the table names")
    if subject.side is not None and subject.side not in get_args(LabelledSide):
        raise UsageError(f"side {subject.side!r} of {subject.name}", "auto, right, left or both")
    return subject


def _read_table(path: Path) -> list[tuple[str, SubjectInput | LlsError]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _json_rows(text) if path.suffix.lower() == ".json" else _csv_rows(text)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no table of subjects: {error}",
            f"columns subject, scan and labels or one a structure; also {', '.join(_COLUMNS[2:])}",
        ) from error
    return [_from_row(row, path.parent) for row in rows]


def _rows(text: str) -> list[dict[str, str]]:
    """Read a table whose columns are told apart by what its header has most of."""
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count))
    return [{key.strip(): (value or "").strip() for key, value in row.items() if key} for row in reader]


def _csv_rows(text: str) -> list[dict[str, str]]:
    rows = _rows(text)
    if any("subject" not in row or "scan" not in row for row in rows):
        raise ValueError("a row without subject or scan")
    return rows


def _json_rows(text: str) -> list[dict[str, Any]]:
    raw = json.loads(text)
    rows = raw["subjects"] if isinstance(raw, dict) else raw
    return [{"subject": row["subject"], "scan": row["scan"]} | row for row in rows]


def _from_row(row: Mapping[str, Any], base: Path) -> tuple[str, SubjectInput | LlsError]:
    given = {key: value for key, value in row.items() if value not in ("", None)}
    name = str(given.get("subject", ""))
    try:
        labels = base / str(given["labels"]) if "labels" in given else None
        files = {k: base / str(v) for k, v in given.items() if k not in _COLUMNS}
        _check_columns(name, files)
        structures = _columns(files)
        if labels is not None and labels.is_dir():
            structures = structures_in(labels) | structures
        return name, _checked(
            SubjectInput(
                name,
                base / str(given.get("scan", "")),
                structures,
                labels if labels is not None and not labels.is_dir() and not structures else None,
                base / str(given["region"]) if "region" in given else None,
                str(given["series"]) if "series" in given else None,
                given.get("side"),
                int(given["hip_slice"]) if "hip_slice" in given else None,
            )
        )
    except LlsError as error:
        return name, error
    except ValueError:
        return name, UsageError(f"hip_slice {given['hip_slice']!r} of {name}", "a whole number")


def _check_columns(name: str, files: Mapping[str, Path]) -> None:
    """Refuse a column that names no structure's file, or is nearly called like one that means something."""
    for column, path in files.items():
        near = get_close_matches(column.casefold(), _COLUMNS, 1, 0.8)
        if near or path.is_dir() or not _is_structure(path):
            raise UsageError(
                f"the column {column!r} of {name} names {path.name}",
                f"{', '.join(_COLUMNS)}, or a structure's name over a .ply or .nii.gz",
                f"call it {near[0]}" if near else "correct the column's name, or take it out",
            )


def _columns(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return name -> path of a row's structures."""
    known = structure_names_of(files)
    if len(set(known.values())) < len(known):
        raise UsageError(f"columns {', '.join(known)}", "a column a structure")
    return {known[text]: path for text, path in files.items()}


def read_classes(text: str) -> dict[int, str]:
    """Read a class table: value -> name.

    Parameters
    ----------
    text : str
        Names with commas between them (``tibia,femur``), or the path of a ``.csv`` with the columns value and
        name, or of a ``.json`` (``{"1": "tibia"}``, also below ``LabelMap``).

    Raises
    ------
    UsageError
        If it cannot be read, or a value is not 1 to 254.
    """
    path = Path(text)
    try:
        if path.suffix.lower() == ".json":
            raw = json.loads(path.read_text(encoding="utf-8-sig"))
            table = {int(value): str(name) for value, name in raw.get("LabelMap", raw).items()}
        elif path.suffix.lower() == ".csv":
            rows = _rows(path.read_text(encoding="utf-8-sig"))
            table = {int(row["value"]): row["name"].strip() for row in rows}
        else:
            table = {n: name.strip() for n, name in enumerate(text.split(","), 1)}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(
            f"the class table {text!r} cannot be read: {error}", "names with commas, or value and name a row"
        ) from error
    if not table or not all(0 < value < 255 and name for value, name in table.items()):
        raise UsageError(f"the class table {table}", "values 1 to 254 with names")
    return dict(sorted(table.items()))


def choose_classes(
    subjects: Sequence[SubjectInput], table: Mapping[int, str] | None = None, known: Sequence[str] = ()
) -> Classes:
    """Decide the classes of a dataset; right and left of a structure are one.

    Parameters
    ----------
    subjects : sequence of SubjectInput
        What there is.
    table : mapping of int to str, optional
        As `read_classes` gives it: these and no others, in the order of their values. By default all that any
        subject has: the leg's bones in their usual order, then others by their names.
    known : sequence of str
        Classes of which other subjects have labels.

    Raises
    ------
    UsageError
        If a class has no label in any subject, or there is no class.
    """
    found = [name for subject in subjects for name in structure_names(subject, table or {})]
    nameless = [s.label_map.name for s in subjects if s.label_map and not structure_names(s, table or {})]
    if nameless:
        raise UsageError(f"{nameless[0]} gives its values no names", "a table of names", NAME_THEM)
    plain = {split_name(name)[0] for name in found}
    if table is None:
        names = [bone for bone in BONES if bone in plain] + sorted(plain - set(BONES))
    else:
        names = list(dict.fromkeys(split_name(structure_name(name))[0] for name in table.values()))
        if unknown := [name for name in names if name not in plain | set(known)]:
            raise UsageError(
                f"no subject has a label of {', '.join(unknown)}",
                f"some of {', '.join(sorted(plain)) or 'none'}",
                "correct the class table",
            )
    sided = any(split_name(name)[1] != "unknown" for name in found) or set(names) <= set(BONES)
    return Classes(tuple(names), sided, dict(table or {}))


def structure_names(subject: SubjectInput, values: Mapping[int, str]) -> list[str]:
    """Return the names of a subject's structures: of its files, else of its label map's table."""
    if subject.structures or subject.label_map is None:
        return list(subject.structures)
    return list(map_table(subject.label_map, values).values())


def map_table(path: Path, values: Mapping[int, str]) -> dict[int, str]:
    """Return the names of a label map's values: its own table's, else the dataset's."""
    names = names_beside(path) or values
    known = structure_names_of(names.values())
    return {value: known[name] for value, name in names.items()}


def _table_beside(path: Path) -> Path:
    return path.with_name(f"{stem(path)}.json")


def labelled_side(subject: SubjectInput, names: Sequence[str], asked: LabelledSide) -> str:
    """Return ``right``, ``left`` or ``both``: as asked for, else the one side that all names have."""
    side = subject.side or asked
    sides = {split_name(name)[1] for name in names}
    if side != "auto":
        return side
    return sides.pop() if len(sides) == 1 and sides < {"right", "left"} else "both"
