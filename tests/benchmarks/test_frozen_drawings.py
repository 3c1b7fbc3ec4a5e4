"""Frozen sets are drawn as before: a coarse scan of each kind, measured.

Where one differs, so does a whole frozen set, and figures of before and after cannot be compared. If that is
meant, raise ``schema`` in `trainers.phantom.place` and `benchmarks.looks.DRAWING` together, so that no kept
scan is taken for a new one, measure anew, and score again whatever stands beside new figures.
"""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest

from benchmarks import accuracy, looks, never_seen
from seg_core.errors import UsageError
from trainers import draw
from trainers.phantom import PhantomConfig, make_phantom
from trainers.soft_tissue import Tissue

COARSE = {"size": 128, "pixel_mm": 3.75, "slice_mm": 120.0}


@dataclass(frozen=True)
class Measured:
    """What a drawing is made of, and what is stored of it.

    Parameters
    ----------
    tissues, labels : list of int
        Pixels of each tissue in all planes; voxels of each label.
    levels : list of float
        Mean and SD of body, mean of air, mean step along a row.
    """

    tissues: list[int]
    labels: list[int]
    levels: list[float]


# fmt: off
MEASURED = {
    "water_dixon": Measured([245535, 1342, 5781, 4396, 1354, 51, 207, 101, 1465, 0, 0, 1912, 0],
        [46, 163, 10, 97, 45, 181, 13, 93], [423.517, 225.6741, 29.5152, 24.7664]),
    "t1": Measured([247213, 914, 5911, 4818, 513, 61, 260, 101, 1349, 149, 0, 855, 0],
        [47, 152, 10, 60, 50, 145, 10, 62], [823.922, 383.3938, 16.5333, 22.6384]),
    "pd_fat_suppressed": Measured([211233, 1095, 4874, 6990, 1903, 64, 311, 57, 1264, 59, 0, 1526, 0],
        [49, 147, 11, 63, 50, 147, 11, 55], [151.8958, 86.7855, 7.5849, 7.4459]),
    "low_field_in_phase": Measured([241227, 1290, 8563, 4943, 2009, 62, 253, 73, 1687, 0, 0, 2037, 0],
        [46, 132, 12, 71, 46, 132, 12, 87], [137.291, 62.648, 8.482, 7.3022]),
    "ct": Measured([244134, 1183, 3466, 8359, 1029, 59, 310, 36, 1649, 0, 0, 1919, 0],
        [45, 131, 11, 89, 46, 131, 11, 92], [-79.0945, 274.5957, -999.668, 35.1674]),
    "ordinary": Measured([245785, 1360, 5262, 5865, 1145, 61, 216, 121, 1265, 106, 0, 958, 0],
        [47, 202, 10, 69, 45, 200, 10, 67], [108.5138, 50.1538, 11.6037, 7.6878]),
    "hard": Measured([245773, 1314, 2822, 7552, 715, 50, 215, 72, 1660, 0, 0, 1971, 0],
        [44, 131, 11, 86, 42, 147, 10, 95], [530.3761, 247.0634, 195.553, 118.8324]),
    "anybody": Measured([266643, 1394, 9292, 9505, 2347, 108, 546, 394, 2288, 214, 0, 2181, 0],
        [184, 168, 31, 134, 188, 162, 30, 134], [995.691, 553.3918, 65.9711, 50.8456]),
}
# fmt: on


def drawn(kind):
    """A look's first person, a set's, or whom `lls phantom` draws; coarse."""
    if kind in looks.LOOKS:
        config = replace(next(never_seen.people(kind)), **COARSE)
        return looks.scan_person(config, looks.LOOKS[kind], threads=1)
    config = PhantomConfig(seed=1) if kind == "anybody" else next(accuracy.configurations(kind))
    return make_phantom(replace(config, **COARSE), threads=1)


def measured(kind, monkeypatch):
    """Draw, and look at the tissues on the way."""
    planes_of, draw_tissue = {}, draw.draw_tissue

    def looked_at(anatomy, geometry, drawing, take, threads):
        def one(k, planes):
            planes_of[k] = [tissue for tissue, _ in planes]
            take(k, planes)

        draw_tissue(anatomy, geometry, drawing, one, threads)

    for module in (draw, looks):
        monkeypatch.setattr(module, "draw_tissue", looked_at)
    made = drawn(kind)
    assert made.facts["schema"] == looks.DRAWING
    tissue = np.array([planes_of[k] for k in range(len(planes_of))])  # slices, planes, rows, columns
    stored, body = made.volume.array.T.astype(np.float64), (tissue != Tissue.AIR).any(axis=1)
    step = np.abs(np.diff(stored)).mean()
    levels = [float(v) for v in (stored[body].mean(), stored[body].std(), stored[~body].mean(), step)]
    labels = np.bincount(made.labels.array.ravel(), minlength=9)[1:]
    return Measured(np.bincount(tissue.ravel(), minlength=len(Tissue)).tolist(), labels.tolist(), levels)


@pytest.mark.parametrize("kind", MEASURED)
def test_a_frozen_set_is_drawn_as_before(kind, monkeypatch):
    """Another processor may round surfaces and levels otherwise, which moves a pixel or two."""
    found, expected = measured(kind, monkeypatch), MEASURED[kind]
    assert found.tissues == pytest.approx(expected.tissues, abs=2)
    assert found.labels == pytest.approx(expected.labels, abs=2)
    assert found.levels == pytest.approx(expected.levels, rel=5e-4)


def test_a_scan_of_an_earlier_drawing_is_refused(tmp_path, monkeypatch):
    config = next(accuracy.configurations("ordinary"))
    for number, schema in enumerate(({}, {"schema": 1}, {"schema": 2})):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "phantom.json").write_text(json.dumps({"config": asdict(config)} | schema))
    for now, same, other in ((1, [0, 1], [2]), (2, [2], [0, 1])):
        monkeypatch.setattr(looks, "DRAWING", now)
        for number in same:
            assert looks.keep_scan(config, tmp_path / str(number)) == tmp_path / str(number)
        for number in other:
            with pytest.raises(UsageError, match=f"holds a scan of drawing {3 - now}"):
                looks.keep_scan(config, tmp_path / str(number))
