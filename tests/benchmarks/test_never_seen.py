import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest

from benchmarks import accuracy, never_seen
from benchmarks.degradations import __main__ as degradations
from benchmarks.looks import LOOKS, _Acquisition, keep_scan, scan_person, signal
from benchmarks.report import populations
from seg_core.dicom import find_series
from seg_core.errors import UsageError
from seg_core.labels import BONES
from trainers.soft_tissue import Tissue
from trainers.synthetic import draw_phantom_config


def test_looks_are_what_a_radiologist_expects():
    level = {name: dict(zip(Tissue, signal(look), strict=True)) for name, look in LOOKS.items()}
    water, t1, pd = level["water_dixon"], level["t1"], level["pd_fat_suppressed"]
    assert water[Tissue.MUSCLE] > 3 * water[Tissue.FAT]
    assert t1[Tissue.FAT] > 2 * t1[Tissue.MUSCLE] > 2 * t1[Tissue.FLUID]
    assert pd[Tissue.FLUID] > pd[Tissue.CARTILAGE] > pd[Tissue.MUSCLE] > 2 * pd[Tissue.MARROW]
    low = level["low_field_in_phase"]
    assert low[Tissue.MARROW] > 2 * low[Tissue.MUSCLE]
    for name, levels in level.items():
        brightest = max(levels, key=lambda tissue: levels[tissue])
        assert (brightest == Tissue.CORTEX) == (name == "ct")


def test_every_person_is_new_to_training():
    configs = [config for look in LOOKS for config in never_seen.people(look)]
    assert len({config.seed for config in configs}) == len(configs) == 30
    assert min(config.seed for config in configs) > 900_200
    assert {config.subject for config in configs} == {23, 24, 25}
    assert draw_phantom_config(100_000).subject is None


def test_a_scan_with_its_truth(tmp_path):
    look = replace(LOOKS["t1"], size=64, pixel_mm=6.5)
    config = replace(next(never_seen.people("t1")), size=64, pixel_mm=6.5, slice_mm=40.0)
    never_seen.make(config, look, tmp_path / "one")
    again = scan_person(config, look, threads=1).volume.array
    from seg_core.scan import read_scan

    np.testing.assert_array_equal(read_scan(tmp_path / "one" / "dicom").volume.array, again)
    assert (tmp_path / "one" / "labels.nii.gz").is_file()
    never_seen.make(config, look, tmp_path / "one")  # it is there
    for other in (replace(look, te_ms=20), LOOKS["ct"]):
        with pytest.raises(UsageError, match="another scan"):
            never_seen.make(config, other, tmp_path / "one")
    with pytest.raises(UsageError, match="another scan"):
        keep_scan(config, tmp_path / "one")


HEADERS = {  # water by Dixon, sequence, TR, TE, field
    "water_dixon": (True, "GR", 6.7, 2.4, 1.5),
    "t1": (False, "SE", 550, 12, 1.5),
    "pd_fat_suppressed": (False, "SE", 3200, 38, 1.5),
    "low_field_in_phase": (False, "GR", 30, 12.5, 0.55),
    "ct": (False, "RM", None, None, None),
}


def test_headers_are_the_looks_own(tmp_path):
    everyone = [replace(config, size=16, pixel_mm=30.0, slices=2) for config in never_seen.people("t1")]
    for name, look in LOOKS.items():
        never_seen.make(everyone[0], replace(look, size=16, pixel_mm=30.0), tmp_path / name)
    images = {name: pydicom.dcmread(next((tmp_path / name / "dicom").iterdir())) for name in LOOKS}
    assert len({image.SeriesInstanceUID for image in images.values()}) == len(LOOKS)
    assert len({image.StudyInstanceUID for image in images.values()}) == 1
    found = {series.kind.uid: series for series in find_series(tmp_path)}
    for name, image in images.items():
        times = (image.RepetitionTime, image.EchoTime, image.MagneticFieldStrength)
        water = found[image.SeriesInstanceUID].is_water
        assert (water, image.ScanningSequence, *times) == HEADERS[name]
        assert "water" not in (tmp_path / name / "phantom.json").read_text()


def test_a_scan_that_is_another_is_not_scored(tmp_path):
    """Whatever a scan's folder is called, its configuration is the one that is asked for."""
    accurate, seen, worse = (
        next(configs)
        for configs in (
            accuracy.configurations("ordinary"),
            never_seen.people("t1"),
            degradations.people(smoke=False),
        )
    )
    person = populations.Person("stale", accurate, None)
    asks = {
        "accuracy": lambda: accuracy.score(accurate, SimpleNamespace(), tmp_path / "stale"),
        "never seen": lambda: never_seen.make(seen, LOOKS["t1"], tmp_path / "stale"),
        "degradations": lambda: degradations.read(worse, tmp_path / "stale"),
        "populations": lambda: populations.scan(person, tmp_path),
    }
    (tmp_path / "stale").mkdir()
    for ask in asks.values():
        with pytest.raises(UsageError, match="another scan"):
            ask()  # nothing says what it is
    for number, config in enumerate((accurate, seen, worse)):
        facts = {"config": asdict(replace(config, seed=number))}
        (tmp_path / "stale" / "phantom.json").write_text(json.dumps(facts))
        for ask in asks.values():
            with pytest.raises(UsageError, match="another scan"):
                ask()


def test_a_scan_of_before_a_field_was_there_is_known(tmp_path):
    config = next(accuracy.configurations("ordinary"))
    (tmp_path / "phantom.json").write_text(
        json.dumps({"config": {name: value for name, value in asdict(config).items() if name != "bare_shin"}})
    )
    assert keep_scan(config, tmp_path) == tmp_path
    with pytest.raises(UsageError, match="another scan"):
        keep_scan(replace(config, bare_shin=0.5), tmp_path)


def test_the_image_keeps_of_the_noise_what_was_acquired():
    look = replace(LOOKS["t1"], noise=0.1, scale=20000)
    acquisition = _Acquisition(look, 256, 1)
    air = np.zeros((256, 256), np.uint8)
    image = acquisition.slice([(air, air)], 0, 2)
    whole = 0.1 * acquisition.levels[Tissue.MUSCLE] / acquisition.levels.max() * 20000
    assert image.mean() / np.sqrt(np.pi / 2) == pytest.approx(look.acquired * whole, rel=0.02)


def test_the_table_says_what_was_missed():
    nothing = [float("nan")] + [1.0] * (2 * len(BONES) - 1)
    scores = [never_seen.Score("t1", "a", [0.5] * 8, nothing, [1.0] * 8, 0.9)] * 2
    rows = never_seen.table("t1", scores).splitlines()
    assert len(rows) == 2 + 8 + 1
    assert rows[2] == "| right tibia | 0.500 ± 0.000 | none | 1.000 ± 0.000 |"
    assert rows[-1].startswith("| any bone | 0.900")
    with pytest.raises(KeyError):
        next(never_seen.people("unknown"))
