"""What several commands share: options, tables, progress on standard error."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

# Whether a file can be read is found out, and said, by what reads it.
PATH = click.Path(path_type=Path, readable=False)

debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write the result as JSON.")

progress_option = click.option(
    "--progress",
    "progress_as",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Progress on standard error: for people, or for programs a JSON object a line, among the lines that"
    " are none; json stays with -q.",
)


def print_json(value: Any) -> None:
    """Write a value as JSON on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def warn(text: str) -> None:
    """Write a warning on standard error."""
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {text}", err=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return rows in columns, two spaces apart, the first ``left`` of them flush left.

    Cells may be styled; only what is seen counts for the width.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(click.unstyle(line[c])) for line in lines) for c in range(len(header))]
    first, *rest = (
        "  ".join(_pad(cell, widths[c], c < left) for c, cell in enumerate(line)).rstrip() for line in lines
    )
    return "\n".join(f"  {line}" for line in (click.style(first, dim=True), *rest))


def _pad(cell: str, width: int, left: bool) -> str:
    space = " " * (width - len(click.unstyle(cell)))
    return cell + space if left else space + cell


def number(value: float | None, decimals: int, unit: str = "") -> str:
    """Return a number with its unit, or a dash where there is none."""
    return "-" if value is None else f"{value:.{decimals}f}{' ' + unit if unit else ''}"


def can_show(text: str, stream: TextIO) -> bool:
    """Whether a stream's encoding knows all characters of a text."""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


_WORDS = {
    "read": "reading",
    "segment": "preparing",
    "range": "finding the legs",
    "infer": "segmenting",
    "measure": "measuring",
    "write": "writing",
    "mesh": "making meshes",
    "draw": "drawing",
    "check": "checking",
}


class Progress:
    """Progress on standard error: a bar on a terminal, plain lines elsewhere, nothing if quiet.

    Parameters
    ----------
    title : str
        What is worked on.
    verbosity : int
        -1 quiet, 0 normal, 1 also the seconds of each step.
    stream : TextIO, optional
        Standard error.
    clock : callable, optional
        Seconds.
    """

    def __init__(
        self,
        title: str,
        verbosity: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._title, self._verbosity, self._clock = title, verbosity, clock
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._full, self._empty = ("━", "─") if can_show("━─", self._stream) else ("#", ".")
        self._step, self._begun, self._quarter, self._drawn = "", 0.0, 0, 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_step()
        self._wipe()

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        """Say how much of a step is done; ``total`` 0 where that is not known."""
        if self._verbosity < 0:
            return
        step = _WORDS.get(step, step)
        if step != self._step:
            self._end_step()
            self._step, self._begun, self._quarter, self._drawn = step, self._clock(), 0, 0.0
            if not self._terminal:
                self._line(f"{self._title}: {step}")
        if self._terminal:
            self._bar(done, total)
        elif total and (quarter := 4 * done // total) > self._quarter and quarter < 4:
            self._quarter = quarter
            self._line(f"{self._title}: {step} {25 * quarter} %")

    def _bar(self, done: int, total: int) -> None:
        now = self._clock()
        if done and done < total and now - self._drawn < 0.05:
            return
        self._drawn = now
        width = 28
        filled = width * done // total if total else 0
        share = f"{100 * done // total:3d} %" if total else ""
        bar = click.style(self._full * filled, fg="cyan") + click.style(
            self._empty * (width - filled), dim=True
        )
        body = f"{bar} {share}" if total else "..."
        self._stream.write(f"\r\x1b[2K{self._title}  {self._step:<16} {body}")
        self._stream.flush()

    def _end_step(self) -> None:
        if self._step and self._verbosity > 0:
            self._wipe()
            self._line(f"{self._title}: {self._step} took {self._clock() - self._begun:.2f} s")
        self._step = ""

    def _wipe(self) -> None:
        if self._terminal and self._verbosity >= 0:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class JsonProgress:
    """Progress for programs: a JSON object a line, at most twenty a second but for a step's first and last.

    Parameters
    ----------
    title : str
        What is worked on; stands in every line.
    stream : TextIO, optional
        Standard error.
    clock : callable, optional
        Seconds.
    """

    def __init__(
        self,
        title: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._title, self._clock = title, clock
        self._stream = sys.stderr if stream is None else stream
        self._step, self._said = "", 0.0

    def __enter__(self) -> "JsonProgress":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        """Say how much of a step is done; ``total`` 0 where that is not known."""
        now = self._clock()
        if step == self._step and done != total and now - self._said < 0.05:
            return
        self._step, self._said = step, now
        record = {"title": self._title, "step": step, "doing": _WORDS.get(step, step)}
        write_progress({**record, "done": done, "total": total}, self._stream)


def write_progress(record: dict[str, Any], stream: TextIO | None = None) -> None:
    """Write one line of progress for programs, under the key ``progress``, on standard error."""
    stream = sys.stderr if stream is None else stream
    stream.write(json.dumps({"progress": record}) + "\n")
    stream.flush()


def make_progress(title: str, progress_as: str, verbosity: int = 0) -> Progress | JsonProgress:
    """Return what shows progress as it was asked for."""
    return JsonProgress(title) if progress_as == "json" else Progress(title, verbosity)
