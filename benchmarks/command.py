"""What the benchmarks' commands share."""

import argparse
import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from seg_core.errors import LlsError

P = ParamSpec("P")


def command(main: Callable[P, int | None]) -> Callable[P, int]:
    """Return a main that says an error of ours on standard error, and returns its exit code."""

    @wraps(main)
    def run(*args: P.args, **options: P.kwargs) -> int:
        try:
            return main(*args, **options) or 0
        except LlsError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code

    return run


def parser_of(about: str | None, module: str | None = None) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's own words; ``module`` where it would be called __main__."""
    return argparse.ArgumentParser(
        prog=module and f"python -m {module}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def write_figures(path: Path | None, figures: Any) -> None:
    """Write figures as JSON where a file is named; an earlier one is replaced."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
