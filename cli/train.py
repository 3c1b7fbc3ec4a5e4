"""`lls networks` and `lls train`: what can be trained, and training it."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from cli.console import (
    PATH,
    debug_option,
    json_option,
    number,
    print_json,
    progress_option,
    table,
    write_progress,
)

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.loop import MakeEngine, Source, Tick, TrainResult
    from trainers.registry import Network

# Field of `trainers.config.TrainConfig` -> its help, with the default in brackets; an option without a
# value leaves the network's own.
_SETTINGS: dict[str, tuple[Any, str]] = {
    "epochs": (int, "At most [50]."),
    "epoch_samples": (int, "Slices an epoch [2000]."),
    "batch": (int, "Slices a step [16]."),
    "loss": (str, "dice, cross_entropy, dice_focal or dice_cross_entropy [dice_focal]."),
    "lr": (float, "Adam's learning rate [1e-4]."),
    "lr_step": (float, "What it loses an epoch [1e-6]."),
    "lr_floor": (float, "What it does not fall below [1e-6]."),
    "average": (float, "Keep the running mean of the weights, e.g. 0.999; 0: the weights [0]."),
    "patience": (int, "Epochs without a lower validation loss after which training stops [20]."),
    "validation_samples": (int, "Slices that are validated on, evenly spread [400]."),
    "window": (int, "Rows and columns of a random window; 0: whole slices [0]."),
    "balance": (float, "Share of slices drawn by class, so that rare bones are seen as often [0]."),
    "favour": (str, "A class drawn as often as all others together, of the slices drawn by class."),
    "channels": (int, "Input channels [3]."),
    "channel_fill": (str, "repeat: the slice; neighbours: those around it [repeat]."),
    "neighbour_mm": (float, "How far apart neighbours are, to the nearest slice; 0: slices in a row [0]."),
    "patch": ((int, int, int), "Slices, rows and columns that a 3D network sees: --patch 128 112 160."),
    "slice_mm": (float, "Distance to which its slices are resampled; 0: as they were scanned [0]."),
    "init": (
        str,
        "random, imagenet, default (the bundled network), or the file of a model, checkpoint or encoder"
        " [random].",
    ),
    "seed": (int, "Of everything that is drawn [0]."),
    "device": (str, "auto, cpu or cuda [auto]."),
    "threads": (int, "On a CPU; 0: the framework's choice [0]."),
    "augmentation": (
        str,
        "full, fine (for pixels of a millimetre), report (its rotations and flips by volume,"
        " twofold), or none [full].",
    ),
    "augment_by": (str, "What shares a random change: slice or volume."),
    "augment_factor": (int, "0: anew in every epoch; n: the data n-fold, once as they are."),
}


NO_VALIDATION = Path("none")
"""What ``--validation`` is given where nothing shall be validated."""


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of how to train; `configure` takes them."""
    for name, (kind, text) in reversed(_SETTINGS.items()):
        command = click.option(f"--{name.replace('_', '-')}", type=kind, help=text)(command)
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="No progress."),
        click.option(
            "--freeze-encoder",
            is_flag=True,
            default=None,
            help="Leave the encoder's convolutions as they begin.",
        ),
        click.option("--network", help="As `lls networks` lists them; that of --init, else unet-resnet34."),
        click.option("--trainer", default="torch", show_default=True, help="As `lls networks` lists them."),
    ):
        command = option(command)
    return command


def configure(
    trainer: str, network: str | None, settings: dict[str, Any]
) -> tuple["MakeEngine", "TrainConfig"]:
    """Return what makes the trainer's engines, and the network's configuration with the user's changes.

    Where no network is named it is the one to begin with, whose channels are kept too, else the report's.
    """
    from dataclasses import replace

    from seg_core.errors import UsageError
    from trainers.augment import AUGMENTATIONS
    from trainers.registry import get_config, get_trainer
    from trainers.start import own_settings

    given = {name: value for name, value in settings.items() if value is not None}
    name = given.pop("augmentation", None)
    changes = {
        field: given.pop(option)
        for field, option in (("unit", "augment_by"), ("factor", "augment_factor"))
        if option in given
    }
    own = own_settings(given.get("init", "random"))
    begun = own.pop("network", "unet-resnet34")
    config = get_config(trainer, network or begun, **own | given)
    if name is not None and name not in AUGMENTATIONS:
        raise UsageError(f"augmentation {name!r}", f"one of {', '.join(AUGMENTATIONS)}")
    augmentation = AUGMENTATIONS[name] if name else config.augmentation
    return get_trainer(trainer).make_engine, replace(config, augmentation=replace(augmentation, **changes))


class TrainingLine:
    """How far a training is, on standard error: one line on a terminal, a line a minute elsewhere.

    Parameters
    ----------
    stream : TextIO, optional
        Standard error.
    clock : callable, optional
        Seconds.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock, self._drawn = clock, clock()
        self._terminal = self._stream.isatty()

    def __call__(self, tick: "Tick", title: str = "") -> None:
        """Show it; the last batch of an epoch wipes the line, for the epoch's own."""
        now, over = self._clock(), tick.batch == tick.batches
        if now - self._drawn < (0.2 if self._terminal else 60) and not (self._terminal and over):
            return
        self._drawn = now
        text = f"{title}{tick}"
        self._stream.write(("\r\x1b[2K" + text * (not over)) if self._terminal else text + "\n")
        self._stream.flush()


@contextmanager
def goes_on() -> Iterator[None]:
    """Say, where it is interrupted, that what is done is kept."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("what is done is kept: the same command goes on from there", err=True)
        raise


def log_epochs(quiet: bool) -> None:
    """Show what the trainers say of each epoch on standard error."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("trainers").setLevel(logging.WARNING if quiet else logging.INFO)


@click.command()
@json_option
@debug_option
def networks(as_json: bool) -> None:
    """List the networks of every installed trainer."""
    from trainers.registry import get_trainer, trainer_names

    found = [
        (trainer, name, network)
        for trainer in trainer_names()
        for name, network in get_trainer(trainer).NETWORKS.items()
    ]
    if as_json:
        rows = [
            {"trainer": trainer, "network": name, "installed": not network.missing, **vars(network)}
            for trainer, name, network in found
        ]
        print_json(rows)
        return
    lines = [
        (trainer, name, network.about, *_learning(trainer, network), _ready(network))
        for trainer, name, network in found
    ]
    header = ("trainer", "network", "what it is", "batch", "rate", "loss", "pixels", "can be trained")
    click.echo(table(header, lines, left=len(header)))


def _learning(trainer: str, network: "Network") -> tuple[str, str, str, str]:
    """Return how a network is taught unless told otherwise: batch, learning rate, loss, what it sees."""
    from trainers.config import TrainConfig

    config = TrainConfig(trainer=trainer, **network.defaults)
    seen = " x ".join(map(str, config.patch)) if config.patch else f"multiples of {network.multiple}"
    return str(config.batch), f"{config.lr:g}", config.loss, seen


def _ready(network: "Network") -> str:
    if not network.missing:
        return click.style("yes", fg="green")
    from seg_core.errors import install_hint

    return click.style(install_hint(network.extra), fg="yellow")


@click.command(
    epilog="Example: lls train DATASET --validation-subject anna -o RUN --network unet-resnet34. Defaults are"
    " in brackets; those that a network has of its own go before: lls networks --json"
)
@click.argument("data", type=PATH)
@click.option(
    "--validation", type=PATH,
    help="Another dataset to choose by; none: all of DATA teaches, the network of the last epoch is kept.",
)  # fmt: skip
@click.option(
    "--validation-subject", "chosen", multiple=True, metavar="NAME",
    help="Subject of DATA to choose by instead of learning from; may be repeated.",
)  # fmt: skip
@click.option("-o", "--output", required=True, type=PATH, help="Folder of the run.")
@click.option("--resume/--no-resume", default=True, help="Go on with a run that is there (the default).")
@training_options
@progress_option
@debug_option
def train(
    data: Path, validation: Path | None, chosen: tuple[str, ...], output: Path, resume: bool, **settings: Any
) -> None:
    """Train a network on the dataset DATA; can be killed and called again at any time.

    DATA is a folder that `lls prepare` made. The network of the epoch with the best DSC on the validation
    slices is kept; these are another dataset's, or some subjects' of DATA. Where there are too few to hold
    one back, --validation none trains all --epochs on all of them.
    """
    from trainers.loop import train as run_training
    from trainers.registry import check_fits

    quiet, progress_as = settings.pop("quiet"), settings.pop("progress_as")
    log_epochs(quiet)
    sources = _sources(data, validation, chosen)
    make_engine, config = configure(settings.pop("trainer"), settings.pop("network"), settings)
    for source in filter(None, sources):
        check_fits(config, source.open().index)
    warn_of_other_preparation(config.init, sources[0])
    watch = _tell if progress_as == "json" else None if quiet else TrainingLine()
    with goes_on():
        result = run_training(make_engine, config, sources, output, resume, watch)
        how_good = "nothing was validated" if sources[1] is None else f"DSC {result.best_dsc:.4f}"
        click.echo(f"epoch {result.best_epoch} of {result.epochs}: {how_good}, {result.best}")
        _score((make_engine, config), result, sources[1])


def _score(
    trainer: tuple["MakeEngine", "TrainConfig"], result: "TrainResult", chosen_by: "Source | None"
) -> None:
    """Score the network that was kept on the whole subjects that chose it, once, and show it."""
    from trainers.dataset import is_dataset
    from trainers.loop import SCORE_TABLE
    from trainers.scores import score_best, write_scores
    from trainers.scores import table as summary_table

    run = result.best.parent
    if chosen_by is None:
        click.echo(f"no {SCORE_TABLE}: nobody was held back", err=True)
    elif not is_dataset(chosen_by.folder):
        click.echo(f"no {SCORE_TABLE}: {chosen_by.folder} is no dataset that lls prepare made", err=True)
    elif (run / SCORE_TABLE).is_file():
        click.echo(f"scored already: {run / SCORE_TABLE}")
    else:
        scores, classes = score_best(*trainer, result.best, chosen_by), chosen_by.open().index.classes
        path = write_scores(run, classes, scores)
        click.echo(scores_text(summary_table(classes, list(scores.values()))))
        click.echo(f"{path}: of the network that was kept, on those who chose it")


def scores_text(rows: list[dict[str, Any]]) -> str:
    """Return the rows of `trainers.scores.table` for people; deviations where there are several subjects."""
    units = (("dsc", 4, ""), ("volume_error_cm3", 2, "cm3"), ("hd95_mm", 2, "mm"), ("assd_mm", 2, "mm"))
    several = any(row["dsc_sd"] is not None for row in rows)
    kinds = ("mean", "sd") if several else ("mean",)
    titles = [(title, "SD")[: len(kinds)] for title in ("DSC", "volume error", "HD95", "mean distance")]
    lines = [
        (
            row["class"],
            *(number(row[f"{name}_{kind}"], n, unit) for name, n, unit in units for kind in kinds),
            str(row["subjects"]),
        )
        for row in rows
    ]
    return table(("bone", *(cell for pair in titles for cell in pair), "subjects"), lines)


def _tell(tick: "Tick") -> None:
    """Say for programs how far a training is."""
    from dataclasses import asdict

    write_progress({"step": "train", "doing": "training"} | asdict(tick))


def warn_of_other_preparation(init: str, source: "Source") -> None:
    """Say where a network that training begins with knows slices that were prepared otherwise."""
    import json

    from seg_core.model_spec import ModelSpec
    from trainers.model_file import other_preparation
    from trainers.start import own_preparation

    known, meta = own_preparation(init), source.open().index.meta
    if known is None or "spec" not in meta:
        return
    for difference in other_preparation(known, ModelSpec.from_json(json.dumps(meta["spec"]))):
        click.echo(f"warning: {init} knows {difference}: prepare the data as it wants them", err=True)


def _sources(
    data: Path, validation: Path | None, chosen: tuple[str, ...]
) -> tuple["Source", "Source | None"]:
    """Return what is learned from and what is chosen by, if anything is."""
    from seg_core.errors import UsageError
    from trainers.crossval import check_apart
    from trainers.loop import Source
    from trainers.slices import check_slices

    if (validation is None) == (not chosen):
        raise UsageError(
            "no slices to choose by, or two kinds",
            "--validation or --validation-subject",
            "where nobody can be held back, add --validation none",
        )
    if validation == NO_VALIDATION:
        check_slices(data)
        return Source(data), None
    if validation is not None:
        if validation.resolve() == data.resolve():
            raise UsageError(
                f"{data} to learn from and to choose by",
                "other slices to choose by",
                "name some of its subjects with --validation-subject",
            )
        sources = Source(data), Source(validation)
    else:
        everyone = [subject.name for subject in Source(data).open().index.subjects]
        rest = tuple(name for name in everyone if name not in chosen)
        if everyone and not rest:
            raise UsageError(
                f"all of {', '.join(everyone)} to choose by",
                "someone to learn from",
                "to learn from all and choose by none: --validation none",
            )
        sources = Source(data, rest), Source(data, chosen)
    for source in sources:
        check_slices(source.folder)
    check_apart(*sources)
    return sources
