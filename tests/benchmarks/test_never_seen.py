import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
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
from seg_core.geometry import Volume
from seg_core.labels import BONES
from seg_core.nifti import write_labels
from trainers.dicom_writer import SeriesInfo, write_series
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


def six_scans(look, right, left):
    """Scores of a look's people, of whom the two of 122 cm are found half as well."""
    names = [never_seen.scan_name(config) for config in never_seen.people(look)]
    shares = [0.5 if "122cm" in name else 1.0 for name in names]
    return [
        never_seen.Score(look, name, [s * v for v in (*right, *left)], [1.0] * 8, [0.0] * 8, s * 0.96)
        for name, s in zip(names, shares, strict=True)
    ]


def test_the_means_are_over_sides_and_scans():
    scores = six_scans("ct", (0.9, 0.8, 0.56, 0.7), (0.7, 0.8, 0.72, 0.9))
    scores += six_scans("t1", (0.3,) * 4, (0.3,) * 4)
    looks, statures = never_seen.summaries(scores).split("\n\n")
    assert looks.splitlines() == [
        "| look | tibia | femur | fibula | pelvis | mean | any bone |",
        "|---|---|---|---|---|---|---|",
        "| CT-like | 0.667 | 0.667 | 0.533 | 0.667 | 0.633 | 0.800 |",
        "| T1 | 0.250 | 0.250 | 0.250 | 0.250 | 0.250 | 0.800 |",
    ]
    assert statures.splitlines()[0].startswith("| stature | tibia | femur |")
    assert statures.splitlines()[2:] == [
        "| 122 cm | 0.275 | 0.275 | 0.235 | 0.275 | 0.265 | 0.480 |",
        *[f"| {stature} cm | 0.550 | 0.550 | 0.470 | 0.550 | 0.530 | 0.960 |" for stature in (138, 162, 174)],
    ]


def test_titles_are_those_of_all_looks():
    assert list(never_seen.TITLES) == list(LOOKS)
    page = (Path(__file__).parents[2] / "docs" / "unseen.md").read_text(encoding="utf-8")
    assert all(f"\n| {title} | " in page for title in never_seen.TITLES.values())


def test_what_was_scored_is_said_and_can_be_printed_again(
    legs, tiny_model, tmp_path, monkeypatch, capsys, read_json
):
    def make(config, look, folder):
        array = legs[0].array.astype(np.int16)
        write_series(folder / "dicom", Volume(array, legs[0].geometry), SeriesInfo(folder.name))
        write_labels(folder / "labels.nii.gz", legs[1])

    people = list(never_seen.people("t1"))[1:3]
    monkeypatch.setattr(never_seen, "make", make)
    monkeypatch.setattr(never_seen, "people", lambda look: iter(people))
    kept = str(tmp_path / "figures.json")
    call = ["--look", "t1", "--model", str(tiny_model), "--precision", "fp32", "--json", kept]
    assert never_seen.main([*call, "--scans", str(tmp_path / "scans")]) == 0
    out = capsys.readouterr().out
    digest = hashlib.sha256(tiny_model.read_bytes()).hexdigest()[:12]
    assert out.startswith(
        f"Synthetic scans, looks from physics, model tiny in fp32, sha256 {digest}\n\n| t1 |"
    )
    assert "\n| T1 | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 |\n" in out
    assert never_seen.main(["--from", kept]) == 0
    assert capsys.readouterr().out == out
    (tmp_path / "old.json").write_text(json.dumps(read_json(tmp_path / "figures.json")["scores"]))
    assert never_seen.main(["--from", str(tmp_path / "old.json")]) == 0
    again = capsys.readouterr().out
    assert "model not noted" in again
    assert again.splitlines()[1:] == out.splitlines()[1:]


@pytest.mark.parametrize("text", ["", '{"model": "tiny"}', '[{"look": "t1"}]'])
def test_a_file_without_scores_is_told(text, tmp_path, capsys):
    (tmp_path / "figures.json").write_text(text)
    assert never_seen.main(["--from", str(tmp_path / "figures.json")]) == 2
    assert never_seen.main(["--from", str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.count("holds no scores") == 2
