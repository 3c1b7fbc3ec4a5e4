"""Repeat the report's study on synthetic scans, a table at a time.

    python -m benchmarks.report 2C -o WORK
    python -m benchmarks.report 2C 3 -o WORK --folds 3 --epochs 10
    python -m benchmarks.report all -o WORK --smoke

WORK keeps scans, datasets, trainings and the tables (``table-2c.md``, ``.csv``), each beside the report's
figures. A command can be killed and called again: what is done stays. Without options a table is made as the
report made it, for which a GPU is needed; what differs is said in the table. ``--smoke`` proves only that
everything runs.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from benchmarks.command import command, parser_of
from benchmarks.report.sheet import Sheet
from benchmarks.report.study import SIZE, Setting
from benchmarks.report.table1 import table1
from benchmarks.report.table2 import table2a, table2b, table2c, table2d
from benchmarks.report.table3 import table3
from benchmarks.report.table4 import table4
from benchmarks.report.table5 import table5
from cli.crossval import fold_line
from cli.train import log_epochs
from trainers.crossval import FoldWatch

TABLES: Mapping[str, Callable[[Setting, FoldWatch | None], Sheet]] = MappingProxyType(
    {
        "1": table1,
        "2A": table2a,
        "2B": table2b,
        "2C": table2c,
        "2D": table2d,
        "3": table3,
        "4": table4,
        "5": table5,
    }
)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__, "benchmarks.report")
    parser.add_argument(
        "tables", nargs="+", choices=[*TABLES, "all"], metavar="TABLE", help="1, 2A ... or all"
    )
    parser.add_argument("-o", "--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--smoke", action="store_true", help="tiny slices, one epoch: figures mean nothing")
    parser.add_argument("--trainer", default="torch", help="whose networks (torch)")
    parser.add_argument(
        "--encoder",
        default="imagenet",
        help="how pretrained encoders begin: imagenet (as the framework loads it), a folder with a file a"
        " network (unet-resnet34.pth), or random, which is neither pretrained nor frozen",
    )
    parser.add_argument(
        "--network", dest="networks", action="append", default=[], help="for 3 and 5: only this"
    )
    for name, text in (
        ("subjects", "people, instead of the table's number"),
        ("folds", "groups of them that are held out in turn"),
        ("epochs", "at most, instead of each network's"),
        ("epoch-samples", "slices an epoch, instead of all that teach"),
    ):
        parser.add_argument(f"--{name}", type=int, help=text)
    parser.add_argument("--size", type=int, default=SIZE, help=f"rows and columns, instead of {SIZE}")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repetitions", type=int, default=5, help="of measurements of time (5)")
    return parser


@command
def main(arguments: list[str] | None = None) -> int:
    """Make tables, print them, and return the exit code."""
    given = vars(_parser().parse_args(arguments))
    chosen = given.pop("tables")
    given["networks"] = tuple(given["networks"])
    setting = Setting(**given)
    log_epochs(quiet=False)
    watch = fold_line()
    for number in TABLES if "all" in chosen else chosen:
        sheet = TABLES[number](setting, watch)
        sheet.write(setting.work)
        print(sheet.markdown(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
