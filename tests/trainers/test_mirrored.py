"""The labelled leg's mirror image in place of a side that nobody labelled."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.augment import NONE
from trainers.batches import Draw, drawn_slices, training_batches
from trainers.batches3d import fixed_patches, patch_batches
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import IGNORED, Around, Patches, TrainConfig
from trainers.loop import Source, train
from trainers.mirrored import mirrored


def half_labelled(width=24, axis=14):
    """A slice of rows that are all alike, columns counted from 1; bone in columns 5 and 6."""
    image = np.tile(np.arange(1, width + 1, dtype=np.float32) / width, (3, 8, 1))
    labels = np.zeros((8, width), np.uint8)
    labels[2:6, 5:7] = 3
    labels[1:7, axis:] = IGNORED
    return image, labels


def test_the_other_side_is_the_labelled_ones_mirror_image():
    image, labels = half_labelled()
    new_image, new_labels = mirrored(image, labels)
    assert np.array_equal(new_image[..., :14], image[..., :14])
    assert np.array_equal(new_image[..., 14:], image[..., 4:14][..., ::-1])
    assert np.array_equal(new_labels[:, :14], labels[:, :14])
    assert np.array_equal(np.flatnonzero((new_labels == 3).any(0)), [5, 6, 21, 22])
    assert IGNORED not in new_labels


@given(st.integers(12, 40), st.floats(0.35, 0.7), st.integers(0, 2**32 - 1))
def test_every_column_is_itself_or_its_image_or_air(width, where, seed):
    """An oracle, pixel by pixel, on labels of any shape; and the mirror of the slice gives the mirror."""
    rng = np.random.default_rng(seed)
    axis = int(where * width)
    image = rng.random((2, 5, width), dtype=np.float32)
    labels = rng.integers(0, 4, (5, width), dtype=np.uint8)
    labels[:, axis:][rng.random((5, width - axis)) < 0.8] = IGNORED
    labels[0, axis], labels[1, 0] = IGNORED, 1
    labels[:, axis + 1 :][labels[:, axis + 1 :] != IGNORED] = 0
    new_image, new_labels = mirrored(image, labels)
    for column in range(width):
        source = column if column < axis else 2 * axis - 1 - column
        if source < 0:
            assert not new_image[..., column].any()
            assert not new_labels[:, column].any()
        else:
            assert np.array_equal(new_image[..., column], image[..., source])
            assert np.array_equal(new_labels[:, column], labels[:, source])
    other_image, other_labels = mirrored(image[..., ::-1].copy(), labels[:, ::-1].copy())
    assert np.array_equal(other_image, new_image[..., ::-1])
    assert np.array_equal(other_labels, new_labels[:, ::-1])


@pytest.mark.parametrize("unknown", [np.s_[:, :0], np.s_[:, :], np.s_[:, [1, 3, 20]], np.s_[0:1, :]])
def test_what_has_no_side_stays(unknown):
    """Nothing ignored, all, all around a region, or whole rows."""
    image, labels = half_labelled(axis=24)
    labels[unknown] = IGNORED
    new_image, new_labels = mirrored(image, labels)
    assert new_image is image
    assert new_labels is labels


def two_legs(rng, shape=(32, 64)):
    """A slice of two legs, each with a bone and a vessel that is as dark; no leg like another."""
    rows, columns = np.indices(shape)
    image, labels = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for side in (-1, 1):
        y, x, radius = 15.5 + rng.uniform(-2, 2), 31.5 + side * rng.uniform(14, 16), rng.uniform(9, 12)
        image[np.hypot(rows - y, columns - x) < radius] = 0.7 if side < 0 else rng.uniform(0.5, 0.7)
        inner = np.hypot(rows - y - rng.uniform(-3, 3), columns - x - side * rng.uniform(-3, 3))
        vessel = np.hypot(rows - y - rng.uniform(-3, 3), columns - x - side * rng.uniform(5, 6))
        bone = inner < rng.uniform(2.5, 4)
        image[bone | (vessel < 1.8)] = 0.2
        labels[bone] = 1
    return (image + rng.normal(0, 0.03, shape)).clip(0, 1).astype(np.float32), labels


def small_unet(classes, width=8):
    """A U-Net of three halvings, which sees most of a slice."""
    from torch import cat, nn

    def block(channels, out, stride=1):
        return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU())

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [width, 2 * width, 4 * width, 4 * width]
            self.down = nn.ModuleList([block(1, width), *(block(a, b, 2) for a, b in pairwise(sizes))])
            self.up = nn.ModuleList(block(a + b, b) for a, b in pairwise(sizes[::-1]))
            self.head, self.larger = nn.Conv2d(width, classes, 1), nn.Upsample(scale_factor=2)

        def forward(self, x):
            seen = []
            for stage in self.down:
                x = stage(x)
                seen.append(x)
            for stage, beside in zip(self.up, seen[-2::-1], strict=True):
                x = stage(cat([self.larger(x), beside], 1))
            return self.head(x)

    return Network()


def legs_of(seed, n):
    """Slices (n, rows, columns), and true labels of both sides."""
    rng = np.random.default_rng(seed)
    return tuple(np.stack(part) for part in zip(*(two_legs(rng) for _ in range(n)), strict=True))


def write(folder, images, labels):
    with SliceCacheWriter(folder, CacheIndex((32, 64), ("bone",))) as writer:
        writer.append("one", images, labels, (1.0, 1.0, 3.0))
    return folder


def one_side(labels):
    """Return the labels as if the columns from 30 on had been seen by nobody."""
    return np.where(np.arange(64) < 30, labels, IGNORED).astype(np.uint8)


def test_what_nobody_labelled_is_in_no_batch_but_in_what_chooses(tmp_path):
    """A slice alone, and a patch, whose slices are mirrored about the first unknown column of them all."""
    images, labels = legs_of(0, 8)
    labels = one_side(labels)
    labels[0, :, 30:40] = 0
    cache = SliceCache(write(tmp_path, images, labels))
    draw = Draw(seed=1, epoch=0, slices=8, samples=8, batch=8)
    order = drawn_slices(draw, 0)
    stored, _ = cache.batch(order)
    taught, known = next(training_batches(cache, draw, NONE, Around(1)))
    axes = np.where(order == 0, 40, 30)
    for image, label, was, axis in zip(taught[:, 0], known, stored[:, 0], axes, strict=True):
        assert np.array_equal(image[:, axis:60], was[:, 2 * axis - 60 : axis][:, ::-1])
        assert not (label == IGNORED).any()
    whole = Patches((8, 32, 64))
    patch, known = (part[0] for part in next(patch_batches(cache, replace(draw, batch=1), NONE, whole)))
    assert np.array_equal(patch[0, :, :, 30:60], patch[0, :, :, :30][..., ::-1])
    assert not (known == IGNORED).any()
    still, known = fixed_patches(cache, np.arange(1), whole)
    assert np.array_equal(still[0, 0], cache.block(0, 8)[0])
    assert np.array_equal(known[0], labels)


def test_a_network_with_context_finds_the_leg_that_nobody_labelled(tmp_path, monkeypatch):
    """Without the mirror it calls that side bone, all of it or much: it knows left from right, and may."""
    torch = pytest.importorskip("torch")
    engine = pytest.importorskip("trainers.torch.engine")
    monkeypatch.setattr(engine, "build_network", lambda name, classes, *rest, **more: small_unet(classes))
    images, labels = legs_of(0, 24)
    source = Source(write(tmp_path / "data", images, one_side(labels)))
    unseen, truth = legs_of(1, 24)
    config = TrainConfig(
        epochs=1, epoch_samples=1440, batch=8, loss="dice", lr=2e-3, channels=1, device="cpu", threads=1,
        augmentation=NONE,
    )  # fmt: skip

    def found(run):
        torch.manual_seed(0)
        network, _ = engine.load_best(train(engine.TorchEngine, config, (source, source), run).best)
        with torch.inference_mode():
            bone = network(torch.from_numpy(unseen[:, None])).argmax(1).numpy()
        both = ((truth == 1) & (bone == 1))[..., 32:].sum()
        return 2 * both / ((truth == 1)[..., 32:].sum() + (bone == 1)[..., 32:].sum())

    assert found(tmp_path / "mirrored") > 0.75
    monkeypatch.setattr("trainers.batches.mirrored", lambda image, labels: (image, labels))
    assert found(tmp_path / "as it is") < 0.5
