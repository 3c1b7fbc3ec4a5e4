"""Cross-validation by subject: what a network makes of people whom it has not seen (report 4.6).

::

    crossval.json             the plan: data, folds, configuration
    fold-1/                   an ordinary run folder (see `trainers.loop.train`), and
    fold-1/scores.json        the held-out subjects' scores, once the fold is done
    scores.csv, table3.csv, table3.md, figure10.png
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seg_core.errors import LlsError, ModelError, OutputError, UsageError
from seg_core.metrics import Scores
from seg_core.output import write_whole
from trainers.cache import AIR, SliceCache
from trainers.config import IGNORED, TrainConfig
from trainers.dataset import open_dataset
from trainers.loop import MakeEngine, Source, Tick, train
from trainers.scores import score_best, scores_from_json, scores_to_json, write_results
from trainers.slices import check_slices
from trainers.start import lineage, run_of

LOG = logging.getLogger(__name__)
PLAN, SCORES = "crossval.json", "scores.json"
# Share of pixels that are not air, below which two scans may have a slice in common by chance.
_LEAST_CONTENT = 0.01
# What may differ when a cross-validation goes on: where it is computed, not what.
_FREE = ("device", "threads", "save_minutes")

FoldWatch = Callable[["Fold", Tick], None]


class LeakError(UsageError):
    """A slice would be trained on and tested on."""


@dataclass(frozen=True)
class Fold:
    """Who is held out, who chooses the network, who teaches it.

    Parameters
    ----------
    number, folds : int
        Counted from 1, of how many.
    held_out, validation, train : tuple of str
        Names of subjects; no one is in two of them, and each has someone.

    Raises
    ------
    LeakError
        If someone is in two of them.
    UsageError
        If one is empty.
    """

    number: int
    folds: int
    held_out: tuple[str, ...]
    validation: tuple[str, ...]
    train: tuple[str, ...]

    def __post_init__(self) -> None:
        parts = (self.held_out, self.validation, self.train)
        twice = [name for name, n in Counter(name for part in parts for name in part).items() if n > 1]
        if twice:
            raise LeakError(f"{', '.join(twice)} twice in fold {self.number}", "each subject in one part")
        if not all(parts):
            raise UsageError(
                f"{sum(map(len, parts))} subjects for fold {self.number} of {self.folds}",
                "someone held out, someone to choose the network by, someone to learn from",
                "more subjects, or more folds",
            )


def plan_folds(subjects: Sequence[str], folds: int | None = None) -> tuple[Fold, ...]:
    """Hold each subject out once.

    Parameters
    ----------
    subjects : sequence of str
        Their names; three or more.
    folds : int, optional
        Number of groups that are held out in turn, of sizes that differ by one at most; by default each
        subject alone (leave-one-subject-out). The subject after the first held-out one (after the last: the
        first) chooses the fold's network.

    Returns
    -------
    tuple of Fold

    Raises
    ------
    UsageError
        If there are too few subjects or too many folds.
    """
    count = len(subjects) if folds is None else folds
    if len(subjects) < 3 or not 2 <= count <= len(subjects):
        raise UsageError(
            f"{len(subjects)} subject{'s' * (len(subjects) != 1)} in {count} folds",
            "three subjects or more, and from two folds to as many as subjects",
        )
    plan = []
    for number in range(count):
        held_out = tuple(subjects[number::count])
        validation = subjects[(number + 1) % len(subjects)]
        rest = tuple(name for name in subjects if name not in held_out and name != validation)
        plan.append(Fold(number + 1, count, held_out, (validation,), rest))
    return tuple(plan)


def check_subjects(cache: SliceCache) -> str:
    """Refuse subjects that share a slice or have no label; return a hash of all images and labels.

    Slices are compared by a hash of their pixels, air left out: the same scan under two names is found, the
    same scan prepared in two ways is not.

    Raises
    ------
    LeakError
        If the same slice belongs to two subjects.
    UsageError
        If a subject has no labelled pixel.
    """
    whole, owners, shared, bare = hashlib.sha256(), dict[bytes, str](), Counter[tuple[str, str]](), []
    for subject in cache.index.subjects:
        labelled = False
        for start in range(subject.start, subject.stop, 64):
            slices = np.arange(start, min(start + 64, subject.stop))
            # Drawn looks are the same for all, so that the same materials are the same pixels.
            images, labels = cache.batch(slices, seeds=np.zeros((len(slices), 1), np.int64))
            labelled |= bool(((labels > 0) & (labels != IGNORED)).any())
            whole.update(labels.data)
            for image in images:
                digest = hashlib.blake2b(image.data, digest_size=16).digest()
                whole.update(digest)
                if np.count_nonzero(image > AIR) >= _LEAST_CONTENT * image.size:
                    shared[owners.setdefault(digest, subject.name), subject.name] += 1
        bare += [subject.name] * (not labelled)
    leaks = {pair: n for pair, n in shared.items() if pair[0] != pair[1]}
    if leaks:
        raise LeakError(
            "; ".join(f"{a} and {b} share {n} slices" for (a, b), n in leaks.items()),
            "each scan in the data once",
            "prepare the data again without one of them",
        )
    if bare:
        raise UsageError(f"no label in any slice of {', '.join(bare)}", "labels for every subject")
    return whole.hexdigest()


def check_start(init: str, cache: SliceCache) -> None:
    """Refuse to begin with the checkpoint of a training that saw subjects of the same data, at any remove.

    Of a network that was exported, or taken out of its folder, nobody can tell: that is said in the log.

    Parameters
    ----------
    init : str
        As `TrainConfig.init`; what is no checkpoint in the folder of a training passes.
    cache : SliceCache
        The data.

    Raises
    ------
    LeakError
        If one of its subjects taught the network or chose it.
    ModelError
        If the folder's description of the training cannot be read.
    """
    known = run_of(init)
    if known is None:
        if Path(init).is_file() and Path(init).suffix in (".ckpt", ".onnx"):
            LOG.warning("whom %s has seen is not known: if they are held out here, scores are too good", init)
        return
    names = {subject.name for subject in cache.index.subjects}
    met = {name for folder, some in lineage(known) for name in _met(Path(folder), some, cache.folder)}
    seen = sorted(met & names)
    if seen:
        raise LeakError(
            f"{init} has seen {', '.join(seen)}",
            "a network that knows nobody who will be held out",
            "begin with another one, or at random",
        )


def check_apart(teaching: Source, choosing: Source) -> None:
    """Refuse to choose a network by someone who teaches it, also where they were prepared twice.

    Raises
    ------
    LeakError
        If a scan is in both.
    """
    first, second = teaching.open(), choosing.open()
    taught = [subject.name for subject in first.index.subjects]
    names = {subject.name for subject in second.index.subjects}
    both = sorted(_met(first.folder.resolve(), taught, second.folder) & names)
    if both:
        raise LeakError(
            f"{', '.join(both)} to learn from and to choose by",
            "others to choose by",
            "leave them out of one",
        )


def _met(there: Path, taught: Sequence[str], here: Path) -> set[str]:
    """Return who, by their scans, are those of the data in another folder who taught a network."""
    same = there == here.resolve()
    theirs, ours = (_scans(folder) for folder in (there, here))
    if not same and (not theirs or not ours):
        LOG.warning("whether someone in %s is someone in %s too is not known", there, here)
    known = {theirs[name] for name in taught if name in theirs}
    return {name for name, scan in ours.items() if scan in known} | (set(taught) if same else set())


def _scans(cache: Path) -> dict[str, str]:
    """Return the hash of each subject's scan in the dataset of a cache; nothing where there is none."""
    try:
        return {s.name: s.sha256["scan.nii.gz"] for s in open_dataset(cache.parent).subjects}
    except (LlsError, KeyError):
        return {}


def cross_validate(
    trainer: tuple[str, MakeEngine],
    config: TrainConfig,
    data: Path,
    output: Path,
    folds: int | None = None,
    watch: FoldWatch | None = None,
) -> dict[str, Scores]:
    """Train a network a fold, score it on the held-out subjects, write the tables.

    Can be killed and called again: done folds are kept, the one on its way goes on.

    Parameters
    ----------
    trainer : (str, callable)
        Name of the trainer, and what makes its engines.
    config : TrainConfig
        How each fold is trained.
    data : Path
        A dataset or a slice cache.
    output : Path
        Folder of the results.
    folds : int, optional
        See `plan_folds`.
    watch : callable, optional
        Told after each batch which fold it is and how far.

    Returns
    -------
    dict
        Subject -> scores, in the order of the data.

    Raises
    ------
    UsageError
        If there are too few subjects or one without a label, the slices are not those of the dataset's
        subjects, or ``output`` holds another cross-validation.
    LeakError
        If two subjects share a slice, or a network to begin with has seen one of them.
    OutputError
        If the results cannot be written.
    """
    check_slices(data)
    cache = Source(data).open()
    names = [subject.name for subject in cache.index.subjects]
    plan = plan_folds(names, folds)
    check_start(config.init, cache)
    facts = {"trainer": trainer[0], "classes": cache.index.classes, "data": check_subjects(cache)}
    _keep_plan(output, facts | {"folds": [asdict(f) for f in plan], "config": asdict(config)})
    scores: dict[str, Scores] = {}
    for fold in plan:
        done = output / f"fold-{fold.number}" / SCORES
        if not done.exists():
            found = _run_fold(fold, trainer[1], config, Source(data), (done.parent, watch))
            write_whole(done, scores_to_json(found))
        scores |= _read_scores(done, fold)
    scores = {name: scores[name] for name in names}
    title = f"{trainer[0]} {config.network}: {len(names)} subjects, {len(plan)} folds"
    write_results(output, title, cache.index.classes, scores)
    return scores


def _run_fold(
    fold: Fold,
    make_engine: MakeEngine,
    config: TrainConfig,
    data: Source,
    run: tuple[Path, FoldWatch | None],
) -> dict[str, Scores]:
    """Train a fold in its folder and score its held-out subjects."""
    folder, watch = run
    LOG.info("fold %d of %d: %s held out", fold.number, fold.folds, ", ".join(fold.held_out))
    sources = (replace(data, subjects=fold.train), replace(data, subjects=fold.validation))
    told = None if watch is None else lambda tick: watch(fold, tick)
    result = train(make_engine, config, sources, folder, watch=told)
    return score_best(make_engine, config, result.best, replace(data, subjects=fold.held_out))


def _read_scores(path: Path, fold: Fold) -> dict[str, Scores]:
    try:
        scores = scores_from_json(path.read_text(encoding="utf-8"))
        return {name: scores[name] for name in fold.held_out}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}", fix="delete it; the fold is scored again"
        ) from error


def _keep_plan(output: Path, plan: dict[str, Any]) -> None:
    """Write the plan, or compare it with the one that is there."""
    path, plan = output / PLAN, json.loads(json.dumps(plan))
    if not path.exists():
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{output} cannot be made: {error}") from error
        write_whole(path, json.dumps(plan, indent=1))
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in plan if key != "config" and plan[key] != there[key]]
        changed += [k for k, v in plan["config"].items() if k not in _FREE and v != there["config"].get(k)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "the plan of a cross-validation") from error
    if changed:
        raise UsageError(
            f"{output} holds a cross-validation with another {', '.join(changed)}",
            fix="give the same values, or name a new folder",
        )
