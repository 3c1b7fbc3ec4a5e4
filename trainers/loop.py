"""The training itself, the same for every framework: epochs, validation, log, checkpoints, resuming."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.metrics import dice, evaluate
from seg_core.output import output_error, write_whole
from trainers.batches import Draw, drawn_slices, fixed_subset, training_batches
from trainers.batches3d import patch_batches
from trainers.cache import SliceCache, Subject
from trainers.config import IGNORED, TrainConfig
from trainers.diverged import DivergedError as DivergedError
from trainers.diverged import diverged
from trainers.log import RunLog
from trainers.model_file import samples_seen
from trainers.start import RUN, check_goes_on, check_settings, check_trainer, lineage, run_of
from trainers.validation import fitting, fixed_batch

LOG = logging.getLogger(__name__)
_PATIENT, _NOTHING = 3, 1e-3  # epochs after which a mean DSC below that is told of

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


class Engine(Protocol):
    """A network with its loss and optimizer: all that a framework adds to the loop.

    Images are float32 (n, channels that differ, rows, columns) in [0, 1]: one channel stands for all where
    the configuration repeats it. Labels are uint8 (n, rows, columns): classes, or ``IGNORED``. Where the
    configuration has a patch, both have slices before rows.
    """

    def step(self, images: Images, labels: Labels, lr: float) -> float:
        """Learn from a batch; return its loss."""
        ...

    def evaluate(self, images: Images, labels: Labels) -> tuple[float, Labels]:
        """Return the loss of a batch and the class of each pixel, without learning."""
        ...

    def predict(self, images: Images) -> Labels:
        """Return the class of each pixel, as ``evaluate`` does."""
        ...

    def parameters(self) -> tuple[int, int]:
        """Return how many parameters the network has, as its framework counts, and how many of them learn."""
        ...

    def save(self, path: Path, facts: dict[str, Any], resumable: bool) -> None:
        """Write the network, whole or not at all; with the optimizer and random state if resumable.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        ...

    def load(self, path: Path) -> dict[str, Any]:
        """Take over what a resumable file holds; return its facts.

        Raises
        ------
        ModelError
            If it cannot be read or is another network's.
        """
        ...


@runtime_checkable
class PatchEngine(Protocol):
    """What an engine has besides if it trains networks of patches."""

    def logits(self, images: Images) -> Images:
        """Return the network's output, float32 (n, classes + 1, *space), without learning."""
        ...


MakeEngine = Callable[[TrainConfig, tuple[str, ...]], Engine]
"""Configuration and names of the classes -> an engine at its start."""


@dataclass(frozen=True)
class Source:
    """Where slices come from.

    Parameters
    ----------
    folder : Path
        Of a slice cache, or of a dataset, whose ``cache`` it is then; opened again at every epoch, so that it
        may grow.
    subjects : tuple of str, optional
        The only ones whose slices are taken; all by default.
    """

    folder: Path
    subjects: tuple[str, ...] | None = None

    def open(self) -> SliceCache:
        """Return the slices that are there now."""
        inner = self.folder / "cache"
        return SliceCache(inner if inner.is_dir() else self.folder, self.subjects)


@dataclass(frozen=True)
class Tick:
    """How far a training is, after each batch.

    Parameters
    ----------
    epoch, epochs : int
        Counted from 1, and how many at most.
    batch, batches : int
        Done in this epoch, of how many.
    loss : float
        Mean of the epoch's batches so far.
    seconds_left : float
        Until the last epoch ends, validation included, at the speed so far; early stopping may end it sooner.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    seconds_left: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left at most"
        place = f"epoch {self.epoch}/{self.epochs}  batch {self.batch}/{self.batches}"
        return f"{place}  loss {self.loss:.4f}  {left}"


Watch = Callable[[Tick], None]
"""Told after each batch how far a training is."""


@dataclass(frozen=True)
class TrainResult:
    """What came out.

    Parameters
    ----------
    best : Path
        Checkpoint of the best epoch; where nothing is validated, of the last one.
    best_epoch : int
        Counted from 1; 0 if none was finished.
    best_dsc : float
        Its mean validation DSC over classes, background left out; -1 where nothing is validated.
    epochs : int
        Epochs done in all.
    """

    best: Path
    best_epoch: int
    best_dsc: float
    epochs: int


@dataclass
class Progress:
    """What a checkpoint remembers beside network and optimizer."""

    epoch: int = 0
    batch: int = 0
    samples: int = 0
    samples_before: int = 0  # of the model file that the training began with
    loss_sum: float = 0.0
    seconds: float = 0.0
    slices: int = 0
    validation_slices: int = 0
    best_dsc: float = -1.0
    best_epoch: int = 0
    least_loss: float = float("inf")
    least_loss_epoch: int = 0


def train(
    make_engine: MakeEngine,
    config: TrainConfig,
    data: tuple[Path | Source, Path | Source | None],
    run_dir: Path,
    resume: bool = True,
    watch: Watch | None = None,
) -> TrainResult:
    """Train, keeping the network with the best validation DSC, or the last one where there is none to have.

    Parameters
    ----------
    make_engine : callable
        The framework's.
    config : TrainConfig
        How.
    data : tuple of Source or Path
        Slices for training and for validation, with the same classes; a path stands for all subjects of the
        cache there. The first may grow meanwhile: each epoch draws from what is there when it begins. Of the
        second, what is there at the very start is used throughout. None in its place: nothing is validated,
        all epochs are trained whatever the patience, and the network after the last one is kept.
    run_dir : Path
        Gets ``last.ckpt``, ``best.ckpt``, ``run.json`` (what is trained on what), ``log.csv``; ``curves.png``
        and ``tensorboard/`` where matplotlib and tensorboard are installed.
    resume : bool
        Go on where ``last.ckpt`` ended, to the batch; else an existing run is refused.
    watch : callable, optional
        Told after each batch how far it is.

    Raises
    ------
    UsageError
        If the caches are empty or do not fit, or the run exists and shall not be resumed.
    DivergedError
        If the loss becomes NaN or infinite; ``best`` stays.
    OutputError
        If the run cannot be written, e.g. on a full disk; earlier checkpoints stay.
    """
    train_data, validation = data
    first = Source(train_data) if isinstance(train_data, Path) else train_data
    second = Source(validation) if isinstance(validation, Path) else validation
    with _writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    goes_on = (run_dir / LAST).exists()
    if goes_on and not resume:
        raise UsageError(f"{run_dir} holds a training", fix="name a new folder, or resume")
    if goes_on:
        check_goes_on(run_dir / LAST, config)
    training = Training(make_engine, config, (first, second), run_dir)
    if goes_on:
        training.restore()
    with _writing(run_dir):
        training.describe()
        return training.run(watch)


@contextmanager
def _writing(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(error, run_dir) from error


BEST, LAST = "best.ckpt", "last.ckpt"
SCORE_TABLE = "scores.csv"
"""What `trainers.scores.score_best` writes beside the best network; gone when there is a better one."""


class Training:
    """A training on its way."""

    def __init__(
        self, make_engine: MakeEngine, config: TrainConfig, data: tuple[Source, Source | None], run_dir: Path
    ) -> None:
        self.config, self.train_data, self.run_dir = config, data[0], run_dir
        self.validation = None if data[1] is None else data[1].open()
        self.index = fitting(data[0].open(), self.validation)
        if config.favour not in ("", *self.index.classes):
            raise UsageError(f"{config.favour!r} favoured", f"one of {', '.join(self.index.classes)}")
        check_trainer(config.init, config.trainer)
        self.engine = make_engine(config, self.index.classes)
        slices = 0 if self.validation is None else len(self.validation)
        self.progress = Progress(validation_slices=slices, samples_before=samples_seen(config.init))

    def restore(self) -> None:
        """Go on from the last checkpoint."""
        facts = self.engine.load(self.run_dir / LAST)
        self._check_data(facts)
        for told in check_settings(facts["config"], self.config):
            LOG.info(told)
        self.progress = Progress(**facts["progress"])
        if self.is_over:
            done = self.progress.epoch
            LOG.info("finished already, after %d epochs: greater --epochs or --patience go on", done)
        else:
            LOG.info("resumed at epoch %d, batch %d", self.progress.epoch + 1, self.progress.batch)

    @property
    def is_over(self) -> bool:
        """Whether the epochs or the patience have ended."""
        p = self.progress
        return p.epoch >= self.config.epochs or p.epoch - p.least_loss_epoch >= self.config.patience

    def _check_data(self, facts: Mapping[str, Any]) -> None:
        """Refuse to go on with data other than a checkpoint's; they may have grown."""
        now = self._facts()
        other = [name for name in ("classes", "shape", "meta") if facts.get(name, now[name]) != now[name]]
        run = self.run_dir / RUN
        began = json.loads(run.read_text(encoding="utf-8")) if run.exists() else {}
        pairs = zip(began.get("subjects", ()), self._subjects(), strict=False)
        lost = [name for old, new in pairs for name in old if name not in new]
        prepared = self._prepared()
        other += [
            f"labels or slices of {name}, prepared anew"
            for name, key in began.get("prepared", {}).items()
            if prepared.get(name, key) != key
        ]
        if bool(facts["progress"]["validation_slices"]) != (self.validation is not None):
            other.append("validation")  # with none the last epoch is kept, else the best
        if other or lost:
            raise UsageError(
                f"data of other {', '.join(other)}" if other else f"data without {', '.join(lost)}",
                f"those with which the training in {self.run_dir} began",
                "give the same data, or name a new run folder",
            )

    def _prepared(self) -> dict[str, list[Any]]:
        """Return what tells a subject's slices from later ones: the hash of their sources, and how many."""
        return {s.name: [s.extra.get("key"), s.stop - s.start] for part in self._parts() for s in part}

    def _subjects(self) -> list[list[str]]:
        return [[s.name for s in part] for part in self._parts()]

    def _parts(self) -> tuple[tuple[Subject, ...], tuple[Subject, ...]]:
        """Return who teaches, and who chooses."""
        return self.index.subjects, () if self.validation is None else self.validation.index.subjects

    def describe(self) -> None:
        """Write what can be known of the run without its framework."""
        taught = self.train_data.open()
        shown = taught if self.validation is None else self.validation  # to compare an exported file on
        data = [str(cache.folder.resolve()) for cache in (taught, shown)]
        known = {"data": data, "subjects": self._subjects(), "prepared": self._prepared()}
        known["before"] = self._before()
        write_whole(self.run_dir / RUN, json.dumps(known | self._facts(), indent=1))

    def _before(self) -> list[tuple[str, list[str]]]:
        """Return whom the network to begin with has seen; it may be gone when a training goes on."""
        begun, own = run_of(self.config.init), run_of(str(self.run_dir / LAST))
        return (own or {}).get("before", []) if begun is None else lineage(begun)

    def save(self, name: str) -> None:
        """Write a checkpoint; only the last one can be resumed."""
        facts = self._facts() | {"progress": asdict(self.progress)}
        self.engine.save(self.run_dir / name, facts, resumable=name == LAST)

    def _facts(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "classes": list(self.index.classes),
            "shape": list(self.index.shape),
            "meta": self.index.meta,
        }

    def run(self, watch: Watch | None = None) -> TrainResult:
        """Train until the epochs or the patience end."""
        p = self.progress
        log, clock = RunLog(self.run_dir, p.epoch), _Clock(self.config, p)
        if self.validation is None:
            LOG.info("nothing is validated: the network after epoch %d is kept", self.config.epochs)
        try:
            while not self.is_over:
                for tick in self._epoch(clock):
                    if watch is not None:
                        watch(tick)
                loss, dsc = self.validate()
                p.epoch += 1
                self._keep(loss, dsc)
                row = self._row(loss, dsc)
                log.add(row)
                LOG.info(" ".join(f"{k}={v}" for k, v in row.items()))
                if p.epoch == _PATIENT and 0 <= p.best_dsc < _NOTHING:
                    LOG.warning("nothing but background so far: try a smaller --lr, or another --loss")
                p.batch, p.loss_sum, p.seconds, p.slices = 0, 0.0, 0.0, 0
                self.save(LAST)
        finally:
            log.close()
        return TrainResult(self.run_dir / BEST, p.best_epoch, p.best_dsc, p.epoch)

    def _keep(self, loss: float, dsc: npt.NDArray[np.float64]) -> None:
        """Write the network if it is the best until now; where nothing is validated the last one is."""
        p = self.progress
        if self.validation is None:
            p.least_loss_epoch = p.best_epoch = p.epoch
        else:
            if loss < p.least_loss:
                p.least_loss, p.least_loss_epoch = loss, p.epoch
            if _mean(dsc) > p.best_dsc:
                p.best_dsc, p.best_epoch = _mean(dsc), p.epoch
        if p.best_epoch == p.epoch:
            (self.run_dir / SCORE_TABLE).unlink(missing_ok=True)  # of the best network until now
            self.save(BEST)

    def _epoch(self, clock: "_Clock") -> Iterator[Tick]:
        """Train from where the epoch stands to its end."""
        p, config = self.progress, self.config
        cache = self.train_data.open()
        p.slices = p.slices or len(cache)
        draw = Draw(
            config.seed, p.epoch, p.slices, config.epoch_samples, config.batch, config.window,
            copies=max(config.augmentation.factor, 1), balance=config.balance,
            favour=cache.index.classes.index(config.favour) + 1 if config.favour else 0,
        )  # fmt: skip
        if config.patches:
            batches = patch_batches(cache, draw, config.augmentation, config.patches, p.batch)
        else:
            batches = training_batches(cache, draw, config.augmentation, config.around, p.batch)
        saved = started = time.monotonic()
        for images, labels in batches:
            loss = self.engine.step(images, labels, config.learning_rate(p.epoch))
            if not np.isfinite(loss):
                chosen = drawn_slices(draw, p.batch, cache)
                found = f"a loss of {loss} in epoch {p.epoch + 1}, batch {p.batch + 1}"
                raise diverged(found, (cache.index, chosen), (images, labels))
            p.loss_sum += loss
            p.batch += 1
            p.samples += config.batch
            now = time.monotonic()
            p.seconds, started = p.seconds + now - started, now
            if now - saved >= 60 * config.save_minutes:
                self.save(LAST)
                saved = now
            yield clock.tick(p)

    def validate(self) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the mean loss and the DSC of each class (classes,), counted over all slices together.

        A class that is neither there nor found has NaN; all have, and the loss, where nothing is validated.

        Raises
        ------
        DivergedError
            If a loss is NaN or infinite.
        """
        if self.validation is None:
            return np.nan, np.full(len(self.index.classes), np.nan)
        subset = fixed_subset(self.progress.validation_slices, self.config.validation_samples)
        counts, losses = np.zeros((3, len(self.index.classes)), np.int64), 0.0
        for start in range(0, len(subset), self.config.batch):
            chosen = subset[start : start + self.config.batch]
            images, labels = fixed_batch(self.validation, chosen, self.config)
            loss, found = self.engine.evaluate(images, labels)
            if not np.isfinite(loss):
                said = f"a validation loss of {loss} after epoch {self.progress.epoch + 1}"
                raise diverged(said, (self.validation.index, chosen), (images, labels))
            losses += loss * len(images)
            known = labels != IGNORED
            scores = evaluate(found * known, labels * known, len(self.index.classes), 1.0)
            counts += scores.predicted_voxels, scores.true_voxels, scores.common_voxels
        return losses / len(subset), dice(*counts)

    def _row(self, loss: float, dsc: npt.NDArray[np.float64]) -> dict[str, Any]:
        p = self.progress
        return {
            "epoch": p.epoch,
            "samples": p.samples,
            "slices": p.slices,
            "train_loss": round(p.loss_sum / max(p.batch, 1), 5),
            "validation_loss": round(loss, 5),
            "dsc": round(_mean(dsc), 5) if self.validation is not None else np.nan,
            **{f"dsc_{name}": round(float(d), 5) for name, d in zip(self.index.classes, dsc, strict=True)},
            "lr": float(f"{self.config.learning_rate(p.epoch - 1):.6g}"),
            "seconds": round(p.seconds, 1),
        }


def _mean(dsc: npt.NDArray[np.float64]) -> float:
    """Return the mean over the classes that have a DSC; 0 without one."""
    there = dsc[~np.isnan(dsc)]
    return float(there.mean()) if there.size else 0.0


class _Clock:
    """How long a training still takes, from the batches that this process has done."""

    def __init__(self, config: TrainConfig, progress: Progress) -> None:
        self.epochs, self.batches = config.epochs, config.epoch_samples // config.batch
        self.begun, self.first = time.monotonic(), self._done(progress)

    def _done(self, p: Progress) -> int:
        return p.epoch * self.batches + p.batch

    def tick(self, p: Progress) -> Tick:
        """Return how far it is, after at least one batch."""
        done = self._done(p)
        pace = (time.monotonic() - self.begun) / (done - self.first)
        left = pace * (self.epochs * self.batches - done)
        return Tick(p.epoch + 1, self.epochs, p.batch, self.batches, p.loss_sum / p.batch, left)
