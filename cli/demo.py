"""`lls demo`: a small synthetic scan, segmented and compared with its truth."""

from pathlib import Path

import click

from cli.console import PATH, Progress, debug_option

# Half the resolution of a real scan, so that it takes a minute and not five.
_SEED, _SIZE, _PIXEL_MM, _SLICE_MM = 7, 256, 1.875, 4.0
_FIX = "add --overwrite, or choose another folder with -o"


@click.command()
@click.option("-o", "--output", required=True, type=PATH, help="Folder to make.")
@click.option("--model", default="default", show_default=True, help="The network: an ONNX file of lls.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier demo.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@debug_option
@click.pass_context
def demo(ctx: click.Context, output: Path, model: str, overwrite: bool, quiet: bool) -> None:
    """Make a small synthetic scan, segment it, compare the result with the truth, say where all is.

    Needs the `phantom` extra: pip install '.[phantom,cpu]' in the folder of lls.
    """
    from cli.evaluate import evaluate
    from cli.segment import segment
    from seg_core.errors import OutputError
    from seg_core.output import check_free
    from seg_core.runner import Runner
    from trainers.phantom import PhantomConfig, check_place, make_phantom, write_phantom

    scan, results = output / "scan", output / "results"
    Runner(model)  # a missing model is said before the scan is made
    try:
        check_free(results, "demo", ["demo_dseg.nii.gz"], overwrite)
        check_place(scan, overwrite)
    except OutputError as error:  # what it says to do is what other commands can
        raise OutputError(error.found, error.expected, _FIX) from error
    with Progress("demo", -1 if quiet else 0) as progress:
        progress("making a scan")
        config = PhantomConfig(seed=_SEED, size=_SIZE, pixel_mm=_PIXEL_MM, slice_mm=_SLICE_MM)
        write_phantom(make_phantom(config), scan, overwrite)
    arguments = [str(scan / "dicom"), "-o", str(results), "--name", "demo", "--model", model]
    arguments += ["--overwrite"] * overwrite + ["--quiet"] * quiet
    for command, given in (
        (segment, arguments),
        (evaluate, [str(results / "demo_dseg.nii.gz"), str(scan / "labels.nii.gz")]),
    ):
        with command.make_context(command.name, list(given), parent=ctx) as inner:
            command.invoke(inner)
    click.echo(f"the picture:  {results / 'demo_preview.png'}")
    click.echo(f"the results:  {results}")
    click.echo(f"the scan:     {scan / 'dicom'}  (the truth: {scan / 'labels.nii.gz'})")
