"""What the benchmarks' commands share."""

import argparse
import json
from pathlib import Path
from typing import Any


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
