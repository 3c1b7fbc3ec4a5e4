"""The decorator of every kernel: compiled once, and kept, also where the installation is read-only."""

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a loop that holds no GIL, when it is first called; keep what was compiled.

    Numba keeps it beside the source file or, where that cannot be written, in the user's own cache folder.
    Where neither can, as in a locked-down container, it would refuse to compile: then nothing is kept.
    """
    options = {"nogil": True, "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


def inner_kernel(function: Callable[..., Any]) -> Any:
    """Compile a loop that kernels alone call, as a part of each: what Python needs to call it is left out."""
    return njit(nogil=True, no_cfunc_wrapper=True, no_cpython_wrapper=True)(function)
