"""The viewer as a user has it, in a real browser; its pictures are kept in the folder of the test."""

import os
import re
import socket
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

from seg_core.nifti import read_labels
from seg_core.planes import Planes

pytest.importorskip("nicegui", reason="the extra `gui` is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
sync_api.expect.set_options(timeout=300_000)  # ms; the machine may be busy


def listens(process, port):
    """Wait until the server takes connections, or has died."""
    while process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
    return False


@pytest.fixture
def server(small_case, tmp_path):
    """Address of the viewer of the small case, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = [small_case.scan, small_case.labels, "--other", small_case.other, "--name", small_case.name]
    options = ["--corrections", tmp_path / "corrections", "--port", port]
    command = [sys.executable, "-u", "-m", "gui.viewer", *paths, *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    started = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=clean)
    with started as process:  # NiceGUI has a mode for tests of its own, which pytest's variables switch on
        assert any("ready" in line for line in process.stdout)
        assert listens(process, port)
        yield f"http://127.0.0.1:{port}/"
        process.terminate()


@pytest.fixture
def page(server, new_page):
    """The viewer, loaded; what is asked for from elsewhere fails the test."""
    page, others = new_page(), []
    page.on("request", lambda r: r.url.startswith((server, "data:", "blob:")) or others.append(r.url))
    page.goto(server)
    page.wait_for_selector(".lls-viewer canvas")
    yield page
    assert others == []


def slice_number(page, plane):
    return int(re.search(r"slice (\d+)", page.inner_text(f".lls-pane-{plane} header"))[1])


def draw(page):
    """Draw a stroke to the right from the middle of the axial plane."""
    box = page.locator(".lls-pane-axial canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1], steps=4)
    page.mouse.up()


def test_look_compare_correct_and_save(page, drawn, small_case, tmp_path):
    for pane in ("axial", "coronal", "sagittal"):
        drawn(page, f".lls-pane-{pane} canvas", 300)
    drawn(page, ".lls-3d canvas", 300)
    page.screenshot(path=tmp_path / "look.png")

    # The second label map lacks this slice of the femora.
    page.get_by_role("button", name="Two label maps").click()
    drawn(page, ".lls-pane-difference canvas", 20)
    page.screenshot(path=tmp_path / "compare.png")
    page.get_by_role("button", name="Three planes").click()

    # The wheel goes from slice to slice, towards the head; the number is the scan's own.
    before = slice_number(page, "axial")
    page.locator(".lls-pane-axial canvas").hover()
    page.mouse.wheel(0, -120)
    page.wait_for_function(
        f"() => document.querySelector('.lls-pane-axial header').innerText.includes({before + 1})"
    )
    page.locator(".lls-pane-coronal canvas").click(position={"x": 60, "y": 60})
    page.keyboard.press("ArrowUp")

    # A stroke, taken back and done again, becomes a new file and changes nothing else.
    page.get_by_role("button", name="Axial plane alone").click()
    page.get_by_role("button", name="Paint", exact=True).click()
    page.get_by_role("button", name="left pelvis", exact=False).first.click()
    level = slice_number(page, "axial")
    draw(page)
    undo, save = page.get_by_label("Undo"), page.get_by_role("button", name="Save correction")
    sync_api.expect(save).to_be_enabled()
    page.screenshot(path=tmp_path / "correct.png")
    undo.click()
    sync_api.expect(undo).to_be_disabled()
    page.get_by_label("Redo").click()
    save.click()
    sync_api.expect(page.get_by_role("status").last).to_contain_text("saved as legs_desc")
    page.screenshot(path=tmp_path / "saved.png")

    old = read_labels(small_case.labels)
    new = read_labels(tmp_path / "corrections" / "legs_desc-corrected_dseg.nii.gz")
    assert new.geometry.is_close(old.geometry)
    changed = np.argwhere(new.array != old.array)
    assert len(changed) > 0
    assert set(new.array[tuple(changed.T)]) == {8}
    assert set(changed[:, 2]) == {level}
    columns, rows = np.nonzero(Planes(old.geometry).cut(new.array != old.array, "axial", level).T)
    assert columns.min() >= 30
    assert columns.max() <= 40
    assert {*rows} <= {30, 31, 32, 33}


def test_what_lies_between_two_slices_is_filled_and_a_stroke_erased(page, small_case, tmp_path):
    page.get_by_role("button", name="Axial plane alone").click()
    page.get_by_role("button", name="left pelvis", exact=False).first.click()
    page.get_by_role("button", name="Paint", exact=True).click()
    first = slice_number(page, "axial")
    draw(page)
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    page.wait_for_function(
        f"() => document.querySelector('.lls-pane-axial header').innerText.includes({first + 3})"
    )
    draw(page)
    page.get_by_role("button", name="Fill between").click()
    sync_api.expect(page.get_by_role("status").last).to_contain_text("voxels drawn between the slices")
    page.get_by_role("button", name="Erase", exact=True).click()
    draw(page)
    page.get_by_role("button", name="Save correction").click()
    sync_api.expect(page.get_by_role("status").last).to_contain_text("saved as legs_desc")
    page.screenshot(path=tmp_path / "filled.png")

    old = read_labels(small_case.labels).array
    new = read_labels(tmp_path / "corrections" / "legs_desc-corrected_dseg.nii.gz").array
    assert set(new[new != old]) == {8}
    drawn_on = [np.flatnonzero((new != old)[:, :, level]).tolist() for level in range(first, first + 4)]
    assert len(drawn_on[0]) > 0
    assert drawn_on[1:3] == [drawn_on[0]] * 2  # the same stroke on both: the same between them
    assert drawn_on[3] == []
    assert {*np.nonzero(new != old)[2]} == {first, first + 1, first + 2}


def test_the_picture_is_saved_as_png(page, drawn, tmp_path):
    from PIL import Image

    drawn(page, ".lls-pane-axial canvas", 300)
    with page.expect_download() as waiting:
        page.get_by_label("Save the picture as PNG").click()
    waiting.value.save_as(tmp_path / "saved.png")
    assert waiting.value.suggested_filename == "legs_all.png"
    picture = Image.open(tmp_path / "saved.png")
    assert min(picture.size) > 400
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
