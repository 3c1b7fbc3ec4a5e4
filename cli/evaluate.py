"""`lls evaluate`: label maps against the truth."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import PATH, debug_option, json_option, number, print_json, table, warn

if TYPE_CHECKING:
    from seg_core.metrics import Scores, Summary

_FIELDS = ("dsc", "volume_error_cm3", "predicted_cm3", "true_cm3")
_SURFACE_FIELDS = ("hd95_mm", "assd_mm")
_SURFACE_SUMMARY = ("hd95_mean_mm", "hd95_sd_mm", "assd_mean_mm", "assd_sd_mm")


@click.command()
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="PRED TRUTH ...")
@click.option("--csv", "csv_file", type=PATH, help="Write a line a pair and bone there.")
@click.option("--surface", is_flag=True, help="Measure surface distances too: HD95 and their mean, in mm.")
@click.option("--overwrite", is_flag=True, help="Replace an existing CSV file.")
@json_option
@debug_option
def evaluate(
    files: Sequence[Path], csv_file: Path | None, surface: bool, overwrite: bool, as_json: bool
) -> None:
    """Compare predicted with true label maps (NIfTI), bone by bone: DSC and volume error.

    Both files of a pair lie on the same grid. The .json beside a file names its values. A mask of one
    structure has none: it is what its file is called (right_femur.nii.gz), and only that is compared. Else
    the names of lls are assumed, with a warning. Voxels that are 255 in the truth, where nobody knows, count
    in nothing. Several pairs give mean and standard deviation too; a bone that is in neither file of a pair
    is left out of them (of surface distances: in one of the two only).
    """
    from seg_core.errors import UsageError
    from seg_core.metrics import summarise
    from seg_core.output import check_new_file

    if len(files) % 2:
        raise UsageError(f"{len(files)} files", "pairs: PRED TRUTH [PRED TRUTH ...]")
    if csv_file is not None:
        check_new_file(csv_file, overwrite)
    names, scores, notes = score_pairs([(files[n], files[n + 1]) for n in range(0, len(files), 2)], surface)
    for text in dict.fromkeys(text for pair in notes for text in pair):
        warn(text)
    pairs = [
        {
            "prediction": str(files[2 * n]),
            "truth": str(files[2 * n + 1]),
            "bones": records(names, score),
            "warnings": notes[n],
        }
        for n, score in enumerate(scores)
    ]
    summary = summarise(scores)
    if csv_file is not None:
        _write_csv(csv_file, pairs, _FIELDS + _SURFACE_FIELDS if surface else _FIELDS)
    if as_json:
        print_json({"pairs": pairs, "summary": _summary_records(names, summary)})
        return
    for pair in pairs:
        click.echo(f"{pair['prediction']}  against  {pair['truth']}\n{scores_table(pair['bones'])}\n")
    if len(pairs) > 1:
        click.echo(f"mean and standard deviation over {len(pairs)} pairs\n{_summary_table(names, summary)}")


def score_pairs(
    pairs: Sequence[tuple[Path, Path]], surface: bool = False
) -> tuple[dict[int, str], list["Scores"], list[tuple[str, ...]]]:
    """Return the names of all labels, the scores of each (prediction, truth), and what was assumed for it."""
    from seg_core.comparison import read_pair
    from seg_core.labels import IGNORED
    from seg_core.metrics import evaluate as compare
    from seg_core.metrics import leave_unknown
    from seg_core.moments import label_moments

    given: dict[int, str] = {}
    assumed: dict[int, str] = {}
    numbers: dict[int, str] = {}
    scores, notes = [], []
    # Which labels there are is known after the first look only; maps are read twice so that one pair at a
    # time is in memory.
    for pair in pairs:
        compared = read_pair(*pair)
        given.update(compared.given)
        assumed.update(compared.assumed)
        for labelmap in (compared.predicted, compared.truth):  # a table need not name all that a file holds
            numbers.update({value: f"label_{value}" for value in label_moments(labelmap.array)})
        notes.append(compared.notes)
    names = numbers | assumed | given
    names.pop(IGNORED, None)
    highest = max(names, default=1)
    for pair in pairs:
        compared = read_pair(*pair)
        predicted, truth = leave_unknown(compared.predicted, compared.truth)
        scores.append(compare(predicted, truth, n_labels=highest, surface=surface))
    return dict(sorted(names.items())), scores, notes


def records(names: Mapping[int, str], scores: "Scores") -> list[dict[str, Any]]:
    """Return a dict a bone; None where a number is not defined."""
    columns = {field: getattr(scores, field) for field in _FIELDS}
    if scores.surface is not None:
        columns |= {field: getattr(scores.surface, field) for field in _SURFACE_FIELDS}
    return [
        {"label": label, "name": name}
        | {field: _defined(column[label - 1]) for field, column in columns.items()}
        for label, name in names.items()
    ]


def scores_table(bones: Sequence[Mapping[str, Any]]) -> str:
    """Return the scores of one pair as a table."""
    surface = _SURFACE_FIELDS if any("hd95_mm" in bone for bone in bones) else ()
    header = ("bone", "DSC", "volume error", "predicted", "true", *("HD95", "mean distance")[: len(surface)])
    rows = [
        (
            bone["name"],
            number(bone["dsc"], 4),
            *(number(bone[field], 2, "cm3") for field in _FIELDS[1:]),
            *(number(bone[field], 2, "mm") for field in surface),
        )
        for bone in bones
    ]
    return table(header, rows)


def _summary_records(names: Mapping[int, str], summary: "Summary") -> list[dict[str, Any]]:
    fields: tuple[str, ...] = (
        "dsc_mean",
        "dsc_sd",
        "volume_error_mean_cm3",
        "volume_error_sd_cm3",
        "subjects",
    )
    if summary.hd95_mean_mm is not None:
        fields += _SURFACE_SUMMARY
    return [
        {"label": label, "name": name}
        | {field: _defined(getattr(summary, field)[label - 1].item()) for field in fields}
        for label, name in names.items()
    ]


def _summary_table(names: Mapping[int, str], summary: "Summary") -> str:
    surface = () if summary.hd95_mean_mm is None else _SURFACE_SUMMARY
    rows = [
        (
            bone["name"],
            number(bone["dsc_mean"], 4),
            number(bone["dsc_sd"], 4),
            number(bone["volume_error_mean_cm3"], 2, "cm3"),
            number(bone["volume_error_sd_cm3"], 2, "cm3"),
            str(bone["subjects"]),
            *(number(bone[field], 2, "mm") for field in surface),
        )
        for bone in _summary_records(names, summary)
    ]
    header = ("bone", "DSC mean", "SD", "volume error mean", "SD", "pairs")
    return table((*header, *("HD95 mean", "SD", "mean distance", "SD")[: len(surface)]), rows)


def _defined(value: Any) -> Any:
    return value if isinstance(value, int) else (float(value) if math.isfinite(value) else None)


def _write_csv(path: Path, pairs: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> None:
    from seg_core.output import write_whole

    text = io.StringIO()
    writer = csv.DictWriter(text, ["prediction", "truth", "label", "name", *fields], lineterminator="\n")
    writer.writeheader()
    for pair in pairs:
        shared = {"prediction": pair["prediction"], "truth": pair["truth"]}
        writer.writerows(shared | bone for bone in pair["bones"])
    write_whole(path, text.getvalue())
