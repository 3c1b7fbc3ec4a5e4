"""`lls prepare`: scans with labels to a dataset that networks are trained on."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import (
    PATH,
    debug_option,
    json_option,
    make_progress,
    print_json,
    progress_option,
    table,
    warn,
)
from cli.train import goes_on

if TYPE_CHECKING:
    from seg_core.model_spec import Grid, Normalisation
    from trainers.prepare import Outcome, PrepareConfig, Prepared


@click.command(epilog="Example: lls prepare subject1 subject2 subject3 -o DATASET --size 256")
@click.argument("subjects", nargs=-1, required=True, type=PATH, metavar="SUBJECT...")
@click.option("-o", "--output", required=True, type=PATH, help="Folder of the dataset; added to if there.")
@click.option(
    "--size",
    type=int,
    help="Rows and columns of every slice: 512, 400 or 256; by default OUTPUT's, else 256.",
)
@click.option("--pixel-mm", type=float, help="Millimetres a pixel of every slice, instead of --size.")
@click.option(
    "--like",
    metavar="MODEL",
    help="Pixels, intensities and magnification of small people as a network wants them that shall be trained"
    " further: default or a model file; instead of --size.",
)
@click.option(
    "--normalisation",
    type=click.Choice(["percentile", "minmax", "divide"]),
    help="What becomes 0 and 1: percentiles 1 and 99.5 of the scan, its extremes, or 0 and 255; by default"
    " OUTPUT's, else percentile.",
)
@click.option(
    "--classes",
    help="What to learn: names with commas (tibia,femur), or a .csv or .json of values and names. By default "
    "all structures that the subjects have.",
)
@click.option(
    "--labelled-side",
    "side",
    type=click.Choice(["auto", "right", "left", "both"]),
    help="The side that was labelled; what lies beyond the body's midline is then taught as nothing, not as "
    "background. auto: the side that all names have, or on which all labels of two legs lie, else both. By "
    "default OUTPUT's, else auto.",
)
@click.option(
    "--other-side",
    type=click.Choice(["ignore", "crop"]),
    help="Keep the side that nobody labelled in view, or cut it away (with --pixel-mm); by default OUTPUT's, "
    "else ignore.",
)
@click.option(
    "--overlap",
    type=click.Choice(["background", "priority"]),
    help="What voxels become that two structures claim: background, or the first of them; by default "
    "OUTPUT's, else background.",
)
@click.option(
    "--mesh-space",
    type=click.Choice(["lps", "ras"]),
    help="Coordinates of PLY files that do not say it; by default OUTPUT's, else lps.",
)
@click.option(
    "--hip-slice", type=int, help="Slice where the hip begins; by default the uppermost labelled one of each."
)
@click.option(
    "--tolerance",
    type=click.IntRange(-1),
    help="Slices kept beyond it, towards the head; -1 keeps all; by default OUTPUT's, else 50.",
)
@click.option("--jobs", type=click.IntRange(1), help="Subjects at a time; two by default.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@progress_option
@json_option
@debug_option
def prepare(subjects: Sequence[Path], output: Path, as_json: bool, **flags: Any) -> None:
    """Make a dataset of scans with their labels.

    SUBJECT is a folder with scan/ (or dicom/, or scan.nii.gz) beside meshes/ (right_tibia.ply ...), masks/
    (right_tibia.nii.gz ...) or labels.nii.gz with labels.json, as `lls phantom` writes them; or a table
    (.csv, .json) with the columns subject, scan, and labels or one a structure. Folders give subjects their
    names: choose names that identify nobody. Call it again to add subjects, or after it was interrupted:
    what has not changed is left alone; another --size, --pixel-mm, --like or --normalisation makes all
    slices anew.
    One bad subject does not stop the others.
    """
    from trainers.prepare import prepare as run
    from trainers.subjects import read_subjects

    config = _config(flags, output)
    found = read_subjects(subjects)
    make = make_progress("prepare", flags["progress_as"], -1 if flags["quiet"] else 0)
    with goes_on(), make as progress:
        prepared = run(found, output, config, flags["jobs"] or min(2, len(found)), progress)
    for outcome in prepared.outcomes:
        _warn(outcome)
    if as_json:
        print_json(_record(prepared))
    elif prepared.slices:
        click.echo(_summary(prepared))
    _conclude(prepared)


def _config(flags: dict[str, Any], output: Path) -> "PrepareConfig":
    """Return how to prepare; what nobody chose stays as in a dataset that is there."""
    from trainers.dataset import is_dataset, open_dataset
    from trainers.prepare import PrepareConfig
    from trainers.subjects import read_classes

    there = open_dataset(output) if is_dataset(output) else PrepareConfig()
    given: dict[str, Any] = {name: flags[name] for name in ("tolerance", "other_side")}
    given |= _preparation(flags)
    masks = {name: flags[name] for name in ("overlap", "mesh_space", "side") if flags[name] is not None}
    return PrepareConfig(
        **{name: getattr(there, name) if value is None else value for name, value in given.items()},
        masks=replace(there.masks, **masks),
        hip_slice=flags["hip_slice"],
        classes=None if flags["classes"] is None else read_classes(flags["classes"]),
    )


def _preparation(flags: dict[str, Any]) -> dict[str, Any]:
    """Return grid, normalisation and magnification; None where nobody chose."""
    from seg_core.errors import UsageError

    grids = [name for name in ("size", "pixel_mm", "like") if flags[name] is not None]
    if len(grids) > 1:
        named = " and ".join(f"--{name.replace('_', '-')}" for name in grids)
        raise UsageError(f"both {named}", "one of them")
    normalisation = _normalisation(flags)
    if flags["like"] is None:  # other pixels are for another network
        return {"grid": _grid(flags), "normalisation": normalisation, "usual_mm": {} if grids else None}
    from seg_core.runner import Runner

    spec = Runner(flags["like"], "cpu", precision="fp32").spec
    if spec.patch is not None:
        raise UsageError(f"--like {flags['like']}, a network of patches", "a network of slices")
    return {
        "grid": spec.grid,
        "normalisation": normalisation or spec.normalisation,
        "usual_mm": spec.usual_mm,
    }


def _grid(flags: dict[str, Any]) -> "Grid | None":
    from seg_core.model_spec import Grid

    size, pixel_mm = flags["size"], flags["pixel_mm"]
    if pixel_mm is not None:
        return Grid("spacing", spacing_mm=(pixel_mm, pixel_mm), multiple=64)  # what every network takes
    return None if size is None else Grid("size", (size, size), multiple=16 if size % 32 else 32)


def _normalisation(flags: dict[str, Any]) -> "Normalisation | None":
    from seg_core.model_spec import Normalisation

    ranges = {"percentile": (1.0, 99.5), "minmax": (0.0, 255.0), "divide": (0.0, 255.0)}
    kind = flags["normalisation"]
    return None if kind is None else Normalisation(kind, *ranges[kind])


def _warn(outcome: "Outcome") -> None:
    if outcome.subject is not None and outcome.error is None:
        for text in outcome.subject.odd:
            warn(f"{outcome.name}: {text}")


def _summary(prepared: "Prepared") -> str:
    """Return the table of what was done."""
    from trainers.masks import OVERLAP_RULES

    dataset = prepared.dataset
    rows = [
        (
            outcome.name,
            click.style(outcome.status, fg="red" if outcome.error else "green"),
            *_numbers(outcome),
        )
        for outcome in prepared.outcomes
    ]
    overlap = [
        f"  {o.name}: {n} voxels of {pair}"
        + (f", {OVERLAP_RULES[o.subject.overlap_rule]}" if o.subject.overlap_rule else "")
        for o in prepared.outcomes
        if o.subject
        for pair, n in o.subject.overlaps.items()
    ]
    told = ["  claimed by two structures:", *(f"  {line}" for line in overlap)] if overlap else []
    sizes = {o.name: dataset.size(o.subject) for o in prepared.outcomes if o.subject}
    small = ", ".join(f"{name} ({size:g})" for name, size in sizes.items() if size < 1)
    told += [f"  magnified, since so small beside a usual person: {small}"] if small else []
    return "\n".join(
        [
            table(("subject", "", "scan", "labels", "side", "odd"), rows, left=2),
            *told,
            f"  {dataset.folder}: {len(dataset.subjects)} subjects, {prepared.slices} slices of"
            f" {', '.join(dataset.classes)}; look at */quality.png, then:"
            f" lls train {shlex.quote(str(dataset.folder))} ...",
        ]
    )


def _numbers(outcome: "Outcome") -> tuple[str, str, str, str]:
    subject = outcome.subject
    if subject is None:
        return "-", "-", "-", "-"
    shape = " x ".join(map(str, subject.shape))
    return shape, str(len(subject.labels)), subject.side, str(len(subject.odd)) if subject.odd else "-"


def _record(prepared: "Prepared") -> dict[str, Any]:
    from cli.main import error_record

    subjects = []
    for outcome in prepared.outcomes:
        record: dict[str, Any] = {"name": outcome.name, "status": outcome.status}
        if outcome.subject is not None:
            kept = ("shape", "labels", "side", "overlaps", "overlap_rule", "ignored", "odd")
            record |= {key: getattr(outcome.subject, key) for key in kept}
            record["size"] = prepared.dataset.size(outcome.subject)
        if outcome.error is not None:
            record["error"] = error_record(outcome.error)
        subjects.append(record)
    dataset = prepared.dataset
    facts = {"folder": str(dataset.folder), "classes": dataset.classes, "slices": prepared.slices}
    return facts | {"subjects": subjects}


def _conclude(prepared: "Prepared") -> None:
    """Raise the error of a single subject, or say which of several failed and why."""
    from cli.main import reason
    from seg_core.errors import BatchError

    failed = [(o.name, o.error) for o in prepared.outcomes if o.error is not None]
    if not failed:
        return
    if len(prepared.outcomes) == 1:
        raise failed[0][1]
    lines = "".join(f"\n  {name}: {reason(error)}" for name, error in failed)
    raise BatchError(
        f"{len(failed)} of {len(prepared.outcomes)} subjects failed{lines}",
        fix="run these alone to see all about each; one that was in the dataset stays there with its earlier "
        "labels until it succeeds",
    ) from failed[0][1]
