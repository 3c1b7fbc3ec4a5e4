from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.errors import UsageError
from trainers.acquisition import IDEAL
from trainers.augment import NONE
from trainers.batches import Draw, training_batches
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import Around
from trainers.contrast import Contrast, draw_levels, paint
from trainers.materials import MATERIALS, material_tissues, materials, mix
from trainers.mr import KNOWN_LEVELS
from trainers.soft_tissue import Tissue


def slow_mix(planes, factor):
    _, rows, columns = planes.shape
    out = np.zeros((rows // factor, columns // factor), np.uint32)
    for r in range(rows // factor):
        for c in range(columns // factor):
            block = planes[:, r * factor : (r + 1) * factor, c * factor : (c + 1) * factor]
            ranked = sorted(Counter(block.ravel().tolist()).items(), key=lambda item: (-item[1], item[0]))
            (first, n), (second, m) = (ranked * 2)[:2]
            share = 255 if len(ranked) == 1 else int(255 * n / (n + m) + 0.5)
            out[r, c] = first | second << 8 | share << 16
    return out


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))
def test_mixtures_are_counts(seed, depth, factor, kinds):
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, kinds, (depth, 4 * factor, 6 * factor)).astype(np.uint8)
    np.testing.assert_array_equal(mix(planes, factor), slow_mix(planes, factor))


def test_blocks_that_do_not_fit():
    with pytest.raises(UsageError):
        mix(np.zeros((1, 5, 4), np.uint8), 2)


def test_a_material_knows_its_tissue():
    tissue = np.array([[Tissue.FAT, Tissue.MUSCLE, Tissue.MUSCLE, Tissue.ORGAN, Tissue.FASCIA, Tissue.AIR]])
    shade = np.array([[31, 5, 0, 40, 5, 0]])
    found = materials((tissue.astype(np.uint8), shade.astype(np.uint8)))
    np.testing.assert_array_equal(material_tissues()[found], tissue)
    assert len(np.unique(found)) == 6
    assert found.max() < MATERIALS


def test_a_slice_is_levels_times_shares():
    plain = Contrast(texture=0.0, patches=0.0, grain=0.0, marbled=0.0, acquisition=IDEAL)
    mixtures = np.full((1, 1, 4, 4), Tissue.FAT | Tissue.MUSCLE << 8 | 51 << 16, np.uint32)
    image = paint(mixtures, np.array([7]), plain)
    levels = draw_levels(np.random.default_rng((7, 2)), plain)
    expected = 0.2 * levels[Tissue.FAT] + 0.8 * levels[Tissue.MUSCLE]
    np.testing.assert_allclose(image, min(abs(expected), 1), rtol=1e-5)


def test_looks_follow_their_seeds_alone():
    rng = np.random.default_rng(0)
    first, second, share = rng.integers(0, [[len(Tissue)], [len(Tissue)], [256]], (3, 3 * 2 * 16 * 16))
    mixtures = (first | second << 8 | share << 16).astype(np.uint32).reshape(3, 2, 16, 16)
    seeds = np.array([[1, 2], [3, 4], [5, 6]])
    images = paint(mixtures, seeds)
    np.testing.assert_array_equal(images[1:2], paint(mixtures[1:2], seeds[1:2]))
    again = paint(mixtures[:1].repeat(2, 0), seeds[:2])
    assert np.abs(again[0] - again[1]).mean() > 0.02
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_looks_are_as_different_as_scanners():
    levels = np.array([draw_levels(np.random.default_rng(s), Contrast()) for s in range(400)])
    assert (levels[:, Tissue.AIR] <= 0.02).all()
    brighter = levels[:, Tissue.MARROW] > levels[:, Tissue.MUSCLE]
    assert 0.2 < brighter.mean() < 0.8
    assert (levels[:, Tissue.CORTEX] < levels[:, Tissue.MUSCLE]).mean() > 0.7
    assert (levels[:, Tissue.CORTEX] > levels[:, Tissue.MARROW]).mean() > 0.03


def test_known_looks_are_those_of_the_phantom():
    still = Contrast(
        known=1.0,
        opposed=0.0,
        spread=0.0,
        dark_spread=0.0,
        suppressed=0.0,
        muscles=0.0,
        organs=0.0,
        flowing=0.0,
        alike=0.0,
    )
    found = draw_levels(np.random.default_rng(0), still)
    ratios = [
        [found[t] / found[Tissue.MUSCLE] / (table[t] / table[Tissue.MUSCLE]) for t in list(Tissue)[1:]]
        for table in KNOWN_LEVELS.values()
    ]
    assert min(np.ptp(r) for r in ratios) == pytest.approx(0, abs=1e-5)


def test_where_x_rays_are_attenuated_bone_alone_is_bright():
    ct = Contrast(known=0.0, attenuation=1.0, muscles=0.0, organs=0.0)
    levels = np.array([draw_levels(np.random.default_rng(s), ct) for s in range(100)])
    shares = levels / levels[:, [Tissue.MUSCLE]]
    assert (shares[:, Tissue.CORTEX] > 1.39).all()
    assert (np.delete(shares, Tissue.CORTEX, 1) < 1.46).all()
    assert (shares[:, Tissue.FAT] > 0.79).all()
    assert (shares[:, Tissue.FAT] <= shares[:, Tissue.FASCIA]).all()
    assert (levels[:, Tissue.MUSCLE] <= ct.soft[1] + 1e-6).all()
    few = np.array([draw_levels(np.random.default_rng(s), Contrast(known=0.0)) for s in range(400)])
    bright = few[:, Tissue.CORTEX] > 1.39 * few[:, Tissue.MUSCLE]
    assert 0.4 < bright.mean() < 0.6  # near a half, and a few others


def test_red_marrow_is_often_as_bright_as_muscle():
    water = Contrast(known=1, water=1, muscles=0)
    levels = np.array([draw_levels(np.random.default_rng(s), water) for s in range(300)])
    bright = (levels[:, Tissue.RED_MARROW] > 0.6 * levels[:, Tissue.MUSCLE]).mean()
    assert 0.2 < bright < 0.4  # a fifth, and some whose known level is spread so far
    free = {
        share: np.array(
            [
                draw_levels(
                    np.random.default_rng(s), Contrast(known=0, attenuation=0, muscles=0, alike=share)
                )
                for s in range(300)
            ]
        )
        for share in (0.0, 0.4)
    }
    alike = {
        share: (np.abs(np.log(levels[:, Tissue.RED_MARROW] / levels[:, Tissue.MUSCLE])) < 0.17).mean()
        for share, levels in free.items()
    }
    assert alike[0.4] - alike[0.0] > 0.2


@pytest.mark.parametrize(
    "mixtures", [np.zeros((1, 4, 4), np.uint32), np.full((1, 1, 4, 4), MATERIALS << 8, np.uint32)]
)
def test_wrong_mixtures_are_refused(mixtures):
    with pytest.raises(UsageError):
        paint(mixtures, np.array([0]))


def test_a_cache_of_materials_is_drawn_anew_for_each_batch(tmp_path):
    rng = np.random.default_rng(0)
    mixtures = mix(rng.integers(0, len(Tissue), (4, 32, 32)).astype(np.uint8), 1)[None].repeat(3, 0)
    with SliceCacheWriter(tmp_path, CacheIndex((32, 32), ("bone",), "uint32")) as writer:
        writer.append("a", mixtures, np.ones((3, 32, 32), np.uint8), (1.0, 1.0, 5.0))
        with pytest.raises(UsageError, match="mixtures"):
            writer.append("b", np.zeros((1, 32, 32)), np.zeros((1, 32, 32), np.uint8), (1.0, 1.0, 5.0))
    cache, slices = SliceCache(tmp_path), np.array([0, 1])
    still, _ = cache.batch(slices)
    np.testing.assert_array_equal(still, cache.batch(slices)[0])
    np.testing.assert_array_equal(still, paint(mixtures[:2, None], slices))
    first, second = (
        next(training_batches(cache, Draw(0, epoch, 3, 2, 2), NONE, Around()))[0] for epoch in range(2)
    )
    assert np.abs(np.sort(first.ravel()) - np.sort(second.ravel())).mean() > 0.01


def test_fat_and_marrow_of_water_looks_may_be_as_black_as_air():
    water = Contrast(known=1.0, water=1.0, spread=0.0, dark_spread=0.0, muscles=0.0, organs=0.0, alike=0.0)
    dark = [Tissue.FAT, Tissue.MARROW, Tissue.RED_MARROW]
    share = []
    for seed in range(400):
        levels = draw_levels(np.random.default_rng(seed), water)
        share.append(levels[dark] / levels[Tissue.MUSCLE])
    usual = np.array([KNOWN_LEVELS["water"][t] for t in dark]) / KNOWN_LEVELS["water"][Tissue.MUSCLE]
    factor = np.array(share) / usual
    np.testing.assert_allclose(factor, factor[:, :1].repeat(3, 1), rtol=1e-5)  # they go together
    assert 0.3 < (factor[:, 0] < 0.99).mean() < 0.5
    assert factor.min() < 0.05


def test_muscle_of_fat_looks_may_be_as_black_as_compact_bone():
    fat = Contrast(known=1.0, water=0.0, opposed=0.0, spread=0.0, dark_spread=0.0, muscles=0.0, organs=0.0)
    drawn = (draw_levels(np.random.default_rng(seed), fat) for seed in range(800))
    levels = np.array([level for level in drawn if level[Tissue.MARROW] > 2 * level[Tissue.MUSCLE]])
    shares = levels / levels[:, [Tissue.FAT]]
    usual = KNOWN_LEVELS["fat"][Tissue.MUSCLE] / KNOWN_LEVELS["fat"][Tissue.FAT]
    assert 0.3 < (shares[:, Tissue.MUSCLE] < 0.99 * usual).mean() < 0.5
    assert 0.1 < (shares[:, Tissue.MUSCLE] < shares[:, Tissue.CORTEX]).mean() < 0.3
    assert np.ptp(shares[:, Tissue.MARROW]) < 1e-6


def test_patches_have_several_sizes_in_every_tissue():
    flat = np.full((120, 1, 64, 64), Tissue.MUSCLE, np.uint32) | 255 << 16
    rough = Contrast(known=1.0, texture=0.0, grain=0.4, marbled=0.0, muscles=0.0, acquisition=IDEAL)
    images = paint(flat, np.arange(120)[:, None], rough)[:, 0]
    images = images[(images.std((1, 2)) > 0.02) & (images.max((1, 2)) < 1)]
    centred = images - images.mean((1, 2), keepdims=True)
    along = (centred[:, :, 1:] * centred[:, :, :-1]).mean((1, 2)) / centred.var((1, 2))
    assert along.min() < 0.88  # patches of two or three pixels
    assert along.max() > 0.95  # of a dozen


def test_fat_and_water_cancel_in_opposed_phase():
    smooth = {"texture": 0.0, "patches": 0.0, "grain": 0.0, "marbled": 0.0, "acquisition": IDEAL}
    opposed = Contrast(known=1.0, water=0.0, opposed=1.0, suppressed=0.0, **smooth)
    shares = np.arange(0, 256, 5).astype(np.uint32)
    border = (Tissue.FAT | Tissue.MUSCLE << 8 | shares << 16)[None, None, None]
    images = paint(border.repeat(60, 0), np.arange(60)[:, None], opposed)[:, 0, 0]
    levels = [draw_levels(np.random.default_rng((s, 2)), opposed) for s in range(60)]
    cancelled = np.array([level[Tissue.FAT] < 0 for level in levels])
    assert 0.3 < cancelled.mean() < 0.7  # the others are fat images
    assert (images[cancelled].min(1) < 0.05).all()
    assert (images[~cancelled].min(1) > 0.02).all()
    marrow = np.array([level[Tissue.MARROW] / level[Tissue.FAT] for level in levels])[cancelled]
    assert np.median(np.abs(marrow)) < 0.8


def test_streaks_in_muscle_are_of_fat():
    muscle = np.full((40, 1, 32, 32), Tissue.MUSCLE, np.uint32) | 255 << 16
    streaks = Contrast(
        known=1.0, opposed=0.0, texture=0.0, grain=0.0, marbled=0.4, acquisition=IDEAL, brightest=(0.5, 0.5)
    )
    images = paint(muscle, np.arange(40)[:, None], streaks)[:, 0]
    pure = []
    for seed, image in enumerate(images):
        levels = draw_levels(np.random.default_rng((seed, 2)), streaks)
        ends = sorted(levels[[Tissue.MUSCLE, Tissue.FAT]])
        assert ends[0] - 1e-4 <= image.min()
        assert image.max() <= ends[1] + 1e-4
        pure.append(np.isclose(image, levels[Tissue.MUSCLE], atol=1e-4).mean())
    assert (np.ptp(images, (1, 2)) > 0.05).mean() > 0.3
    assert 0.4 < np.mean(pure) < 0.7
