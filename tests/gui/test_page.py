"""The page in a real browser, from a folder of DICOM to a downloaded result."""

import os
import re
import signal
import sys
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest

pytest.importorskip("nicegui", reason="the extra gui is not installed")

from seg_core.geometry import Geometry, Volume
from seg_core.nifti import read_labels, read_volume, write_volume
from trainers.log import read_log

PATIENCE = 60_000  # ms that the page may take; nothing is measured


def choose(page, label, option):
    """Choose in a list."""
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option).click()


def open_scan(page, path):
    field = page.get_by_label("or its path on this computer")
    field.fill(str(path))
    field.press("Enter")


def segment(page, path, network="tiny"):
    open_scan(page, path)
    choose(page, "Network", network)
    page.get_by_role("button", name="Segment", exact=True).click()
    page.get_by_text("is in the queue").wait_for()


def drop(page, path, place=".dropzone"):
    """Drop a file or folder of this computer into the page, as a file manager does."""
    box = page.locator(place).bounding_box()
    where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    what = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "data": what} | where)


def is_local(url, address):
    here = address.split("/?")[0].removeprefix("http://")
    return url.startswith((f"http://{here}/", f"ws://{here}/", "data:", "blob:"))


def paint(page):
    """Paint a line of the left pelvis in the axial plane, and save."""
    page.get_by_role("button", name="Axial plane alone").click()
    page.get_by_role("button", name="Paint", exact=True).click()
    page.get_by_role("button", name="left pelvis").first.click()
    box = page.locator(".lls-pane-axial canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 40, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Save correction").click()
    page.get_by_text("The original is kept").wait_for()


def compare(page, truth):
    """Compare the result with a label map, with which it agrees."""
    field = page.get_by_label("A reference: label map on this computer (NIfTI)")
    field.fill(str(truth))
    field.press("Enter")
    page.get_by_text(f"Against {truth.name}").wait_for()
    page.get_by_role("cell", name="1.000").first.wait_for()
    assert page.get_by_role("cell", name="1.000").count() == 8


def downloaded(page, role, name):
    """Click on what is downloaded; return its path."""
    with page.expect_download() as download:
        page.get_by_role(role, name=name).click()
    return download.value.path()


def teach(page):
    """Send the correction to the training data, and take it away from there."""
    page.get_by_role("button", name="Send to the training data").click()
    page.wait_for_url("**/prepare")
    page.get_by_text("scan_desc-corrected_dseg.nii.gz").wait_for()
    assert "Doe" not in page.content()
    assert not page.get_by_label("Scan", exact=True).count()  # no field that would name the folder
    page.get_by_role("button", name="Remove").click()
    page.get_by_text("No subject yet").wait_for()


def test_from_a_folder_of_dicom_to_a_downloaded_result(page, tab, data, script, shots, legs):
    first = tab(page)
    open_scan(first, data / "Doe^Jane" / "dicom")
    first.get_by_role("radio").get_by_text(script).wait_for()
    shots(first, "segment")
    assert first.title() == "Segment · lls"
    segment(first, data / "Doe^Jane" / "dicom")
    second = tab(page)
    first.close()  # the run goes on, and another tab sees it
    second.get_by_role("link", name="scan").first.click()
    second.get_by_role("tab", name="Take away").wait_for()
    second.locator(".lls-3d canvas").wait_for()
    shots(second, "result")
    assert "Doe" not in second.content()

    paint(second)
    shots(second, "corrected")

    second.get_by_role("tab", name="Numbers").click()
    second.get_by_text("Right tibia").wait_for()
    shots(second, "numbers")

    second.get_by_role("tab", name="Compare").click()
    compare(second, data / "truth.nii.gz")
    shots(second, "compare")

    second.get_by_role("tab", name="Take away").click()
    shots(second, "files")
    labels = read_labels(downloaded(second, "link", "scan_dseg.nii.gz").rename(data / "downloaded.nii.gz"))
    np.testing.assert_array_equal(labels.array, legs[1].array)
    report = downloaded(second, "button", "Report in one file").read_text(encoding="utf-8")
    assert "<script src" not in report
    assert script not in report
    everything = zipfile.ZipFile(downloaded(second, "button", "Everything as zip"))
    assert "scan_report.json" in everything.namelist()
    file = downloaded(second, "link", "scan_desc-corrected_dseg.nii.gz").rename(data / "corrected.nii.gz")
    corrected = read_labels(file)
    painted = corrected.array != legs[1].array
    assert painted.any()
    assert set(corrected.array[painted]) == {8}
    assert corrected.geometry.is_close(legs[1].geometry)

    second.get_by_role("tab", name="How it was made").click()
    second.get_by_text("passed").first.click()
    second.get_by_text("The label map has the scan's shape and affine").wait_for()
    shots(second, "how")
    second.get_by_role("tab", name="Take away").click()
    teach(second)
    assert [url for url in first.asked + second.asked if not is_local(url, page)] == []
    assert first.wrong + second.wrong == []


def test_what_is_not_a_scan_or_lies_outside_is_refused_in_words(page, tab, data, tmp_path, shots):
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../../evil.dcm", b"x" * 300)
    found = tab(page)
    open_scan(found, evil)  # outside the roots
    found.get_by_text("lies outside the folders that this page may see").wait_for()
    with found.expect_file_chooser() as chooser:
        found.get_by_role("button", name="Choose files").click()
    chooser.value.set_files(evil)
    found.get_by_text("holds an entry that leads out of it").wait_for()
    shots(found, "refused")
    with found.expect_file_chooser() as chooser:
        found.get_by_role("button", name="Choose files").click()
    chooser.value.set_files(data / "leg.nii.gz")
    found.get_by_text("a NIfTI image").wait_for()
    assert found.get_by_label("Name of the result").input_value() == "leg"
    with found.expect_file_chooser() as chooser:
        found.get_by_role("button", name="a folder").click()
    chooser.value.set_files(data / "Doe^Jane" / "dicom")
    found.get_by_text("1 series").wait_for()
    assert found.get_by_label("Name of the result").input_value() == "scan"
    found.get_by_role("button", name="Browse").click()  # names of files are text
    found.get_by_role("dialog").get_by_role("button", name="<img src=x").wait_for()
    assert found.title() == "Segment · lls"


def test_files_and_folders_are_dropped_into_the_page(page, tab, data, store, tmp_path, shots):
    found = tab(page)
    drop(found, data / "leg.nii.gz")
    found.get_by_text("a NIfTI image").wait_for()
    assert found.get_by_label("Name of the result").input_value() == "leg"

    slices = [file.read_bytes() for file in sorted((data / "Doe^Jane" / "dicom").iterdir())]
    for n, content in enumerate(slices):  # two folders with the same names in them
        (tmp_path / "scan" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "scan" / "ab"[n % 2] / f"IM{n // 2}").write_bytes(content)
    before = set((store / "uploads").iterdir())
    drop(found, tmp_path / "scan", "h1")  # beside the zone: the browser must not leave the page
    found.get_by_text("1 series").wait_for()
    found.get_by_text(f"64 × 64 × {len(slices)} voxels").wait_for()
    (dropped,) = set((store / "uploads").iterdir()) - before
    assert sorted(file.read_bytes() for file in dropped.iterdir()) == sorted(slices)
    shots(found, "dropped")

    (tmp_path / "nothing").mkdir()
    drop(found, tmp_path / "nothing")
    found.get_by_text("There is no file in it").wait_for()
    found.get_by_role("link", name="Train", exact=True).click()
    found.wait_for_url("**/train")
    found.evaluate("addEventListener('dragover', (event) => { window.kept = event.defaultPrevented; })")
    drop(found, data / "leg.nii.gz", "h1")  # nothing takes it here, and the page stays
    assert found.evaluate("window.kept") is True
    assert found.wrong == []


def test_a_drop_that_fails_ends_at_its_first_error_and_leaves_nothing(page, tab, store, tmp_path):
    for n in range(30):
        (tmp_path / f"IM{n:02d}").write_bytes(b"x" * 1000)
    found, before = tab(page), set((store / "uploads").iterdir())
    found.route("**/drop/*name=IM03", lambda route: route.fulfill(status=413, body="no room for it"))
    with found.expect_file_chooser() as chooser:
        found.get_by_role("button", name="Choose files").click()
    chooser.value.set_files(sorted(tmp_path.iterdir()))
    found.get_by_text("no room for it").wait_for()
    found.get_by_role("button", name="Choose files").wait_for()  # it takes another
    found.wait_for_function("document.querySelectorAll('.q-notification').length === 1")
    assert len([url for url in found.asked if "name=IM" in url]) < 30
    for _ in range(PATIENCE // 100):  # what was copied is removed
        if set((store / "uploads").iterdir()) == before:
            break
        found.wait_for_timeout(100)
    assert set((store / "uploads").iterdir()) == before

    found.evaluate("""() => {
        const input = document.querySelectorAll('.dropzone input')[0], files = new DataTransfer();
        for (let n = 0; n <= 20000; n++) files.items.add(new File(['x'], `IM${n}`));
        input.files = files.files;
        input.dispatchEvent(new Event('change'));
    }""")
    found.get_by_text("That is more than this page takes").wait_for()
    assert set((store / "uploads").iterdir()) == before
    assert found.wrong == []


def test_of_a_series_in_time_one_volume_is_chosen(page, tab, data, shots):
    found = tab(page)
    open_scan(found, data / "in-time")
    found.get_by_text("2 volumes at the same positions").first.wait_for()
    assert found.get_by_role("button", name="Segment", exact=True).is_disabled()
    found.get_by_role("radio").click()
    found.get_by_label("Which of its volumes").wait_for()
    shots(found, "volumes")
    found.get_by_label("Name of the result").fill("first of two")
    choose(found, "Network", "tiny")
    found.get_by_role("button", name="Segment", exact=True).click()
    row = found.locator(".job", has_text="first_of_two")
    row.get_by_text("done").wait_for()
    row.get_by_role("link").click()
    found.get_by_role("tab", name="How it was made").click()
    found.get_by_text("asked for: series 1, volume 1").wait_for()


def test_who_has_no_token_gets_nothing_and_nobody_sends_gigabytes(page, tab):
    address = page.split("/?")[0]

    def status(path="", **headers):
        request = urllib.request.Request(address + path, headers=headers)
        if "Content-Length" in headers:
            request.method = "POST"
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    for path in (
        "/",
        "/results",
        "/job/1/file/scan_dseg.nii.gz",
        "/assets/style.css",
        "/_nicegui_ws/socket.io/",
    ):
        assert status(path) == 401
    assert status("/?token=wrong") == 401
    assert status("/", Host="evil.example") == 403
    found = tab(page)
    cookies = "; ".join(f"{c['name']}={c['value']}" for c in found.context.cookies())
    assert status("/", Cookie=cookies) == 200
    size = str(10 * 10**9)
    assert status("/drop", Cookie=cookies, Origin=address, **{"Content-Length": size}) == 413
    small = {"Cookie": cookies, "Content-Length": "0"}
    assert status("/drop", **small) == 403
    assert status("/drop", **small, Origin="http://evil.example") == 403
    assert status("/job/1/file/..%2f..%2f..%2fjobs.db", Cookie=cookies) == 404


def test_a_file_that_leads_to_the_address_opens_the_page(page, tab, tmp_path):
    door = tmp_path / "door.html"
    door.write_text(f'<meta http-equiv="refresh" content="0; url={page}">')
    found = tab(door.as_uri())
    found.get_by_role("heading", name="Segment a scan").wait_for()
    assert "token" not in found.url


def test_names_of_patients_are_shown_only_when_asked_for(page, tab, data, shots):
    found = tab(page)
    open_scan(found, data / "Doe^Jane" / "dicom")
    found.get_by_role("radio").first.wait_for()
    assert "lls phantom" not in found.content()
    with found.expect_navigation():  # the page is built anew
        found.get_by_role("switch", name="Show names").click()
    found.get_by_role("switch", name="Show names", checked=True).wait_for()
    open_scan(found, data / "Doe^Jane" / "dicom")
    found.get_by_text("lls phantom").wait_for()
    found.get_by_role("switch", name="Show names").click()
    found.get_by_role("switch", name="Show names", checked=False).wait_for()


def test_narrow_and_dark_it_is_all_there_and_the_keyboard_reaches_it(page, tab, data, shots):
    found = tab(page, viewport={"width": 640, "height": 500}, color_scheme="dark")  # 200 % of 1280 x 1000
    found.get_by_role("switch", name="Dark").click()
    found.locator("body.body--dark").wait_for()
    open_scan(found, data / "leg.nii.gz")
    found.get_by_role("button", name="Segment", exact=True).wait_for()
    shots(found, "narrow")
    assert found.evaluate("document.documentElement.scrollWidth <= innerWidth")
    reached = set()
    found.locator("body").press("Home")
    for _ in range(40):
        found.keyboard.press("Tab")
        reached.add(found.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel"))
    assert any("Segment" in (name or "") for name in reached)
    assert any("Browse" in (name or "") for name in reached)
    found.get_by_role("switch", name="Dark").click()
    found.locator("body.body--light").wait_for()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_what_a_killed_page_was_doing_is_cut_short_and_can_run_again(serve, tab, data, tmp_path, shots):
    store, long = tmp_path / "store", data / "long.nii.gz"
    leg = read_volume(data / "leg.nii.gz")
    many = np.repeat(leg.array, 4, axis=2)  # long enough to be met at work
    write_volume(long, Volume(many, Geometry(many.shape, leg.geometry.affine)))
    with serve(store, data) as (address, process):
        found = tab(address)
        segment(found, long, "bundled with lls")
        found.get_by_text("finding the legs").wait_for()  # in slices 15 mm apart: here in all of them
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with serve(store, data) as (address, _):
        found = tab(address)
        found.get_by_text("cut short").wait_for()
        shots(found, "cut-short")
        assert not list((store / "jobs").rglob("*.partial"))
        found.get_by_role("button", name="Run again").click()
        found.get_by_role("button", name="Cancel").click()
        found.get_by_text("cancelled").wait_for()
    assert not list((store / "jobs").rglob("result/*"))


def add_subject(page, folder):
    """Choose the folder of a labelled subject."""
    page.get_by_role("button", name="Add a subject's folder").click()
    dialog = page.get_by_role("dialog")
    dialog.locator(".folderrow").first.wait_for()
    if not dialog.get_by_role("button", name=folder.name).count():
        dialog.get_by_role("button", name="Up").click()
    dialog.get_by_role("button", name=folder.name).click()
    dialog.get_by_text(str(folder)).wait_for()
    dialog.get_by_role("button", name="Take this folder").click()
    dialog.wait_for(state="detached")


def stop_and_go_on(page, log, shots):
    """Stop a training, let it go on for an epoch, and stop it again."""
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("it can go on where it was").wait_for()
    stopped = read_log(log)
    shots(page, "stopped")
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_role("button", name="Log").click()
    page.get_by_text("resumed at epoch").wait_for()
    page.get_by_text(f"epoch={len(stopped) + 1} ").wait_for()  # it is over
    shots(page, "going-on")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Go on").wait_for()
    resumed = read_log(log)
    assert resumed[0] == stopped[0]  # it did not begin anew
    assert [row["epoch"] for row in resumed] == [str(n + 1) for n in range(len(resumed))]
    assert len(resumed) > len(stopped)


def test_from_labelled_subjects_to_a_new_network(page, tab, data, store, shots):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    found = tab(page.replace("/?", "/prepare?"))
    for name in ("subject1", "subject2"):
        add_subject(found, data / name)
    found.get_by_role("button", name="Add a row by hand").click()
    found.get_by_label("Name of the dataset").fill("legs")
    found.get_by_role("button", name="Check and prepare").click()
    found.get_by_text("The name may hold letters").wait_for()  # said before anything runs
    assert found.get_by_text("in order").count() == 2
    shots(found, "prepare")
    found.get_by_role("button", name="Remove").last.click()
    found.get_by_role("button", name="Check and prepare").click()
    found.get_by_alt_text("Quality page").last.wait_for()
    assert found.get_by_alt_text("Quality page").count() == 2
    found.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth)")
    shots(found, "dataset")

    found.get_by_role("button", name="Train on it").click()
    choose(found, "Network", "unet-mobilenetv2 (torch)")
    choose(found, "Begins", "anew")
    found.get_by_label("Name of the network").fill("mine")
    found.get_by_label("Epochs at most").fill("500")
    found.get_by_text("Options").click()
    for label, value in (("Slices an epoch", 2), ("Slices a step", 2), ("Slices that are validated on", 2)):
        found.get_by_label(label).fill(str(value))
    shots(found, "train")
    found.get_by_role("button", name="Train", exact=True).click()
    found.get_by_role("button", name="Use the best network so far").wait_for()  # an epoch is over
    shots(found, "training")
    found.get_by_text(re.compile(r"epoch ([2-9]|\d\d+) of 500")).wait_for()  # the first can be gone on from
    stop_and_go_on(found, store / "runs" / "mine" / "log.csv", shots)
    found.get_by_role("button", name="Use the best network so far").click()
    found.get_by_role("button", name="Segment with it").click()
    open_scan(found, data / "leg.nii.gz")
    found.get_by_text("mine").wait_for()  # chosen already
    shots(found, "new-network")
    assert found.wrong == []
