"""`lls gui`: the page in the browser, for this computer's user alone."""

from pathlib import Path

import click

from cli.console import PATH, debug_option


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="By default one that is free.")
@click.option(
    "--host",
    type=click.Choice(["127.0.0.1"]),
    default="127.0.0.1",
    show_default=True,
    help="This computer; there is no other choice, since scans are nobody else's business.",
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=PATH,
    help="Folder that the page may look into, may be repeated; by default the home folder.",
)
@click.option(
    "--store",
    type=PATH,
    help="Where jobs and results are kept; by default a folder of the user's own.",
)
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@debug_option
def gui(port: int, host: str, roots: tuple[Path, ...], store: Path | None, no_browser: bool) -> None:
    """Open the page: segment, look, correct, prepare training data, train, without a terminal.

    It is served to this computer only, and only to who has the address that is printed, which changes with
    every start. End it with Ctrl+C; finished work is kept, and work that is cut short can be run again.
    """
    from seg_core.errors import MissingPackageError, install_hint

    try:
        from gui.app import Config, serve
    except ImportError as error:
        raise MissingPackageError(f"{error}", "the extra gui", install_hint("cpu,gui")) from error
    folder = store or Path(click.get_app_dir("lls")) / "gui"
    click.echo("Ctrl+C ends it", err=True)
    serve(Config(folder, roots or (Path.home(),), port, host, not no_browser), click.echo)
