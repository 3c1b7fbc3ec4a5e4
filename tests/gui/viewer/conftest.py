"""A small case, and a real browser to look at it."""

from shutil import which

import pytest

from gui.viewer.case import Case
from seg_core.geometry import LabelMap
from seg_core.nifti import write_label_table, write_labels, write_volume

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # there is no network
]  # fmt: skip
PATIENCE = 300_000  # ms; the machine may be busy

DRAWN = """([selector, least]) => {
  const canvas = document.querySelector(selector);
  if (!canvas?.width) return false;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let coloured = 0;
  for (let n = 0; n < data.length; n += 4) {
    const pixel = data.subarray(n, n + 3);
    coloured += Math.max(...pixel) - Math.min(...pixel) > 95; // the crosshair is paler
  }
  return coloured >= least;
}"""


@pytest.fixture
def new_page():
    """Open an empty page in Chromium, `new_page(**context)`; an error in its scripts fails the test."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if (chromium := which("chromium")) is None:
        pytest.skip("chromium is not installed")
    errors = []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)

        def opened(**context):
            page = browser.new_context(viewport={"width": 1280, "height": 800}, **context).new_page()
            page.set_default_timeout(PATIENCE)
            page.on("pageerror", lambda error: errors.append(str(error)))
            return page

        yield opened
        browser.close()
    assert errors == []


@pytest.fixture
def drawn():
    """Wait until at least so many pixels of a canvas are coloured, as labels and surfaces are."""
    return lambda page, selector, least: page.wait_for_function(DRAWN, arg=[selector, least])


@pytest.fixture
def small_case(legs, tmp_path):
    """A case of two made-up legs in files, with a second label map that lacks a slab of the femora."""
    volume, labels = legs
    write_volume(tmp_path / "scan.nii.gz", volume)
    other = labels.array.copy(order="F")
    other[:, :, 20:24] = 0
    for name, array in (("a", labels.array), ("b", other)):
        write_labels(tmp_path / f"{name}_dseg.nii.gz", LabelMap(array, labels.geometry, labels.labels))
        write_label_table(tmp_path / f"{name}_dseg.json", labels.labels)
    return Case(
        "legs", tmp_path / "scan.nii.gz", None, tmp_path / "a_dseg.nii.gz", tmp_path / "b_dseg.nii.gz"
    )
