"""Trains the network on a cache of slices; can be killed and resumed at any time.

Run ``python -m trainers.torch.train --help``.
"""

import argparse
import csv
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seg_core.errors import LlsError, ModelError, UsageError
from trainers.augment import Augmentation
from trainers.batches import Draw, fixed_subset, training_batches
from trainers.cache import SliceCache
from trainers.torch import checkpoint
from trainers.torch.losses import dice_focal_loss
from trainers.torch.network import build_network

LOG = logging.getLogger(__name__)


class DivergedError(LlsError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the report's 4.5.3.4.

    Parameters
    ----------
    epochs : int
        At most.
    epoch_samples : int
        Slices an epoch; one left over after whole batches is not used.
    batch : int
        Slices a step.
    lr, lr_step, lr_floor : float
        Adam's first learning rate, what it loses an epoch, and what it does not fall below.
    patience : int
        Epochs without a better validation DSC after which training stops.
    validation_samples : int
        Slices of the validation data, evenly spread, the same each epoch.
    window : int
        Rows and columns of a random window of each training slice; 0 for all of it. Smaller is faster.
    channels : int
        Input channels of the network.
    channel_fill : {"repeat", "neighbours"}
        What fills them: as in the model's description.
    weights : {None, "imagenet"}
        The encoder's start.
    init : str, optional
        Checkpoint of another training with the same classes, whose network this one begins with.
    seed : int
        Of everything that is drawn.
    device : str
        torch's name of the device, or "auto".
    save_minutes : float
        A checkpoint is also written this often within an epoch.
    augmentation : Augmentation
        What happens to training slices.
    """

    epochs: int = 50
    epoch_samples: int = 2000
    batch: int = 16
    lr: float = 1e-4
    lr_step: float = 1e-6
    lr_floor: float = 1e-6
    patience: int = 20
    validation_samples: int = 400
    window: int = 0
    channels: int = 3
    channel_fill: str = "repeat"
    weights: str | None = None
    init: str | None = None
    seed: int = 0
    device: str = "auto"
    save_minutes: float = 5.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.patience, self.validation_samples, self.channels) < 1:
            raise UsageError("a number of epochs, batch, patience, samples or channels below 1")
        if self.batch > self.epoch_samples or self.lr <= 0 or self.lr_floor <= 0:
            raise UsageError(f"batch {self.batch} of {self.epoch_samples} samples, learning rate {self.lr}")
        if self.channel_fill not in ("repeat", "neighbours"):
            raise UsageError(f"channels filled by {self.channel_fill!r}", "repeat or neighbours")

    @property
    def cache_channels(self) -> int:
        """Channels that differ from one another."""
        return self.channels if self.channel_fill == "neighbours" else 1

    def learning_rate(self, epoch: int) -> float:
        """Return the rate of an epoch, counted from 0."""
        return max(self.lr - epoch * self.lr_step, self.lr_floor)


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
class _Progress:
    """What a checkpoint remembers beside weights and optimizer."""

    epoch: int = 0
    batch: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    slices: int = 0
    validation_slices: int = 0
    best_dsc: float = -1.0
    best_epoch: int = 0


def train(
    config: TrainConfig, train_data: Path, validation_data: Path, run_dir: Path, resume: bool = True
) -> TrainResult:
    """Train, keeping the network with the best validation DSC.

    Parameters
    ----------
    config : TrainConfig
        How.
    train_data : Path
        A cache of slices; it may grow meanwhile, each epoch draws from what is there when it begins.
    validation_data : Path
        A cache with the same classes; what is there at the very start is used throughout.
    run_dir : Path
        ``last.pt``, ``best.pt`` and ``log.csv`` are written there.
    resume : bool
        Go on where ``last.pt`` ended, to the batch; else an existing run is refused.

    Raises
    ------
    UsageError
        If the caches are empty or do not fit, or the run exists and shall not be resumed.
    DivergedError
        If the loss becomes NaN or infinite; ``best.pt`` stays.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    training = _Training(config, train_data, SliceCache(validation_data), run_dir)
    if (run_dir / "last.pt").exists():
        if not resume:
            raise UsageError(f"{run_dir} holds a training", fix="name a new folder, or resume")
        training.restore(checkpoint.load(run_dir / "last.pt"))
    return training.run()


class _Training:
    def __init__(self, config: TrainConfig, train_data: Path, validation: SliceCache, run_dir: Path) -> None:
        cache = SliceCache(train_data)
        if (cache.index.shape, cache.index.classes) != (validation.index.shape, validation.index.classes):
            raise UsageError(
                "training and validation slices of another size or with other classes", "the same"
            )
        if not len(cache) or not len(validation):
            raise UsageError(f"{len(cache)} training and {len(validation)} validation slices", "some of each")
        self.config, self.train_data, self.validation, self.run_dir = config, train_data, validation, run_dir
        self.index = cache.index
        self.device = _device(config.device)
        torch.manual_seed(config.seed)
        self.network = self._first_network()
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.lr, fused=self.device.type == "cuda"
        )
        self.autocast = computes_bfloat16(self.device)
        self.progress = _Progress(validation_slices=len(validation))

    def _first_network(self) -> torch.nn.Module:
        config, classes = self.config, self.index.classes
        if config.init is None:
            return build_network(len(classes) + 1, config.channels, config.weights)
        network, state = load_best(Path(config.init))
        found = tuple(state["classes"]), state["config"]["channels"]
        if found != (classes, config.channels):
            raise UsageError(f"{config.init} is for {found}", f"{(classes, config.channels)}")
        return network

    def restore(self, state: dict[str, Any]) -> None:
        kept = state["config"]
        for name in ("batch", "epoch_samples", "seed", "channels", "channel_fill"):
            if kept[name] != getattr(self.config, name):
                raise UsageError(
                    f"{name} {getattr(self.config, name)!r}, but the training began with {kept[name]!r}",
                    fix="give the same value, or name a new run folder",
                )
        if tuple(state["classes"]) != self.index.classes:
            raise UsageError(
                f"classes {self.index.classes}", f"{state['classes']}, with which the training began"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.progress = _Progress(**state["progress"])
        LOG.info("resumed at epoch %d, batch %d", self.progress.epoch + 1, self.progress.batch)

    def save(self, name: str, optimizer: bool = True) -> None:
        state = {
            "network": self.network.state_dict(),
            "config": asdict(self.config),
            "classes": list(self.index.classes),
            "shape": list(self.index.shape),
            "meta": self.index.meta,
            "progress": asdict(self.progress),
        }
        if optimizer:
            state |= {"optimizer": self.optimizer.state_dict(), "rng": torch.get_rng_state()}
        checkpoint.save(state, self.run_dir / name)

    def run(self) -> TrainResult:
        p = self.progress
        while p.epoch < self.config.epochs and p.epoch - p.best_epoch < self.config.patience:
            self._epoch()
            p.epoch += 1
            validation_loss, dsc = self.validate()
            if float(np.mean(dsc)) > p.best_dsc:
                p.best_dsc, p.best_epoch = float(np.mean(dsc)), p.epoch
                self.save("best.pt", optimizer=False)
            self._log(validation_loss, dsc)
            p.batch, p.loss_sum, p.seconds, p.slices = 0, 0.0, 0.0, 0
            self.save("last.pt")
        return TrainResult(self.run_dir / "best.pt", p.best_epoch, p.best_dsc, p.epoch)

    def _epoch(self) -> None:
        """Train from where the epoch stands to its end."""
        p, config = self.progress, self.config
        cache = SliceCache(self.train_data)
        p.slices = p.slices or len(cache)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate(p.epoch)
        self.network.train()
        draw = Draw(config.seed, p.epoch, p.slices, config.epoch_samples, config.batch, config.window)
        batches = training_batches(cache, draw, config.augmentation, config.cache_channels, p.batch)
        saved = started = time.monotonic()
        for images, labels in batches:
            p.loss_sum += self._step(images, labels)
            p.batch += 1
            p.samples += config.batch
            now = time.monotonic()
            p.seconds, started = p.seconds + now - started, now
            if now - saved >= 60 * config.save_minutes:
                self.save("last.pt")
                saved = now
                LOG.info("epoch %d, batch %d, mean loss %.4f", p.epoch + 1, p.batch, p.loss_sum / p.batch)

    def _step(self, images: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = dice_focal_loss(self._logits(images), torch.from_numpy(labels).to(self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        if not np.isfinite(value):
            raise DivergedError(
                f"a loss of {value} in epoch {self.progress.epoch + 1}",
                fix="lower the learning rate and resume",
            )
        self.optimizer.step()
        return value

    def _logits(self, images: npt.NDArray[np.float32]) -> torch.Tensor:
        x = torch.from_numpy(images).to(self.device, non_blocking=True)
        x = x.expand(-1, self.config.channels, -1, -1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits: torch.Tensor = self.network(x)
        return logits

    @torch.inference_mode()
    def validate(self) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the mean loss and the DSC of each class (classes,), counted over all slices together."""
        self.network.eval()
        subset = fixed_subset(self.progress.validation_slices, self.config.validation_samples)
        classes = len(self.index.classes)
        counts, losses = np.zeros((3, classes + 1)), 0.0
        for start in range(0, len(subset), self.config.batch):
            images, labels = self.validation.batch(
                subset[start : start + self.config.batch], self.config.cache_channels
            )
            logits = self._logits(images)
            losses += float(dice_focal_loss(logits, torch.from_numpy(labels).to(self.device))) * len(images)
            found = logits.argmax(1).to(torch.uint8).cpu().numpy()
            for row, values in enumerate((found[found == labels], found, labels)):
                counts[row] += np.bincount(values.ravel(), minlength=classes + 1)
        both, predicted, true = counts[:, 1:]
        total = predicted + true
        return losses / len(subset), np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)

    def _log(self, validation_loss: float, dsc: npt.NDArray[np.float64]) -> None:
        p = self.progress
        row = {
            "epoch": p.epoch,
            "samples": p.samples,
            "slices": p.slices,
            "train_loss": round(p.loss_sum / max(p.batch, 1), 5),
            "validation_loss": round(validation_loss, 5),
            "dsc": round(float(np.mean(dsc)), 5),
            **{f"dsc_{name}": round(float(d), 5) for name, d in zip(self.index.classes, dsc, strict=True)},
            "lr": self.config.learning_rate(p.epoch - 1),
            "seconds": round(p.seconds, 1),
        }
        _append_row(self.run_dir / "log.csv", row)
        LOG.info(" ".join(f"{k}={v}" for k, v in row.items()))


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


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated it would be slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))


def load_best(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Read a checkpoint as a network in evaluation mode, and what else it holds.

    Raises
    ------
    ModelError
        If it cannot be read or does not fit the network.
    """
    state = checkpoint.load(path)
    network = build_network(len(state["classes"]) + 1, state["config"]["channels"])
    try:
        network.load_state_dict(state.pop("network"))
    except RuntimeError as error:
        raise ModelError(f"{path}: {error}", "weights of this network") from error
    return network.eval(), state


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("cache", "validation", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    plain = [f for f in fields(TrainConfig) if f.name not in ("augmentation", "weights", "init")]
    for f in plain:
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
    parser.add_argument("--weights", choices=["imagenet"])
    parser.add_argument("--init", help="checkpoint to begin with")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    config = TrainConfig(
        weights=options.weights, init=options.init, **{f.name: getattr(options, f.name) for f in plain}
    )
    result = train(config, options.cache, options.validation, options.run)
    print(f"epoch {result.best_epoch} of {result.epochs}: DSC {result.best_dsc:.4f}, {result.best}")


if __name__ == "__main__":
    main()
