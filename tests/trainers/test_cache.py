import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_core.errors import ModelError, OutputError, UsageError
from seg_core.model_spec import Grid, ModelSpec
from seg_core.prepare import slice_stride
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import Around


def every(cache):
    """All images (n, 1, rows, columns) and labels of a cache."""
    return cache.batch(np.arange(len(cache)))


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_what_is_written_is_read(tmp_path, make_cache, make_slices, dtype):
    cache = SliceCache(make_cache(tmp_path / "c", subjects=3, slices=4, dtype=dtype))
    assert len(cache) == 12
    images, labels = cache.batch(np.array([9, 0]))
    expected, truth = make_slices(4, 2)
    assert images.shape == (2, 1, 32, 64)
    assert images.dtype == np.float32
    assert np.abs(images[0, 0] - expected[1]).max() <= (0.5 / 255 + 1e-6 if dtype == "uint8" else 5e-4)
    assert np.array_equal(labels[0], truth[1])
    assert [(s.start, s.stop) for s in cache.index.subjects] == [(0, 4), (4, 8), (8, 12)]


def test_the_files_are_plain_npy(tmp_path, make_cache):
    folder = make_cache(tmp_path / "c")
    assert np.load(folder / "images.npy").shape == (20, 32, 64)
    assert np.array_equal(np.load(folder / "labels.npy"), every(SliceCache(folder))[1])


def test_it_grows_while_it_is_read(tmp_path, make_slices):
    index = CacheIndex((32, 64), ("tibia", "femur"), meta={"pixel_mm": 1.5})
    with SliceCacheWriter(tmp_path, index) as writer:
        assert len(SliceCache(tmp_path)) == 0
        writer.append("a", *make_slices(3, 0), (1.0, 1.0, 3.0))
        first = SliceCache(tmp_path)
        kept = every(first)[0]
        writer.append("b", *make_slices(5, 1), (1.0, 1.0, 3.0), {"age": 7})
        assert len(first) == 3
        assert np.array_equal(every(first)[0], kept)
        second = SliceCache(tmp_path)
        assert len(second) == 8
        assert second.index.subjects[1].extra == {"age": 7}
        assert second.index.meta == {"pixel_mm": 1.5}


def test_a_writer_goes_on_and_cuts_what_was_left_half_written(tmp_path, make_cache, make_slices):
    folder = make_cache(tmp_path / "c", subjects=1)
    for name in ("images", "labels"):
        with (folder / f"{name}.npy").open("ab") as file:
            file.write(bytes(1000))
    index = SliceCache(folder).index
    with SliceCacheWriter(folder, CacheIndex(index.shape, index.classes)) as writer:
        writer.append("later", *make_slices(2, 77), (1.0, 1.0, 3.0))
    cache = SliceCache(folder)
    assert len(cache) == 12
    assert np.array_equal(every(cache)[1][10:], make_slices(2, 77)[1])
    assert np.load(folder / "images.npy").shape == (12, 32, 64)


def test_neighbours_stay_within_their_subject(tmp_path, make_cache):
    cache = SliceCache(make_cache(tmp_path / "c", subjects=2, slices=4))
    images, _ = cache.batch(np.array([0, 3, 4, 6]), Around(3))
    wanted = [[0, 0, 1], [2, 3, 3], [4, 4, 5], [5, 6, 7]]
    assert np.array_equal(images, every(cache)[0][np.array(wanted)][:, :, 0])


@pytest.mark.parametrize(("mm", "stride"), [(2.0, 1), (5.5, 2), (10.0, 3)])
def test_neighbours_at_a_distance(tmp_path, make_cache, mm, stride):
    cache = SliceCache(make_cache(tmp_path / "c", subjects=2, slices=10))
    images, _ = cache.batch(np.array([0, 5, 19]), Around(3, mm))
    wanted = [[0, 0, stride], [5 - stride, 5, 5 + stride], [19 - stride, 19, 19]]
    assert np.array_equal(images, every(cache)[0][np.array(wanted)][:, :, 0])


def test_distances_are_a_usual_persons(tmp_path, make_slices):
    with SliceCacheWriter(tmp_path, CacheIndex((32, 64), ("tibia", "femur"))) as writer:
        writer.append("grown", *make_slices(10, 0), (1.0, 1.0, 3.0))
        writer.append("small", *make_slices(10, 1), (1.0, 1.0, 3.0), size=0.6)  # 5 mm of a usual person
    cache = SliceCache(tmp_path)
    images, _ = cache.batch(np.array([5, 15]), Around(3, 10.0))
    assert np.array_equal(images, every(cache)[0][np.array([[2, 5, 8], [13, 15, 17]])][:, :, 0])


@given(st.floats(2, 20), st.sampled_from(np.arange(0.6, 1.01, 0.05).round(2)), st.floats(0.5, 8))
def test_neighbours_are_the_runners(mm, size, slice_mm):
    spec = ModelSpec("any", ("tibia",), grid=Grid("spacing"), neighbour_mm=mm).magnified(size)
    cache = SliceCache.__new__(SliceCache)
    cache._slice_mm, cache._size = np.array([slice_mm]), np.array([size])
    assert cache._strides(mm)[0] == slice_stride(spec.neighbour_mm, slice_mm)


def test_slices_that_were_prepared_otherwise_are_not_added(tmp_path, make_slices):
    specs = [
        ModelSpec("any", ("tibia",), grid=Grid("spacing"), usual_mm=usual) for usual in ({}, {"tibia": 20})
    ]
    first, second = (
        CacheIndex((32, 64), ("tibia",), meta={"spec": json.loads(spec.to_json())}) for spec in specs
    )
    for _ in range(2):
        with SliceCacheWriter(tmp_path, first):
            pass
    with pytest.raises(OutputError, match="another kind of cache"):
        SliceCacheWriter(tmp_path, second)


@pytest.mark.parametrize("names", [("0-1",), ("0-2", "0-0")])
def test_a_view_of_some_subjects_shows_their_slices_alone(tmp_path, make_cache, make_slices, names):
    folder = make_cache(tmp_path / "c", subjects=3, slices=4)
    view = SliceCache(folder, names)
    stored = sorted(names)
    assert len(view) == 4 * len(names)
    assert [(s.name, s.start, s.stop) for s in view.index.subjects] == [
        (name, 4 * n, 4 * n + 4) for n, name in enumerate(stored)
    ]
    truth = np.concatenate([make_slices(4, int(name[-1]))[1] for name in stored])
    assert np.array_equal(every(view)[1], truth)
    whole = SliceCache(folder)
    place = 4 * int(stored[-1][-1])
    assert np.array_equal(
        view.batch(np.array([len(view) - 4]), Around(3))[0], whole.batch(np.array([place]), Around(3))[0]
    )


@pytest.mark.parametrize("names", [("0-0", "nobody"), ()])
def test_a_view_of_subjects_that_are_not_there(tmp_path, make_cache, names):
    with pytest.raises(UsageError, match="no slices of"):
        SliceCache(make_cache(tmp_path / "c"), names)


def test_what_does_not_fit_is_refused(tmp_path, make_cache, make_slices):
    folder = make_cache(tmp_path / "c")
    index = SliceCache(folder).index
    with pytest.raises(OutputError, match="another kind"):
        SliceCacheWriter(folder, CacheIndex((64, 64), index.classes))
    images, labels = make_slices(2, 0)
    with SliceCacheWriter(folder, index) as writer:
        for name, x, y in (
            ("0-0", images, labels),
            ("new", images[:, :16], labels[:, :16]),
            ("new", images[:1], labels),
            ("new", images, labels + np.uint8(1)),
            ("new", images, labels.astype(int)),
            ("new", images[:0], labels[:0]),
        ):
            with pytest.raises(UsageError):
                writer.append(name, x, y, (1.0, 1.0, 3.0))
    assert len(SliceCache(folder)) == 20


def test_a_full_disk_is_said_and_loses_no_earlier_subject(tmp_path, make_cache, make_slices, monkeypatch):
    folder = make_cache(tmp_path / "c")
    before = SliceCache(folder)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, SliceCacheWriter(folder, before.index) as writer:
        patch.setattr(writer, "_write", full)
        with pytest.raises(OutputError, match="no space left"):
            writer.append("new", *make_slices(2, 0), (1.0, 1.0, 3.0))
    assert SliceCache(folder).index == before.index
    with SliceCacheWriter(folder, before.index) as writer:
        writer.append("new", *make_slices(2, 0), (1.0, 1.0, 3.0))
    assert len(SliceCache(folder)) == len(before) + 2


def test_a_folder_without_a_cache(tmp_path):
    with pytest.raises(ModelError, match="no cache"):
        SliceCache(tmp_path)
    (tmp_path / "index.json").write_text('{"format_version": 1}')
    with pytest.raises(ModelError):
        SliceCache(tmp_path)


@pytest.mark.parametrize(("shape", "dtype"), [((33, 64), "uint8"), ((0, 64), "uint8"), ((32, 64), "float32")])
def test_shapes_and_types_are_checked(shape, dtype):
    with pytest.raises(UsageError):
        CacheIndex(shape, ("tibia",), dtype)
