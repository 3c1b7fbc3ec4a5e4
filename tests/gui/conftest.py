import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest

from seg_core.geometry import Volume
from seg_core.nifti import write_label_table, write_labels, write_volume
from trainers.dicom_writer import SeriesInfo, write_series

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # there is no network
]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300_000  # ms that a browser waits for what must come; nothing is measured
SCRIPT = "</script><img src=x onerror=\"document.title='run'\">${6*7}{{6*7}}"


@pytest.fixture
def desk(tmp_path):
    """What pages work with: a store of its own, without a browser."""
    pytest.importorskip("nicegui", reason="the extra gui is not installed")
    from gui.desk import Desk
    from gui.places import Places, Uploads
    from gui.store import Store
    from gui.worker import Worker

    store = Store(tmp_path / "store")
    yield Desk(store, Worker(store), Places([tmp_path]), Uploads(store.root / "uploads"))
    store.close()


@pytest.fixture(scope="module")  # while it is there, its event loop runs, and no other can
def browser():
    """A headless Chromium; the tests that need one are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this computer: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def tab(browser):
    """Open a tab; collects what it asked for and what went wrong in it."""
    contexts = []

    def open_tab(address, **options):
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 1000}} | options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("websocket", lambda socket: page.asked.append(socket.url))
        page.goto(address)
        return page

    yield open_tab
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory):
    """Keep a screenshot in pytest's folder, for people to look at."""
    folder = tmp_path_factory.mktemp("shots")

    def keep(page, name):
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return keep


@pytest.fixture(scope="session")
def script():
    """A series description that would run, were it not escaped."""
    return SCRIPT


@pytest.fixture(scope="session")
def data(tmp_path_factory, legs):
    """A root: made-up legs as DICOM with a script for a description, as NIfTI, their truth, subjects."""
    folder = tmp_path_factory.mktemp("root")
    volume, labels = legs
    stored = Volume(volume.array.astype(np.int16), volume.geometry)
    write_series(folder / "Doe^Jane" / "dicom", stored, SeriesInfo("legs", description=SCRIPT))
    _write_in_time(folder / "in-time", stored)
    (folder / "<img src=x onerror=document.title='run'>").mkdir()
    write_volume(folder / "leg.nii.gz", volume)
    write_labels(folder / "truth.nii.gz", labels)
    for n, name in enumerate(("subject1", "subject2")):
        (folder / name).mkdir()
        write_volume(folder / name / "scan.nii.gz", Volume(volume.array + np.uint8(n), volume.geometry))
        write_labels(folder / name / "labels.nii.gz", labels)
        write_label_table(folder / name / "labels.json", labels.labels)
    return folder


def _write_in_time(folder, volume):
    """Write one series with two volumes at the same positions, the second of air."""
    first = write_series(folder / "a", volume, SeriesInfo("a"))
    air = Volume(np.zeros_like(volume.array), volume.geometry)
    uids = pydicom.dcmread(first[0], stop_before_pixels=True)
    for path in write_series(folder / "b", air, SeriesInfo("b")):
        header = pydicom.dcmread(path)
        for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            setattr(header, name, getattr(uids, name))
        header.AcquisitionNumber = 2
        header.save_as(path)


@contextmanager
def serving(store, root, *more):
    """Serve the page in a process of its own; gives its address and the process."""
    command = [sys.executable, "-m", "cli", "gui", "--no-browser", "--store", str(store), "--root", str(root)]
    # NiceGUI behaves otherwise where it sees that pytest runs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    process = subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), address
        yield address, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def serve():
    """`serving`, for tests that want a page of their own."""
    return serving


@pytest.fixture(scope="session")
def store(tmp_path_factory, tiny_model):
    """A store whose page can choose the made-up network."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "models").mkdir()
    shutil.copy(tiny_model, folder / "models" / "tiny.onnx")
    return folder


@pytest.fixture(scope="session")
def page(store, data):
    """The address of a page that serves all tests of this folder."""
    with serving(store, data) as (address, _):
        yield address
