"""Trainers, found by entry point, so that another party's is installed beside ours and not merged.

A trainer is a module with ``NETWORKS``, a table of `Network` by name, and ``make_engine(config, classes)``,
which gives a `trainers.loop.Engine`. Importing the module imports no framework.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, Protocol

from seg_core.errors import MissingPackageError, UsageError
from trainers.cache import CacheIndex
from trainers.config import TrainConfig
from trainers.loop import Engine

GROUP = "lls.trainers"


@dataclass(frozen=True)
class Network:
    """What is known of a network before its framework is imported.

    Parameters
    ----------
    about : str
        A line for people.
    extra : str
        What the extra must bring.
    defaults : mapping
        Fields of `TrainConfig` in which it differs from its defaults.
    packages : tuple of str
        What must be importable.
    multiple : int
        What its rows and columns must be divisible by.
    """

    about: str
    extra: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    multiple: int = 32

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed; imports none."""
        return tuple(package for package in self.packages if find_spec(package) is None)

    def check_size(self, space: Sequence[int], fix: str = "prepare the data anew") -> None:
        """Refuse slices or patches whose axes are not multiples of ``multiple``.

        Parameters
        ----------
        space : sequence of int
            Their axes.
        fix : str
            What to do if one is not.

        Raises
        ------
        UsageError
            If one is not.
        """
        if any(n % self.multiple for n in space):
            size = " x ".join(map(str, space))
            raise UsageError(f"{self.about} on {size} pixels", f"multiples of {self.multiple}", fix)


class Trainer(Protocol):
    """What a trainer's module has."""

    NETWORKS: Mapping[str, Network]

    def make_engine(self, config: TrainConfig, classes: tuple[str, ...]) -> Engine:
        """Make an engine at its start."""
        ...


def trainer_names() -> list[str]:
    """Return the names of the installed trainers, sorted; imports none."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def get_trainer(name: str) -> Trainer:
    """Return a trainer by name.

    Raises
    ------
    UsageError
        If there is none of that name.
    MissingPackageError
        If its module cannot be imported.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            trainer: Trainer = point.load()
        except ImportError as error:
            raise MissingPackageError(
                f"the trainer {name} cannot be imported: {error}",
                f"what {point.value} imports",
                "install that, or remove the package that the trainer came with",
            ) from error
        return trainer
    raise UsageError(f"trainer {name!r}", f"one of {', '.join(trainer_names())}")


def get_network(trainer: str, name: str) -> Network:
    """Return what is known of a network.

    Raises
    ------
    UsageError
        If trainer or network are unknown.
    """
    networks = get_trainer(trainer).NETWORKS
    if name not in networks:
        raise UsageError(
            f"network {name!r} of the trainer {trainer}", f"one of {', '.join(sorted(networks))}"
        )
    return networks[name]


def get_config(trainer: str, network: str, **changes: Any) -> TrainConfig:
    """Return a network's own configuration with some fields changed.

    Raises
    ------
    UsageError
        If trainer or network are unknown, or a value makes no sense.
    """
    defaults = get_network(trainer, network).defaults
    return TrainConfig(trainer=trainer, network=network, **{**defaults, **changes})


def check_fits(config: TrainConfig, index: CacheIndex) -> None:
    """Refuse, before a network is built, slices that it could not take.

    A network of patches looks at its own patch when it is built.

    Parameters
    ----------
    config : TrainConfig
        Names trainer, network and window.
    index : CacheIndex
        Of the data, whose slices are validated whole.

    Raises
    ------
    UsageError
        If trainer or network are unknown, slices or windows are of another size, or people were magnified for
        a network of patches, to which no runner does that.
    """
    network = get_network(config.trainer, config.network)
    if config.patch is not None and any(subject.size < 1 for subject in index.subjects):
        raise UsageError(
            "slices of small people that were magnified",
            "people as large as they are for a network of patches",
            "prepare them with lls prepare --pixel-mm instead of --like",
        )
    if config.patch is None:
        network.check_size(index.shape)
        network.check_size((config.window, config.window), "name another --window")  # 0: whole slices
