"""A network on subjects that it has not seen: scores, and the report's Table 3 and Figure 10 of them."""

import csv
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.geometry import Geometry, LabelMap
from seg_core.metrics import Scores, Summary, evaluate, summarise
from seg_core.output import output_error, write_whole
from seg_core.sliding import Tiling, sliding_logits, upsampled_labels
from seg_core.surface_distance import SurfaceDistances
from trainers.batches3d import SubjectStack
from trainers.cache import SliceCache, Subject
from trainers.config import IGNORED, TrainConfig
from trainers.curves import can_draw, draw_boxes
from trainers.loop import SCORE_TABLE, Engine, MakeEngine, PatchEngine, Source

LOG = logging.getLogger(__name__)
Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

_MEASURES = {"dsc": ("DSC", 2), "volume_error_cm3": ("VE (cm³)", 1), "hd95_mm": ("HD95 (mm)", 1),
             "assd_mm": ("mean distance (mm)", 2)}  # fmt: skip
_COUNTS = ("predicted_voxels", "true_voxels", "common_voxels")


def score_subject(engine: Engine, cache: SliceCache, name: str, config: TrainConfig) -> Scores:
    """Segment all slices of a subject and compare them with its labels; no denoising, no sides.

    Parameters
    ----------
    engine : Engine
        With the network that is judged.
    cache : SliceCache
        Holds the subject.
    name : str
        The subject.
    config : TrainConfig
        The training's: its batch and channels.

    Returns
    -------
    Scores
        Of every class, surface distances among them, on the slices' own grid. Pixels that nobody labelled are
        background in both.
    """
    subject = next(s for s in cache.index.subjects if s.name == name)
    find = _slices if config.patches is None else _patches
    predicted, truth = find(engine, cache, subject, config)
    known = truth != IGNORED
    predicted, truth = predicted * known, truth * known
    row_mm, column_mm, slice_mm = subject.spacing_mm
    geometry = Geometry(truth.T.shape, np.diag([column_mm, row_mm, slice_mm, 1.0]))
    names = dict(enumerate(cache.index.classes, 1))
    found_map, true_map = (LabelMap(array.T, geometry, names) for array in (predicted, truth))
    return evaluate(found_map, true_map, surface=True)


def score_best(make_engine: MakeEngine, config: TrainConfig, best: Path, source: Source) -> dict[str, Scores]:
    """Score the network that a training has kept.

    Parameters
    ----------
    make_engine : callable
        The trainer's.
    config : TrainConfig
        The training's.
    best : Path
        Its checkpoint.
    source : Source
        Whose slices.

    Returns
    -------
    dict
        Subject -> scores, see `score_subject`; in the order of the data.

    Raises
    ------
    ModelError
        If the checkpoint cannot be read.
    """
    cache = source.open()
    LOG.info("scoring %s", ", ".join(s.name for s in cache.index.subjects))
    engine = make_engine(replace(config, init=str(best)), cache.index.classes)
    return {s.name: score_subject(engine, cache, s.name, config) for s in cache.index.subjects}


def _slices(engine: Engine, cache: SliceCache, subject: Subject, config: TrainConfig) -> Pair:
    """Return a network's labels of a subject's slices (slices, rows, columns), and the true ones."""
    pairs = []
    for start in range(subject.start, subject.stop, config.batch):
        chosen = np.arange(start, min(start + config.batch, subject.stop))
        images, labels = cache.batch(chosen, config.around)
        pairs.append((engine.evaluate(images, labels)[1], labels))
    return np.concatenate([found for found, _ in pairs]), np.concatenate([labels for _, labels in pairs])


def _patches(engine: Engine, cache: SliceCache, subject: Subject, config: TrainConfig) -> Pair:
    """Return the same of a 3D network, slid over the subject as the runner does it."""
    patches = config.patches
    if patches is None or not isinstance(engine, PatchEngine):
        raise UsageError(f"an engine of {config.trainer} without logits", "one for 3D networks")
    stack = SubjectStack(cache, subject.start, patches.slice_mm)
    slabs = sliding_logits(stack, Tiling(patches.size), lambda patch: engine.logits(patch[None, None])[0])
    size = (subject.stop - subject.start, *cache.index.shape)
    found = np.stack([labels for _, labels, _ in upsampled_labels(slabs, stack.shape, size)])
    return found, cache.block(subject.start, subject.stop)[1]


def scores_to_json(scores: Mapping[str, Scores]) -> str:
    """Return the scores of subjects by name as JSON; numbers that are not defined become null."""
    return json.dumps({name: _columns(score) for name, score in scores.items()}, indent=1, allow_nan=False)


def scores_from_json(text: str) -> dict[str, Scores]:
    """Return what `scores_to_json` was given."""
    result = {}
    for name, columns in json.loads(text).items():
        arrays: dict[str, Any] = {
            field: np.array(values, np.int64 if field in _COUNTS else np.float64)
            for field, values in columns.items()
        }
        surface = SurfaceDistances(arrays.pop("hd95_mm"), arrays.pop("assd_mm"))
        result[name] = Scores(**arrays, surface=surface)
    return result


def table(classes: Sequence[str], scores: Sequence[Scores]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over subjects, a row a class (the report's Table 3).

    The last row, ``mean``, is the mean of the classes' means; it has no deviation.

    Returns
    -------
    list of dict
        ``class``, ``subjects``, and ``_mean`` and ``_sd`` of DSC, volume error in cm3, HD95 and mean surface
        distance in mm; None where a number is not defined.
    """
    summary = summarise(scores)
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(classes):
        row: dict[str, Any] = {"class": name, "subjects": int(summary.subjects[number])}
        for measure in _MEASURES:
            for kind in ("mean", "sd"):
                row[f"{measure}_{kind}"] = _defined(_of(summary, measure, kind)[number])
        rows.append(row)
    overall: dict[str, Any] = dict.fromkeys(rows[0]) | {"class": "mean", "subjects": len(scores)}
    for measure in _MEASURES:
        means = [row[f"{measure}_mean"] for row in rows if row[f"{measure}_mean"] is not None]
        overall[f"{measure}_mean"] = sum(means) / len(means) if means else None
    return [*rows, overall]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table's rows as Markdown, ``mean ± standard deviation``."""
    lines = [["", *(title for title, _ in _MEASURES.values()), "subjects"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = [
            _spread(row[f"{measure}_mean"], row[f"{measure}_sd"], digits)
            for measure, (_, digits) in _MEASURES.items()
        ]
        lines.append([row["class"], *cells, str(row["subjects"])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_results(folder: Path, title: str, classes: Sequence[str], scores: Mapping[str, Scores]) -> None:
    """Write what a cross-validation found.

    ``scores.csv`` has a row a subject and class; ``table3.csv`` and ``table3.md`` mean and deviation a class;
    ``figure10.png`` the spread of the DSC, where matplotlib is installed.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    write_scores(folder, classes, scores)
    rows = table(classes, list(scores.values()))
    write_whole(folder / "table3.csv", _csv(rows))
    write_whole(folder / "table3.md", f"{title}\n\n{markdown(rows)}")
    if can_draw():
        try:
            boxes = {name: [score.dsc[n] for score in scores.values()] for n, name in enumerate(classes)}
            draw_boxes(boxes, folder / "figure10.png", title)
        except OSError as error:
            raise output_error(error, folder) from error


def write_scores(folder: Path, classes: Sequence[str], scores: Mapping[str, Scores]) -> Path:
    """Write ``scores.csv``, a row a subject and class, and return where it is.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    single = [
        {"subject": subject, "class": name} | {field: column[number] for field, column in columns.items()}
        for subject, columns in ((subject, _columns(score)) for subject, score in scores.items())
        for number, name in enumerate(classes)
    ]
    write_whole(folder / SCORE_TABLE, _csv(single))
    return folder / SCORE_TABLE


def _columns(scores: Scores) -> dict[str, list[Any]]:
    """Return every measure as a list over classes."""
    columns = {f.name: getattr(scores, f.name) for f in fields(scores) if f.name != "surface"}
    if scores.surface is not None:
        columns |= vars(scores.surface)
    return {name: [_defined(value) for value in column.tolist()] for name, column in columns.items()}


def _of(summary: Summary, measure: str, kind: str) -> Any:
    """Return a field of a summary: ``volume_error_cm3``, ``mean`` -> ``volume_error_mean_cm3``."""
    stem, _, unit = measure.rpartition("_")
    return getattr(summary, f"{stem}_{kind}_{unit}" if stem else f"{unit}_{kind}")


def _defined(value: float) -> Any:
    return value if math.isfinite(value) else None


def _spread(mean: float | None, sd: float | None, digits: int) -> str:
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
