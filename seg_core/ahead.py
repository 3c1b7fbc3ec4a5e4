"""What other threads make while the one before is used."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
Result = TypeVar("Result", covariant=True)


def made_ahead(make: Callable[[Item], Made], items: Iterable[Item], ahead: int = 1) -> Generator[Made]:
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


class Begun(Generic[Result]):
    """Work that has begun in other threads.

    Parameters
    ----------
    parts : sequence of Future
        Of which it consists.
    join : callable
        Makes the result of theirs, in order.
    """

    def __init__(self, parts: Sequence[Future[Any]], join: Callable[[list[Any]], Result]) -> None:
        self._parts, self._join = parts, join

    def result(self) -> Result:
        """Wait for it; where a part fails, or waiting is interrupted, those that have not begun never do."""
        try:
            return self._join([part.result() for part in self._parts])
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Leave out what has not begun."""
        for part in self._parts:
            part.cancel()

    def then(self, use: Callable[[Result], Made]) -> "Begun[Made]":
        """Return the same work with something made of its result, by who waits for it."""
        return Begun(self._parts, lambda results: use(self._join(results)))


def begun_ahead(begin: Callable[[Item], Begun[Made]], items: Iterable[Item]) -> Generator[Made]:
    """Give the result for each item, in order, each begun before the one before is waited for.

    Parameters
    ----------
    begin : callable
        Begins an item.
    items : iterable
        Taken as they are needed; without any nothing is given.

    Raises
    ------
    Exception
        What waiting raises, in the place of the result; what beginning raises, a place before. Ended so, or
        closed (`contextlib.closing`), it cancels what nobody has waited for.
    """
    begun = deque[Begun[Made]]()
    try:
        for item in items:
            begun.append(begin(item))
            if len(begun) > 1:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for left in begun:
            left.cancel()
