import subprocess
import sys

import pytest

from seg_core.nifti import write_label_table, write_labels, write_volume

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


def test_what_only_writing_needs_is_not_loaded_before_the_network_computes():
    code = (
        "import cli.job, seg_core.segment, sys;"
        "print('loaded', [m for m in ('scipy.ndimage', 'skimage', 'nibabel') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "loaded []\n"


CORE = """
import sys
for name in ("onnxruntime", "imagecodecs", "onnx", "torch", "tensorflow", "keras", "nicegui", "matplotlib"):
    sys.modules[name] = None  # as if it were not installed
from cli.main import run
for call in (["inspect", "leg/scan.nii.gz"], ["convert", "leg/scan.nii.gz", "-o", "copy.nii.gz"],
             ["evaluate", "leg/labels.nii.gz", "leg/labels.nii.gz"],
             ["prepare", "leg", "-o", "data", "--size", "64", "-q"]):
    assert run(call) == 0, call
"""


def test_what_computes_no_network_needs_the_core_alone(tmp_path, legs):
    (tmp_path / "leg").mkdir()
    write_volume(tmp_path / "leg/scan.nii.gz", legs[0])
    write_labels(tmp_path / "leg/labels.nii.gz", legs[1])
    write_label_table(tmp_path / "leg/labels.json", legs[1].labels)
    done = subprocess.run([sys.executable, "-c", CORE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_program_of_its_own():
    """Names that the terminal cannot show do not stop it, and ONNX Runtime tells nobody of its use."""
    code = (
        "import os, cli.main as m;"
        "m.run = lambda: print('\\udcfc', os.environ['ORT_DISABLE_TELEMETRY']) or 0;"
        "m.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "\\udcfc 1\n"


def test_imports_are_seldom_looked_through_for_garbage_and_at_the_end_nothing_is():
    code = (
        "import atexit, gc, cli.main as m;"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000));"
        "m.run = lambda: print(gc.isenabled(), gc.get_threshold()[0] > 5000) or 3;"
        "m.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (3, "")
    assert result.stdout.splitlines() == ["True True"] * 2


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
