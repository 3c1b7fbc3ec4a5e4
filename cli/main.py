"""`lls`: the commands, imported on use, and what becomes of errors."""

import errno
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn, TextIO

import click

from seg_core.errors import LlsError, MemoryLimitError, OutputError

# Name -> where the command is, and its line in `lls --help`, which imports none of them.
COMMANDS = {
    "segment": ("cli.segment:segment", "Find the bones in scans: labels, meshes, numbers, a picture."),
    "gui": ("cli.gui:gui", "Open the page: segment, compare and train without a terminal."),
    "inspect": ("cli.inspect:inspect", "Show which series a scan holds, and which would be taken."),
    "convert": ("cli.convert:convert", "Write a scan, as it was read, as NIfTI."),
    "doctor": ("cli.doctor:doctor", "Say where and in what a network would run here, and why."),
    "info": ("cli.info:info", "Show a model's description."),
    "evaluate": ("cli.evaluate:evaluate", "Compare label maps with the truth: DSC and volume error."),
    "phantom": ("cli.phantom:phantom", "Make a synthetic scan of the legs with its true labels."),
    "prepare": ("cli.prepare:prepare", "Make a dataset of scans with their labels."),
    "networks": ("cli.train:networks", "List the networks that can be trained."),
    "train": ("cli.train:train", "Train a network on prepared slices."),
    "export": ("cli.export:export", "Make a trained network a model file."),
    "crossval": ("cli.crossval:crossval", "Cross-validate a network by subject."),
    "bench": ("cli.bench:bench", "Measure a network in every runtime that is installed."),
    "demo": ("cli.demo:demo", "Make a small scan, segment it, compare it with the truth."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"lls {version('lls')}")
        ctx.exit()


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
              help="Show the version and exit.")  # fmt: skip
def lls() -> None:
    """Find the bones of the leg (tibia, femur, fibula, pelvis) in MRI. For research use."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what went wrong stands on standard error."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result = lls.main(args=list(arguments), prog_name="lls", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: nothing was left half-written", err=True)
        return 130
    except Exception as error:
        if "--debug" in arguments:
            import traceback

            traceback.print_exc()
        return _explain(error)


def as_lls_error(error: BaseException) -> LlsError | None:
    """Return what an exception means in our own terms; None where it is not foreseen."""
    if isinstance(error, LlsError):
        return error
    if isinstance(error, MemoryError):
        return MemoryLimitError("not enough memory", fix="close other programs, or use a machine with more")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError("no space left on the disk", fix="free some space, or choose another disk")
    return None


def reason(error: BaseException) -> str:
    """Return in a line what went wrong."""
    known = as_lls_error(error)
    return known.found.splitlines()[0] if known else f"{type(error).__name__}: {error}"


def error_record(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON for programs."""
    known = as_lls_error(error)
    return {
        "type": type(known or error).__name__,
        "exit_code": known.exit_code if known else 1,
        "found": known.found if known else str(error),
        "expected": known.expected if known else "",
        "fix": known.fix if known else "",
    }


def _explain(error: Exception) -> int:
    known = as_lls_error(error)
    if known is None:
        text = " ".join(str(error).split())
        click.echo(f"unexpected error: {type(error).__name__}: {text} (use --debug for details)", err=True)
        return 1
    click.echo(f"{click.style('error:', fg='red', bold=True)} {known}", err=True)
    return known.exit_code


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # unlike the default, this lets temporary folders be removed


class _Patient(io.TextIOWrapper):
    """A stream whose reader may go away, as `| head` does: the work goes on."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            return self._give_up() or len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._give_up()

    def _give_up(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


class _Watched(_Patient):
    """A stream that a program reads: where it has gone, as a page that was killed, the work ends too."""

    def _give_up(self) -> None:
        super()._give_up()  # what is still said goes nowhere
        signal.raise_signal(signal.SIGTERM)  # ends the process, whichever of its threads was writing


def _is_watched(arguments: Sequence[str]) -> bool:
    """Whether progress is written for a program, with ``--progress json``."""
    return "--progress json" in " ".join(arguments).replace("=", " ")


def _patient(stream: TextIO | None, kind: type[_Patient] = _Patient) -> TextIO:
    """Return a stream that bears its reader's going, whether it is closed from the start or later."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    encoding, lines = stream.encoding, stream.line_buffering
    # A file's name may hold what the encoding does not.
    return kind(stream.detach(), encoding, errors="backslashreplace", line_buffering=lines)


def main() -> Any:
    """Run `lls` as a program."""
    gc.set_threshold(10_000)  # imports make many objects and no garbage: looked through less often
    sys.stdout = _patient(sys.stdout)
    sys.stderr = _patient(sys.stderr, _Watched if _is_watched(sys.argv) else _Patient)
    signal.signal(signal.SIGTERM, _terminate)
    hangup = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as nohup leaves it
        signal.signal(hangup, _terminate)
    # Also for programs that lls starts and for exporters: ONNX Runtime tells nobody of its use.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    code = run()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done or undone: a second Ctrl-C finds nothing
    gc.freeze()  # the interpreter need not look through what goes with it
    sys.exit(code)
