"""What other threads make while the one before is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(make: Callable[[Item], Made], items: Iterable[Item], ahead: int = 1) -> Iterator[Made]:
    """Give ``make(item)`` in order, each made by one other thread while earlier ones are used.

    Parameters
    ----------
    make : callable
        Is never called twice at a time.
    items : iterable
        Taken as they are needed; without any nothing is given.
    ahead : int
        How many may be ready, or in the making, beside the one that is used: this bounds memory.

    Raises
    ------
    Exception
        What ``make`` raises, in the place of its result.
    """
    with ThreadPoolExecutor(1) as pool:
        pending = deque[Future[Made]]()
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def begun_ahead(begin: Callable[[Item], Callable[[], Made]], items: Iterable[Item]) -> Iterator[Made]:
    """Give what is begun for each item, in order, each begun before the one before is waited for.

    Parameters
    ----------
    begin : callable
        Returns what waits for the result.
    items : iterable
        Taken as they are needed; without any nothing is given.

    Raises
    ------
    Exception
        What ``begin`` or the waiting raises.
    """
    before: Callable[[], Made] | None = None
    for item in items:
        coming = begin(item)
        if before is not None:
            yield before()
        before = coming
    if before is not None:
        yield before()
