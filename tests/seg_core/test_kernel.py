import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import seg_core

RUN = """
import numpy as np
from seg_core.resize import resize_bilinear
print(resize_bilinear(np.ones((1, 8, 8)), (4, 4)).sum())
"""


@pytest.fixture
def installation(tmp_path):
    """A copy of the core in which no kernel can be kept, whoever runs the test."""
    copy = tmp_path / "site" / "seg_core"
    shutil.copytree(
        Path(seg_core.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "models")
    )
    (copy / "__pycache__").touch()
    return copy.parent


def run(installation, cache):
    environment = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "HOME": str(cache),
        "PYTHONPATH": str(installation),
    }
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-W", "ignore", "-c", RUN]
    done = subprocess.run(command, env=environment, cwd=installation, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "16.0"


@pytest.mark.skipif(sys.platform != "linux", reason="the user's cache folder lies elsewhere")
def test_kernels_of_a_read_only_installation_are_kept_for_the_user(installation, tmp_path):
    run(installation, tmp_path / "cache")
    kept = list((tmp_path / "cache").rglob("resize*.nbi"))
    assert kept
    times = [path.stat().st_mtime_ns for path in kept]
    run(installation, tmp_path / "cache")
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_kernels_run_where_nothing_can_be_written(installation, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    run(installation, blocked / "cache")
