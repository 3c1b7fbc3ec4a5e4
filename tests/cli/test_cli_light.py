import subprocess
import sys

import pytest

HEAVY = ("numba", "torch", "tensorflow", "onnxruntime", "scipy", "numpy")


@pytest.mark.parametrize(
    "code",
    [
        "import seg_core",
        "import cli.main; cli.main.run(['--help'])",
        "import cli.main; cli.main.run(['--version'])",
    ],
)
def test_nothing_heavy_is_loaded(code):
    report = f"{code}\nimport sys; print('loaded', [m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "loaded []"


def test_a_program_of_its_own():
    """Names that the terminal cannot show do not stop it, and ONNX Runtime tells nobody of its use."""
    code = (
        "import os, cli.main as m;"
        "m.run = lambda: print('\\udcfc', os.environ['ORT_DISABLE_TELEMETRY']) or 0;"
        "m.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "\\udcfc 1\n"


def test_help_lists_every_command():
    result = subprocess.run(
        [sys.executable, "-m", "cli", "--help"], capture_output=True, text=True, check=True
    )
    for name in ("segment", "gui", "inspect", "convert", "doctor", "info", "evaluate", "phantom", "demo"):
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize(
    "command", ["segment", "gui", "inspect", "convert", "doctor", "info", "evaluate", "phantom", "demo"]
)
def test_every_command_has_help_that_fits_its_line_in_the_table(command, capsys):
    from cli.main import COMMANDS, run

    assert run([command, "--help"]) == 0
    assert "--debug" in capsys.readouterr().out
    assert COMMANDS[command][1].endswith(".")
