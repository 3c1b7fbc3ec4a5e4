"""A training's folder -> a model file, whatever trained it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporters.options import Exported, ExportOptions
from exporters.registry import get_exporter
from seg_core.errors import ModelError, UsageError
from seg_core.labels import BONES
from seg_core.model_spec import Denoise, Grid, ModelSpec, Normalisation
from trainers.batches import fixed_subset
from trainers.cache import SliceCache
from trainers.loop import BEST, RUN
from trainers.registry import get_network

SAMPLES = 8
"""Slices on which framework and file are compared."""


@dataclass(frozen=True)
class RunExport:
    """What to make of a run.

    Parameters
    ----------
    name : str
        The network's name; by default that of its architecture.
    slices : Path, optional
        Cache of the slices on which the gate compares; by default the run's validation data.
    meta : mapping
        What replaces facts that the run's data give, see `describe`.
    options : ExportOptions
        Weights and tolerance.
    """

    name: str = ""
    slices: Path | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
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
    checkpoint = run / BEST if run.is_dir() else run
    known = _read(checkpoint.with_name(RUN))
    exporter = get_exporter(known.get("config", {}).get("trainer", "torch"))
    network, facts = exporter.load(checkpoint)
    spec = describe(facts | {"meta": facts["meta"] | dict(request.meta)}, request.name)
    slices = request.slices or next((Path(folder) for folder in known.get("data", [])[1:]), None)
    if slices is None:
        raise UsageError(f"{run} does not say where its slices are", fix="name their cache")
    return exporter.export(network, spec, path, samples(slices, spec), request.options)


def describe(facts: Mapping[str, Any], name: str = "") -> ModelSpec:
    """Describe a trained network for the runner.

    Parameters
    ----------
    facts : mapping
        Of a checkpoint. ``meta`` is that of the data's `trainers.cache.CacheIndex`: ``normalisation``
        (kind, low, high); ``pixel_mm`` where slices were resampled to it, else they had a fixed size;
        and, if given, ``orientation``, ``sided``, ``denoise``, ``provenance``.
    name : str
        The network's name.

    Raises
    ------
    ModelError
        If the data do not say how they were prepared.
    """
    config, meta, classes = facts["config"], facts["meta"], tuple(facts["classes"])
    if "normalisation" not in meta:
        raise ModelError("data that do not say how they were normalised", fix="prepare them again")
    architecture = config.get("network", "unet-resnet34")
    network = get_network(config.get("trainer", "torch"), architecture)
    return ModelSpec(
        name=name or architecture,
        classes=classes,
        sided=meta.get("sided", set(classes) <= set(BONES)),
        channels=config["channels"],
        channel_fill=config["channel_fill"],
        grid=_grid(facts["shape"], meta, network.multiple),
        normalisation=Normalisation(**meta["normalisation"]),
        orientation=meta.get("orientation", "LPS"),
        denoise=Denoise(**meta.get("denoise", {})),
        provenance={
            "architecture": network.about,
            "framework": " ".join(map(_versioned, network.packages)),
            "lls": version("lls"),
            "loss": config.get("loss", "dice_focal"),
            "samples_seen": facts["progress"]["samples"],
            "validation_dsc": round(float(facts["progress"]["best_dsc"]), 4),
            "intended_use": "research; not for diagnosis",
            **meta.get("provenance", {}),
        },
    )


def _grid(shape: list[int], meta: Mapping[str, Any], multiple: int) -> Grid:
    if "pixel_mm" in meta:
        rows, columns = np.broadcast_to(meta["pixel_mm"], 2).tolist()
        return Grid("spacing", spacing_mm=(rows, columns), multiple=multiple)
    return Grid("size", size=(shape[0], shape[1]), multiple=multiple)


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package).split('+')[0]}"
    except PackageNotFoundError:
        return package


def samples(folder: Path, spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Return evenly spread slices of a cache as the network takes them, (n, channels, rows, columns)."""
    cache = SliceCache(folder)
    images, _ = cache.batch(
        fixed_subset(len(cache), SAMPLES), spec.channels if spec.channel_fill == "neighbours" else 1
    )
    return np.ascontiguousarray(np.broadcast_to(images, (len(images), spec.channels, *images.shape[2:])))


def _read(path: Path) -> dict[str, Any]:
    """Read what a run says about itself; nothing where it is too old to."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "the folder of a training") from error
    return known
