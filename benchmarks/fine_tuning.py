"""How many labelled scans of a new population it takes: fine-tuning the bundled network, and from scratch.

    python -m benchmarks.fine_tuning -o WORK

The new population is the second one of `benchmarks.report.populations`: other children, T1-weighted spin
echo, right leg labelled; here with slices ``SLICE_MM`` apart. One, two, three or five scans teach, as ``lls
train --init default`` does it; one more chooses the epoch, as the report's did; two others are scored, as the
network gives their slices: nothing is cleaned. Both starts see the same slices, as many however few scans
teach. Beside them the network as it is, and the report's second population (its 5.4: 20 epochs, three scans
taught, one chose): real scans, whole epochs of fourfold data.

Sized for about an hour on two free CPU cores: 20 epochs of 160 slices a training. WORK keeps scans, data,
trainings and the table; a command can be killed and called again. ``--smoke`` proves only that it runs.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.command import command, parser_of
from benchmarks.pictures import Panel, draw_panels
from benchmarks.report.populations import people, prepared_for, scan
from benchmarks.report.published import MEAN, PUBLISHED
from benchmarks.report.sheet import SMOKE
from cli.train import TrainingLine, log_epochs
from seg_core.errors import UsageError
from seg_core.labels import BONES
from seg_core.metrics import Scores, summarise
from seg_core.output import write_whole
from seg_core.report import sha256
from seg_core.runner import model_path
from trainers.config import TrainConfig
from trainers.curves import can_draw
from trainers.loop import BEST, LAST, Source, train
from trainers.model_file import channel_settings, network_of, read_model
from trainers.registry import get_config, get_trainer
from trainers.scores import score_subject, scores_from_json, scores_to_json

COUNTS = (1, 2, 3, 5)
SLICE_MM, WINDOW_MM = 5.0, 240.0
TAUGHT, CHOOSING, SCORED = slice(0, 5), slice(5, 6), slice(6, 8)
STARTS = ("bundled", "scratch")
TEACH = "scans that teach (one more chooses the epoch)"
_SMOKE = {"epochs": 1, "epoch_samples": 4, "batch": 2, "validation_samples": 2}
Results = Mapping[tuple[str, int], Mapping[str, Scores]]


@dataclass(frozen=True)
class Setting:
    """What the user chooses.

    Parameters
    ----------
    model : Path
        File of the network that is fine-tuned.
    network : str
        Its architecture, as ``lls networks`` calls it.
    epochs, epoch_samples : int
        Of each training.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    threads : int
        On a CPU; 0: the framework's choice.
    smoke : bool
        Whether to prove only that it runs.
    """

    model: Path
    network: str
    epochs: int
    epoch_samples: int
    device: str
    threads: int
    smoke: bool

    @property
    def counts(self) -> tuple[int, ...]:
        """How many scans teach, in turn."""
        return COUNTS[:1] if self.smoke else COUNTS

    def config(self, start: str) -> TrainConfig:
        """Say how a training goes."""
        spec, _ = read_model(self.model)
        multiple = 64
        window = max(round(WINDOW_MM / spec.grid.spacing_mm[0] / multiple), 1) * multiple
        changes: dict[str, Any] = {
            "epochs": self.epochs,
            "epoch_samples": self.epoch_samples,
            "patience": self.epochs,
            "validation_samples": 40,
            "window": window,
            "init": str(self.model) if start == "bundled" else "random",
            "device": self.device,
            "threads": self.threads,
            **channel_settings(spec),
        }
        return get_config("torch", self.network, **changes | (_SMOKE if self.smoke else {}))


class Study:
    """The trainings and their scores; what is done stays."""

    def __init__(self, work: Path, setting: Setting) -> None:
        self.setting = setting
        self.work = work / "smoke" if setting.smoke else work
        self.work.mkdir(parents=True, exist_ok=True)
        self._keep_setting()
        everyone = people("second", SCORED.stop, setting.smoke)
        if not setting.smoke:
            everyone = [replace(p, config=replace(p.config, slice_mm=SLICE_MM)) for p in everyone]
        scans = [scan(person, self.work / "scans") for person in everyone]
        self.data = prepared_for(scans, self.work / "data", read_model(setting.model)[0])
        self.names = tuple(person.name for person in everyone)

    def _keep_setting(self) -> None:
        free = ("device", "threads")
        known = {name: str(value) for name, value in asdict(self.setting).items() if name not in free}
        known["sha256"] = sha256(model_path(self.setting.model))
        path = self.work / "setting.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != known:
            raise UsageError(f"{self.work} holds a study with another setting", fix="name a new folder")
        write_whole(path, json.dumps(known, indent=1))

    def run(self, start: str, count: int) -> dict[str, Scores]:
        """Train from a start on so many scans, none being the network as it is; score it on others."""
        folder = self.work / f"{start}-{count}"
        done = folder / "scores.json"
        if not done.is_file():
            config, make_engine = self.setting.config(start), get_trainer("torch").make_engine
            if count:
                sources = (
                    Source(self.data, self.names[TAUGHT][:count]),
                    Source(self.data, self.names[CHOOSING]),
                )
                line = TrainingLine()
                train(make_engine, config, sources, folder, watch=lambda t: line(t, f"{folder.name}  "))
                config = replace(config, init=str(folder / BEST))
            folder.mkdir(exist_ok=True)
            cache = Source(self.data).open()
            engine = make_engine(config, cache.index.classes)
            found = {name: score_subject(engine, cache, name, config) for name in self.names[SCORED]}
            write_whole(done, scores_to_json(found))
            (folder / LAST).unlink(missing_ok=True)
        return scores_from_json(done.read_text(encoding="utf-8"))

    def results(self) -> Results:
        """Return the scores of every training, and of the network as it is."""
        wanted = [("bundled", 0), *((start, count) for count in self.setting.counts for start in STARTS)]
        return {(start, count): self.run(start, count) for start, count in wanted}


def means(scores: Mapping[str, Scores]) -> dict[str, float]:
    """Return the mean DSC over people of each bone, and of all bones."""
    dsc = dict(zip(BONES, summarise(list(scores.values())).dsc_mean.tolist(), strict=True))
    return {**dsc, MEAN: sum(dsc.values()) / len(dsc)}


def table(results: Results) -> str:
    """Return the DSC by start and number of scans as Markdown, the report's beside it."""
    head = [*BONES, MEAN]
    lines = [f"| start | {TEACH} | {' | '.join(head)} |", "|---" * (len(head) + 2) + "|"]
    for (start, count), scores in results.items():
        dsc = means(scores)
        lines.append(f"| {start} | {count} | {' | '.join(f'{dsc[name]:.3f}' for name in head)} |")
    for row, count in (("as it is", 0), ("fine-tuned", 3)):
        figures = PUBLISHED["4"].figures
        known = [figures[row, name]["dsc"].mean for name in BONES]
        cells = " | ".join(f"{value:.2f}" for value in (*known, sum(known) / len(known)))
        lines.append(f"| the report's, real scans: {row} | {count} | {cells} |")
    return "\n".join(lines)


def panels(results: Results) -> list[Panel]:
    """Return the curves of each bone and of the mean over the number of scans."""
    counts = sorted({count for _, count in results})
    dsc = {key: means(scores) for key, scores in results.items()}
    drawn = []
    for name in (*BONES, MEAN):
        lines = {s: [dsc.get((s, n), {}).get(name, float("nan")) for n in counts] for s in STARTS}
        known = [
            PUBLISHED["4"].figures["fine-tuned", n]["dsc"].mean for n in (BONES if name == MEAN else [name])
        ]
        level = {"the report's fine-tuned, real scans": sum(known) / len(known)}
        drawn.append(Panel(name, TEACH, list(map(str, counts)), lines, level))
    return drawn


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Train, score, print the table; return the exit code."""
    parser = parser_of(__doc__, "benchmarks.fine_tuning")
    parser.add_argument("-o", "--work", type=Path, required=True, help="folder of everything")
    parser.add_argument("--model", default="default", help="the file that is fine-tuned")
    parser.add_argument("--network", help="its architecture; by default as its description tells it")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--epoch-samples", type=int, default=160)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="on a CPU; 0: the framework's choice")
    parser.add_argument("--smoke", action="store_true", help="tiny scans, one epoch: figures mean nothing")
    given = vars(parser.parse_args(arguments))
    work = given.pop("work")
    log_epochs(quiet=False)
    model = model_path(given["model"])
    network = given["network"] or network_of(read_model(model)[0])
    setting = Setting(**{**given, "model": model, "network": network})
    study = Study(work, setting)
    results = study.results()
    how = (
        f"Ours: synthetic scans; {network}, {setting.epochs} epochs of {setting.epoch_samples} slices; DSC on"
        f" {len(study.names[SCORED])} people whom no training saw."
    )
    text = "\n\n".join([*([SMOKE] if setting.smoke else []), how, table(results)]) + "\n"
    write_whole(study.work / "fine-tuning.md", text)
    if can_draw():
        draw_panels(panels(results), "DSC", study.work / "fine-tuning.png", columns=5)
    print(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
