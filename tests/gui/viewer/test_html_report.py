"""The report as one file: it loads nothing, shows what was found, and believes no text."""

import base64
import json
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from cli.main import run
from gui.html_report import html_report, write_html
from seg_core.errors import GeometryError
from seg_core.geometry import LabelMap
from seg_core.nifti import write_volume
from seg_core.report import sha256

ADDRESSES = {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "background"}


class Page(HTMLParser):
    """Collects what is in a page: tags, addresses, text by the tag around it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.texts, self._inside = [], [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ADDRESSES]
        self._inside = tag if tag != "script" else dict(attributes).get("id", "script")

    def handle_data(self, data):
        self.texts[self._inside] = self.texts.get(self._inside, "") + f" {data}"

    @property
    def data(self):
        return json.loads(self.texts["data"])


@pytest.fixture(scope="module")
def done(tmp_path_factory, legs, tiny_model):
    """The folder of a run with --html."""
    folder = tmp_path_factory.mktemp("html")
    write_volume(folder / "leg.nii.gz", legs[0])
    arguments = [
        "segment",
        folder / "leg.nii.gz",
        "-o",
        folder / "out",
        "--model",
        tiny_model,
        "-q",
        "--html",
    ]
    assert run([str(a) for a in arguments]) == 0
    return folder / "out"


def test_the_page_is_one_of_the_outputs_and_says_what_the_report_says(done, read_json):
    path, report = done / "leg_report.html", read_json(done / "leg_report.json")
    listed = {entry["file"]: entry for entry in report["outputs"]}
    assert listed["leg_report.html"]["sha256"] == sha256(path)
    assert path.stat().st_size < 2_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert page.addresses == []
    assert "default-src 'none'" in path.read_text(encoding="utf-8")
    cells = page.texts["td"].split()
    for row in report["bones"]:
        assert f"{row['volume_cm3']:.1f}" in cells


def test_slices_carry_the_scans_own_numbers_and_contours_lie_on_the_bones(done, legs):
    labels = legs[1]
    data = Page((done / "leg_report.html").read_text(encoding="utf-8")).data
    axial = data["planes"][0]
    assert {bone["value"] for bone in data["bones"]} == set(np.unique(labels.array)) - {0}
    for piece in axial["slices"]:
        found = set(np.unique(labels.array[:, :, piece["number"]])) - {0}
        assert {int(value) for value in piece["paths"]} == found
        assert base64.b64decode(piece["image"]).startswith(b"\xff\xd8")
    # The contour of a bone encloses as many mm2 as its pixels.
    piece = axial["slices"][axial["start"]]
    for value, path in piece["paths"].items():
        points = np.array([p.split() for p in path.strip("MZ").split("L")], float)
        x, y = points.T
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        pixels = np.count_nonzero(labels.array[:, :, piece["number"]] == int(value)) * 16.0
        assert area == pytest.approx(pixels, rel=0.25)


def test_it_draws_without_a_network(done, new_page, drawn, tmp_path):
    page, asked = new_page(offline=True), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((done / "leg_report.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    drawn(page, "#bones", 300)
    assert page.locator("#contours path").count() > 0
    assert page.evaluate("document.querySelector('#slice image').getBBox().width") > 0
    number = page.inner_text("#number")
    page.locator("#slice").hover()
    page.mouse.wheel(0, -100)
    assert page.inner_text("#number") != number
    page.locator("td input").first.uncheck()
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_texts_of_the_scan_are_no_part_of_the_page(done, legs, read_json):
    report = read_json(done / "leg_report.json")
    trap = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    report["warnings"] = report["name"] = report["sides"]["detail"] = trap
    report["warnings"] = [trap]
    report["bones"][0] |= {"bone": trap, "side": trap}
    report["scan"] |= {"kind": trap, "description": "Doe^Jane"}
    report["plausibility"] = report["checks"] = [{"check": trap, "passed": False, "detail": trap}]
    labels = LabelMap(legs[1].array, legs[1].geometry, dict(legs[1].labels) | {1: trap})
    text = html_report(legs[0], labels, report)
    page = Page(text)
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert page.texts["li"].count(trap) == 5  # a warning, and two checks with their details
    assert "Doe" not in text


def test_a_scan_without_a_bone_has_a_page_too(legs, done, read_json):
    volume, labels = legs
    empty = LabelMap(np.zeros_like(labels.array), labels.geometry, labels.labels)
    data = Page(html_report(volume, empty, read_json(done / "leg_report.json"))).data
    assert data["bones"] == []
    assert all(not piece["paths"] for plane in data["planes"] for piece in plane["slices"])


def test_write_html_from_a_folder_and_what_it_refuses(done, legs, tmp_path):
    for file in ("leg_report.json", "leg_dseg.nii.gz", "leg_dseg.json"):
        (tmp_path / file).write_bytes((done / file).read_bytes())
    path = write_html(tmp_path, legs[0], "leg")
    written, first = (Page(p.read_text(encoding="utf-8")).data for p in (path, done / "leg_report.html"))
    assert written == first
    small = LabelMap(np.zeros((2, 2, 2), np.uint8), legs[0].geometry.window((0, 0, 0), (2, 2, 2)), {})
    with pytest.raises(GeometryError):
        html_report(legs[0], small, {})


def test_the_page_needs_the_cores_packages_only():
    code = (
        "import gui.html_report, sys; print([m for m in ('nicegui', 'fastapi', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
