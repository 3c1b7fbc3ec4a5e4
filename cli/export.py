"""`lls export`: a training becomes a model file."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.console import PATH, debug_option, json_option, print_json

if TYPE_CHECKING:
    from exporters.options import Exported
    from seg_core.model_spec import ModelSpec

_MODES: dict[str, tuple[str, ...]] = {
    "from_nnunet": ("--from-nnunet",),
    "fold": ("--from-nnunet",),
    "checkpoint": ("--from-nnunet",),
    "orientation": ("--from-nnunet",),
    "scans": ("--from-nnunet", "--precision int8", "--precision fp16"),
    "keep_last": ("--precision int8",),
    "name": ("RUN", "--from-nnunet"),
    "weights": ("RUN", "--from-nnunet"),
    "slices": ("RUN", "--precision int8", "--precision fp16"),
}
"""Options, and of what they are; others are of all."""


@click.command(
    epilog="Example: lls export RUN -o mine.onnx --name mine; its twin for CPUs:"
    " lls export mine.onnx --precision int8 -o mine.int8.onnx"
)
@click.argument("run", required=False, type=PATH)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8", "fp16"]),
    default="fp32",
    show_default=True,
    help="For int8 and fp16 RUN is a model file, whose twin is written: it computes faster on CPUs, on CUDA. "
    "`lls segment` takes NAME.int8.onnx beside NAME.onnx where their labels agree. A network of patches "
    "has an fp16 twin alone.",
)
@click.option(
    "--scan",
    "scans",
    multiple=True,
    type=PATH,
    help="May be repeated. Of --precision: a scan on which the twin is calibrated and compared; by default "
    "--slices, or four that are drawn. Of --from-nnunet: a scan on which the file is compared with the "
    "framework; by default drawn noise, on which few classes may be found.",
)
@click.option(
    "--keep-last", default=0, show_default=True, help="Of int8: the last convolutions that stay in fp32."
)
@click.option(
    "--from-nnunet",
    type=PATH,
    metavar="FOLDER",
    help="Instead of RUN: a model folder that nnU-Net v2 trained (plans.json, dataset.json, fold_*).",
)
@click.option(
    "--fold",
    multiple=True,
    metavar="N",
    help="Of --from-nnunet, may be repeated; by default the mean of all.",
)
@click.option(
    "--checkpoint",
    type=click.Choice(["final", "best", "latest"]),
    default="final",
    show_default=True,
    help="Of --from-nnunet: the last one of an ended training, the best by validation, or the latest.",
)
@click.option(
    "--orientation",
    default="LPS",
    show_default=True,
    help="Of --from-nnunet: where i, j, k of the training scans run to, which nnU-Net does not say.",
)
@click.option("-o", "--output", required=True, type=PATH, help="The model file, .onnx.")
@click.option("--overwrite", is_flag=True, help="Replace a model file that is there.")
@click.option("--name", default="", help="The network's name; by default that of its architecture.")
@click.option(
    "--weights",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="How weights are stored; float16 halves the file, and is refused where that changes the labels.",
)
@click.option(
    "--slices",
    type=PATH,
    help="Prepared slices on which the file is compared with the framework; by default the run's own.",
)
@json_option
@debug_option
@click.pass_context
def export(
    ctx: click.Context, run: Path | None, from_nnunet: Path | None, output: Path, as_json: bool, **flags: Any
) -> None:
    """Write the best network of the training in RUN as a model file for `lls segment --model`."""
    _check_modes(ctx, _mode(flags["precision"], from_nnunet))
    _check_output(output, run, flags["overwrite"])
    if flags["precision"] != "fp32":
        _export_twin(run, output, as_json, flags)
        return
    from exporters.options import ExportOptions
    from exporters.run import RunExport, export_run
    from seg_core.errors import MissingPackageError, UsageError, install_hint

    options = ExportOptions(flags["weights"])
    if (run is None) == (from_nnunet is None):
        raise UsageError("no training, or two", "RUN or --from-nnunet FOLDER")
    seen = "prepared slices"
    if run is not None:
        done = export_run(run, output, RunExport(flags["name"], flags["slices"], options=options))
    else:
        try:
            from exporters.nnunet import NnUNetExport, export_nnunet
        except ImportError as error:
            raise MissingPackageError(f"{error}", fix=install_hint("nnunet,cpu")) from error
        request = NnUNetExport(
            flags["name"], flags["fold"], flags["orientation"], flags["checkpoint"], options, flags["scans"]
        )
        done = export_nnunet(from_nnunet, output, request)
        click.echo(f"made of {done.spec.provenance['trained_as']}", err=True)
        seen = "patches of scans" if flags["scans"] else "drawn noise"
    _say(done, seen, as_json)


def _say(done: "Exported", seen: str, as_json: bool) -> None:
    """Say what was written, and how far it is from what was trained, on what it was seen."""
    parity, difference = done.parity, done.difference
    if as_json:
        known = {"file": str(done.path), "sha256": done.sha256, "compared_on": seen}
        print_json(known | {"parity": asdict(parity), "difference": asdict(difference)})
        return
    click.echo(f"{done.path}  (sha256 {done.sha256})")
    click.echo(
        f"compared with the trained network on {seen}: logits differ by {difference.logits:.1g},"
        f" labels of {difference.labels:.2%} ({difference.labelled:.2%} of what is not background)"
    )
    if difference != parity:
        click.echo(
            f"but for the rounding of weights: logits by {parity.logits:.1g}, labels of {parity.labels:.2%}"
        )


def _mode(precision: str, from_nnunet: Path | None) -> str:
    """Say of what a file is made."""
    if precision != "fp32":
        return f"--precision {precision}"
    return "RUN" if from_nnunet is None else "--from-nnunet"


def _check_modes(ctx: click.Context, mode: str) -> None:
    """Refuse options that would have no effect."""
    from seg_core.errors import UsageError

    for parameter in ctx.command.params:
        modes = _MODES.get(parameter.name or "", (mode,))
        given = ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and mode not in modes:
            raise UsageError(
                f"{parameter.opts[-1]} with {mode}", f"it is of {' or '.join(modes)}", "leave it out"
            )


def _check_output(output: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse, before any work, a file that could not be written; its folder is made when it is."""
    from seg_core.errors import UsageError
    from seg_core.output import check_new_file, check_writable

    if output.suffix != ".onnx":
        raise UsageError(f"the model file {output}", "a name that ends in .onnx", f"-o {output}.onnx")
    if source is not None and source.is_file() and output.exists() and output.samefile(source):
        raise UsageError(f"{output} is what is exported", "another file", "choose another name")
    if output.parent.is_dir():
        check_new_file(output, overwrite)
    check_writable(output.parent)


def _export_twin(model: Path | None, output: Path, as_json: bool, flags: dict[str, Any]) -> None:
    """Write a model file's twin in fewer bits."""
    from exporters.quantize import TwinExport, check_source, export_twin
    from seg_core.errors import UsageError
    from seg_core.runner import Runner

    if model is None or model.suffix != ".onnx":
        raise UsageError(f"--precision {flags['precision']} of {model}", "a model file, .onnx")
    spec = Runner(model, "cpu", precision="fp32").spec
    check_source(model.name, spec, flags["precision"])
    request = TwinExport(flags["precision"], flags["keep_last"])
    done = export_twin(model, output, _twin_samples(spec, flags), request)
    if as_json:
        print_json({"file": str(done.path), "sha256": done.sha256, "agreement": done.agreement})
        return
    click.echo(f"{done.path}  (sha256 {done.sha256})")
    click.echo("agrees with fp32, DSC: " + ", ".join(f"{k} {v:.4f}" for k, v in done.agreement.items()))


def _twin_samples(spec: "ModelSpec", flags: dict[str, Any]) -> list[Any]:
    """Return the slices or patches, each (1, channels, *space), on which a twin is made and compared."""
    from exporters.quantize import PATCHES, SLICES
    from exporters.run import validation_slices
    from exporters.scans import drawn_scans, scan_patches, scan_slices
    from seg_core.scan import read_scan

    cut, count = (scan_slices, SLICES) if spec.patch is None else (scan_patches, PATCHES)
    if flags["slices"] is not None:
        return list(validation_slices(flags["slices"], spec, 4 * count)[0][:, None])
    volumes = (read_scan(path).volume for path in flags["scans"]) if flags["scans"] else drawn_scans()
    return list(cut(volumes, spec, count))
