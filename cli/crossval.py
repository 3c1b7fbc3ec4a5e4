"""`lls crossval`: how good a network is on people whom it has not seen."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import PATH, debug_option, json_option, print_json
from cli.train import (
    TrainingLine,
    configure,
    goes_on,
    log_epochs,
    scores_text,
    training_options,
    warn_of_other_preparation,
)

if TYPE_CHECKING:
    from trainers.crossval import FoldWatch


@click.command(
    epilog="Example: lls crossval DATASET -o STUDY --network unet-resnet34. Defaults are in brackets; those"
    " that a network has of its own go before: lls networks --json"
)
@click.argument("data", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="Folder of the results.")
@click.option("--folds", type=int, help="Groups of subjects; by default each subject alone is held out.")
@training_options
@json_option
@debug_option
def crossval(data: Path, output: Path, folds: int | None, as_json: bool, **settings: Any) -> None:
    """Cross-validate a network on the dataset DATA, by subject; can be killed and called again at any time.

    Each fold is a training in a folder of its own: some subjects are held out, one of the others chooses the
    network, the rest teach it. The held-out ones are scored: mean and standard deviation a bone, as a table
    (CSV, Markdown) and a picture.
    """
    from trainers.crossval import cross_validate
    from trainers.loop import Source
    from trainers.registry import check_fits
    from trainers.scores import table as summary_table

    quiet, trainer = settings.pop("quiet"), settings.pop("trainer")
    log_epochs(quiet)
    make_engine, config = configure(trainer, settings.pop("network"), settings)
    check_fits(config, Source(data).open().index)
    warn_of_other_preparation(config.init, Source(data))
    watch = None if quiet else fold_line()
    with goes_on():
        scores = cross_validate((trainer, make_engine), config, data, output, folds, watch)
    rows = summary_table(Source(data).open().index.classes, list(scores.values()))
    if as_json:
        print_json(rows)
        return
    click.echo(scores_text(rows))
    figure = ", figure10.png" * (output / "figure10.png").is_file()  # drawn where matplotlib is installed
    click.echo(f"{output}: table3.csv, table3.md, scores.csv{figure}")


def fold_line() -> "FoldWatch":
    """Return what shows which fold it is, and how far, on standard error."""
    line = TrainingLine()
    return lambda fold, tick: line(tick, f"fold {fold.number}/{fold.folds}  ")
