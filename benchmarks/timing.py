"""Times of several ways to do one thing, taken in turns, so that a busy machine slows all of them alike."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Action = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a sample."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Spread":
        """Return those of at least one number."""
        return cls(*(float(v) for v in np.percentile(values, [25, 50, 75])))


@dataclass(frozen=True, eq=False)
class Timings:
    """What was measured.

    Parameters
    ----------
    seconds : mapping of str to ndarray of float64, (rounds,)
        Seconds of one call in each round, by the action's name; in the first rounds alone of a slow one.
    """

    seconds: Mapping[str, npt.NDArray[np.float64]]

    def spread(self, name: str) -> Spread:
        """Return the seconds of an action."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        """Return how many times as long as another an action took: what disturbs a round disturbs both."""
        both = min(len(self.seconds[name]), len(self.seconds[base]))
        return Spread.of(self.seconds[name][:both] / self.seconds[base][:both])

    def as_json(self) -> dict[str, dict[str, float]]:
        """Return seconds by action: quartiles, median and the shortest."""
        return {
            name: asdict(self.spread(name)) | {"least": float(taken.min())}
            for name, taken in self.seconds.items()
        }


def take_turns(
    actions: Mapping[str, Action],
    rounds: int = 9,
    at_least: float = 0.01,
    slow: float = 3.0,
    clock: Clock = time.perf_counter,
) -> Timings:
    """Call each action once or twice unmeasured, then in every round, each beginning with another one.

    Parameters
    ----------
    actions : mapping of str to callable
        At least one; what they return is dropped.
    rounds : int
        How often, at least 1.
    at_least : float
        An action is called so often in a round that it takes about this many seconds; its time is the mean.
    slow : float
        One that takes longer, in seconds, is measured in the first round alone: once, without a spread.
    clock : callable
        Seconds: ``time.process_time`` for those of the processor, where all run on one core; waiting for
        other programs does not count then.

    Returns
    -------
    Timings
    """
    calls = {name: _calls(action, at_least, slow, clock) for name, action in actions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for n in range(rounds):
        first = n % len(names)
        for name in names[first:] + names[:first]:
            if n == 0 or calls[name]:
                seconds[name].append(_timed(actions[name], calls[name] or 1, clock))
    return Timings({name: np.array(taken) for name, taken in seconds.items()})


def _calls(action: Action, at_least: float, slow: float, clock: Clock) -> int:
    """Return how often to call an action in a round; 0 for a slow one."""
    _timed(action, 1, clock)  # compiles, and fills caches
    again = _timed(action, 1, clock)
    return 0 if again > slow else max(1, round(at_least / max(again, 1e-9)))


def _timed(action: Action, calls: int, clock: Clock) -> float:
    begun = clock()
    for _ in range(calls):
        action()
    return (clock() - begun) / calls


def machine(*packages: str) -> dict[str, Any]:
    """Return what a figure's reader wants to know: processor, cores, memory, system, versions of packages."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "load": round(os.getloadavg()[0], 1),  # of the minute before: other work on the machine
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
    }


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
