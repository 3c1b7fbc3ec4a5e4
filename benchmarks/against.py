"""What got slower since an earlier `lls bench`: the figures of both, compared row by row."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import Spread
from seg_core.errors import UsageError

Figures = Mapping[str, Any]
"""A `benchmarks.backends.Result` as its JSON has it."""

_TIMES: Mapping[str, str] = {"ratio": "ratio", "slice_ms": "ms a slice"}
_SAME: Mapping[str, str] = {
    "sha256": "the model's sha256",
    "network": "the frameworks' network",
    "images": "slices (number, channels, rows, columns)",
    "size": "size of the labels",
}
_FAILURES = ("slower: ", "gone: ")


def read_earlier(path: Path) -> Figures:
    """Return what an earlier run measured.

    Raises
    ------
    UsageError
        If the file cannot be read, or is another one.
    """
    wanted = "backends.json of an earlier run", "name a file that lls bench -o wrote, or measure again"
    try:
        figures: Figures = json.loads(path.read_text(encoding="utf-8"))
        lacking = [key for key in _SAME if key not in figures["work"]]
        whole = bool(_rows(figures)) and "processor" in figures["machine"] and not lacking
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", *wanted) from error
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise UsageError(f"{path} holds no figures of this version of lls bench", *wanted)
    return figures


def check_same(earlier: Figures, work: Mapping[str, Any]) -> None:
    """Refuse to compare what is done now with an earlier run that did something else.

    Raises
    ------
    UsageError
        If the model, the frameworks' network, or number or size of slices is another one.
    """
    for key, what in _SAME.items():
        if earlier["work"][key] != work[key]:
            raise UsageError(
                f"the earlier run had another work: {what} {earlier['work'][key]!r}",
                f"{work[key]!r}, as it is now",
                "give the same model, scan and slices, or leave --against out",
            )


def slower(now: Figures, earlier: Figures, by: float = 1.1) -> list[str]:
    """Say what got slower beyond the quartiles of both, as a ratio to the base or by the clock; what is gone.

    Parameters
    ----------
    now, earlier : mapping
        Of the same work.
    by : float
        From how many times the earlier median on.
    """
    lines = []
    if earlier["machine"]["processor"] != now["machine"]["processor"]:
        lines.append(f"another machine: {earlier['machine']['processor']}")
    found = _rows(now)
    for key, times in _rows(earlier).items():
        name = f"{key[0]}, batch {key[1]}"
        if key not in found:
            lines.append(_absent(now, *key, name))
            continue
        for what, before in times.items():
            new = found[key][what]
            if new.median > by * before.median and new.low > before.high:
                lines.append(f"slower: {name}: {_TIMES[what]} {before.median:.3g} to {new.median:.3g}")
    return lines


def failures(lines: Sequence[str]) -> list[str]:
    """Return those of the lines that say that something got worse."""
    return [line for line in lines if line.startswith(_FAILURES)]


def _rows(figures: Figures) -> dict[tuple[str, int], dict[str, Spread]]:
    return {
        (row["backend"], row["batch"]): {what: Spread(**row[what]) for what in _TIMES}
        for row in figures["rows"]
    }


def _absent(now: Figures, backend: str, batch: int, name: str) -> str:
    """Say of a row that only the earlier run has whether nobody asked for it, or why it is not there."""
    if backend not in now["work"]["backends"] or batch not in now["work"]["batches"]:
        return f"not asked for: {name}"
    missing = now["missing"]
    return f"gone: {name}: {missing.get(backend) or missing.get(name)}"
