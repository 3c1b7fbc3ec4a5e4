"""`lls evaluate`: label maps against the truth."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import PATH, debug_option, json_option, number, print_json, table

if TYPE_CHECKING:
    from seg_core.geometry import LabelMap
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

    Both files of a pair lie on the same grid. Voxels that are 255 in the truth, where nobody knows, count in
    nothing. Several pairs give mean and standard deviation too; a bone that
    is in neither file of a pair is left out of them (of surface distances: in one of the two only).
    """
    from seg_core.errors import UsageError
    from seg_core.metrics import summarise
    from seg_core.output import check_new_file

    if len(files) % 2:
        raise UsageError(f"{len(files)} files", "pairs: PRED TRUTH [PRED TRUTH ...]")
    if csv_file is not None:
        check_new_file(csv_file, overwrite)
    names, scores = score_pairs([(files[n], files[n + 1]) for n in range(0, len(files), 2)], surface)
    pairs = [
        {"prediction": str(files[2 * n]), "truth": str(files[2 * n + 1]), "bones": records(names, score)}
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
) -> tuple[dict[int, str], list["Scores"]]:
    """Return the names of all labels and the scores of each (prediction, truth)."""
    from seg_core.labels import IGNORED
    from seg_core.metrics import evaluate as compare
    from seg_core.metrics import leave_unknown
    from seg_core.moments import label_moments
    from seg_core.nifti import read_labels

    names: dict[int, str] = {}
    invented: dict[int, str] = {}
    scores = []
    # Which labels there are is known after the first look only; maps are read twice so that one pair at a
    # time is in memory.
    for pair in pairs:
        for path in pair:
            labelmap = read_labels(path)
            found, known = _names(labelmap, path)
            (names if known else invented).update(found)
            # A table need not name all that a file holds.
            invented.update({value: f"label_{value}" for value in label_moments(labelmap.array)})
        _refuse_other_names(*pair)
    names = invented | names
    names.pop(IGNORED, None)
    highest = max(names, default=1)
    for pair in pairs:
        predicted, truth = leave_unknown(*(read_labels(path) for path in pair))
        scores.append(compare(predicted, truth, n_labels=highest, surface=surface))
    return dict(sorted(names.items())), scores


def _refuse_other_names(predicted: Path, truth: Path) -> None:
    """Refuse a pair whose tables give a value different names: labels are compared by their values."""
    from seg_core.errors import UsageError
    from seg_core.nifti import names_beside

    ours, theirs = names_beside(predicted) or {}, names_beside(truth) or {}
    for value in sorted(ours.keys() & theirs.keys()):
        spelled = [re.sub(r"[\W_]+", "_", table[value]).casefold() for table in (ours, theirs)]
        if spelled[0] != spelled[1]:
            raise UsageError(
                f"{value} is {ours[value]} in {predicted.name} and {theirs[value]} in {truth.name}",
                "the same values for the same structures",
                "change the values of one; where a side is unknown, give the prediction its side first",
            )


def _names(labelmap: "LabelMap", path: Path) -> tuple[Mapping[int, str], bool]:
    """Return the file's names; those of lls for a file without a table whose values fit them.

    And whether anybody gave them: those of other values are numbers alone.
    """
    from seg_core.labels import BONES, IGNORED, sided_labels
    from seg_core.nifti import names_beside

    ours = sided_labels(BONES)
    has_table = names_beside(path) is not None
    odd = set(labelmap.labels) - set(ours) - {IGNORED}
    return (labelmap.labels, has_table) if has_table or odd else (ours, True)


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
