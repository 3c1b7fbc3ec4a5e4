"""`lls export`: a training becomes a model file."""

from pathlib import Path

import click

from cli.console import debug_option, json_option, print_json


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
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
def export(run: Path, output: Path, name: str, weights: str, slices: Path | None, as_json: bool) -> None:
    """Write the best network of the training in RUN as a model file for `lls segment --model`."""
    from exporters.options import ExportOptions
    from exporters.run import RunExport, export_run

    options = ExportOptions(weights)  # type: ignore[arg-type]
    done = export_run(run, output, RunExport(name, slices, options=options))
    if as_json:
        differences = {"logits": done.parity.logits, "labels": done.parity.labels}
        print_json({"file": str(done.path), "sha256": done.sha256, "parity": differences})
        return
    click.echo(f"{done.path}  (sha256 {done.sha256})")
    click.echo(f"compared: logits differ by {done.parity.logits:.1g}, labels of {done.parity.labels:.2%}")
