from dataclasses import replace

import numpy as np
import pytest

from benchmarks import never_seen
from benchmarks.looks import LOOKS, scan_person, signal
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


def test_the_table_says_what_was_missed():
    nothing = [float("nan")] + [1.0] * (2 * len(BONES) - 1)
    scores = [never_seen.Score("t1", "a", [0.5] * 8, nothing, [1.0] * 8, 0.9)] * 2
    rows = never_seen.table("t1", scores).splitlines()
    assert len(rows) == 2 + 8 + 1
    assert rows[2] == "| right tibia | 0.500 ± 0.000 | none | 1.000 ± 0.000 |"
    assert rows[-1].startswith("| any bone | 0.900")
    with pytest.raises(KeyError):
        next(never_seen.people("unknown"))
