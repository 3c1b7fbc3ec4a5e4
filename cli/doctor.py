"""`lls doctor`: where and in what a network would run here, and why."""

from dataclasses import asdict

import click

from cli.console import debug_option, json_option, print_json, table


@click.command()
@click.argument("model", default="default")
@json_option
@debug_option
def doctor(model: str, as_json: bool) -> None:
    """Try to run MODEL on every device in every precision, and say which one `lls segment` takes.

    MODEL is an ONNX file of lls; by default the network that comes with it.
    """
    from seg_core.doctor import examine
    from seg_core.errors import DeviceError

    found = examine(model)
    if as_json:
        print_json(asdict(found))
    else:
        runtimes = ", ".join(f"{name} {version}" for name, version in found.runtimes.items()) or "none"
        click.echo(f"machine   {found.machine}")
        click.echo(f"integers  {'multiplied in bytes' if found.bytes_exact else 'no instructions for bytes'}")
        click.echo(f"runtime   {runtimes}\n")
        rows = [(c.device, c.precision, "yes" if c.possible else "no", c.detail) for c in found.choices]
        click.echo(table(("device", "precision", "runs", ""), rows, left=4))
        if found.taken:
            click.echo("\nauto takes {} in {}: {}".format(*found.taken))
    if found.problems:
        raise DeviceError("; ".join(found.problems))
