"""The decorator of every kernel: compiled once, and kept, also where the installation is read-only."""

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a loop that holds no GIL, when it is first called; keep what was compiled.

    Numba keeps it beside the source file or, where that cannot be written, in the user's own cache folder.
    Where neither can, as in a locked-down container, it would refuse to compile: then nothing is kept.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
