"""Table 4: a network of the first population on the second one, as it is and fine-tuned (report 4.10)."""

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.report.sheet import Sheet
from benchmarks.report.study import Plan, Setting, Study, Variant, described, figures
from benchmarks.report.table3 import FOURFOLD
from seg_core.errors import UsageError
from seg_core.metrics import Scores
from seg_core.output import write_whole
from seg_core.report import sha256
from trainers.config import TrainConfig
from trainers.crossval import FoldWatch
from trainers.loop import Source, Watch, train
from trainers.scores import score_subject, scores_from_json, scores_to_json
from trainers.start import RUN

FIRST, SECOND = Plan(7), Plan(5, population="second")
BEFORE = Variant("as it is", changes=FOURFOLD, pretrained=True)


def first_population(study: Study, watch: Watch | None = None) -> tuple[Path, str]:
    """Train on the first population, in the study's folder; return the network and how it was trained.

    Raises
    ------
    UsageError
        If a training of another number of epochs is there.
    """
    data = study.data(plan=study.chosen(FIRST))
    *teachers, chooser = (subject.name for subject in Source(data).open().index.subjects)
    config = study.config(BEFORE, data, len(teachers) / (len(teachers) + 1))
    sources = Source(data, tuple(teachers)), Source(data, (chooser,))
    folder = study.folder / "first"
    _check_epochs(folder / RUN, config.epochs)
    best = train(study.make_engine, config, sources, folder, watch=watch).best
    how = (
        f"{described(BEFORE, config, study.pixels())} {len(teachers)} people of the first population taught"
        " it, another one chose it."
    )
    return best, how


def _check_epochs(run: Path, epochs: int) -> None:
    """Refuse to make a training longer or shorter: what was scored would be another network."""
    there = json.loads(run.read_text(encoding="utf-8"))["config"]["epochs"] if run.is_file() else epochs
    if there != epochs:
        raise UsageError(
            f"{epochs} epochs, but the training in {run.parent} has {there}",
            fix="give the same number, or name a new folder",
        )


def table4(setting: Setting, watch: FoldWatch | None = None) -> Sheet:
    """Make the table; what an earlier call has done is kept."""
    study = Study("4", setting, SECOND, watch)
    data = study.data()
    best, before = first_population(study)
    config = study.config(BEFORE, data, 1.0)
    direct = list(_scored(study, config, best, data).values())
    start = {"epochs": 20, "init": str(best), "freeze_encoder": config.freeze_encoder}
    tuned, how = study.cross_validate(Variant("fine-tuned", changes=FOURFOLD | start), data)
    lines = [*study.conditions(), before, how]
    ours = {**figures("as it is", direct, Source(data).open().index.classes), **tuned}
    return study.sheet(ours, ("dsc",), lines)


def _scored(study: Study, config: TrainConfig, best: Path, data: Path) -> dict[str, Scores]:
    """Score a network on everyone of a dataset, once; refuse a folder in which another one was scored."""
    done = study.folder / f"as-it-is-{sha256(best)[:12]}.json"
    if set(study.folder.glob("as-it-is-*.json")) - {done}:
        raise UsageError(f"{study.folder} holds scores of another network", fix="name a new folder")
    if not done.exists():
        cache = Source(data).open()
        engine = study.make_engine(replace(config, init=str(best)), cache.index.classes)
        names = [subject.name for subject in cache.index.subjects]
        found = {name: score_subject(engine, cache, name, config) for name in names}
        write_whole(done, scores_to_json(found))
    return scores_from_json(done.read_text(encoding="utf-8"))
