import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seg_core.components import find_components
from seg_core.errors import UsageError

STRUCTURES = {4: (2, 1), 8: (2, 2), 6: (3, 1), 18: (3, 2), 26: (3, 3)}


def random_labels(shape, classes, density, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, classes + 1, shape, np.uint8)
    return np.where(rng.random(shape) < density, values, 0).astype(np.uint8)


def oracle(array, connectivity):
    """Class, size, box and centroid of each component, by SciPy, class by class."""
    found = []
    structure = ndimage.generate_binary_structure(*STRUCTURES[connectivity])
    for value in np.unique(array[array > 0]):
        marked, count = ndimage.label(array == value, structure)
        for index in range(1, count + 1):
            places = np.argwhere(marked == index)
            box = np.stack([places.min(0), places.max(0) + 1], 1)
            found.append((int(value), len(places), box.tolist(), np.round(places.mean(0), 9).tolist()))
    return sorted(found, key=lambda f: (f[0], -f[1], [b[0] for b in f[2]], f[3]))


def described(components):
    return sorted(
        zip(
            components.labels.tolist(),
            components.sizes.tolist(),
            components.boxes.tolist(),
            np.round(components.centroids, 9).tolist(),
            strict=True,
        ),
        key=lambda f: (f[0], -f[1], [b[0] for b in f[2]], f[3]),
    )


@settings(deadline=None, max_examples=120)
@given(
    connectivity=st.sampled_from(sorted(STRUCTURES)),
    sizes=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    density=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
    axes=st.permutations(range(3)),
    flips=st.lists(st.sampled_from([1, -1]), min_size=3, max_size=3),
)
def test_equals_scipy_in_any_memory_order(connectivity, sizes, density, seed, axes, flips):
    ndim = STRUCTURES[connectivity][0]
    array = random_labels(sizes[:ndim], 3, density, seed).transpose([a for a in axes if a < ndim])
    array = array[tuple(slice(None, None, flip) for flip in flips[:ndim])]
    assert described(find_components(array, connectivity)) == oracle(array, connectivity)


@pytest.mark.parametrize("density", [0.02, 0.2, 0.6])
def test_equals_cc3d_on_a_larger_volume(density):
    array = random_labels((40, 50, 60), 4, density, 7)
    components = find_components(array, 26)
    theirs = cc3d.statistics(cc3d.connected_components(array, connectivity=26))
    assert sorted(components.sizes) == sorted(theirs["voxel_counts"][1:])
    np.testing.assert_allclose(
        sorted(map(tuple, components.centroids)), sorted(map(tuple, theirs["centroids"][1:])), atol=1e-4
    )


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 8), min_size=2, max_size=3).map(tuple),
    density=st.floats(0.1, 0.9),
    seed=st.integers(0, 2**32 - 1),
    axes=st.permutations(range(3)),
)
def test_masks_and_removal(shape, density, seed, axes):
    array = random_labels(shape, 2, density, seed).transpose([a for a in axes if a < len(shape)])
    before = array.copy()
    components = find_components(array, 26 if len(shape) == 3 else 8)
    rebuilt = np.zeros_like(array)
    drop = np.random.default_rng(seed).random(components.sizes.size) < 0.5
    for index, box in enumerate(components.boxes):
        mask = components.mask(index)
        assert mask.sum() == components.sizes[index]
        part = rebuilt[tuple(slice(*edges) for edges in box)]
        assert not part[mask].any()
        part[mask] = 0 if drop[index] else components.labels[index]
    kept = components.remove(array, drop)
    np.testing.assert_array_equal(kept, rebuilt)
    np.testing.assert_array_equal(array, before)
    nothing_dropped = components.remove(array, np.zeros_like(drop))
    np.testing.assert_array_equal(nothing_dropped, array)
    assert not components.remove(array, np.ones_like(drop)).any()


def test_sorted_by_class_then_size():
    array = np.zeros((5, 20), np.uint8)
    array[0, :3], array[2, :9], array[4, :5], array[4, 10:12] = 2, 2, 1, 1
    components = find_components(array, 8)
    assert components.labels.tolist() == [1, 1, 2, 2]
    assert components.sizes.tolist() == [5, 2, 9, 3]


@pytest.mark.parametrize(
    ("array", "connectivity"),
    [
        (np.zeros((2, 2), np.int16), 8),
        (np.zeros((2, 2), np.uint8), 26),
        (np.zeros((2, 2, 2), np.uint8), 8),
        (np.zeros(2, np.uint8), 4),
    ],
)
def test_refuses_other_arrays(array, connectivity):
    with pytest.raises(UsageError):
        find_components(array, connectivity)
