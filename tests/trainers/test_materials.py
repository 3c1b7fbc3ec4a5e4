from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.errors import UsageError
from trainers.contrast import Contrast, draw_levels, paint
from trainers.materials import MATERIALS, material_tissues, materials, mix
from trainers.mr import KNOWN_LEVELS
from trainers.soft_tissue import Tissue


def slow_mix(planes, factor):
    _, rows, columns = planes.shape
    out = np.zeros((rows // factor, columns // factor, 3), np.uint8)
    for r in range(rows // factor):
        for c in range(columns // factor):
            block = planes[:, r * factor : (r + 1) * factor, c * factor : (c + 1) * factor]
            ranked = sorted(Counter(block.ravel().tolist()).items(), key=lambda item: (-item[1], item[0]))
            (first, n), (second, m) = (ranked * 2)[:2]
            out[r, c] = first, second, 255 if len(ranked) == 1 else np.floor(255 * n / (n + m) + 0.5)
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
    plain = Contrast(texture=0.0, patches=0.0)
    mixture = np.array([Tissue.FAT, Tissue.MUSCLE, 51], np.uint8)
    mixtures = np.broadcast_to(mixture, (1, 1, 4, 4, 3)).copy()
    image = paint(mixtures, np.array([7]), plain)
    levels = draw_levels(np.random.default_rng((7, 2)), plain)
    expected = 0.2 * levels[Tissue.FAT] + 0.8 * levels[Tissue.MUSCLE]
    np.testing.assert_allclose(image, min(expected, 1), rtol=1e-5)


def test_looks_follow_their_seeds_alone():
    rng = np.random.default_rng(0)
    mixtures = rng.integers(0, len(Tissue), (3, 2, 16, 16, 3)).astype(np.uint8)
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
    still = Contrast(known=1.0, spread=0.0, muscles=0.0, organs=0.0)
    found = draw_levels(np.random.default_rng(0), still)
    ratios = [
        [found[t] / found[Tissue.MUSCLE] / (table[t] / table[Tissue.MUSCLE]) for t in list(Tissue)[1:]]
        for table in KNOWN_LEVELS.values()
    ]
    assert min(np.ptp(r) for r in ratios) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    "mixtures", [np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 1, 4, 4, 3), MATERIALS, np.uint8)]
)
def test_wrong_mixtures_are_refused(mixtures):
    with pytest.raises(UsageError):
        paint(mixtures, np.array([0]))
