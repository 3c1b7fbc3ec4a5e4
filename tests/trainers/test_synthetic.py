from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from seg_core.intensity import intensity_window, scale
from seg_core.labels import BONES
from seg_core.resize import resize_bilinear
from trainers.phantom import PhantomConfig, make_phantom
from trainers.soft_tissue import Tissue
from trainers.synthetic import NORMALISATION, draw_phantom_config, training_materials, training_slices

CONFIG = PhantomConfig(seed=21, stature_cm=120, size=256, pixel_mm=1.875, slice_mm=25.0)


@pytest.fixture(scope="module")
def slices() -> tuple[np.ndarray, np.ndarray]:
    return training_slices(CONFIG)


def test_slices_are_the_scan_as_the_runner_prepares_it(slices: tuple[np.ndarray, np.ndarray]) -> None:
    phantom = make_phantom(CONFIG)
    low, high = intensity_window(phantom.volume.array, NORMALISATION)
    whole = resize_bilinear(scale(phantom.volume.array.T, low, high), (256, 256))
    bone = (phantom.labels.array.T - 1) % len(BONES) + 1
    bone[phantom.labels.array.T == 0] = 0
    assert np.array_equal(slices[0], whole)
    assert np.array_equal(slices[1], bone)  # the pixels are the scan's own here


def test_labels_are_bones_without_sides(slices: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = slices
    assert images.shape == labels.shape == (len(labels), 256, 256)
    assert images.dtype == np.float32
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4}
    assert images.min() >= 0
    assert images.max() <= 1


def test_materials_are_those_of_the_scan(slices: tuple[np.ndarray, np.ndarray]) -> None:
    mixtures, labels = training_materials(CONFIG)
    assert np.array_equal(labels, slices[1])
    first, share = mixtures & 255, mixtures >> 16
    air = (first == Tissue.AIR) & (share == 255)
    assert slices[0][air].mean() < 0.1 < slices[0][~air].mean()
    bony = [Tissue.CORTEX, Tissue.MARROW, Tissue.RED_MARROW, Tissue.CARTILAGE]
    inside = np.isin(first, bony) | np.isin((mixtures >> 8) & 255, bony)
    assert inside[labels > 0].mean() > 0.95  # a label is that of the slice's middle, materials of all of it


def test_training_never_meets_the_subjects_of_the_test() -> None:
    from benchmarks.accuracy import DEVELOPMENT, FIRST_SEED, SUBJECTS, TESTS, configurations

    drawn = [draw_phantom_config(seed) for seed in range(100_000, 100_200)]
    validation = [draw_phantom_config(seed, (20, 21, 22)) for seed in range(500_000, 500_050)]
    tests = [config for name in TESTS for config in configurations(name)]
    assert all(config.subject is None for config in drawn)  # draws come from the training basis
    assert {config.subject for config in validation} <= {20, 21, 22}
    assert {config.subject for config in tests} == set(SUBJECTS) == {23, 24, 25}
    assert min(config.seed for config in tests) == FIRST_SEED
    assert max(config.seed for config in drawn + validation) < FIRST_SEED
    development = list(configurations("development"))
    assert {config.subject for config in development} == set(DEVELOPMENT) == {20, 21, 22}
    assert len({config.seed for config in tests + development}) == 21
    assert len(tests) == 18


def test_a_cache_says_who_was_drawn(tmp_path, monkeypatch) -> None:
    from trainers import synthetic
    from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter

    images, labels = np.zeros((2, 256, 256), np.float32), np.ones((2, 256, 256), np.uint8)
    with SliceCacheWriter(tmp_path, CacheIndex((256, 256), BONES)) as writer:  # as it was written before
        writer.append("7", images, labels, (1.875, 1.875, 4.0), {"subject": None})
    monkeypatch.setattr(synthetic, "training_slices", lambda *arguments: (images, labels))
    asked = ["--people", "2", "--first-seed", "7", "--stature", "150", "152"]
    monkeypatch.setattr("sys.argv", ["synthetic", "--out", str(tmp_path), *asked])
    synthetic.main()
    old, new = SliceCache(tmp_path).index.subjects
    assert (old.name, old.extra) == ("7", {"subject": None})
    assert PhantomConfig(**new.extra) == draw_phantom_config(8, (), (150.0, 152.0))
    assert 150 <= new.extra["stature_cm"] <= 152
    shrunk = new.extra["pixel_mm"] / 0.9375
    assert 150 / 170 - 1e-9 <= shrunk < 1
    assert new.size == shrunk
    assert new.spacing_mm == pytest.approx((1.875 * shrunk, 1.875 * shrunk, new.extra["slice_mm"]))


def test_small_people_seem_as_large_as_usual_ones_but_for_some() -> None:
    drawn = [draw_phantom_config(seed) for seed in range(400)]
    size = np.array([config.stature_cm / (config.pixel_mm / 0.9375) for config in drawn])
    stature = np.array([config.stature_cm for config in drawn])
    small = stature < 170
    assert size[small] == pytest.approx(np.minimum(size[small], 170.0))
    assert (size[small] >= stature[small] - 1e-9).all()
    assert np.mean(size[small] < 169.9) == pytest.approx(0.25, abs=0.07)
    assert np.array_equal(size[~small], stature[~small])


def test_a_bare_shin_lies_under_the_skin() -> None:
    covers = []
    for bare in (0.0, 1.0):
        mixtures, labels = training_materials(replace(CONFIG, bare_shin=bare))
        calf = [k for k in range(len(labels)) if {1, 3} <= set(np.unique(labels[k])) and 2 not in labels[k]]
        air = mixtures[calf] & 255 == Tissue.AIR
        depth = np.stack([ndimage.distance_transform_edt(~slice_) for slice_ in air]) * 1.875
        covers.append([depth[n][labels[k] == 1].min() for n, k in enumerate(calf)])
    assert len(calf) >= 4
    assert np.median(covers[1]) < 8 < np.median(covers[0])  # mm, of a child of 120 cm


def test_flesh_makes_calves_thicker_but_hardly_ankles() -> None:
    areas = []
    for flesh in (1.0, 1.3):
        mixtures, labels = training_materials(replace(CONFIG, flesh=flesh))
        areas.append((mixtures & 255 != Tissue.AIR).sum(axis=(1, 2)))
    tibia = np.flatnonzero((labels == 1).any(axis=(1, 2)) & ~(labels == 2).any(axis=(1, 2)))
    growth = areas[1][tibia] / areas[0][tibia]
    assert 1.4 < growth.max() < 1.75  # about the square of 1.3
    assert growth[0] < 1.25
