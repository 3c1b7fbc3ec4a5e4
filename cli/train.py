"""`lls networks` and `lls train`: what can be trained, and training it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import debug_option, json_option, print_json, table

if TYPE_CHECKING:
    from trainers.registry import Network

# Field of `trainers.config.TrainConfig` -> its help; options without a value leave the network's own default.
_SETTINGS: dict[str, tuple[type, str]] = {
    "epochs": (int, "At most."),
    "epoch_samples": (int, "Slices an epoch."),
    "batch": (int, "Slices a step."),
    "loss": (str, "dice, cross_entropy, dice_focal or dice_cross_entropy."),
    "lr": (float, "Adam's learning rate."),
    "lr_step": (float, "What it loses an epoch."),
    "lr_floor": (float, "What it does not fall below."),
    "patience": (int, "Epochs without a lower validation loss after which training stops."),
    "validation_samples": (int, "Slices that are validated on, evenly spread."),
    "window": (int, "Rows and columns of a random window; 0: whole slices."),
    "channels": (int, "Input channels."),
    "channel_fill": (str, "repeat: the slice; neighbours: those around it."),
    "init": (str, "random, imagenet, or a checkpoint to begin with."),
    "seed": (int, "Of everything that is drawn."),
    "device": (str, "auto, cpu or cuda."),
    "threads": (int, "On a CPU; 0: the framework's choice."),
}


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, (kind, text) in reversed(_SETTINGS.items()):
        command = click.option(f"--{name.replace('_', '-')}", type=kind, help=text)(command)
    return command


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
    lines = [(trainer, name, network.about, _ready(network)) for trainer, name, network in found]
    click.echo(table(("trainer", "network", "what it is", "can be trained"), lines, left=4))


def _ready(network: "Network") -> str:
    if not network.missing:
        return click.style("yes", fg="green")
    return click.style(f"pip install 'lls[{network.extra}]'", fg="yellow")


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--validation", required=True, type=click.Path(path_type=Path), help="Slices to choose by.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--trainer", default="torch", show_default=True, help="As `lls networks` lists them.")
@click.option("--network", default="unet-resnet34", show_default=True, help="As `lls networks` lists them.")
@click.option("--freeze-encoder", is_flag=True, help="Leave the encoder's convolutions as they begin.")
@click.option("--resume/--no-resume", default=True, help="Go on with a run that is there (the default).")
@_settings
@debug_option
def train(
    data: Path, validation: Path, output: Path, trainer: str, network: str, resume: bool, **settings: Any
) -> None:
    """Train a network on the slices in DATA; can be killed and called again at any time."""
    from trainers.loop import train as run_training
    from trainers.registry import get_config, get_trainer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = {name: value for name, value in settings.items() if value is not None}
    config = get_config(trainer, network, **given)
    result = run_training(get_trainer(trainer).make_engine, config, (data, validation), output, resume)
    click.echo(f"epoch {result.best_epoch} of {result.epochs}: DSC {result.best_dsc:.4f}, {result.best}")
