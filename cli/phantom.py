"""`lls phantom`: a synthetic scan of the legs with its true labels."""

from pathlib import Path
from typing import Any

import click

from cli.console import PATH, debug_option


@click.command()
@click.option("-o", "--output", required=True, type=PATH, help="Folder to make.")
@click.option("--seed", default=0, show_default=True, help="Of everything that is drawn.")
@click.option(
    "--subject", type=click.IntRange(0, 25), help="One of the 26 measured subjects instead of a draw."
)
@click.option("--bones", type=PATH, help="Folder of meshes (right_tibia.ply ...), which keep their size.")
@click.option("--stature", "stature_cm", type=float, help="Height of the body in cm, by the femur.")
@click.option("--scale", type=float, help="Factor on the bones, instead of a stature.")
@click.option("--size", default=512, show_default=True, help="Rows and columns.")
@click.option("--spacing", "pixel_mm", default=0.9375, show_default=True, help="Millimetres a pixel.")
@click.option("--slices", type=int, help="Number of slices, from the feet; to above the hip by default.")
@click.option("--slice-spacing", "slice_mm", default=3.0, show_default=True, help="Millimetres a slice.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier phantom.")
@debug_option
def phantom(output: Path, bones: Path | None, overwrite: bool, **config: Any) -> None:
    """Make a synthetic MR scan of the legs: dicom/, labels.nii.gz, masks/, meshes/, phantom.json."""
    from trainers.phantom import PhantomConfig, check_place, make_phantom, write_phantom

    asked = PhantomConfig(bones=None if bones is None else str(bones), **config)
    check_place(output, overwrite)
    made = make_phantom(asked)
    write_phantom(made, output, overwrite)
    shape = " x ".join(map(str, made.volume.geometry.shape))
    click.echo(f"{output}: {shape} voxels in dicom/, the truth in labels.nii.gz, masks/ and meshes/")
