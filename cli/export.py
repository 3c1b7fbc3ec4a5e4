"""`lls export`: a training becomes a model file."""

from pathlib import Path
from typing import Any

import click

from cli.console import debug_option, json_option, print_json


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--from-nnunet",
    type=click.Path(path_type=Path),
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
    "--orientation",
    default="LPS",
    show_default=True,
    help="Of --from-nnunet: where i, j, k of the training scans run to, which nnU-Net does not say.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The model file, .onnx.")
@click.option("--name", default="", help="The network's name; by default that of its architecture.")
@click.option(
    "--weights",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="How weights are stored; float16 halves the file.",
)
@click.option(
    "--slices",
    type=click.Path(path_type=Path),
    help="Prepared slices on which the file is compared with the framework; by default the run's own.",
)
@json_option
@debug_option
def export(run: Path | None, from_nnunet: Path | None, output: Path, as_json: bool, **flags: Any) -> None:
    """Write the best network of the training in RUN as a model file for `lls segment --model`."""
    from exporters.options import ExportOptions
    from exporters.run import RunExport, export_run
    from seg_core.errors import MissingPackageError, UsageError

    options = ExportOptions(flags["weights"])
    if (run is None) == (from_nnunet is None):
        raise UsageError("no training, or two", "RUN or --from-nnunet FOLDER")
    if run is not None:
        done = export_run(run, output, RunExport(flags["name"], flags["slices"], options=options))
    else:
        try:
            from exporters.nnunet import NnUNetExport, export_nnunet
        except ImportError as error:
            raise MissingPackageError(f"{error}", fix="pip install 'lls[nnunet,cpu]'") from error
        request = NnUNetExport(flags["name"], flags["fold"], flags["orientation"], options)
        done = export_nnunet(from_nnunet, output, request)
    if as_json:
        differences = {"logits": done.parity.logits, "labels": done.parity.labels}
        print_json({"file": str(done.path), "sha256": done.sha256, "parity": differences})
        return
    click.echo(f"{done.path}  (sha256 {done.sha256})")
    click.echo(f"compared: logits differ by {done.parity.logits:.1g}, labels of {done.parity.labels:.2%}")
