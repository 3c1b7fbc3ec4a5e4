"""What becomes of the page's work when the page is ended from outside."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="the extra gui is not installed")

from gui.store import Store
from seg_core.nifti import read_labels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def waiting(tmp_path, data):
    """A store in which a job waits that takes long."""
    store = Store(tmp_path / "store")
    job = store.add("segment", "leg", {"scan": str(data / "leg.nii.gz"), "name": "leg", "device": "cpu"})
    store.close()
    return store.root, job


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_page_whose_terminal_is_closed_ends_its_jobs(serve, waiting, data, number):
    folder, job = waiting
    with serve(folder, data) as (_, process):
        process.send_signal(number)
        process.wait()
    store = Store(folder)
    found = store.get(job.id)
    assert (found.state, found.message) == ("cut short", "lls gui was ended while this ran")
    store.close()


CORRECT = """
import sys
from pathlib import Path
from nicegui import app
from gui.app import Config, serve
from gui.viewer.case import Case
from gui.viewer.opened import open_case

def correct(address):  # as in a tab that is open
    case = open_case(Case("leg", Path(sys.argv[2])))
    case.corrections = Path(sys.argv[3])
    stroke = {"kind": "stroke", "plane": "axial", "level": 9, "points": [[9, 9]], "radius_mm": 9, "value": 1}
    case.edit(stroke)
    app.state.viewer_cases.add(case)
    print(address, flush=True)

serve(Config(Path(sys.argv[1]), (Path(sys.argv[2]).parent,), browser=False), correct)
"""


def test_corrections_that_nobody_has_saved_are_kept_when_the_server_ends(data, tmp_path):
    paths = tmp_path / "store", data / "leg.nii.gz", tmp_path / "corrections"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-c", CORRECT, *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=clean) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1")
        process.terminate()
    recovered = tmp_path / "corrections" / "leg_desc-recovered_dseg.nii.gz"
    assert read_labels(recovered).array.any()


def until(condition):
    """Wait for what comes in seconds; what never comes shall not hold up the other tests."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come")


def at_work(folder):
    """Whether a process works in a folder of a store."""
    for told in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if str(folder).encode() in told.read_bytes():
                return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_job_ends_with_a_page_that_is_killed(serve, waiting, data):
    folder, job = waiting
    place = folder / "jobs" / f"{job.id:05d}"
    with serve(folder, data) as (_, process):
        until(lambda: at_work(place))
        process.kill()
        process.wait()
    until(lambda: not at_work(place))
    assert not list(place.rglob("*.nii.gz"))  # it did not work to its end
