"""The report's experiment (its 5.4): a network of one population on scans of another; then the bundled one.

    python -m benchmarks.transfer -o WORK --encoder random

A network is trained on the first population of `benchmarks.report.populations` only, as Table 4 does it
(`benchmarks.report`; WORK may be its folder: the training is the same, and what is there stays), and is
exported. It and the bundled one segment the scans of the second population, which neither has seen: from
DICOM to labels of both legs on the scan's own grid, as ``lls segment`` does it, without a single new label.
DSC, HD95 and volume error by bone, mean and SD over people and sides. The bundled network's training had
other people and drawn looks. Both populations are synthetic: the report's figures stand beside, no more.

The first training is sized for a GPU; ``--subjects``, ``--epochs`` and ``--epoch-samples`` change that, and
the table says so. ``--smoke`` proves only that everything runs.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.command import command, parser_of
from benchmarks.never_seen import Score, score
from benchmarks.report.populations import people, scan
from benchmarks.report.published import PUBLISHED
from benchmarks.report.sheet import SMOKE
from benchmarks.report.study import Setting, Study
from benchmarks.report.table4 import FIRST, SECOND, first_population
from cli.train import TrainingLine, log_epochs
from exporters.run import RunExport, export_run
from seg_core.labels import BONES
from seg_core.output import write_whole
from seg_core.runner import Runner, model_path

ONLY_FIRST, BUNDLED = "first population only", "bundled, no new label"


def scored(name: str, model: Path, study: Study) -> list[Score]:
    """Segment everyone of the second population with a network; scores that are there stay."""
    runner = Runner(model)
    path = study.home / f"transfer-{runner.fingerprint[:12]}.json"  # of its twin where that is taken
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    everyone = people("second", study.plan.subjects, study.setting.smoke)
    for person in everyone:
        if person.name not in known:
            folder = scan(person, study.home / "scans")
            known[person.name] = asdict(score(name, runner, folder))
            write_whole(path, json.dumps(known, indent=1))
    return [Score(**{**known[person.name], "look": name}) for person in everyone]


def rows(name: str, scores: Sequence[Score]) -> Iterator[str]:
    """Yield a network's figures, a row a bone, mean and SD over people and sides."""
    reported = PUBLISHED["4"].figures
    for b, bone in enumerate(BONES):
        cells = []
        for measure, digits in (("dsc", 3), ("hd95_mm", 1), ("volume_error_cm3", 1)):
            values = np.array([getattr(s, measure) for s in scores], float)[:, [b, b + len(BONES)]].ravel()
            missed = int((~np.isfinite(values)).sum())
            values = values[np.isfinite(values)]
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            spread += f" ({missed} none)" if missed and len(values) else ""
            cells.append(f"{values.mean():.{digits}f}{spread}" if len(values) else "none")
        theirs = f"{reported['as it is', bone]['dsc'].mean:.2f}" if name == ONLY_FIRST else ""
        yield f"| {name} | {bone} | {' | '.join(cells)} | {theirs} |"
    yield f"| {name} | any bone | {np.mean([s.any_bone_dsc for s in scores]):.3f} | | | |"


def compare(setting: Setting, model: Path) -> str:
    """Train, export and score both networks; return the table as Markdown."""
    study = Study("4", setting, SECOND)
    line = TrainingLine()
    first, how = first_population(study, lambda tick: line(tick, "first population  "))
    exported = study.home / "first-population.onnx"
    export_run(first, exported, RunExport("first-population", study.data(plan=study.chosen(FIRST))))
    lines = [
        "| network | bone | DSC | HD95 mm | volume error cm3 | DSC in the report (real scans) |",
        "|---|---|---|---|---|---|",
        *rows(ONLY_FIRST, scored(ONLY_FIRST, exported, study)),
        *rows(BUNDLED, scored(BUNDLED, model, study)),
    ]
    whom = f"{study.plan.subjects} people of the second synthetic population, from DICOM to labels. {how}"
    return "\n\n".join([*([SMOKE] if setting.smoke else []), whom, "\n".join(lines)]) + "\n"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table, print it, and return the exit code."""
    parser = parser_of(__doc__, "benchmarks.transfer")
    parser.add_argument("-o", "--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--model", default="default", help="in the place of the bundled file")
    parser.add_argument("--encoder", default="imagenet", help="as `benchmarks.report` takes it")
    for name in ("subjects", "epochs", "epoch-samples"):
        parser.add_argument(f"--{name}", type=int, help="instead of the table's")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny scans, one epoch: figures mean nothing")
    given = vars(parser.parse_args(arguments))
    name = given.pop("model")
    log_epochs(quiet=False)
    setting = Setting(**given)
    text = compare(setting, model_path(name))
    write_whole(setting.work / f"transfer{'-smoke' * setting.smoke}.md", text)
    print(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
