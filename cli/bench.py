"""`lls bench`: one network in every runtime and framework that is installed."""

from typing import Any

import click

from cli.console import debug_option


@click.command()
@click.argument("model", default="default")
@click.option("--scan", required=True, help="Some of its slices are inferred.")
@click.option("--slices", default=8, show_default=True, help="How many of them.")
@click.option("--batch", multiple=True, type=int, default=(1, 4), show_default=True, help="Slices a call.")
@click.option("--rounds", default=3, show_default=True, help="How often each backend has its turn.")
@click.option("--backend", multiple=True, help="Part of a backend's name; all by default.")
@click.option("--against", metavar="FILE", help="An earlier backends.json: 8 where something got slower.")
@click.option("-o", "--output", help="Folder for backends.json, backends.md and backends.png.")
@debug_option
@click.pass_context
def bench(ctx: click.Context, model: str, **flags: Any) -> None:
    """Measure MODEL in every runtime and framework, in turns: time, start, memory, labels.

    MODEL is an ONNX file of lls; by default the network that comes with it.
    """
    from benchmarks.backends import main

    arguments = ["--model", model, "--scan", flags["scan"]]
    for name in ("slices", "rounds"):
        arguments += [f"--{name}", str(flags[name])]
    arguments += ["--batch", *map(str, flags["batch"])]
    arguments += ["--backend", *flags["backend"]]
    arguments += ["--against", flags["against"]] if flags["against"] else []
    arguments += ["-o", flags["output"]] if flags["output"] else []
    ctx.exit(main(arguments))
