"""`lls info`: what a model's file says about itself."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from cli.console import debug_option, json_option, print_json, table

if TYPE_CHECKING:
    from seg_core.runner import Runner


@click.command()
@click.argument("model", default="default")
@json_option
@debug_option
def info(model: str, as_json: bool) -> None:
    """Show the description inside MODEL, an ONNX file; by default the network that comes with lls."""
    from seg_core.runner import Runner

    runner = Runner(model, "cpu")
    description = json.loads(runner.spec.to_json())
    files = _files(model, runner)
    if as_json:
        facts = {"file": runner.name, "sha256": runner.fingerprint, "files": files}
        print_json(facts | {"description": description})
        return
    click.echo(click.style(runner.spec.name, bold=True))
    rows = [
        (entry["file"], entry["precision"], entry["sha256"], "taken on this processor" * entry["taken"])
        for entry in files
    ]
    click.echo(table(("file", "precision", "sha256", ""), rows, left=4))
    click.echo(f"\n{runner.name} says of itself:\n")
    names = ", ".join(f"{value} {name}" for value, name in enumerate(runner.spec.classes, 1))
    description["classes"] = f"0 background, {names}"
    for key in ("classes", *sorted(description.keys() - {"classes", "name", "provenance"}), "provenance"):
        _show(key, description[key], 1)


def _files(model: str, runner: "Runner") -> list[dict[str, Any]]:
    """Return the files that a network has: itself, and its twins in fewer bits; one of them runs here."""
    from seg_core.precision import twin_path
    from seg_core.report import sha256
    from seg_core.runner import model_path

    path = model_path(model)
    own = runner.precision if runner.name == path.name else "fp32"  # a twin runs in place of no other
    twins = [(twin_path(path, precision), precision) for precision in ("fp16", "int8")]
    return [
        {"file": file.name, "precision": bits, "sha256": sha256(file), "taken": file.name == runner.name}
        for file, bits in [(path, own), *twins]
        if file.is_file()
    ]


def _show(key: str, value: Any, depth: int) -> None:
    label = f"{'  ' * depth}{key.replace('_', ' ')}"
    if isinstance(value, Mapping):
        click.echo(label)
        for name, item in value.items():
            _show(str(name), item, depth + 1)
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        click.echo(f"{label:<28}{text}")
