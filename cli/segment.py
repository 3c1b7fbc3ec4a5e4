"""`lls segment`: scans to labels, meshes, numbers and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import (
    PATH,
    debug_option,
    json_option,
    make_progress,
    number,
    print_json,
    progress_option,
    table,
    warn,
)

if TYPE_CHECKING:
    from cli.job import Result, Settings
    from seg_core.runner import Runner

Outcome = tuple["Result | None", "Exception | None"]
"""Of one scan: what was written, and what is wrong; both under --strict."""


@click.command()
@click.argument("scans", nargs=-1, type=PATH, metavar="SCAN...")
@click.option("-i", "--input", "more_scans", multiple=True, type=PATH, help="A scan; the same as SCAN.")
@click.option(
    "-o", "--output", required=True, type=PATH, help="Folder for the results; made where it is missing."
)
@click.option("--model", default="default", show_default=True, help="The network: an ONNX file of lls.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "openvino"]),
    default="auto",
    show_default=True,
    help="Where the network runs.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="In what it computes: auto takes the fastest whose labels agree with fp32, as `lls doctor` says.",
)
@click.option(
    "--side",
    type=click.Choice(["both", "right", "left"]),
    default="both",
    show_default=True,
    help="Keep the bones of one side only. Where the sides cannot be told all are kept, with a warning.",
)
@click.option(
    "--hip-slice",
    type=int,
    help="Slice where the hip begins, counted from 0 as `lls inspect` does. By default the part of the scan "
    "that shows the legs is found.",
)
@click.option(
    "--hip-tolerance",
    default=50,
    show_default=True,
    help="With --hip-slice: how many slices beyond it, towards the head, are segmented too.",
)
@click.option(
    "--series",
    help="The DICOM series that is meant: its number in `lls inspect`, UID, or part of its name; "
    "NUMBER:VOLUME where it holds several volumes.",
)
@click.option("--no-denoise", is_flag=True, help="Keep small pieces and holes in the network's labels.")
@click.option("--confidence", is_flag=True, help="Also write the network's confidence as an image.")
@click.option(
    "--html",
    is_flag=True,
    help="Also write the report as one page, with slices and bones in 3D, for any browser.",
)
@click.option(
    "--mesh-space",
    type=click.Choice(["lps", "ras"]),
    default="lps",
    show_default=True,
    help="Coordinates of the meshes; 3D Slicer expects LPS.",
)
@click.option(
    "--name",
    help="What the files' names begin with; by default the file's, or `scan` for a folder or zip of DICOM.",
)
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier run.")
@click.option(
    "--strict",
    is_flag=True,
    help="End with exit code 8 if a bone is missing, cut off or not plausible, a side unknown, or a check "
    "failed. The results are written all the same.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Say how long each step takes.")
@progress_option
@json_option
@debug_option
@click.pass_context
def segment(
    ctx: click.Context, scans: Sequence[Path], more_scans: Sequence[Path], as_json: bool, **flags: Any
) -> None:
    """Find tibia, femur, fibula and pelvis of both legs in each SCAN.

    SCAN is a folder of DICOM (searched through), a zip of one, a single file, .nii or .nii.gz. One bad
    scan does not stop the others.
    """
    from cli.names import output_names

    paths = [*scans, *more_scans]
    if not paths:
        raise click.UsageError("Missing argument 'SCAN...'.", ctx)
    given = ctx.get_parameter_source("hip_tolerance") is click.core.ParameterSource.COMMANDLINE
    if given and flags["hip_slice"] is None:
        raise click.UsageError("--hip-tolerance says nothing without --hip-slice: name that slice too.", ctx)
    names = output_names(paths, flags["name"])
    runner, settings = _open(flags)
    if not flags["quiet"]:
        taken = " (taken by auto)" if flags["device"] == "auto" else ""
        click.echo(f"model {runner.spec.name} on {runner.device}{taken} in {runner.precision}", err=True)
    outcomes: list[Outcome] = []
    for path, name in zip(paths, names, strict=True):
        outcomes.append(_attempt(path, name, runner, settings, flags))
        if not as_json:
            _print(name, outcomes[-1], several=len(paths) > 1)
    if as_json:
        print_json({"scans": [_record(name, found) for name, found in zip(names, outcomes, strict=True)]})
    _conclude(list(zip(paths, outcomes, strict=True)))


def _open(flags: dict[str, Any]) -> tuple["Runner", "Settings"]:
    """Open the model, before any scan is read; the runtime does so while the rest is imported."""
    from concurrent.futures import ThreadPoolExecutor

    from seg_core.runner import Runner

    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(Runner, flags["model"], flags["device"], precision=flags["precision"])
        from cli.job import Settings
        from seg_core.segment import SegmentOptions

        runner = opening.result()
    options = SegmentOptions(
        side=flags["side"],
        hip_slice=flags["hip_slice"],
        hip_tolerance=flags["hip_tolerance"],
        denoise=not flags["no_denoise"],
        confidence=flags["confidence"],
    )
    return runner, Settings(
        flags["output"],
        options,
        flags["device"],
        flags["series"],
        flags["mesh_space"],
        flags["overwrite"],
        flags["html"],
    )


def _attempt(path: Path, name: str, runner: "Runner", settings: "Settings", flags: dict[str, Any]) -> Outcome:
    """Run one job; an error becomes its outcome, so that the other scans have their turn."""
    from cli.job import run_job
    from seg_core.errors import QualityError

    verbosity = -1 if flags["quiet"] else int(flags["verbose"])
    try:
        with make_progress(name, flags["progress_as"], verbosity) as progress:
            result = run_job(path, name, runner, settings, progress)
    except Exception as error:
        return None, error
    for text in result.report["warnings"]:
        warn(f"{name}: {text}")
    for check in result.report["checks"]:
        if not check["passed"]:
            warn(f"{name}: check failed: {check['check']} ({check['detail']})")
    if not (flags["strict"] and result.shortcomings):
        return result, None
    return result, QualityError(
        "; ".join(result.shortcomings),
        "every bone whole, sides known, all checks passed",
        f"look at {result.folder / name}_preview.png; the results were written",
    )


def _print(name: str, outcome: Outcome, several: bool) -> None:
    from cli.main import reason

    result, error = outcome
    if result is not None:
        click.echo(_summary(result))
    if error is not None and several:
        click.echo(f"{click.style(name, bold=True)}  {click.style('failed', fg='red')}: {reason(error)}\n")


_COLOURS = {"found": "green", "truncated": "yellow", "empty": "red"}


def _summary(result: "Result") -> str:
    """Return the table of one scan with where its files are."""
    scan = result.report["scan"]
    shape = " x ".join(map(str, scan["shape"]))
    spacing = " x ".join(f"{mm:.4g}" for mm in scan["spacing_mm"])
    rows = [
        (
            row.bone,
            row.side,
            click.style(row.status, fg=_COLOURS[row.status]),
            number(row.volume_cm3, 1, "cm3") if row.voxels else "-",
            number(row.length_mm, 0, "mm"),
            number(row.confidence, 2),
        )
        for row in result.bones
    ]
    meshes = sum(file.endswith(".ply") for file in result.files)
    others = [file.removeprefix(f"{result.name}_") for file in result.files if not file.endswith(".ply")]
    return "\n".join(
        [
            f"{click.style(result.name, bold=True)}  {shape} voxels of {spacing} mm",
            table(("bone", "side", "status", "volume", "length", "confidence"), rows, left=3),
            f"  sides: {result.report['sides']['detail']}",
            f"  {result.folder / result.name}_*: {', '.join(others)}, {meshes} meshes\n",
        ]
    )


def _record(name: str, outcome: Outcome) -> dict[str, Any]:
    from cli.main import error_record

    result, error = outcome
    record: dict[str, Any] = {"name": name}
    if result is not None:
        kept = {key: result.report[key] for key in ("bones", "sides", "warnings", "plausibility", "checks")}
        record |= {"folder": str(result.folder), "files": result.files} | kept
    if error is not None:
        record["error"] = error_record(error)
    return record


def _conclude(outcomes: Sequence[tuple[Path, Outcome]]) -> None:
    """Raise the error of a single scan, or say which of several failed and why."""
    from cli.main import reason
    from seg_core.errors import BatchError

    failed = [(path, error) for path, (_, error) in outcomes if error is not None]
    if not failed:
        return
    if len(outcomes) == 1:
        raise failed[0][1]
    lines = "".join(f"\n  {path}: {reason(error)}" for path, error in failed)
    raise BatchError(
        f"{len(failed)} of {len(outcomes)} scans failed{lines}", fix="run these alone to see all about each"
    ) from failed[0][1]
