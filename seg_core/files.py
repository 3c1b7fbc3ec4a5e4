"""The files below a folder."""

import os
from pathlib import Path

from seg_core.errors import ScanError


def files_below(path: Path) -> list[Path]:
    """List all files in a folder and the folders in it, links followed; those above it are left out.

    Parameters
    ----------
    path : Path
        A folder.

    Returns
    -------
    list of Path
        By folder and name, links that lead nowhere among them. A folder that links lead to again, or in a
        circle, is looked at once; one that holds the folder itself not at all.

    Raises
    ------
    ScanError
        If a folder cannot be read.
    """
    start = Path(os.path.realpath(path))
    seen = {str(start), *map(str, start.parents)}
    found = []
    for folder, inner, names in os.walk(path, onerror=_refuse, followlinks=True):
        inner[:] = [name for name in sorted(inner) if _is_new(Path(folder, name), seen)]
        found.append((folder, sorted(names)))
    files = (Path(folder, name) for folder, names in sorted(found) for name in names)
    return [file for file in files if file.is_file() or not file.exists()]


def _is_new(folder: Path, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    new = real not in seen
    seen.add(real)
    return new


def _refuse(error: OSError) -> None:
    raise ScanError(
        f"cannot read folder {error.filename}: {error.strerror}", fix="change its permissions"
    ) from error
