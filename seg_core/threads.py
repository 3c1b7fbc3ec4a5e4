"""Work that releases the GIL, shared among the cores."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parts(work: Callable[[int, int], T], size: int, at_least: int = 1) -> list[T]:
    """Do a piece of work in contiguous parts, one a core.

    Parameters
    ----------
    work : callable
        Is given the beginning of a part and one past its end, within 0 to ``size``.
    size : int
        Number of items; none makes one empty part.
    at_least : int
        Items for which another thread pays.

    Returns
    -------
    list
        What ``work`` returned, in the order of the parts, whose number depends on the machine.
    """
    parts = max(1, min(cores(), size // at_least))
    bounds = [size * n // parts for n in range(parts + 1)]
    if parts == 1:
        return [work(0, size)]
    own, *others = pairwise(bounds)
    with ThreadPoolExecutor(parts - 1) as pool:
        waiting = [pool.submit(work, *part) for part in others]
        return [work(*own), *(part.result() for part in waiting)]
