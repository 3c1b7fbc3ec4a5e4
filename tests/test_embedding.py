import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = ("torch", "tensorflow", "keras", "onnx", "segmentation_models_pytorch", "trainers.torch")

# What a program that embeds the core has at hand: an array and an affine.
BEFORE = """
import numpy as np
rng = np.random.default_rng(0)
array = rng.integers(0, 300, (96, 80, 3)).astype(np.int16)
affine = np.diag([-3.0, -3.0, 5.0, 1.0])
"""
AFTER = """
import sys
import nibabel
saved = nibabel.load("bones.nii.gz")
assert found.labels.array.shape == saved.shape == array.shape
assert np.array_equal(saved.affine, affine)
assert np.array_equal(np.asarray(saved.dataobj), found.labels.array)
print("loaded", sorted(m for m in {foreign!r} if m in sys.modules))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the core and a runtime, nothing else."""
    folder = tmp_path_factory.mktemp("embedding") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    source = folder.parent / "source"  # building leaves files beside the sources
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "lls-demo")
    )
    subprocess.run([python, "-m", "pip", "install", "-q", f"{source}[cpu]"], check=True)
    return python


def test_the_readme_runs_with_the_core_alone(python: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    script = BEFORE + code + AFTER.format(foreign=FOREIGN)
    result = subprocess.run([python, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == "loaded []"
    assert lines[0].startswith("right_tibia ") or lines[0].startswith("tibia ")


def test_no_framework_is_installed_with_the_core(python: Path) -> None:
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0].lower() for line in listed.splitlines()[2:]}
    assert {"lls", "onnxruntime", "numba", "pydicom"} <= names
    assert not names & {
        "torch",
        "tensorflow",
        "keras",
        "onnx",
        "segmentation-models-pytorch",
        "musculoskeletal-models",
    }
