"""The kernels, each beside its peers in one run, in turns; answers are held equal after the timing.

    python -m benchmarks.kernels                      # all rows, Markdown on standard output
    python -m benchmarks.kernels metrics --rounds 15 --json FILE
    python -m benchmarks.kernels --small              # everything runs; its figures mean nothing

Times are medians over the rounds, ratios medians (and quartiles) of each round's ratio; what takes longer
than 3 s is measured once, and said to be. Peers that are not installed are named: ``pip install '.[bench]'``
brings them.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from benchmarks.command import parser_of, write_figures
from benchmarks.kernels.row import Figures, Peers, Row, measure
from benchmarks.timing import machine

ROWS: Mapping[str, str] = MappingProxyType(
    {
        "metrics": "benchmarks.kernels.metrics",
        "dicom": "benchmarks.kernels.dicom",
        "denoise": "benchmarks.kernels.denoise",
        "resize": "benchmarks.kernels.resize",
        "mesh": "benchmarks.kernels.mesh",
        "space": "benchmarks.kernels.space",
    }
)
"""Name of a row -> its module, which has ``rows(small)``."""
PACKAGES = ("numpy", "numba", "scipy", "scikit-image", "connected-components-3d", "fill_voids", "MedPy")
PACKAGES += ("monai", "opencv-python-headless", "pillow", "pydicom", "SimpleITK", "surface-distance", "vtk")
PACKAGES += ("torch", "scikit-learn", "zmesh", "dcm2niix", "dicom2nifti", "imagecodecs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 0 also where a goal is missed: a figure is no test."""
    parser = parser_of(__doc__, "benchmarks.kernels")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="little data, for a try")
    parser.add_argument(
        "--alone", action="store_true", help="no peers: rows alone whose goal is not set by one"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row is called {', '.join(unknown)}: {', '.join(ROWS)}")
    found: list[Figures] = []
    for name in options.rows or ROWS:
        make: Callable[[bool], Iterable[Row]] = import_module(ROWS[name]).rows
        for row in make(options.small):
            if options.alone:
                if row.goal.of not in row.bases:
                    continue
                row = replace(row, peers=Peers())
            if not row.comparable:
                print(f"### {row.name}: not measured, without {', '.join(row.peers.missing)}\n", flush=True)
                continue
            found.append(measure(row, options.rounds))
            print(found[-1].as_markdown() + "\n", flush=True)
    facts = machine(*PACKAGES)
    print(summary(found, facts))
    write_figures(options.json, {"machine": facts, "rows": [figure.as_json() for figure in found]})
    return 0


def summary(found: Sequence[Figures], facts: Mapping[str, object]) -> str:
    """Return the table of all rows, and the machine."""
    lines = [
        "| step | ours, ms | measured against | share (quartiles) | goal | reached |",
        "|---|---|---|---|---|---|",
    ]
    for figure in found:
        share, goal = figure.share, figure.row.goal
        milliseconds = f"{1e3 * figure.timings.spread('ours').median:.3g}"
        spread = f"{share.median:.3g} ({share.low:.3g} to {share.high:.3g})"
        reached = "yes" if share.median <= goal.at_most else "no"
        cells = [
            figure.row.name,
            milliseconds,
            figure.against,
            spread,
            f"{goal.at_most:.3g}",
            reached,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    what = f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB, {facts['system']}"
    return "\n".join([*lines, "", f"{what}; load {facts['load']}; Python {facts['python']}."])


if __name__ == "__main__":
    sys.exit(main())
