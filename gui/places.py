"""Which files of this computer the page may see, and the files that are dropped into it."""

import re
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_core.errors import LlsError, OutputError, ScanError, UsageError

LARGEST_UPLOAD = 4 * 2**30
"""Bytes of all files that are dropped together."""
MOST_FILES = 20_000


class RefusedError(LlsError):
    """A path outside the folders that the page may see."""


@dataclass(frozen=True)
class Entry:
    """A line of a folder's listing; the name is one that can be shown."""

    name: str
    path: Path
    is_folder: bool
    size: int


class Places:
    """The folders that the page may see.

    Parameters
    ----------
    roots : sequence of Path
        They and what is below them, symbolic links resolved.

    Raises
    ------
    UsageError
        If one is not there.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        missing = [str(root) for root in roots if not root.is_dir()]
        if missing:
            raise UsageError(f"{', '.join(missing)}: no such folder", "folders that are there")
        self.roots = tuple(dict.fromkeys(root.resolve() for root in roots))

    def allows(self, path: Path) -> bool:
        """Whether a path, symbolic links resolved, lies in one of the roots."""
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links, a zero byte
            return False
        return any(real.is_relative_to(root) for root in self.roots)

    def find(self, text: str | Path) -> Path:
        """Return a file or folder that the page may see, symbolic links resolved.

        Raises
        ------
        RefusedError
            If it lies outside; the same whether it is there or not.
        ScanError
            If it is not there.
        """
        given = str(text).strip().strip("\"'")
        if not given:
            raise ScanError("no path", "a file or folder")
        try:
            path = Path(given).expanduser()
        except RuntimeError:  # the home of nobody
            path = Path(given)
        path = path if path.is_absolute() else self.roots[0] / path
        if not self.allows(path):
            raise RefusedError(
                f"{given} lies outside the folders that this page may see",
                f"a path in {' or '.join(map(str, self.roots))}",
                "start the page with: lls gui --root FOLDER",
            )
        if not path.exists():
            raise ScanError(f"{given} is not there", "a file or folder", "check the path")
        return path.resolve()

    def listing(self, folder: Path) -> list[Entry]:
        """Return what a folder holds, folders first; without what is hidden or leads out of the roots."""
        entries = []
        try:
            for path in self.find(folder).iterdir():
                if not path.name.startswith(".") and self.allows(path) and path.exists():
                    is_folder = path.is_dir()
                    size = 0 if is_folder else path.stat().st_size
                    entries.append(Entry(readable(path.name), path, is_folder, size))
        except PermissionError as error:
            raise ScanError(f"no permission to look into {folder}", fix="change its permissions") from error
        return sorted(entries, key=lambda entry: (not entry.is_folder, entry.name.casefold()))

    def parent(self, folder: Path) -> Path | None:
        """Return the folder above, None where the page may not see it."""
        return folder.parent if folder not in self.roots and self.allows(folder.parent) else None


@dataclass
class _Taken:
    """What a drop has taken so far, also of files that are still arriving."""

    size: int = 0
    files: int = 0


class Uploads:
    """Files that were dropped into the page, a folder a drop.

    Parameters
    ----------
    folder : Path
        Where they lie.
    largest : int
        Bytes of a drop.
    """

    def __init__(self, folder: Path, largest: int = LARGEST_UPLOAD) -> None:
        self.folder, self.largest = folder, largest
        self._drops: dict[str, _Taken] = {}

    def begin(self) -> str:
        """Make the folder of a drop; return its name, which only the page that made it knows."""
        name = secrets.token_hex(12)
        (self.folder / name).mkdir(parents=True)
        self._drops[name] = _Taken()
        return name

    async def receive(self, drop: str, name: str, chunks: AsyncIterator[bytes]) -> Path:
        """Write one file of a drop, whole or not at all; several may arrive at once.

        Parameters
        ----------
        drop : str
            As `begin` gave it.
        name : str
            What the browser calls the file; only harmless characters of its last part are kept, and a number
            is put before it where files of two folders have one name.

        Raises
        ------
        RefusedError
            If the drop is unknown, or grows beyond what is taken.
        OutputError
            If the disk has no room.
        """
        folder, taken, size, path = *self._find(drop), 0, None
        partial = folder / f".{secrets.token_hex(8)}.partial"
        taken.files += 1
        try:
            room = shutil.disk_usage(folder).free - 2**28
            with partial.open("wb") as out:
                async for chunk in chunks:
                    size += len(chunk)
                    taken.size += len(chunk)
                    if taken.size > self.largest or size > room or taken.files > MOST_FILES:
                        raise self._too_much()
                    out.write(chunk)
            unused = _unused(folder, plain_name(name))  # only now: its namesake may have arrived meanwhile
            path = partial.rename(unused)
        except OSError as error:
            raise OutputError(f"{name} cannot be kept: {error.strerror}", fix="free some space") from error
        finally:
            if path is None:
                partial.unlink(missing_ok=True)
                taken.size, taken.files = taken.size - size, taken.files - 1
        return path

    def scan(self, drop: str) -> Path:
        """Return what was dropped: the file where it is one, else its folder; an unknown drop is refused."""
        folder, _ = self._find(drop)
        files = list(folder.iterdir())
        return files[0] if len(files) == 1 else folder

    def _find(self, drop: str) -> tuple[Path, _Taken]:
        if drop not in self._drops:
            raise RefusedError("an unknown drop", "one that this page began", "drop the files again")
        return self.folder / drop, self._drops[drop]

    def discard(self, drop: str) -> None:
        """Remove a drop; nothing happens if there is none of that name."""
        if self._drops.pop(drop, None) is not None:
            shutil.rmtree(self.folder / drop, ignore_errors=True)

    def _too_much(self) -> RefusedError:
        return RefusedError(
            "more than this page takes",
            f"at most {self.largest / 2**30:.0f} GB and {MOST_FILES} files, and room on the disk",
            "choose the folder on this computer instead",
        )


def readable(text: str | Path) -> str:
    """Return a path, or a text that names one, as a browser takes it: what is no UTF-8 is replaced."""
    return re.sub(r"[\ud800-\udfff]", "\ufffd", str(text))


def plain_name(name: str) -> str:
    """Return the last part of a file's name with letters, digits, dots, dashes and underscores only."""
    last = re.split(r"[\\/]", name)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last)[-100:].lstrip(".") or "file"


def _unused(folder: Path, name: str) -> Path:
    number, path = 2, folder / name
    while path.exists():
        number, path = number + 1, folder / f"{number}-{name}"
    return path
