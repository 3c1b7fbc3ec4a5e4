"""`lls inspect`: which series a scan holds, which would be taken and why."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.console import PATH, debug_option, json_option, print_json, table


@click.command()
@click.argument("scan", type=PATH)
@click.option("--series", help="As for `lls segment`: a number in this listing, UID, or part of a name.")
@json_option
@debug_option
def inspect(scan: Path, series: str | None, as_json: bool) -> None:
    """Show which series SCAN holds, which one `lls segment` would take and why, and how its slices lie.

    SCAN is a folder of DICOM, a zip of one, a single file, or a NIfTI image. That none would be taken is an
    answer, not an error.
    """
    from seg_core.scan import inspect_scan

    found = inspect_scan(scan, series)
    if as_json:
        print_json(
            {
                "kind": found.kind,
                "series": [dict(entry) for entry in found.entries],
                "taken": found.taken,
                "reason": found.reason.splitlines()[0],
                "ignored_files": found.ignored,
            }
        )
    else:
        click.echo(_listing(found.entries, found.taken))
        if found.ignored:
            files = "1 file" if found.ignored == 1 else f"{found.ignored} files"
            click.echo(f"\n  without an image, and passed over: {files}")
        if found.taken is not None:
            entry = next(e for e in found.entries if e["number"] == found.taken)
            click.echo(f"\n  taken: {found.taken} ({found.reason}){_geometry(entry)}")
        if found.problem is not None:
            fix = f"; {found.problem.fix}" if found.problem.fix else ""
            click.echo(f"\n  none is taken: {found.reason.splitlines()[0]}{fix}")


def _listing(entries: tuple[Mapping[str, Any], ...], taken: int | None) -> str:
    rows = []
    shared = Counter(entry.get("description") for entry in entries)
    for entry in entries:
        mark = click.style(">", fg="green", bold=True) if entry["number"] == taken else " "
        what = entry.get("description") or ("(no description)" if "description" in entry else "NIfTI")
        if shared[entry.get("description")] > 1 and entry.get("folder"):
            what += f" (in {entry['folder']})"  # else nothing tells them apart
        image_type = "\\".join(entry.get("image_type", ())) or "-"
        rows.append(
            (
                f"{mark} {entry['number']}",
                what,
                entry.get("plane", "-"),
                image_type,
                _times(entry.get("shape"), "{}"),
                _times(entry.get("spacing_mm"), "{:.4g}"),
                entry.get("problem") or "",
            )
        )
    return table(
        ("  no", "description", "plane", "image type", "voxels", "voxel size in mm", ""), rows, left=7
    )


def _times(values: Any, form: str) -> str:
    return " x ".join(form.format(value) for value in values) if values else "-"


def _geometry(entry: Mapping[str, Any]) -> str:
    if "affine" not in entry:
        return ""
    rows = ["".join(f"{value:11.4f}" for value in row) for row in entry["affine"][:3]]
    orientation = entry["orientation"]
    axis = next(n for n, letter in enumerate(orientation) if letter in "SI")
    ends = ("feet", "head") if orientation[axis] == "S" else ("head", "feet")
    axes = f"\n  axes:  {orientation} (where columns, rows and slices run to: L left, P back, S head, ...)"
    axes += (
        f"\n  along the body, as --hip-slice counts: 0 ({ends[0]}) to {entry['shape'][axis] - 1} ({ends[1]})"
    )
    return axes + "\n  voxel index to RAS+ mm:\n  " + "\n  ".join(rows)
