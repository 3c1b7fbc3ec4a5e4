import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.intensity import intensity_window
from seg_core.labels import BONES
from seg_core.model_spec import Grid, Normalisation
from seg_core.nifti import write_labels, write_volume
from seg_core.prepare import plan_slices, prepare
from seg_core.resize import resize_bilinear
from trainers.cache import SliceCache, encode
from trainers.config import IGNORED
from trainers.dataset import Dataset, DatasetSubject
from trainers.slices import labelled_range, resized_labels, write_slices


def record(name, geometry, key="k", hip_slice=None, shafts_mm=None):
    return DatasetSubject(
        name,
        key,
        geometry.shape,
        tuple(map(tuple, geometry.affine.tolist())),
        {},
        {},
        "both",
        {},
        0,
        (),
        hip_slice,
        {},
        shafts_mm=shafts_mm or {},
    )


@pytest.fixture
def make_dataset(tmp_path, legs):
    """A dataset of the made-up legs, and of a smaller part of them."""
    volume, labels = legs
    part = np.s_[10:54, 8:56, :30]
    geometry = volume.geometry.window((10, 8, 0), (44, 48, 30))
    parts = Volume(volume.array[part], geometry), LabelMap(labels.array[part], geometry, labels.labels)
    for name, (scan, mask) in {"whole": legs, "part": parts}.items():
        (tmp_path / name).mkdir()
        write_volume(tmp_path / name / "scan.nii.gz", scan)
        write_labels(tmp_path / name / "mask.nii.gz", mask)

    def make(grid, subjects=(("whole", "a"), ("part", "b")), tolerance=50, usual_mm=None):
        geometries = {"whole": volume.geometry, "part": geometry}
        shafts_mm = {"tibia": 12.0, "fibula": 5.0}
        records = tuple(record(name, geometries[name], key, shafts_mm=shafts_mm) for name, key in subjects)
        normalisation = Normalisation("percentile", 1.0, 99.5)
        return Dataset(
            tmp_path, BONES, True, grid, normalisation, tolerance, records, usual_mm=usual_mm or {}
        )

    return make


@pytest.mark.parametrize(
    ("grid", "usual_mm", "size"),
    [
        (Grid("size", (64, 96)), {}, 1.0),
        (Grid("spacing", spacing_mm=(5.0, 3.0)), {}, 1.0),
        (Grid("spacing", spacing_mm=(5.0, 3.0)), {"tibia": 20.0, "femur": 9.0}, 0.6),
    ],
)
def test_slices_are_prepared_as_the_runner_prepares_them(make_dataset, legs, grid, usual_mm, size):
    dataset = make_dataset(grid, usual_mm=usual_mm)
    write_slices(dataset)
    for subject in dataset.subjects:
        cache = SliceCache(dataset.cache, (subject.name,))
        images, labels = cache.batch(np.arange(len(cache)))
        volume = dataset.scan(subject.name)
        plan = plan_slices(volume.geometry, dataset.spec.magnified(size))
        assert cache.index.subjects[0].size == size
        window = intensity_window(volume.array, dataset.normalisation)
        start, stop = cache.index.subjects[0].extra["slices"]
        expected = encode(prepare(volume.array, plan, window, start, stop), "uint8")
        (rows, columns), (r, c) = (
            plan.grid,
            ((n - g) // 2 for n, g in zip(cache.index.shape, plan.grid, strict=True)),
        )
        inside = np.s_[:, :, r : r + rows, c : c + columns]
        assert np.array_equal(np.rint(images[inside] * 255), expected)
        air = np.ones(images.shape, bool)
        air[inside] = False
        assert not images[air].any()
        assert not labels[air[:, 0]].any()
        assert set(np.unique(labels)) == set(range(5 if subject.name == "whole" else 4))
        mm = [n * g for n, g in zip(plan.grid, cache.index.subjects[0].spacing_mm[:2], strict=True)]
        assert mm == pytest.approx([n * s for n, s in zip(plan.frame, plan.spacing_mm[1:], strict=True)])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([(32, 32), (64, 32), (32, 96)]))
def test_a_pixel_takes_the_label_that_covers_most_of_it(seed, size):
    rng = np.random.default_rng(seed)
    array = np.kron(rng.choice([0, 1, 2, IGNORED], (12, 10, 3)), np.ones((5, 4, 1))).astype(np.uint8)
    geometry = Geometry(array.shape, np.diag([-1.0, -1.0, 3.0, 1.0]))
    dataset = Dataset(None, ("a", "b"), False, Grid("size", size), Normalisation())
    plan = plan_slices(geometry, dataset.spec)
    values = [0, 1, 2, IGNORED]
    share = np.stack([resize_bilinear((plan.oriented(array) == v).astype(np.float32), size) for v in values])
    assert np.array_equal(resized_labels(array, plan, 0, 3), np.array(values, np.uint8)[share.argmax(0)])
    assert np.array_equal(resized_labels(array, plan, 1, 2), resized_labels(array, plan, 0, 3)[1:2])


@pytest.mark.parametrize("flip", [False, True])
def test_slices_end_above_the_first_labelled_one(legs, flip):
    _, labels = legs
    geometry, array = labels.geometry, labels.array
    if flip:
        affine = geometry.affine @ np.diag([1, 1, -1, 1.0])
        affine[:3, 3] = geometry.to_world((0, 0, 39))
        geometry, array = Geometry(geometry.shape, affine), array[:, :, ::-1]
    mask = LabelMap(array, geometry, labels.labels)
    highest = int(np.flatnonzero(labels.array.any((0, 1)))[-1])
    for tolerance, stop in ((0, highest + 1), (2, highest + 3), (50, 40), (-1, 40)):
        dataset = Dataset(None, BONES, True, Grid("size", (64, 64)), Normalisation(), tolerance)
        plan = plan_slices(geometry, dataset.spec)
        assert labelled_range(mask, plan, dataset, None) == (0, stop)
    dataset = Dataset(None, BONES, True, Grid("size", (64, 64)), Normalisation(), 3)
    assert labelled_range(mask, plan, dataset, 39 - 20 if flip else 20) == (0, 24)


def test_a_cache_that_was_half_deleted_is_not_taken_for_whole(make_dataset, monkeypatch):
    dataset = make_dataset(Grid("size", (64, 64)), (("part", "b"),))
    write_slices(dataset)
    images = SliceCache(dataset.cache).batch(np.arange(30))[0]

    def interrupted(folder):
        (folder / "images.npy").unlink()
        raise KeyboardInterrupt

    finer = make_dataset(Grid("size", (96, 96)), (("part", "b"),))
    with monkeypatch.context() as patch:
        patch.setattr("trainers.slices.shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_slices(finer)
    write_slices(dataset)
    assert np.array_equal(SliceCache(dataset.cache).batch(np.arange(30))[0], images)


def test_a_cache_is_only_made_where_something_changed(make_dataset):
    grid = Grid("size", (64, 64))
    one = make_dataset(grid, (("part", "b"),))
    seen = []
    write_slices(one)
    inode = (one.cache / "images.npy").stat().st_ino
    write_slices(make_dataset(grid, (("part", "b"), ("whole", "a"))), lambda *told: seen.append(told))
    assert seen == [("slices", 1, 2)]
    assert (one.cache / "images.npy").stat().st_ino == inode
    both = SliceCache(one.cache)
    assert [s.name for s in both.index.subjects] == ["part", "whole"]
    write_slices(make_dataset(grid, (("part", "b2"), ("whole", "a"))), lambda *told: seen.append(told))
    assert seen[1:] == [("slices", 0, 2), ("slices", 1, 2)]
    assert SliceCache(one.cache).index.subjects[0].extra["key"] == "b2"
    write_slices(make_dataset(Grid("size", (96, 96)), (("part", "b2"),)))
    assert SliceCache(one.cache).index.shape == (96, 96)
