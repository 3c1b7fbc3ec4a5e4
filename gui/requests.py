"""What a user asks for, as the arguments of `lls`: the page calls what a terminal calls."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gui.store import Job

RESULT, CORRECTIONS = "result", "corrections"
"""Folders in a job's folder."""


def arguments(job: Job, folder: Path) -> list[str]:
    """Return the arguments of `lls` for a job; paths are absolute, so that none is taken for an option.

    Parameters
    ----------
    job : Job
        Its request holds, by kind, ``segment``: scan, name, and flags of `lls segment`; ``prepare``: subjects
        (rows for a table), dataset, and flags; ``train``: data, validation_subjects (perhaps none), run, and
        flags; ``export``: run, model; ``evaluate``: prediction, truth.
    folder : Path
        The job's.
    """
    ask = dict(job.request)
    progress = ["--progress", "json"]
    if job.kind == "segment":
        if ask.get("hip_slice") is None:  # the page asks for both, and one alone says nothing
            ask.pop("hip_tolerance", None)
        base = ["segment", ask.pop("scan"), "-o", str(folder / RESULT), "--json", *progress]
        return base + flags(ask)
    if job.kind == "prepare":
        table = folder / "subjects.json"
        table.write_text(json.dumps({"subjects": ask.pop("subjects")}), encoding="utf-8")
        return ["prepare", str(table), "-o", ask.pop("dataset"), "--json", *progress, *flags(ask)]
    if job.kind == "train":
        held = ask.pop("validation_subjects")
        chosen = [part for name in held for part in ("--validation-subject", name)]
        chosen = chosen or ["--validation", "none"]
        return ["train", ask.pop("data"), *chosen, "-o", ask.pop("run"), *progress, *flags(ask)]
    if job.kind == "export":
        return ["export", ask["run"], "-o", ask["model"], "--name", ask["name"], "--json"]
    return ["evaluate", ask["prediction"], ask["truth"], "--json"]


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Return options: ``True`` a flag alone, ``None``, ``False`` and ``""`` nothing, else a value."""
    found: list[str] = []
    for name, value in settings.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            found.append(option)
        elif value is not None and value is not False and value != "":  # 0 is a slice
            found.append(f"{option}={value}")
    return found


def command_line(job: Job, folder: Path) -> str:
    """Return what a terminal would be told, for those who want to repeat it there."""
    import shlex

    hidden = ("--json", "--progress", "json")
    return "lls " + shlex.join(part for part in arguments(job, folder) if part not in hidden)
