"""How long it takes to start: importing, `lls --help`, and `lls segment` with and without compiled kernels.

    python -m benchmarks.starting --rounds 5 --json FILE

Each is a process of its own, in turns. The scan is a small one (24 slices of drawn legs); kernels are
compiled into a folder of their own (``NUMBA_CACHE_DIR``), which is empty at each first run. Longer than
``LIMITS`` is a failure; times are the clock's, so let nothing else run.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.command import parser_of, write_figures
from benchmarks.kernels.data import legs
from benchmarks.timing import Action, Spread, Timings, machine, take_turns
from seg_core.geometry import Geometry, Volume
from seg_core.nifti import write_volume

PYTHON, NUMPY, CORE, HELP = "python", "import numpy", "import numpy, seg_core", "lls --help"
EMBED = "import seg_core.geometry, seg_core.nifti, seg_core.runner, seg_core.segment"
FIRST, SECOND = "lls segment, the first run ever", "lls segment, the second"
LIMITS: Mapping[str, tuple[str | None, float | None]] = {
    HELP: (None, 0.25),
    CORE: (NUMPY, 0.05),
    EMBED: (NUMPY, None),
    FIRST: (SECOND, 5.0),
}
"""What may take how many seconds more than another, or, where that is None, in all; None: no limit is set.

`CORE` is the package alone, which imports nothing; `EMBED` what a program that embeds it imports (README)."""


def actions(folder: Path, model: str) -> dict[str, Action]:
    """Return what is measured; the scan and the second run's kernels lie in a folder."""
    scan = folder / "scan.nii.gz"
    array = 100.0 * (legs(24, 64).T > 0) + 50.0 * np.random.default_rng(0).random((64, 64, 24))
    write_volume(scan, Volume(array.astype(np.float32), Geometry(array.shape, np.diag([7.5, 7.5, 40, 1.0]))))

    def python(*arguments: str, cache: Path | None = None) -> None:
        environment = os.environ | ({} if cache is None else {"NUMBA_CACHE_DIR": str(cache)})
        subprocess.run([sys.executable, *arguments], check=True, env=environment, capture_output=True)

    def segment(cache: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            python("-m", "cli", "segment", str(scan), "-o", out, "--model", model, cache=cache)

    def first() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            segment(Path(cache))

    return {
        PYTHON: lambda: python("-c", "pass"),
        NUMPY: lambda: python("-c", NUMPY),
        CORE: lambda: python("-c", CORE),
        EMBED: lambda: python("-c", EMBED),
        HELP: lambda: python("-m", "cli", "--help"),
        FIRST: first,
        SECOND: lambda: segment(folder / "kernels"),
    }


def more(timings: Timings, name: str, base: str | None) -> Spread:
    """Return how many seconds more than another one took, from each round; None: in all."""
    return Spread.of(timings.seconds[name] - (0.0 if base is None else timings.seconds[base]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 where a median is beyond its limit."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="default")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lls-starting-") as temporary:
        timings = take_turns(actions(Path(temporary), options.model), options.rounds, slow=1e9)
    print("| what | s | more than | s (quartiles) | at most |\n|---|---|---|---|---|")
    extras = {name: more(timings, name, base) for name, (base, _) in LIMITS.items()}
    for name in timings.seconds:
        cells = [name, f"{timings.spread(name).median:.2f}", "", "", ""]
        if name in LIMITS:
            (base, limit), extra = LIMITS[name], extras[name]
            seconds = f"{extra.median:.2f} ({extra.low:.2f} to {extra.high:.2f})"
            cells[2:] = [base or "nothing: in all", seconds, "" if limit is None else f"{limit:g}"]
        print(f"| {' | '.join(cells)} |")
    facts = machine("numba", "numpy")
    figures = {name: asdict(extra) for name, extra in extras.items()}
    write_figures(options.json, {"machine": facts, "seconds": timings.as_json(), "more": figures})
    beyond = [n for n, (_, limit) in LIMITS.items() if limit is not None and extras[n].median > limit]
    for name in beyond:
        print(f"beyond its limit: {name}", file=sys.stderr)
    return int(bool(beyond))


if __name__ == "__main__":
    sys.exit(main())
