"""`lls convert`: the scan as it was read, as NIfTI."""

from pathlib import Path

import click

from cli.console import PATH, debug_option, warn


@click.command()
@click.argument("scan", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="FILE.nii.gz or .nii; its folder is made.")
@click.option("--series", help="Number, UID or part of the description of the series that is meant.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@debug_option
def convert(scan: Path, output: Path, series: str | None, overwrite: bool) -> None:
    """Write SCAN as it was read: stored values times slope plus intercept.

    Where the least is meant to be white (MONOCHROME1) they are turned round; nothing else is changed.
    """
    from seg_core.errors import UsageError
    from seg_core.nifti import is_nifti, write_volume
    from seg_core.output import check_new_file, parents_of
    from seg_core.scan import read_scan

    if not is_nifti(output):
        raise UsageError(f"an output called {output.name}", "FILE.nii.gz or FILE.nii")
    check_new_file(output, overwrite, new_folder=True)
    found = read_scan(scan, series)
    with parents_of(output):
        notes = write_volume(output, found.volume)
    for text in (*found.warnings, *notes):
        warn(text)
    shape = " x ".join(map(str, found.volume.geometry.shape))
    click.echo(f"{output}: {shape} voxels, {found.volume.array.dtype}")
