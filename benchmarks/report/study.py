"""What the tables share: populations, folds, how networks are trained, and what is kept between two calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.populations import Population, people, prepared, scan
from benchmarks.report.published import PUBLISHED, Figure, Figures
from benchmarks.report.sheet import Sheet
from seg_core.errors import UsageError
from seg_core.metrics import Scores
from trainers.augment import REPORT
from trainers.config import TrainConfig
from trainers.crossval import FoldWatch, cross_validate, plan_folds
from trainers.loop import MakeEngine, Source
from trainers.registry import get_config, get_network, get_trainer
from trainers.scores import table as score_table

SIZE = 256
_SMOKE = {"epochs": 1, "epoch_samples": 4, "batch": 2, "validation_samples": 4, "patience": 1}
SMOKE_PATCH = (16, 32, 32)
"""Of networks of patches, in a smoke run."""


@dataclass(frozen=True)
class Plan:
    """Whom a table is about.

    Parameters
    ----------
    subjects : int
        How many people.
    folds : int, optional
        Groups that are held out in turn; by default each person alone.
    population : {"first", "second"}
        Which.
    structures : tuple of str
        The only ones that are learned; by default all bones.
    """

    subjects: int = 7
    folds: int | None = None
    population: Population = "first"
    structures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """A row of a table: a network, and how it is trained.

    Parameters
    ----------
    name : str
        Of the row.
    network : str
        As the trainer calls it.
    changes : mapping
        Fields of `TrainConfig` that differ from the network's defaults.
    pretrained : bool
        Whether its encoder begins with ImageNet's weights and is frozen.
    size : int
        Rows and columns of its slices.
    """

    name: str
    network: str = "unet-resnet34"
    changes: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    size: int = SIZE


@dataclass(frozen=True)
class Setting:
    """What the user chooses; what is left open is the table's own.

    Parameters
    ----------
    work : Path
        Folder of everything: scans, datasets, trainings, tables.
    trainer : str
        Whose networks.
    encoder : str
        How pretrained encoders begin: ``imagenet``, as the framework's loader brings it; a folder with files
        called after the networks (``unet-resnet34.pth``); or ``random``: not pretrained, and not frozen.
        A smoke run begins at random instead of loading, and freezes.
    smoke : bool
        Whether to prove only that it runs.
    subjects, folds, epochs, epoch_samples : int, optional
        Instead of the table's.
    size : int
        Rows and columns instead of the report's 256; other sizes of a table shrink with it.
    networks : tuple of str
        The only ones of a table of networks; by default the table's.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    repetitions : int
        Of measurements of time.
    """

    work: Path
    trainer: str = "torch"
    encoder: str = "imagenet"
    smoke: bool = False
    subjects: int | None = None
    folds: int | None = None
    epochs: int | None = None
    epoch_samples: int | None = None
    size: int = SIZE
    networks: tuple[str, ...] = ()
    device: str = "auto"
    repetitions: int = 5

    @property
    def options(self) -> str:
        """The command's options that give this setting."""
        parts = ["-o WORK"] + ["--smoke"] * self.smoke + [f"--network {name}" for name in self.networks]
        for name in (
            "trainer",
            "encoder",
            "subjects",
            "folds",
            "epochs",
            "epoch_samples",
            "size",
            "repetitions",
        ):
            value = getattr(self, name)
            if value != getattr(Setting, name):
                # Of a path the last part: where it is on this machine is nobody's business.
                parts.append(f"--{name.replace('_', '-')} {Path(str(value)).name}")
        return " ".join(parts)


class Study:
    """A table's work under a setting.

    Parameters
    ----------
    number : str
        Of the table.
    setting : Setting
    plan : Plan
        The table's own.
    watch : callable, optional
        Told of each fold's batches.
    """

    def __init__(
        self, number: str, setting: Setting, plan: Plan | None = None, watch: FoldWatch | None = None
    ) -> None:
        self.number, self.setting, self.watch = number, setting, watch
        self.plan = self.chosen(plan or Plan())
        self.home = setting.work / "smoke" if setting.smoke else setting.work
        self.folder = self.home / f"table-{number.lower()}"

    def chosen(self, plan: Plan) -> Plan:
        """Return a plan with the user's changes."""
        if self.setting.smoke:
            return replace(plan, subjects=min(plan.subjects, 4), folds=2)
        subjects, folds = self.setting.subjects, self.setting.folds
        return replace(
            plan,
            subjects=plan.subjects if subjects is None else subjects,
            folds=plan.folds if folds is None else folds,
        )

    @property
    def make_engine(self) -> MakeEngine:
        """What makes the trainer's engines."""
        return get_trainer(self.setting.trainer).make_engine

    def data(self, size: int = SIZE, plan: Plan | None = None) -> Path:
        """Draw and prepare people, by default the table's; what is there stays. Return their dataset."""
        plan, small = plan or self.plan, self.setting.smoke
        everyone = people(plan.population, plan.subjects, small)
        scans = [scan(person, self.home / "scans") for person in everyone]
        name = "-".join((plan.population, str(plan.subjects), str(self.pixels(size)), *plan.structures))
        return prepared(scans, self.home / "data" / name, self.pixels(size), plan.structures)

    def pixels(self, size: int = SIZE) -> int:
        """Return rows and columns in whole blocks of 16: half of them for a smoke run."""
        wanted = SIZE // 2 if self.setting.smoke else self.setting.size
        return -(-size * wanted // (16 * SIZE)) * 16

    def config(self, variant: Variant, data: Path, taught: float) -> TrainConfig:
        """Say how a variant is trained.

        Parameters
        ----------
        variant : Variant
        data : Path
            The dataset.
        taught : float
            Share of its slices that teach. An epoch sees each of them as often as augmentation multiplies
            it, unless the network has an epoch of its own.

        Raises
        ------
        UsageError
            If network or encoder are unknown.
        """
        setting = self.setting
        changes = {"augmentation": REPORT, "device": setting.device, **variant.changes}
        if variant.pretrained:
            changes |= self._start(variant.network)
        if setting.epochs is not None:
            changes["epochs"] = setting.epochs
        own = get_network(setting.trainer, variant.network).defaults
        if setting.smoke:
            changes |= _SMOKE | ({"patch": SMOKE_PATCH} if "patch" in own else {})
        elif setting.epoch_samples is not None:
            changes["epoch_samples"] = setting.epoch_samples
        config = get_config(setting.trainer, variant.network, **changes)
        if "epoch_samples" in {**own, **changes}:
            return config
        each = round(len(Source(data).open()) * taught) * max(config.augmentation.factor, 1)
        return replace(config, epoch_samples=max(each, config.batch))

    def _start(self, network: str) -> dict[str, Any]:
        """Say how a pretrained encoder begins."""
        encoder, smoke = self.setting.encoder, self.setting.smoke
        if encoder == "random" or (smoke and encoder == "imagenet"):  # a smoke run needs no internet
            return {"init": "random", "freeze_encoder": smoke}  # frozen it learns little
        if encoder == "imagenet":
            return {"init": encoder, "freeze_encoder": True}
        files = sorted(Path(encoder).glob(f"{network}.*"))
        if not files:
            raise UsageError(f"no file {network}.* in {encoder}", "an encoder's weights a network")
        return {"init": str(files[0]), "freeze_encoder": True}

    def cross_validate(self, variant: Variant, data: Path) -> tuple[Figures, str]:
        """Cross-validate a variant in a folder of its own; done folds are kept.

        Returns
        -------
        figures : Figures
            DSC, volume error and surface distance of each structure and of their mean.
        how : str
            A line for people.
        """
        names = [subject.name for subject in Source(data).open().index.subjects]
        folds = plan_folds(names, self.plan.folds)
        config = self.config(variant, data, len(folds[0].train) / len(names))
        trainer = self.setting.trainer, self.make_engine
        scores = cross_validate(
            trainer, config, data, self.folder / variant.name, self.plan.folds, self.watch
        )
        structures = Source(data).open().index.classes
        how = described(variant, config, self.pixels(variant.size))
        return figures(variant.name, list(scores.values()), structures), how

    def compare(
        self, variants: Sequence[Variant], measures: tuple[str, ...] = ("dsc",), notes: Sequence[str] = ()
    ) -> Sheet:
        """Cross-validate variants on slices of one size and put them beside the report's table."""
        ours: dict[tuple[str, str], Mapping[str, Figure]] = {}
        lines = [*self.conditions(), *notes]
        data = self.data()
        for variant in variants:
            found, how = self.cross_validate(variant, data)
            ours |= found
            lines.append(how)
        return self.sheet(ours, measures, lines)

    def conditions(self) -> list[str]:
        """Say on whom and how."""
        plan = self.plan
        first, *_ = plan_folds([str(number) for number in range(plan.subjects)], plan.folds)
        whom = (
            f"Ours: trainer {self.setting.trainer}; {plan.subjects} people of the {plan.population} synthetic"
            f" population, right leg labelled; {first.folds} folds by subject, in the first of which"
            f" {len(first.train)} taught; mean ± SD over people, of the network's own classes: nothing is"
            " cleaned."
        )
        bare = "NOT as in the report: no encoder was pretrained."
        return [whom, bare] if self.setting.encoder == "random" else [whom]

    def sheet(self, ours: Figures, measures: tuple[str, ...], lines: Sequence[str]) -> Sheet:
        """Return the table, with its command as its last line."""
        command = f"Command: `python -m benchmarks.report {self.number} {self.setting.options}`."
        return Sheet(PUBLISHED[self.number], measures, ours, (*lines, command), self.setting.smoke)


def figures(row: str, scores: Sequence[Scores], structures: Sequence[str]) -> Figures:
    """Return mean and deviation over subjects of each structure, and the mean of several structures."""
    rows = score_table(structures, scores)
    missed = [_missed(scores, number) for number in range(len(structures))]
    found: dict[tuple[str, str], dict[str, Figure]] = {}
    several = len(structures) > 1
    for line, none in zip(rows[: len(structures) + several], [*missed, sum(missed)], strict=False):
        found[row, line["class"]] = {
            measure: Figure(
                line[f"{measure}_mean"], line[f"{measure}_sd"], none=none * (measure == "hd95_mm")
            )
            for measure in ("dsc", "volume_error_cm3", "hd95_mm")
            if line[f"{measure}_mean"] is not None
        }
    return found


def _missed(scores: Sequence[Scores], number: int) -> int:
    """Return in how many subjects a structure has a DSC and no surface distance: it was missed."""
    pairs = [(s.dsc[number], s.surface.hd95_mm[number]) for s in scores if s.surface is not None]
    return sum(bool(np.isnan(hd95) and not np.isnan(dsc)) for dsc, hd95 in pairs)


def described(variant: Variant, config: TrainConfig, pixels: int) -> str:
    """Say how a variant was trained, in a line."""
    falling = f" falling by {config.lr_step:g} an epoch" if config.lr_step else ""
    sample = f"patches of {' x '.join(map(str, config.patch))}" if config.patch else "slices"
    return (
        f"{variant.name}: {config.network}, {pixels} x {pixels} px, {config.epochs} epochs at most of"
        f" {config.epoch_samples:,} {sample}, batch {config.batch}, {config.loss}, rate {config.lr:g}"
        f"{falling}, begun from {Path(config.init).name}{', encoder frozen' * config.freeze_encoder},"
        f" the report's augmentation x {config.augmentation.factor}."
    )
