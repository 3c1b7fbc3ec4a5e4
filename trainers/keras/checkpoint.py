"""A training's state on disk, complete or not at all: a zip of NumPy arrays, and facts as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import ModelError
from seg_core.output import whole_file

Arrays = Mapping[str, npt.NDArray[Any]]


def save(path: Path, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Write a state beside its place, then rename: a kill leaves the old one.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    with whole_file(path) as file:
        np.savez(file, allow_pickle=False, facts=text, **arrays)


def load(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the facts of a state.

    Raises
    ------
    ModelError
        If it is not there or not a checkpoint.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts: dict[str, Any] = json.loads(arrays.pop("facts").tobytes())
    except Exception as error:  # zip files, NumPy and JSON raise many kinds
        raise ModelError(f"{path} cannot be read: {error}", "a checkpoint of this trainer") from error
    return arrays, facts
