"""The training itself, the same for every framework: epochs, validation, log, checkpoints, resuming."""

import csv
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seg_core.errors import LlsError, UsageError
from trainers.batches import Draw, fixed_subset, training_batches
from trainers.cache import CacheIndex, SliceCache
from trainers.config import IGNORED, TrainConfig

LOG = logging.getLogger(__name__)

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


class DivergedError(LlsError):
    """The loss is no longer a number."""


class Engine(Protocol):
    """A network with its loss and optimizer: all that a framework adds to the loop.

    Images are float32 (n, channels that differ, rows, columns) in [0, 1]: one channel stands for all where
    the configuration repeats it. Labels are uint8 (n, rows, columns): classes, or ``IGNORED``.
    """

    def step(self, images: Images, labels: Labels, lr: float) -> float:
        """Learn from a batch; return its loss."""
        ...

    def evaluate(self, images: Images, labels: Labels) -> tuple[float, Labels]:
        """Return the loss of a batch and the class of each pixel, without learning."""
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


MakeEngine = Callable[[TrainConfig, tuple[str, ...]], Engine]
"""Configuration and names of the classes -> an engine at its start."""


@dataclass(frozen=True)
class TrainResult:
    """What came out.

    Parameters
    ----------
    best : Path
        Checkpoint of the best epoch.
    best_epoch : int
        Counted from 1; 0 if none was finished.
    best_dsc : float
        Its mean validation DSC over classes, background left out.
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
    loss_sum: float = 0.0
    seconds: float = 0.0
    slices: int = 0
    validation_slices: int = 0
    best_dsc: float = -1.0
    best_epoch: int = 0
    least_loss: float = float("inf")
    least_loss_epoch: int = 0


def train(
    make_engine: MakeEngine, config: TrainConfig, data: tuple[Path, Path], run_dir: Path, resume: bool = True
) -> TrainResult:
    """Train, keeping the network with the best validation DSC.

    Parameters
    ----------
    make_engine : callable
        The framework's.
    config : TrainConfig
        How.
    data : tuple of Path
        Caches of slices for training and for validation, with the same classes. The first may grow meanwhile:
        each epoch draws from what is there when it begins. Of the second, what is there at the very start is
        used throughout.
    run_dir : Path
        ``last``, ``best`` and ``log.csv`` are written there.
    resume : bool
        Go on where ``last`` ended, to the batch; else an existing run is refused.

    Raises
    ------
    UsageError
        If the caches are empty or do not fit, or the run exists and shall not be resumed.
    DivergedError
        If the loss becomes NaN or infinite; ``best`` stays.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    training = Training(make_engine, config, data, run_dir)
    if (run_dir / LAST).exists():
        if not resume:
            raise UsageError(f"{run_dir} holds a training", fix="name a new folder, or resume")
        training.restore()
    return training.run()


BEST, LAST = "best.ckpt", "last.ckpt"


class Training:
    """A training on its way."""

    def __init__(
        self, make_engine: MakeEngine, config: TrainConfig, data: tuple[Path, Path], run_dir: Path
    ) -> None:
        self.config, self.train_data, self.run_dir = config, data[0], run_dir
        self.validation = SliceCache(data[1])
        self.index = _fitting(SliceCache(data[0]).index, self.validation.index)
        self.engine = make_engine(config, self.index.classes)
        self.progress = Progress(validation_slices=len(self.validation))

    def restore(self) -> None:
        """Go on from the last checkpoint."""
        facts = self.engine.load(self.run_dir / LAST)
        for name in ("network", "batch", "epoch_samples", "seed", "channels", "channel_fill", "loss"):
            if facts["config"][name] != getattr(self.config, name):
                raise UsageError(
                    f"{name} {getattr(self.config, name)!r}, but the training began with"
                    f" {facts['config'][name]!r}",
                    fix="give the same value, or name a new run folder",
                )
        self.progress = Progress(**facts["progress"])
        LOG.info("resumed at epoch %d, batch %d", self.progress.epoch + 1, self.progress.batch)

    def save(self, name: str) -> None:
        """Write a checkpoint; only the last one can be resumed."""
        facts = {
            "config": asdict(self.config),
            "classes": list(self.index.classes),
            "shape": list(self.index.shape),
            "meta": self.index.meta,
            "progress": asdict(self.progress),
        }
        self.engine.save(self.run_dir / name, facts, resumable=name == LAST)

    def run(self) -> TrainResult:
        """Train until the epochs or the patience end."""
        p = self.progress
        while p.epoch < self.config.epochs and p.epoch - p.least_loss_epoch < self.config.patience:
            self._epoch()
            p.epoch += 1
            loss, dsc = self.validate()
            if loss < p.least_loss:
                p.least_loss, p.least_loss_epoch = loss, p.epoch
            if float(np.mean(dsc)) > p.best_dsc:
                p.best_dsc, p.best_epoch = float(np.mean(dsc)), p.epoch
                self.save(BEST)
            self._log(loss, dsc)
            p.batch, p.loss_sum, p.seconds, p.slices = 0, 0.0, 0.0, 0
            self.save(LAST)
        return TrainResult(self.run_dir / BEST, p.best_epoch, p.best_dsc, p.epoch)

    def _epoch(self) -> None:
        """Train from where the epoch stands to its end."""
        p, config = self.progress, self.config
        cache = SliceCache(self.train_data)
        p.slices = p.slices or len(cache)
        rate = config.learning_rate(p.epoch)
        draw = Draw(config.seed, p.epoch, p.slices, config.epoch_samples, config.batch, config.window)
        batches = training_batches(cache, draw, config.augmentation, config.cache_channels, p.batch)
        saved = started = time.monotonic()
        for images, labels in batches:
            p.loss_sum += self._step(images, labels, rate)
            p.batch += 1
            p.samples += config.batch
            now = time.monotonic()
            p.seconds, started = p.seconds + now - started, now
            if now - saved >= 60 * config.save_minutes:
                self.save(LAST)
                saved = now
                LOG.info("epoch %d, batch %d, mean loss %.4f", p.epoch + 1, p.batch, p.loss_sum / p.batch)

    def _step(self, images: Images, labels: Labels, rate: float) -> float:
        loss = self.engine.step(images, labels, rate)
        if not np.isfinite(loss):
            raise DivergedError(
                f"a loss of {loss} in epoch {self.progress.epoch + 1}",
                fix="lower the learning rate and resume",
            )
        return loss

    def validate(self) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the mean loss and the DSC of each class (classes,), counted over all slices together."""
        subset = fixed_subset(self.progress.validation_slices, self.config.validation_samples)
        classes = len(self.index.classes)
        counts, losses = np.zeros((3, classes + 1)), 0.0
        for start in range(0, len(subset), self.config.batch):
            chosen = subset[start : start + self.config.batch]
            images, labels = self.validation.batch(chosen, self.config.cache_channels)
            loss, found = self.engine.evaluate(images, labels)
            losses += loss * len(images)
            known = labels != IGNORED
            for row, values in enumerate((found[known & (found == labels)], found[known], labels[known])):
                counts[row] += np.bincount(values, minlength=classes + 1)
        both, predicted, true = counts[:, 1:]
        total = predicted + true
        return losses / len(subset), np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)

    def _log(self, loss: float, dsc: npt.NDArray[np.float64]) -> None:
        p = self.progress
        row = {
            "epoch": p.epoch,
            "samples": p.samples,
            "slices": p.slices,
            "train_loss": round(p.loss_sum / max(p.batch, 1), 5),
            "validation_loss": round(loss, 5),
            "dsc": round(float(np.mean(dsc)), 5),
            **{f"dsc_{name}": round(float(d), 5) for name, d in zip(self.index.classes, dsc, strict=True)},
            "lr": self.config.learning_rate(p.epoch - 1),
            "seconds": round(p.seconds, 1),
        }
        _append_row(self.run_dir / "log.csv", row)
        LOG.info(" ".join(f"{k}={v}" for k, v in row.items()))


def _fitting(index: CacheIndex, validation: CacheIndex) -> CacheIndex:
    """Return the training data's index where the two fit."""
    if (index.shape, index.classes) != (validation.shape, validation.classes):
        raise UsageError("training and validation slices of another size or with other classes", "the same")
    if not index.slices or not validation.slices:
        raise UsageError(f"{index.slices} training and {validation.slices} validation slices", "some of each")
    return index


def _append_row(path: Path, row: dict[str, Any]) -> None:
    """Add an epoch's row; one of the same epoch, left by a kill before its checkpoint, is replaced."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if int(r["epoch"]) < row["epoch"]]
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerows([*rows, row])
    temporary.replace(path)
