"""A row of the table of kernels: ours and its peers, measured in turns, then held equal."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from benchmarks.timing import Action, Spread, Timings, take_turns

OURS = "ours"


@dataclass
class Peers:
    """Other ways to do the same; one whose package is not installed is named, not dropped."""

    actions: dict[str, Action] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def add(self, name: str, make: Callable[[], Action]) -> None:
        """Add one; ``make`` imports its package and returns what is measured."""
        try:
            self.actions[name] = make()
        except ImportError:
            self.missing.append(name)


@dataclass(frozen=True)
class Goal:
    """What our time may be at most, as a share of another's: a base or peer by name, or the fastest one."""

    at_most: float
    of: str = "the fastest peer"


@dataclass(frozen=True)
class Row:
    """A kernel and what it is measured against.

    Parameters
    ----------
    name : str
        As on the command line, with what is varied after a space.
    what : str
        What is done, on how much.
    ours : callable
        Ours, through its public function.
    goal : Goal
        What it shall reach.
    bases : mapping of str to callable
        What is not the same work but a limit to it, such as just reading the data.
    peers : Peers
        Others that do the same.
    agree : callable
        Is given what each returned, by name, and raises AssertionError where ours differs; called after the
        timing. Returns in a line what was held equal.
    single : bool
        Whether all are kept to one core, and seconds are the processor's.
    """

    name: str
    what: str
    ours: Action
    goal: Goal
    peers: Peers
    agree: Callable[[Mapping[str, Any]], str]
    bases: Mapping[str, Action] = field(default_factory=dict)
    single: bool = False

    @property
    def comparable(self) -> bool:
        """Whether there is anything that the goal can compare with."""
        return self.goal.of in self.bases or bool(self.peers.actions)


@dataclass(frozen=True)
class Figures:
    """What a row showed.

    Parameters
    ----------
    row : Row
        What was measured.
    timings : Timings
        Seconds of ours, the bases and the peers.
    agreed : str
        What was held equal afterwards.
    """

    row: Row
    timings: Timings
    agreed: str

    @property
    def against(self) -> str:
        """What the goal compares with: what it names, or the peer with the shortest median."""
        if self.row.goal.of in self.timings.seconds:
            return self.row.goal.of
        return min(self.row.peers.actions, key=lambda name: self.timings.spread(name).median)

    @property
    def share(self) -> Spread:
        """Our time as a share of that."""
        return self.timings.ratio(OURS, self.against)

    def as_json(self) -> dict[str, Any]:
        """Return everything that was found."""
        goal, share = self.row.goal, self.share
        return {
            "name": self.row.name,
            "what": self.row.what,
            "goal": {"at_most": goal.at_most, "of": goal.of},
            "against": self.against,
            "share": [share.low, share.median, share.high],
            "met": share.median <= goal.at_most,
            "seconds": self.timings.as_json(),
            "missing": self.row.peers.missing,
            "agreed": self.agreed,
        }

    def as_markdown(self) -> str:
        """Return a table of ours, the bases and the peers, the fastest first."""
        names = sorted(self.timings.seconds, key=lambda name: self.timings.spread(name).median)
        unit = "ms of one core" if self.row.single else "ms"
        lines = [f"### {self.row.name}: {self.row.what}", "", f"| | {unit} | times ours |", "|---|---|---|"]
        for name in names:
            ratio = self.timings.ratio(name, OURS)
            spread = (
                "once" if len(self.timings.seconds[name]) == 1 else f"{ratio.low:.3g} to {ratio.high:.3g}"
            )
            times = "1" if name == OURS else f"{ratio.median:.3g} ({spread})"
            lines.append(f"| {name} | {1e3 * self.timings.spread(name).median:.3g} | {times} |")
        lines += [f"| {name} | not installed | |" for name in self.row.peers.missing]
        share, goal = self.share, self.row.goal
        lines += [
            "",
            f"{share.median:.3g} of {self.against}; goal: at most {goal.at_most:.3g}. {self.agreed}",
        ]
        return "\n".join(lines)


def measure(row: Row, rounds: int) -> Figures:
    """Measure a row, then call everything once more and hold the answers equal."""
    actions = {OURS: row.ours, **row.bases, **row.peers.actions}
    with one_core() if row.single else nullcontext():
        clock = time.process_time if row.single else time.perf_counter
        timings = take_turns(actions, rounds, clock=clock)
        answers = {name: action() for name, action in actions.items() if name not in row.bases}
    return Figures(row, timings, row.agree(answers))


@contextmanager
def one_core() -> Iterator[None]:
    """Keep peers that would start threads to a single one, where they are installed."""
    import importlib

    setters = {
        "cv2": "setNumThreads",
        "torch": "set_num_threads",
        "SimpleITK": "ProcessObject_SetGlobalDefaultNumberOfThreads",
    }
    getters = {
        "cv2": "getNumThreads",
        "torch": "get_num_threads",
        "SimpleITK": "ProcessObject_GetGlobalDefaultNumberOfThreads",
    }
    with ExitStack() as before:
        for name, setter in setters.items():
            try:
                package = importlib.import_module(name)
            except ImportError:
                continue
            set_threads = getattr(package, setter)
            before.callback(set_threads, getattr(package, getters[name])())
            set_threads(1)
        yield
