"""Agreement with bones outlined in real scans: two adults, a development set.

    python -m benchmarks.real_legs --data DIR

DIR holds ``water.nii.gz`` and ``fat.nii.gz`` (the calf of one adult), ``test_low.nii.gz`` and
``test_up.nii.gz`` (calf and thigh of another) from github.com/mfroeling/QMRITools, DemoData (BSD 3-clause);
they are not this project's to give. 25 slices are outlined in ``reference.json``, drawn as
`benchmarks.real_legs.draw` says; water and fat share theirs, other slices are not scored. No child, no
pelvis, and the same two people were looked at while the network was made: the figures say whether it works
there, not how well elsewhere.

Each scan is segmented whole, as ``lls segment`` does it, and scored in its outlined slices: DSC, HD95 in the
plane, volume error (area times the slices' distance), by bone and side, apart for shafts and for bones near
their ends. Zones in doubt count nowhere; their share of the bone is stated.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.command import command, parser_of, write_figures
from benchmarks.real_legs.reference import SOURCE, read_reference
from benchmarks.real_legs.score import BoneScore, score_scan, summary, table
from seg_core.runner import Runner
from seg_core.segment import segment


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Segment the scans and print their tables."""
    parser = parser_of(__doc__, "benchmarks.real_legs")
    scans = {scan.name: scan for scan in read_reference()}
    parser.add_argument("--data", type=Path, required=True, help=f"folder of the scans: {SOURCE}")
    parser.add_argument("--model", default="default")
    parser.add_argument("--precision", default="auto", help="auto, fp32, fp16 or int8")
    parser.add_argument("--scan", choices=scans, action="append", help="only this one; may be repeated")
    parser.add_argument("--json", type=Path, help="write every figure here")
    chosen = parser.parse_args(arguments)
    runner, every = Runner(chosen.model, precision=chosen.precision), list[BoneScore]()
    for name in chosen.scan or scans:
        found = segment(scans[name].read(chosen.data), runner)
        every += score_scan(name, found.labels, scans[name].slices)
    what = f"model {runner.spec.name} in {runner.precision}"
    print(f"Outlined slices of two real adults, a development set; {what}\n")
    print(f"{table(every)}\n\n{summary(every)}")
    write_figures(chosen.json, [asdict(s) for s in every])


if __name__ == "__main__":
    sys.exit(main())
