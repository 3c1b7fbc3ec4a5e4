"""A training's state on disk, complete or not at all."""

from pathlib import Path
from typing import Any

import torch

from seg_core.errors import ModelError, OutputError
from seg_core.output import whole_file


def save(state: dict[str, Any], path: Path) -> None:
    """Write a state beside its place, then rename: a kill leaves the old one.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        with whole_file(path) as file:
            torch.save(state, file)
    except RuntimeError as error:  # of torch's own writer, on a full disk
        raise OutputError(f"{path} cannot be written: {error}") from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this trainer onto the CPU.

    Raises
    ------
    ModelError
        If it is not there or not a checkpoint.
    """
    state = read(path)
    if "network" not in state:
        raise ModelError(f"{path} is no checkpoint of this trainer")
    return state


def read(path: Path) -> dict[str, Any]:
    """Read a dictionary onto the CPU; only tensors and plain values are let in.

    Raises
    ------
    ModelError
        If it is not there or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises many kinds
        raise ModelError(
            f"{path} cannot be read: {error}", "what a training of PyTorch's trainer, or torch.save, wrote"
        ) from error
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds {type(state).__name__}", "a dictionary, as torch.save writes it")
    return state
