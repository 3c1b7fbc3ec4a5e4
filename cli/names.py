"""What the output files of each scan are called, decided by its path before it is read."""

import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_FORBIDDEN = frozenset('\\:*?"<>|')
"""What Windows allows in no file's name."""


def output_name(path: Path) -> str:
    """Return the file's stem; ``scan`` for a folder or zip, which are often called after the patient."""
    if path.suffix.lower() == ".zip" or os.path.isdir(path) or (not path.suffix and zipfile.is_zipfile(path)):
        return "scan"
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return Path(name).stem or "scan"


def output_names(paths: Sequence[Path], name: str | None = None) -> list[str]:
    """Return a name for each scan, those that several share numbered in the order given: ``scan-1``, ...

    Raises
    ------
    UsageError
        If the name that is asked for cannot begin a file's name.
    """
    from seg_core.errors import UsageError

    if name is not None and (
        not name
        or not name.isprintable()
        or Path(name).name != name
        or name.startswith(".")
        or set(name) & _FORBIDDEN
    ):
        raise UsageError(f"the name {name!r}", "a plain name such as leg1, without folders", "choose another")
    wanted = [_plain(name or output_name(path)) for path in paths]
    # Compared without case, as some file systems do.
    shared = Counter(one.casefold() for one in wanted)
    taken = {one for one, count in shared.items() if count == 1}
    names, counters = [], Counter[str]()
    for one in wanted:
        key, unique = one.casefold(), one
        while shared[key] > 1 and (unique == one or unique.casefold() in taken):
            counters[key] += 1
            unique = f"{one}-{counters[key]}"
        taken.add(unique.casefold())
        names.append(unique)
    return names


def _plain(name: str) -> str:
    """Put a line for what no file's name holds everywhere: signs, controls, bytes that are no text."""
    return "".join(c if c.isprintable() and c not in _FORBIDDEN else "_" for c in name)
