"""The network that a training begins with: what it is, and whom it has seen."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg_core.errors import ModelError
from seg_core.model_spec import ModelSpec
from trainers.model_file import channel_settings, model_file, network_of, read_model

RUN = "run.json"
"""In the folder of a training: what can be known of it without its framework."""
_OWN = ("network", "channels", "channel_fill", "neighbour_mm", "patch", "slice_mm")


def run_of(init: str) -> dict[str, Any] | None:
    """Return what the training of a checkpoint says of itself; None of what does not lie in such a folder.

    Parameters
    ----------
    init : str
        As `TrainConfig.init`.

    Raises
    ------
    ModelError
        If the folder's description of the training cannot be read.
    """
    run = Path(init).with_name(RUN)
    if not Path(init).is_file() or not run.is_file():
        return None
    try:
        known: dict[str, Any] = json.loads(run.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{run} cannot be read: {error}", "what a training wrote") from error
    return known


def lineage(run: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return whom a training and those before it saw: folders of data, each with names of subjects."""
    own = zip(run.get("data", ()), run.get("subjects", ()), strict=False)
    return [*own, *((folder, names) for folder, names in run.get("before", ()))]


def own_settings(init: str) -> dict[str, Any]:
    """Return the fields of a `TrainConfig` that a network asks for; none where it is not known.

    Raises
    ------
    ModelError
        If a model file or the description of a training cannot be read.
    """
    known = _described(init)
    if known is not None:
        return {"network": network_of(known)} | channel_settings(known)
    config = (run_of(init) or {}).get("config", {})
    found = {name: config[name] for name in _OWN if name in config}
    return found | ({"patch": tuple(found["patch"])} if found.get("patch") else {})


def own_preparation(init: str) -> ModelSpec | None:
    """Return how the slices of a network were prepared; None where it is not known.

    Raises
    ------
    ModelError
        If a model file or the description of a training cannot be read.
    """
    known = _described(init)
    if known is not None:
        return known
    spec = (run_of(init) or {}).get("meta", {}).get("spec")
    return None if spec is None else ModelSpec.from_json(json.dumps(spec))


def _described(init: str) -> ModelSpec | None:
    """Return the description of a model file; None of what is none."""
    path = model_file(init)
    return None if path is None else read_model(path)[0]
