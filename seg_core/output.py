"""The output folder: complete or not at all.

Files are written into a hidden folder and moved into place at the end, the report last. What fails before or
during that move leaves the target as it was.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import IO

from seg_core.errors import OutputError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PARTIAL = ".partial"


@contextmanager
def staged_output(target: str | Path, name: str, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder whose files are moved into ``target`` when the block ends without an error.

    Parameters
    ----------
    target : str or Path
        The folder; made where it is missing. Other files in it are never touched.
    name : str
        What the files' names begin with; ``<name>_report.json`` is moved last and lists the others.
    overwrite : bool, default: False
        Whether files that an earlier ``<name>_report.json`` lists are replaced; those of them that this run
        does not write are removed, since the new report would not speak of them.

    Yields
    ------
    Path
        The empty temporary folder, on the same file system as the target.

    Raises
    ------
    OutputError
        If a file exists that may not be replaced, or something cannot be written (rights, full disk).
        Nothing is left behind, also when any other error or an interruption passes through.
    """
    target = Path(target).resolve()
    with parents_of(target):
        stage, hold = None, None
        try:
            # Inside a folder that is there: it may be a mount point; files are renamed within a disk only.
            beside = target if target.is_dir() else target.parent
            _remove_abandoned(beside, name)
            stage, hold = _make_stage(beside, name)
            yield stage
            _move_into_place(stage, target, name, overwrite)
        except OSError as error:
            raise output_error(error, target) from error
        except OutputError as error:  # which may speak of the temporary folder
            raise OutputError(*(text.replace(str(stage), str(target)) for text in error.args)) from error
        finally:
            if stage is not None:
                shutil.rmtree(stage, ignore_errors=True)
            if hold is not None:
                os.close(hold)


@contextmanager
def parents_of(target: Path) -> Iterator[None]:
    """Make the folders above a file or folder; those that stay empty are removed at the end.

    Raises
    ------
    OutputError
        If they cannot be made.
    """
    made = _make_parents(target)
    try:
        yield
    finally:
        for folder in made:
            _remove_if_empty(folder)


def _make_stage(beside: Path, name: str) -> tuple[Path, int | None]:
    """Make the temporary folder, and hold it as long as this process lives."""
    while True:
        stage = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=_PARTIAL, dir=beside))
        hold = _hold(stage, wait=True)
        if stage.is_dir():  # before it was held, another process may have taken it for an abandoned one
            return stage, hold
        if hold is not None:
            os.close(hold)


def _remove_abandoned(beside: Path, name: str) -> None:
    """Remove what processes that were killed have left of this name: what nobody holds."""
    ours = re.compile(rf"\.{re.escape(name)}-[a-z0-9_]{{8}}{re.escape(_PARTIAL)}")
    for folder in beside.iterdir():
        if ours.fullmatch(folder.name) and (hold := _hold(folder, wait=False)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(hold)


def _hold(folder: Path, wait: bool) -> int | None:
    """Return what holds a folder until it is closed or the process ends; None where that cannot be.

    Without ``wait`` also where another process holds it. Windows cannot hold folders so: nothing is taken for
    abandoned there.
    """
    if fcntl is None:
        return None
    try:
        hold = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(hold, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(hold)
        return None
    return hold


def check_free(target: str | Path, name: str, files: Sequence[str], overwrite: bool = False) -> None:
    """Refuse, before any work, an output that could not be put in place.

    Parameters
    ----------
    target : str or Path
        The folder.
    name : str
        What the files' names begin with.
    files : sequence of str
        Names that would be written.
    overwrite : bool, default: False
        As for :func:`staged_output`.

    Raises
    ------
    OutputError
        If the target is a file or no place to write to, or one of the files exists and may not be replaced.
    """
    target = Path(target)
    check_writable(target)
    try:
        _refuse_existing(target, name, files, overwrite)
    except OSError as error:
        raise output_error(error, target) from error


def check_writable(target: str | Path) -> None:
    """Refuse, before any work, a folder that is a file, lies below one, or may not be written to or made.

    Raises
    ------
    OutputError
        Saying which.
    """
    target = Path(target)
    try:
        there = next((folder for folder in (target, *target.parents) if folder.exists()), Path())
        if not there.is_dir():
            raise OutputError(f"{there} is a file", "a folder", "choose another folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise output_error(error, target) from error


def check_new_file(path: Path, overwrite: bool = False, new_folder: bool = False) -> None:
    """Refuse, before any work, one file that could not be written; with ``new_folder`` its folder is made.

    Raises
    ------
    OutputError
        If it exists and may not be replaced, or its folder is not there or not to be written to.
    """
    try:
        if not (new_folder or path.parent.is_dir()):
            raise OutputError(f"{path.parent} is no folder", "a folder that is there", "make it first")
        check_writable(path.parent)
        if path.is_dir():
            raise OutputError(f"{path} is a folder", "the name of a file")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path} exists already", fix="choose another name, or add --overwrite")
    except OSError as error:
        raise output_error(error, path) from error


def _refuse_existing(target: Path, name: str, files: Sequence[str], overwrite: bool) -> None:
    replaceable = earlier_outputs(target, name) if overwrite else frozenset()
    for file in files:
        path = target / file
        if not (path.exists() or path.is_symlink()) or file in replaceable:
            continue
        if overwrite:
            raise OutputError(
                f"{path} exists and no earlier {name}_report.json lists it",
                "only files of an earlier run are replaced",
                "move it away, or choose another folder or --name",
            )
        raise OutputError(
            f"{path} exists already",
            "a folder without it",
            "choose another folder or --name, or replace an earlier run's files with --overwrite",
        )


def write_whole(path: str | Path, text: str) -> None:
    """Write one text file (UTF-8), complete or not at all; an existing one is replaced.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with whole_file(Path(path)) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # a file's name may hold what is no text


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file that takes its place, on the disk and complete, when the block ends without an error.

    Raises
    ------
    OutputError
        If it cannot be written; one that was there stays.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def earlier_outputs(target: str | Path, name: str) -> frozenset[str]:
    """Return the names of the files that an earlier report in the folder lists, the report's own included.

    Only plain names that begin with ``name`` count, so that no report can point outside its own files. Empty
    where there is no report or it cannot be read.
    """
    report = Path(target) / f"{name}_report.json"
    try:
        listed = [entry["file"] for entry in json.loads(report.read_text(encoding="utf-8"))["outputs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()
    plain = (f for f in listed if isinstance(f, str) and f.startswith(f"{name}_") and _is_plain(f))
    return frozenset([report.name, *plain])


def output_error(error: OSError, target: str | Path) -> OutputError:
    """Say what a failed write means for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"no space left for {target}", fix="free some space, or choose another disk with -o"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"no permission to write {target}", fix="choose a folder that you may write to")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return OutputError(f"{target} or a folder above it is a file", "a folder", "choose another folder")
    return OutputError(f"{target} cannot be written: {error.strerror or error}", fix="choose another folder")


def _is_plain(file: str) -> bool:
    return Path(file).name == file and "\\" not in file and ":" not in file


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above the target; return those that were made, innermost first."""
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for folder in missing:
            _remove_if_empty(folder)
        raise output_error(error, target) from error
    return missing


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _move_into_place(stage: Path, target: Path, name: str, overwrite: bool) -> None:
    """Move every file, and on any failure put everything back as it was."""
    report = f"{name}_report.json"
    files = sorted((f.name for f in stage.iterdir()), key=lambda f: (f == report, f))
    check_free(target, name, files, overwrite)
    new_folder = not target.exists()
    target.mkdir(exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="replaced-", dir=stage))
    replaced = sorted(f for f in earlier_outputs(target, name) if (target / f).is_file()) if overwrite else []
    moves = [(target / f, aside / f) for f in replaced] + [(stage / f, target / f) for f in files]
    done: list[tuple[Path, Path]] = []
    try:
        for move in moves:
            done.append(move)
            move[0].rename(move[1])
    except BaseException:
        for source, destination in reversed(done):
            if not source.exists() and destination.exists():
                destination.rename(source)
        if new_folder:
            _remove_if_empty(target)
        raise
