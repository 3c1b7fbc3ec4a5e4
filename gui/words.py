"""Results in words that a clinician reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seg_core.errors import LlsError

Tone = Literal["good", "look", "bad"]

STATUS = {
    "found": ("whole", "The bone lies wholly in the scan."),
    "truncated": ("cut off", "The scan ends within this bone: its numbers are those of the visible part."),
    "empty": ("not found", "Nothing was labelled as this bone."),
}
KINDS = {
    "segment": "segmentation",
    "prepare": "training data",
    "train": "training",
    "export": "network",
    "evaluate": "comparison",
}
SURE, UNSURE = 0.85, 0.6
"""Confidence from which on it is called high, and below which it is called low (`seg_core.plausibility`)."""


@dataclass(frozen=True)
class Verdict:
    """What to think of a result at first sight.

    Parameters
    ----------
    tone : {"good", "look", "bad"}
    headline : str
    remarks : tuple of str
        What to look at, whole sentences.
    """

    tone: Tone
    headline: str
    remarks: tuple[str, ...]


def verdict(report: Mapping[str, Any]) -> Verdict:
    """Judge a run's report: its plausibility, its checks of its own files, its warnings."""
    implausible = [entry["detail"] for entry in report["plausibility"] if not entry["passed"]]
    broken = [f"{entry['check']}: {entry['detail']}" for entry in report["checks"] if not entry["passed"]]
    other = [text for text in report["warnings"] if not any(detail in text for detail in implausible)]
    bones = report["bones"]
    found = [row for row in bones if row["voxels"]]
    missing = _named("not found", [row for row in bones if not row["voxels"] and _is_expected(row, found)])
    cut = _named("cut off by the end of the scan", [row for row in bones if row["status"] == "truncated"])
    texts = dict.fromkeys([*broken, *implausible, *missing, *cut, *other])
    remarks = tuple(sentence(text) for text in texts)
    if not found:
        return Verdict("bad", "No bone was found", remarks)
    if broken:
        return Verdict("bad", "Do not use this result: it failed a check of its own files", remarks)
    if remarks:
        return Verdict("look", "Look before you use the numbers", remarks)
    return Verdict("good", "Nothing unusual was noticed", ("Sizes, order and symmetry are those of a leg.",))


def _named(what: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = ", ".join(row["name"].replace("_", " ") for row in rows)
    return [f"{what}: {names}"] if rows else []


def _is_expected(row: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a bone is missed: of a scan of one leg, the other leg is not."""
    return any(other["side"] == row["side"] for other in found)


def sentence(text: str) -> str:
    """Return a text that begins and ends as a sentence does."""
    first, _, rest = " ".join(text.split()).partition(" ")
    if not any(mark in first.rstrip(".:,") for mark in "./\\_"):  # a file's name stays as it is
        first = first[:1].upper() + first[1:]
    text = f"{first} {rest}".strip()
    return text + ("" if text[-1:] in ".!?" else ".")


def confidence(value: float | None) -> str:
    """Return a confidence with its word; a dash where there is none."""
    if value is None:
        return "–"
    word = "high" if value >= SURE else "fair" if value >= UNSURE else "low"
    return f"{word} ({value:.2f})"


def plural(number: int, what: str) -> str:
    """Return a number of things."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Return bytes as people say them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def bone_name(name: str) -> str:
    """Return ``right_tibia`` as ``Right tibia``."""
    return name.replace("_", " ").capitalize()


def times(values: Sequence[float]) -> str:
    """Return a shape or spacing: ``512 × 512 × 20``."""
    return " × ".join(f"{value:.4g}" for value in values)


def error_sentences(error: Exception) -> list[str]:
    """Return what was found and what to do, each a sentence."""
    if not isinstance(error, LlsError):
        return [sentence(f"{type(error).__name__}: {error}")]
    fix = f"what to do: {error.fix}" if error.fix else ""
    return [sentence(part) for part in (error.found.splitlines()[0], fix) if part]
