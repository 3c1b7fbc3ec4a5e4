"""Table 5: parameters of the networks, and the time that each takes for a scan and for a slice.

A scan has 431 slices, as the report's have in the mean (4.6: 3020 of seven scans). A network of patches
slides over it as the runner does it; it has no time of a slice alone. Every repetition runs all networks in
turn, so that whatever else the machine does meets them alike; their medians are compared.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median, stdev
from typing import Any

import numpy as np

from benchmarks.report.published import Figure
from benchmarks.report.sheet import Sheet
from benchmarks.report.study import SMOKE_PATCH, Plan, Setting, Study
from benchmarks.report.table3 import PRETRAINED, available
from benchmarks.timing import machine
from seg_core.errors import UsageError
from seg_core.output import write_whole
from seg_core.sliding import Tiling, sliding_logits, upsampled_labels
from trainers.cache import SliceCache
from trainers.config import TrainConfig
from trainers.crossval import FoldWatch
from trainers.loop import Engine, Images, PatchEngine, Source
from trainers.registry import get_config, get_network

SLICES, BATCH = 431, 16
NOTE = (
    f"Parameters as the framework counts them, the encoder of {PRETRAINED} frozen. Time from prepared slices"
    f" to classes, in the framework, {BATCH} slices a batch or patch after patch, half of which overlaps:"
    f" medians of interleaved repetitions and their SD, as ratios to {PRETRAINED}'s median."
)
Engines = Mapping[str, tuple[Engine, TrainConfig]]


def table5(setting: Setting, watch: FoldWatch | None = None) -> Sheet:
    """Make the table of the networks that the trainer has; nothing is trained, measurements are kept."""
    study = Study("5", setting, Plan(2), watch)
    cache = Source(study.data()).open()
    names, missing = available(setting)
    engines = {name: _engine(study, name, cache) for name in dict.fromkeys((PRETRAINED, *names))}
    slices = 4 if setting.smoke else min(SLICES, len(cache))
    times = _measured(study, engines, cache, slices)
    ours = {}
    for name, (engine, _) in engines.items():
        counts = dict(zip(("parameters", "trainable"), map(Figure, engine.parameters()), strict=True))
        found = {part: _figure(seconds[name]) for part, seconds in times.items() if name in seconds}
        ours[name, ""] = counts | found
    how = (
        f"Ours: trainer {setting.trainer}, device {setting.device}; a scan is {slices} synthetic slices of"
        f" {study.pixels()} x {study.pixels()} px; {setting.repetitions} repetitions."
    )
    columns = ("parameters", "trainable", "scan", "slice")
    return replace(study.sheet(ours, columns, [how, NOTE, *missing]), reference=PRETRAINED)


def interleaved(
    jobs: Mapping[str, Callable[[], object]],
    repetitions: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each job in each repetition, which runs all of them in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repetitions):
        for name, job in jobs.items():
            begun = clock()
            job()
            seconds[name].append(clock() - begun)
    return seconds


def _figure(seconds: Sequence[float]) -> Figure:
    return Figure(median(seconds), stdev(seconds) if len(seconds) > 1 else None)


def _engine(study: Study, name: str, cache: SliceCache) -> tuple[Engine, TrainConfig]:
    """Make a network with random weights, which take as long as others."""
    changes: dict[str, Any] = {"device": study.setting.device, "freeze_encoder": name == PRETRAINED}
    if study.setting.smoke and "patch" in get_network(study.setting.trainer, name).defaults:
        changes["patch"] = SMOKE_PATCH
    config = get_config(study.setting.trainer, name, **changes)
    return study.make_engine(config, cache.index.classes), config


def segment(engine: Engine, config: TrainConfig, images: Images) -> None:
    """Find the classes of prepared slices (n, channels, rows, columns)."""
    if config.patches is None:
        for start in range(0, len(images), BATCH):
            engine.predict(images[start : start + BATCH])
        return
    if not isinstance(engine, PatchEngine):
        raise UsageError(f"an engine of {config.trainer} without logits", "one for 3D networks")
    logits, volume = engine.logits, images[:, 0]
    slabs = sliding_logits(volume, Tiling(config.patches.size), lambda patch: logits(patch[None, None])[0])
    for _ in upsampled_labels(slabs, volume.shape, volume.shape):
        pass


def _measured(
    study: Study, engines: Engines, cache: SliceCache, slices: int
) -> dict[str, dict[str, list[float]]]:
    """Measure a scan and a slice, or return what an earlier call measured in the same way."""
    how = _how(study, engines) | {"slices": slices}
    path = study.folder / "seconds.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if known.get("how") != how:
        known = {"how": how}
        for part, stop in (("slice", 1), ("scan", slices)):
            jobs = {
                name: partial(segment, engine, config, cache.batch(np.arange(stop), config.around)[0])
                for name, (engine, config) in engines.items()
                if part == "scan" or config.patches is None
            }
            interleaved(jobs, 1)  # the first pass also sets up what it calls
            known[part] = interleaved(jobs, study.setting.repetitions)
        study.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(known, indent=1))
    return {part: known[part] for part in ("scan", "slice")}


def _how(study: Study, engines: Engines) -> dict[str, Any]:
    """Return what must be the same where measurements are taken over."""
    setting = study.setting
    here = {name: value for name, value in machine(setting.trainer).items() if name != "load"}
    # ``auto`` is another device where there is a GPU; an engine knows its own.
    devices = {str(getattr(engine, "device", setting.device)) for engine, _ in engines.values()}
    return {
        "trainer": setting.trainer,
        "networks": list(engines),
        "pixels": study.pixels(),
        "repetitions": setting.repetitions,
        "kept": "each repetition",  # once it was their median
        "device": sorted(devices),
        "machine": here,
    }
