from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from seg_core.errors import UsageError
from trainers.augment import NONE, REPORT, Augmentation, _affine, augment
from trainers.batches import Draw, drawn_slices, epoch_order, fixed_subset, training_batches
from trainers.cache import SliceCache
from trainers.config import IGNORED, Around

ALWAYS = Augmentation(
    **dict.fromkeys(("flip", "rotation", "scale", "shift", "contrast", "brightness", "gamma"), 1.0)
)


def one_batch(make_slices, n=4):
    images, labels = make_slices(n, 5)
    return images[:, None], labels, np.arange(n)[:, None]


def test_nothing_happens_without_options(make_slices):
    images, labels, seeds = one_batch(make_slices)
    new_images, new_labels = augment(images, labels, seeds, NONE)
    assert np.array_equal(new_images, images)
    assert np.array_equal(new_labels, labels)
    assert new_images is not images


def test_a_flip_is_exact(make_slices):
    images, labels, seeds = one_batch(make_slices)
    labels[:, :, 40:] = IGNORED  # goes to the other side with its pixels
    new_images, new_labels = augment(images, labels, seeds, replace(NONE, flip=1.0))
    assert np.array_equal(new_images, images[..., ::-1])
    assert np.array_equal(new_labels, labels[..., ::-1])


def test_the_warp_equals_scipys(make_slices):
    images, labels, seeds = one_batch(make_slices)
    options = replace(
        NONE, rotation=1.0, rotation_degrees=15.0, scale=1.0, scale_range=0.1, shift=1.0, shift_fraction=0.05
    )
    new_images, new_labels = augment(images, labels, seeds, options)
    for i, seed in enumerate(seeds):
        matrix = _affine(np.random.default_rng(seed), options, 32, 64)
        # SciPy blends with the outside only in "grid-constant".
        wanted = ndimage.affine_transform(
            images[i, 0].astype(float), matrix[:, :2], matrix[:, 2], order=1, mode="grid-constant"
        )
        assert np.abs(new_images[i, 0] - np.clip(wanted, 0, 1)).max() < 1e-5
        rows, columns = np.floor(
            np.tensordot(matrix[:, :2], np.indices((32, 64)), 1) + matrix[:, 2:, None] + 0.5
        )
        inside = (rows >= 0) & (rows < 32) & (columns >= 0) & (columns < 64)
        nearest = labels[i][np.clip(rows, 0, 31).astype(int), np.clip(columns, 0, 63).astype(int)]
        assert np.array_equal(new_labels[i], np.where(inside, nearest, 0))


def test_rotation_stays_within_its_limit():
    options = replace(NONE, rotation=1.0, rotation_degrees=15.0)
    turns = [_affine(np.random.default_rng(s), options, 32, 64) for s in range(200)]
    angles = np.degrees([np.arctan2(t[1, 0], t[0, 0]) for t in turns])
    assert np.abs(angles).max() <= 15
    assert angles.min() < -12
    assert angles.max() > 12


@pytest.mark.parametrize("name", ["contrast", "brightness", "gamma", "bias", "noise", "blur"])
def test_each_change_of_intensity_changes_and_stays_in_range(make_slices, name):
    images, labels, seeds = one_batch(make_slices, 8)
    limits = {n: getattr(Augmentation(), n) for n in vars(NONE) if n.startswith(f"{name}_")}
    new_images, new_labels = augment(images, labels, seeds, replace(NONE, **{name: 1.0}, **limits))
    assert np.array_equal(new_labels, labels)
    assert np.abs(new_images - images).max() > 0.01
    assert new_images.min() >= 0
    assert new_images.max() <= 1


def test_a_slice_that_fades_does_so_smoothly_and_its_neighbours_along():
    images = np.full((60, 3, 9, 9), 0.8, np.float32)
    fading = replace(NONE, fade=0.5, fade_range=1.2)
    faded, _ = augment(images, np.zeros((60, 9, 9), np.uint8), np.arange(60)[:, None], fading)
    loss = -np.log(faded[..., ::4, ::4] / 0.8)  # where the lattice lies
    fades = loss.max((1, 2, 3)) > 1e-6
    assert 0.3 < fades.mean() < 0.7
    assert 0.9 < loss[:, 1].max() < 1.2 + 1e-5
    np.testing.assert_allclose(loss[:, 0] + loss[:, 2], 2 * loss[:, 1], atol=1e-5)  # along a line
    assert loss.min() > -1e-5
    middle = loss[fades, 1].reshape(-1, 9)
    assert (np.ptp(loss[fades].mean((2, 3)), 1) > 0.1).mean() > 0.3
    assert (middle.min(1) < 0.3 * middle.max(1)).any()  # one side before the other
    assert (middle.min(1) > 0.8 * middle.max(1)).any()  # or all at once
    between = (faded[..., 0, 0] + faded[..., 0, 4]) / 2
    np.testing.assert_allclose(faded[..., 0, 2], between, atol=1e-6)


def test_a_sample_does_not_depend_on_its_batch_and_nothing_is_changed_in_place(make_slices):
    images, labels, seeds = one_batch(make_slices, 6)
    before = images.copy(), labels.copy()
    whole = augment(images, labels, seeds, ALWAYS)
    for i in range(6):
        single = augment(images[i : i + 1], labels[i : i + 1], seeds[i : i + 1], ALWAYS)
        assert np.array_equal(single[0][0], whole[0][i])
        assert np.array_equal(single[1][0], whole[1][i])
    assert np.array_equal(images, before[0])
    assert np.array_equal(labels, before[1])


def test_channels_move_together(make_slices):
    images, labels, seeds = one_batch(make_slices)
    three = augment(np.repeat(images, 3, axis=1), labels, seeds, replace(ALWAYS, noise=0.0))[0]
    assert np.allclose(three, three[:, :1], atol=1e-6)


def test_arrays_that_do_not_fit_are_refused(make_slices):
    images, labels, seeds = one_batch(make_slices)
    for bad in (
        (images.astype(float), labels, seeds),
        (images, labels[:2], seeds),
        (images, labels, seeds[:1]),
    ):
        with pytest.raises(UsageError):
            augment(*bad, NONE)


def test_each_slice_is_drawn_as_often_as_every_other():
    order = epoch_order(Draw(seed=1, epoch=4, slices=7, samples=40, batch=8))
    counts = np.bincount(order, minlength=7)
    assert counts.sum() == 40
    assert counts.max() - counts.min() <= 1
    assert not np.array_equal(order, epoch_order(Draw(1, 5, 7, 40, 8)))
    with pytest.raises(UsageError):
        epoch_order(Draw(0, 0, 0, 40, 8))


def test_an_epoch_goes_on_where_it_stopped(tmp_path, make_cache):
    cache = SliceCache(make_cache(tmp_path / "c"))
    draw = Draw(3, 2, len(cache), 40, 8, window=32)
    whole = list(training_batches(cache, draw, Augmentation(), Around()))
    rest = list(training_batches(cache, draw, Augmentation(), Around(), first_batch=2))
    assert len(whole) == 5
    assert len(rest) == 3
    for a, b in zip(whole[2:], rest, strict=True):
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])


def test_windows_are_cut_from_image_and_labels_alike(tmp_path, make_cache):
    cache = SliceCache(make_cache(tmp_path / "c"))
    draw = Draw(3, 2, len(cache), 40, 8)
    wide = training_batches(cache, draw, NONE, Around())
    narrow = training_batches(cache, replace(draw, window=32), NONE, Around())
    starts = set()
    for (images, labels), (some, cut) in zip(wide, narrow, strict=True):
        assert some.shape == (8, 1, 32, 32)
        for i in range(8):
            fits = [s for s in range(33) if np.array_equal(images[i, 0, :, s : s + 32], some[i, 0])]
            assert fits
            assert np.array_equal(labels[i, :, fits[0] : fits[0] + 32], cut[i])
            starts.add(fits[0])
    assert len(starts) > 5


def test_a_fixed_subset_is_spread_over_all():
    assert np.array_equal(fixed_subset(5, 9), np.arange(5))
    subset = fixed_subset(1000, 11)
    assert len(subset) == 11
    assert subset[0] == 0
    assert subset[-1] == 999


def by_slice(cache, draw, options):
    """What each sample of an epoch became: a list of (place in the pool, image, labels)."""
    batches = list(training_batches(cache, draw, options, Around()))
    order = epoch_order(draw)
    images, labels = (np.concatenate([batch[part] for batch in batches]) for part in (0, 1))
    return list(zip(order.tolist(), images, labels, strict=True))


def test_a_volume_is_flipped_as_a_whole(tmp_path, make_cache):
    cache = SliceCache(make_cache(tmp_path / "c", subjects=6, slices=5))
    flips = set()
    for epoch in (0, 1):
        draw = Draw(7, epoch, 30, 30, 6)
        found = {}
        for place, image, labels in by_slice(cache, draw, replace(NONE, flip=0.5, unit="volume")):
            (original,), (truth,) = cache.batch(np.array([place]))
            flipped = bool(np.array_equal(image, original[..., ::-1]))
            assert flipped or np.array_equal(image, original)
            assert np.array_equal(labels, truth[:, ::-1] if flipped else truth)
            found.setdefault(int(cache.first[place]), set()).add(flipped)
        assert all(len(seen) == 1 for seen in found.values())
        flips.add(tuple(min(found[first]) for first in sorted(found)))
    assert len(flips) == 2  # each epoch draws anew
    assert {True, False} == {flip for epoch in flips for flip in epoch}


@pytest.mark.parametrize("unit", ["slice", "volume"])
def test_a_factor_keeps_the_data_and_adds_lasting_copies(tmp_path, make_cache, unit):
    cache = SliceCache(make_cache(tmp_path / "c", subjects=2, slices=4))
    options = replace(Augmentation(), rotation=1.0, noise=1.0, unit=unit, factor=3)
    epochs = []
    for epoch in (0, 1):
        pool = by_slice(cache, Draw(7, epoch, 8, 24, 6, copies=3), options)
        assert sorted(place for place, *_ in pool) == list(range(24))
        epochs.append({place: image for place, image, _ in pool})
    for place in range(24):
        assert np.array_equal(epochs[0][place], epochs[1][place])
        original = cache.batch(np.array([place % 8]))[0][0]
        assert np.array_equal(epochs[0][place], original) == (place < 8)
    assert not np.array_equal(epochs[0][8], epochs[0][16])


def test_noise_differs_between_the_slices_of_a_volume():
    images, labels = np.full((2, 1, 32, 32), 0.5, np.float32), np.zeros((2, 32, 32), np.uint8)
    options, seeds = replace(REPORT, noise=1.0, noise_sigma=0.1), np.zeros((2, 1), int)
    grain = np.array([[0], [1]])
    one, other = augment(images, labels, seeds, options, grain)[0]
    assert np.abs(one - other).max() > 0.01
    same = augment(images, labels, seeds, options)[0]
    assert np.array_equal(same[0], same[1])


def test_the_slices_of_a_batch_are_known(tmp_path, make_cache):
    cache = SliceCache(make_cache(tmp_path / "c"))
    draw = Draw(3, 2, len(cache), 40, 8, copies=2)
    for number, (images, _) in enumerate(training_batches(cache, draw, replace(NONE, factor=2), Around())):
        assert np.array_equal(images, cache.batch(drawn_slices(draw, number))[0])


def test_an_augmentation_that_makes_no_sense():
    for changes in ({"unit": "scan"}, {"factor": -1}):
        with pytest.raises(UsageError):
            replace(NONE, **changes)


def test_alone_each_channel_holds_the_slice_itself(make_slices):
    images, labels = make_slices(40, 5)
    three = np.stack([np.roll(images, n, axis=0) for n in (1, 0, -1)], axis=1)
    new, _ = augment(three, labels, np.arange(40)[:, None], replace(NONE, alone=0.5))
    hidden = [np.array_equal(a, np.repeat(b[1, None], 3, axis=0)) for a, b in zip(new, three, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(new, three, strict=True)]
    assert all(a != b for a, b in zip(hidden, kept, strict=True))
    assert 10 < sum(hidden) < 30
