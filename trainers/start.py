"""The network that a training begins with: what it is, and whom it has seen."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seg_core.errors import ModelError, UsageError
from seg_core.model_spec import ModelSpec
from trainers.config import TrainConfig
from trainers.model_file import channel_settings, model_file, network_of, read_model

RUN = "run.json"
"""In the folder of a training: what can be known of it without its framework."""
# What may be another when a training goes on: where it is computed and how long, and what is told of.
_FREE = {"trainer", "device", "threads", "save_minutes", "epochs", "patience", "validation_samples"}
_TOLD = {"lr", "lr_step", "lr_floor"}
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


def check_trainer(checkpoint: str, trainer: str) -> None:
    """Refuse a checkpoint that another trainer wrote; what does not lie in a training's folder passes.

    Raises
    ------
    UsageError
        If so.
    ModelError
        If the folder's description of the training cannot be read.
    """
    made_by = (run_of(checkpoint) or {}).get("config", {}).get("trainer", trainer)
    if made_by != trainer:
        raise UsageError(
            f"{checkpoint} was made by the trainer {made_by}",
            f"one of the trainer {trainer}: their files are not alike",
            f"give --trainer {made_by}, or another checkpoint or run folder",
        )


def check_goes_on(checkpoint: Path, config: TrainConfig) -> None:
    """Refuse, before a network is built, what the training of a checkpoint cannot go on with.

    Raises
    ------
    UsageError
        If it is another trainer's, or began with another network or other settings.
    ModelError
        If the run's description of itself cannot be read.
    """
    check_trainer(str(checkpoint), config.trainer)
    known = run_of(str(checkpoint))
    if known is not None:
        check_settings(known.get("config", {}), config)


def check_settings(before: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Refuse settings other than those that a training began with; say of those that may change which did.

    Raises
    ------
    UsageError
        If one is another.
    """
    old, new = _plain(before), _plain(asdict(config))
    changed = [name for name in new if name not in _FREE and old[name] != new[name]]
    fixed = [name for name in changed if name not in _TOLD]
    if fixed:
        name = "network" if "network" in fixed else fixed[0]  # which brings settings of its own
        raise UsageError(
            f"--{name.replace('_', '-')} {new[name]!r}, but the training began with {old[name]!r}",
            fix="give the same value, or name a new run folder",
        )
    return [f"{name} is now {new[name]}; it was {old[name]}" for name in changed]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as JSON has it, complete; of the file that it began with the name alone."""
    whole: dict[str, Any] = json.loads(json.dumps(asdict(TrainConfig()) | dict(config)))
    return whole | {"init": Path(whole["init"]).name}


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
