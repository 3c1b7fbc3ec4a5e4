import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seg_core.denoise import Removed, denoise_slices, denoise_volume
from seg_core.errors import ModelError, UsageError
from seg_core.model_spec import Denoise

FULL = np.ones((3, 3), bool)
CROSS = ndimage.generate_binary_structure(2, 1)


def slow_slice(image, params):
    """The same by SciPy, class by class and piece by piece."""
    image = image.copy()
    piece, hole = (FULL, CROSS) if params.connectivity == 8 else (CROSS, FULL)
    removed = np.zeros((3, 256), int)
    for value in np.unique(image[image > 0]):
        marked, count = ndimage.label(image == value, piece)
        total = (image == value).sum()
        for index in range(1, count + 1):
            size = (marked == index).sum()
            if size < max(params.fraction * total, params.minimum_pixels):
                image[marked == index] = 0
                removed[0, value] += 1
                removed[1, value] += size
    marked, count = ndimage.label(image == 0, hole)
    at_border = set(np.concatenate([marked[0], marked[-1], marked[:, 0], marked[:, -1]]).tolist())
    cleaned = image.copy()
    for index in set(range(1, count + 1)) - at_border:
        classes = np.unique(image[ndimage.binary_dilation(marked == index, hole) & (marked != index)])
        if len(classes) == 1:
            cleaned[marked == index] = classes[0]
            removed[2, classes[0]] += (marked == index).sum()
    return cleaned, removed


def random_stack(shape, classes, density, seed):
    """Noise, smoothed for some seeds so that there are pieces, rings and holes of many sizes."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((classes, *shape)), (0, 0, seed % 3, seed % 3))
    inside = field.max(0) > np.quantile(field.max(0), 1 - density)
    return np.where(inside, field.argmax(0) + 1, 0).astype(np.uint8)


stacks = st.builds(
    random_stack,
    st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24)),
    st.integers(1, 4),
    st.floats(0.1, 0.95),
    st.integers(0, 2**32 - 1),
)


@settings(deadline=None, max_examples=80)
@given(
    stack=stacks,
    params=st.builds(Denoise, st.floats(0, 0.6), st.integers(0, 12), st.sampled_from([4, 8])),
    axes=st.permutations(range(3)),
)
def test_slices_equal_scipy_in_any_memory_order(stack, params, axes):
    view = np.ascontiguousarray(stack.transpose(axes)).transpose(np.argsort(axes))[:, ::-1]
    before = view.copy()
    cleaned, removed = denoise_slices(view, 4, params)
    slow = [slow_slice(image, params) for image in view]
    np.testing.assert_array_equal(cleaned, np.stack([image for image, _ in slow]))
    counts = sum(count for _, count in slow)[:, :5]
    np.testing.assert_array_equal([removed.components, removed.voxels, removed.filled], counts)
    np.testing.assert_array_equal(view, before)


@settings(deadline=None, max_examples=60)
@given(stack=stacks, fraction=st.floats(0, 1))
def test_volume_equals_scipy(stack, fraction):
    cleaned, removed = denoise_volume(stack, 4, fraction)
    expected, counts = stack.copy(), np.zeros((2, 5), int)
    for value in np.unique(stack[stack > 0]):
        marked, count = ndimage.label(stack == value, np.ones((3, 3, 3)))
        sizes = np.bincount(marked.ravel())[1 : count + 1]
        for index in np.flatnonzero(sizes < fraction * sizes.max()) + 1:
            expected[marked == index] = 0
            counts[:, value] += 1, sizes[index - 1]
    np.testing.assert_array_equal(cleaned, expected)
    np.testing.assert_array_equal([removed.components, removed.voxels], counts)
    assert not removed.filled.any()


def test_marrow_in_a_ring_is_filled_and_the_gap_between_two_bones_is_left():
    image = np.zeros((1, 12, 20), np.uint8)
    image[0, 1:11, 1:9] = 1
    image[0, 3:9, 3:7] = 0
    image[0, 5, 5] = 2  # a speck in the marrow: removed, then filled
    image[0, 1:11, 11:15] = 2
    image[0, 1:11, 15:19] = 3
    image[0, 4:8, 13:17] = 0  # a gap between two bones
    cleaned, removed = denoise_slices(image, 4, Denoise(0.1, 5, 8))
    assert (cleaned[0, 1:11, 1:9] == 1).all()
    assert (cleaned[0, 4:8, 13:17] == 0).all()
    assert removed.components.tolist() == [0, 0, 1, 0, 0]
    assert removed.filled.tolist() == [0, 24, 0, 0, 0]


def test_the_fibula_is_not_judged_by_the_tibia():
    image = np.zeros((1, 60, 80), np.uint8)
    image[0, 5:55, 5:55] = 1
    image[0, 20:24, 60:64] = 3
    cleaned, _ = denoise_slices(image, 4, Denoise(0.1, 5, 8))
    np.testing.assert_array_equal(cleaned, image)


def test_diagonal_walls_close_only_where_pieces_join_diagonally():
    image = np.zeros((1, 5, 5), np.uint8)
    image[0, [0, 1, 2, 3, 4, 3, 2, 1][:8], [2, 3, 4, 3, 2, 1, 0, 1]] = 1
    assert (denoise_slices(image, 1, Denoise(0, 0, 8))[0][0, 1:4, 2] == 1).all()
    np.testing.assert_array_equal(denoise_slices(image, 1, Denoise(0, 0, 4))[0], image)


def test_both_legs_stay():
    volume = np.zeros((40, 10, 30), np.uint8)
    volume[2:8, 2:8, :] = 1
    volume[30:35, 2:8, :20] = 1
    volume[20, 5, 5] = 1
    cleaned, removed = denoise_volume(volume, 4, 0.1)
    assert cleaned[20, 5, 5] == 0
    assert (cleaned > 0).sum() == (volume > 0).sum() - 1
    assert removed.components.tolist() == [0, 1, 0, 0, 0]
    assert volume[20, 5, 5] == 1
    assert denoise_volume(volume, 4, 0.1, overwrite=True)[0] is volume
    np.testing.assert_array_equal(volume, cleaned)


def test_holes_stay_where_that_is_wanted():
    ring = np.zeros((1, 5, 5), np.uint8)
    ring[0, 1:4, 1:4], ring[0, 2, 2] = 1, 0
    assert np.array_equal(denoise_slices(ring, 1, Denoise(fill_holes=False))[0], ring)
    assert denoise_slices(ring, 1, Denoise())[0][0, 2, 2] == 1


def test_empty_and_sums():
    for shape in [(0, 4, 4), (2, 0, 3), (3, 4, 5)]:
        empty = np.zeros(shape, np.uint8)
        cleaned, removed = denoise_slices(empty, 4, Denoise())
        assert cleaned.shape == shape
        assert not cleaned.any()
        assert denoise_volume(empty, 4, 0.1)[0].shape == shape
    ones = Removed(*np.ones((3, 5), np.int64))
    assert (removed + ones).voxels.tolist() == [1] * 5


@pytest.mark.parametrize(
    "denoise", [lambda a, n: denoise_slices(a, n, Denoise()), lambda a, n: denoise_volume(a, n, 0.1)]
)
def test_refuses_what_is_no_stack_of_classes(denoise):
    for array, n_classes in [
        (np.zeros((2, 2), np.uint8), 4),
        (np.zeros((2, 2, 2), np.int16), 4),
        (np.zeros((2, 2, 2), np.uint8), 0),
        (np.full((2, 2, 2), 5, np.uint8), 4),
    ]:
        with pytest.raises(UsageError):
            denoise(array, n_classes)


def test_refuses_other_connectivity():
    with pytest.raises(ModelError, match="connectivity 6"):
        Denoise(connectivity=6)  # type: ignore[arg-type]
