"""How to train, whatever the framework."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, get_args

from seg_core.errors import UsageError
from seg_core.labels import IGNORED as IGNORED  # for all that trains
from trainers.augment import Augmentation

Loss = Literal["dice", "cross_entropy", "dice_focal", "dice_cross_entropy"]


@dataclass(frozen=True)
class Around:
    """Which slices fill the channels of a sample.

    Parameters
    ----------
    channels : int
        With more than one, slices around it in order, within its subject (the border repeats).
    mm : float
        How far apart, to the nearest slice; 0: slices in a row.
    """

    channels: int = 1
    mm: float = 0.0


@dataclass(frozen=True)
class Patches:
    """What a 3D network sees at once.

    Parameters
    ----------
    size : tuple of int
        Slices, rows, columns.
    slice_mm : float
        Distance to which slices are resampled; 0: as they were scanned.
    """

    size: tuple[int, int, int]
    slice_mm: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the report's 4.5.3.4.

    Parameters
    ----------
    trainer, network : str
        Names of a trainer and of a network of its.
    epochs : int
        At most.
    epoch_samples : int
        Slices an epoch; one left over after whole batches is not used.
    batch : int
        Slices a step.
    loss : {"dice", "cross_entropy", "dice_focal", "dice_cross_entropy"}
        What falls.
    lr, lr_step, lr_floor : float
        Adam's first learning rate, what it loses an epoch, and what it does not fall below.
    patience : int
        Epochs without a lower validation loss after which training stops. The network that is kept is the one
        with the best validation DSC; where nothing is validated, the one after the last epoch.
    validation_samples : int
        Slices of the validation data, evenly spread, the same each epoch.
    window : int
        Rows and columns of a random window of each training slice; 0 for all of it. Smaller is faster.
    balance : float
        Share of samples drawn by class, see `trainers.batches.Draw`.
    favour : str
        Name of a class that is drawn as often as all others together; none by default.
    channels : int
        Input channels of the network.
    channel_fill : {"repeat", "neighbours"}
        What fills them: as in the model's description.
    neighbour_mm : float
        How far apart neighbours are, to the nearest slice; 0: slices in a row.
    patch : tuple of int, optional
        (slices, rows, columns) of a sample of a 3D network, around a slice that was drawn.
    slice_mm : float
        Distance to which a 3D network's slices are resampled; 0: as they were scanned.
    init : str
        ``random``; ``imagenet``: the encoder as the framework's own loader brings it; or the path of the
        encoder's weights, of another training's checkpoint with the same network and classes, or of a model
        file exported from one; ``default``: the bundled one, which is PyTorch's.
    average : float
        Of the weights' running mean, what stays of it at a step (0.999: the last thousand steps count); the
        mean is what is validated and kept. 0: the weights themselves.
    freeze_encoder : bool
        Whether the encoder keeps its convolutions as they begin.
    seed : int
        Of everything that is drawn.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    threads : int
        Of the framework on a CPU; 0: its own choice.
    save_minutes : float
        A checkpoint is also written this often within an epoch.
    augmentation : Augmentation
        What happens to training slices.
    """

    trainer: str = "torch"
    network: str = "unet-resnet34"
    epochs: int = 50
    epoch_samples: int = 2000
    batch: int = 16
    loss: Loss = "dice_focal"
    lr: float = 1e-4
    lr_step: float = 1e-6
    lr_floor: float = 1e-6
    patience: int = 20
    validation_samples: int = 400
    window: int = 0
    balance: float = 0.0
    favour: str = ""
    channels: int = 3
    channel_fill: Literal["repeat", "neighbours"] = "repeat"
    neighbour_mm: float = 0.0
    patch: tuple[int, int, int] | None = None
    slice_mm: float = 0.0
    init: str = "random"
    average: float = 0.0
    freeze_encoder: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    save_minutes: float = 5.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience", "validation_samples", "channels"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}", "1 or more")
        if self.batch > self.epoch_samples:
            raise UsageError(
                f"batches of {self.batch} slices, {self.epoch_samples} an epoch", "as many or more"
            )
        rates = self.lr, self.lr_step, self.lr_floor
        if not all(0 <= rate < inf for rate in rates) or not self.lr or not self.lr_floor:
            raise UsageError("learning rate {:g}, step {:g}, floor {:g}".format(*rates), "positive numbers")
        if self.lr < self.lr_floor:
            raise UsageError(f"learning rate {self.lr:g} below its floor {self.lr_floor:g}", "a lower floor")
        if min(self.seed, self.threads) < 0:
            raise UsageError(f"seed {self.seed}, {self.threads} threads", "0 or more")
        if not 0 <= self.average < 1:
            raise UsageError(f"a running mean that keeps {self.average}", "0, or below 1")
        if not 0 <= self.balance <= 1:
            raise UsageError(f"{self.balance} of the samples drawn by class", "0 to 1")
        if self.balance and self.patch is not None:
            raise UsageError("patches drawn by class", "slices", "leave the balance out for a 3D network")
        if self.favour and not self.balance:
            raise UsageError(f"{self.favour} favoured, no sample drawn by class", "a balance above 0")
        if self.channel_fill not in ("repeat", "neighbours"):
            raise UsageError(f"channels filled by {self.channel_fill!r}", "repeat or neighbours")
        if not 0 <= self.neighbour_mm < inf:
            raise UsageError(f"neighbours {self.neighbour_mm} mm apart", "0 or a distance")
        if self.neighbour_mm and self.channel_fill != "neighbours":
            raise UsageError(
                f"neighbours {self.neighbour_mm:g} mm apart in no channel",
                "channels of neighbours",
                "add --channel-fill neighbours, or leave --neighbour-mm out",
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"device {self.device!r}", "auto, cpu or cuda")
        if self.loss not in get_args(Loss):
            raise UsageError(f"loss {self.loss!r}", f"one of {', '.join(get_args(Loss))}")
        self._check_patch()

    def _check_patch(self) -> None:
        if self.patch is None and self.slice_mm:
            raise UsageError(f"slices {self.slice_mm} mm apart for a network of slices", "a 3D network")
        if self.patch is not None and (len(self.patch) != 3 or min(self.patch) < 1):
            raise UsageError(f"patches of {self.patch}", "slices, rows, columns")
        if self.patch is not None and (self.window or self.channel_fill != "repeat"):
            raise UsageError("a window or neighbouring slices for a 3D network", "a patch alone")
        if not 0 <= self.slice_mm < inf:
            raise UsageError(f"slices {self.slice_mm} mm apart", "0 or a distance")

    @property
    def around(self) -> Around:
        """The channels that differ from one another."""
        return Around(self.channels, self.neighbour_mm) if self.channel_fill == "neighbours" else Around()

    @property
    def patches(self) -> Patches | None:
        """What a 3D network sees at once; None for a network of slices."""
        return None if self.patch is None else Patches(self.patch, self.slice_mm)

    def learning_rate(self, epoch: int) -> float:
        """Return the rate of an epoch, counted from 0."""
        return max(self.lr - epoch * self.lr_step, self.lr_floor)


def check_same_network(config: TrainConfig, classes: tuple[str, ...], found: Mapping[str, Any]) -> None:
    """Refuse to begin with a network that is another one than the configuration's.

    Parameters
    ----------
    config : TrainConfig
    classes : tuple of str
        Of the data.
    found : mapping
        What the network to begin with is: ``network``, ``classes``, ``channels`` and perhaps ``patch``.

    Raises
    ------
    UsageError
        If one of them differs.
    """
    for name, value in found.items():
        wanted = classes if name == "classes" else getattr(config, name)
        if value != wanted:
            said = [", ".join(map(str, v)) if isinstance(v, tuple) else v for v in (value, wanted)]
            raise UsageError(
                f"{config.init} has the {name} {said[0]}",
                f"{said[1]}",
                "begin with another network, or train such a one",
            )
