"""A training's folder -> a model file, whatever trained it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporters.options import Exported, ExportOptions
from exporters.registry import get_exporter
from seg_core.errors import ModelError, UsageError
from seg_core.model_spec import ModelSpec
from trainers.batches import fixed_subset
from trainers.batches3d import fixed_patches
from trainers.config import Around, Patches
from trainers.loop import BEST, Source
from trainers.registry import get_network
from trainers.start import RUN

SAMPLES, PATCHES = 8, 2
"""Slices or patches on which framework and file are compared."""


@dataclass(frozen=True)
class RunExport:
    """What to make of a run.

    Parameters
    ----------
    name : str
        The network's name; by default that of its architecture.
    slices : Path, optional
        Cache of the slices on which the gate compares, or its dataset; by default the run's validation data.
    data : ModelSpec, optional
        How the data were prepared; by default as their cache says.
    options : ExportOptions
        Weights and tolerance.
    """

    name: str = ""
    slices: Path | None = None
    data: ModelSpec | None = None
    options: ExportOptions = field(default_factory=ExportOptions)


def export_run(run: Path, path: Path, request: RunExport | None = None) -> Exported:
    """Write the best network of a training as a model file, after comparing the two on real slices.

    Parameters
    ----------
    run : Path
        Folder of `trainers.loop.train`, or a checkpoint in one.
    path : Path
        The file; replaced if it is there.
    request : RunExport, optional
        What to make of it.

    Raises
    ------
    ModelError
        If there is no training, its data do not say how they were prepared, or the gate refuses.
    UsageError
        If the trainer has no exporter, or the slices are not there or too few.
    """
    request = request or RunExport()
    checkpoint = _checkpoint(run)
    known = _read(checkpoint.with_name(RUN))
    exporter = get_exporter(known.get("config", {}).get("trainer", "torch"))
    network, facts = exporter.load(checkpoint)
    spec = describe(facts, request.name, request.data)
    slices = request.slices or next((Path(folder) for folder in known.get("data", [])[1:]), None)
    if slices is None:
        raise UsageError(f"{run} does not say where its slices are", fix="name their cache")
    images, _ = validation_slices(slices, spec, SAMPLES if spec.patch is None else PATCHES)
    return exporter.export(network, spec, path, images, request.options)


def _checkpoint(run: Path) -> Path:
    """Return the checkpoint that is meant."""
    if run.suffix == ".onnx":
        raise UsageError(
            f"{run} is a model file already",
            "the folder of a training, or a checkpoint in one",
            "segment with it as it is, or add --precision int8 for a twin that computes faster",
        )
    path = run / BEST if run.is_dir() else run
    if not path.exists():
        raise ModelError(
            f"{path} is not there",
            f"the folder of a training that has ended an epoch, with {BEST}",
            "name the folder that was given to lls train as -o",
        )
    return path


def describe(facts: Mapping[str, Any], name: str = "", data: ModelSpec | None = None) -> ModelSpec:
    """Describe a trained network for the runner.

    Parameters
    ----------
    facts : mapping
        Of a checkpoint. Its ``meta`` is that of the data's `trainers.cache.CacheIndex`; ``meta["spec"]``
        describes a network for such data: grid, normalisation, orientation, whether classes have sides.
    name : str
        The network's name.
    data : ModelSpec, optional
        In place of ``meta["spec"]``.

    Raises
    ------
    ModelError
        If the data do not say how they were prepared.
    """
    config, progress = facts["config"], facts["progress"]
    if data is None and "spec" not in facts["meta"]:
        raise ModelError("data that do not say how they were prepared", fix="prepare them again")
    data = data or ModelSpec.from_json(json.dumps(facts["meta"]["spec"]))
    architecture = config.get("network", "unet-resnet34")
    network = get_network(config.get("trainer", "torch"), architecture)
    learned = {
        "network": architecture,
        "architecture": network.about,
        "framework": ", ".join(map(_versioned, network.packages)),
        "lls": version("lls"),
        "loss": config.get("loss", "dice_focal"),
        "samples_seen": progress["samples"] + progress.get("samples_before", 0),
        "validation_dsc": round(float(best), 4) if (best := progress["best_dsc"]) >= 0 else "not validated",
        "intended_use": "research; not for diagnosis",
    }
    return replace(
        data,
        name=name or architecture,
        classes=tuple(facts["classes"]),
        channels=config["channels"],
        channel_fill=config["channel_fill"],
        neighbour_mm=config.get("neighbour_mm", 0.0),
        patch=tuple(config["patch"]) if config.get("patch") else None,
        grid=replace(data.grid, multiple=network.multiple, slice_mm=config.get("slice_mm") or None),
        provenance=learned | dict(data.provenance),
    )


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package).split('+')[0]}"
    except PackageNotFoundError:
        return package


def validation_slices(
    folder: Path, spec: ModelSpec, count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return evenly spread slices of a cache, or patches around them, as the network takes them; and labels.

    Parameters
    ----------
    folder : Path
        The cache.
    spec : ModelSpec
        Of the network.
    count : int
        How many; all where there are fewer.

    Returns
    -------
    images : ndarray of float32, (n, channels, *space)
    labels : ndarray of uint8, (n, *space)
    """
    cache = Source(folder).open()
    if spec.patch is not None:
        patches = Patches(spec.patch, spec.grid.slice_mm or 0.0)
        images, labels = fixed_patches(cache, fixed_subset(len(cache), count), patches)
        return images.repeat(spec.channels, axis=1), labels
    around = Around(spec.channels, spec.neighbour_mm) if spec.channel_fill == "neighbours" else Around()
    images, labels = cache.batch(fixed_subset(len(cache), count), around)
    return images.repeat(spec.channels // around.channels, axis=1), labels


def _read(path: Path) -> dict[str, Any]:
    """Read what a run says about itself; nothing where it is too old to."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "the folder of a training") from error
    return known
