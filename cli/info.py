"""`lls info`: what a model's file says about itself."""

import json
from collections.abc import Mapping
from typing import Any

import click

from cli.console import debug_option, json_option, print_json


@click.command()
@click.argument("model", default="default")
@json_option
@debug_option
def info(model: str, as_json: bool) -> None:
    """Show the description inside MODEL, an ONNX file; by default the network that comes with lls."""
    from seg_core.runner import Runner

    runner = Runner(model, "cpu")
    description = json.loads(runner.spec.to_json())
    if as_json:
        print_json({"file": runner.name, "sha256": runner.fingerprint, "description": description})
        return
    click.echo(f"{click.style(runner.spec.name, bold=True)}  ({runner.name}, sha256 {runner.fingerprint})\n")
    names = ", ".join(f"{value} {name}" for value, name in enumerate(runner.spec.classes, 1))
    description["classes"] = f"0 background, {names}"
    for key in ("classes", *sorted(description.keys() - {"classes", "name", "provenance"}), "provenance"):
        _show(key, description[key], 1)


def _show(key: str, value: Any, depth: int) -> None:
    label = f"{'  ' * depth}{key.replace('_', ' ')}"
    if isinstance(value, Mapping):
        click.echo(label)
        for name, item in value.items():
            _show(str(name), item, depth + 1)
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        click.echo(f"{label:<28}{text}")
