from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from seg_core.geometry import LabelMap
from trainers.config import IGNORED
from trainers.quality import examine, write_page


@pytest.fixture
def changed(legs):
    """The made-up legs' labels after a change."""

    def change(function):
        array = legs[1].array.copy(order="F")
        function(array)
        return LabelMap(array, legs[1].geometry, legs[1].labels)

    return change


def notes(legs, labels, **more):
    return " | ".join(examine(legs[0], labels, **more).notes)


def test_nothing_is_odd_about_good_labels(legs):
    volume, labels = legs
    quality = examine(volume, labels)
    assert quality.notes == ()
    voxels = np.bincount(labels.array.ravel(), minlength=9)[1:]
    assert [row.voxels for row in quality.rows] == voxels.tolist()
    assert [s["name"] for s in quality.as_json()["structures"]] == list(labels.labels.values())


def test_what_is_odd_is_said(legs, changed):
    def empty(a):
        a[a == 3] = 0

    def hole(a):
        i, j, k = np.argwhere(a == 2).mean(0).astype(int)
        a[i : i + 2, j : j + 2, k - 1 : k + 1] = 0

    def pieces(a):
        a[:, :, 10][a[:, :, 10] == 1] = 0

    def outside(a):
        a[2:8, 2:8, 5:10] = 1

    def ignored(a):
        a[a == 0] = IGNORED

    assert "right_fibula is empty" in notes(legs, changed(empty))
    assert "right_femur has holes of 8 voxels" in notes(legs, changed(hole))
    assert "right_tibia is in 2 pieces" in notes(legs, changed(pieces))
    assert "% lies outside the body" in notes(legs, changed(outside))
    assert notes(legs, changed(ignored)) == ""
    assert "no label of patella" in notes(legs, legs[1], missing=["patella"])


def test_exchanged_sides_and_cut_structures_are_said(legs):
    volume, labels = legs
    names = {
        v: n.replace("right", "x").replace("left", "right").replace("x", "left")
        for v, n in labels.labels.items()
    }
    text = notes(legs, replace(labels, labels=names))
    assert "right_tibia lies to the left of left_tibia" in text
    high = np.s_[:, :, :34]
    cut = replace(volume, array=volume.array[high], geometry=volume.geometry.window((0, 0, 0), (64, 64, 34)))
    assert "right_pelvis is cut by the edge of the scan" in notes(
        (cut, None), LabelMap(labels.array[high], cut.geometry, labels.labels)
    )


def test_the_page_dims_what_is_ignored_and_leaves_the_scan_alone(tmp_path, legs, changed):
    def half(a):
        a[34:][a[34:] == 0] = IGNORED

    volume = legs[0]
    before = volume.array.copy()
    for name, labels in (("whole", legs[1]), ("half", changed(half))):
        quality = examine(volume, labels)
        write_page(
            tmp_path / f"{name}.png", volume, labels, quality, ["subject", "labels", "a line of words"]
        )
    assert np.array_equal(volume.array, before)
    whole, dim = (
        np.asarray(Image.open(tmp_path / f"{n}.png").convert("L"), float) for n in ("whole", "half")
    )
    page = whole[0, 0]
    assert dim.mean() - page < 0.95 * (whole.mean() - page)
    odd = examine(volume, legs[1], ["patella", "sacrum"])
    write_page(tmp_path / "odd.png", volume, legs[1], odd, ["subject", "labels", "a line of words"])
    with Image.open(tmp_path / "odd.png") as picture:
        assert picture.height > len(whole)
