from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seg_core.errors import UsageError
from seg_core.resize import resize_bilinear

sizes = st.integers(1, 70)


def pillow(image, shape):  # 13 or newer: older ones take the two passes in another order for some shapes
    source = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.asarray(source.resize(shape[::-1], Image.Resampling.BILINEAR))


def random_image(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (rng.standard_normal(shape) * 1000).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, np.dtype(dtype).newbyteorder("="), endpoint=True).astype(
        dtype
    )


@settings(deadline=None, max_examples=150)
@given(
    shape=st.tuples(sizes, sizes),
    wanted=st.tuples(sizes, sizes),
    dtype=st.sampled_from(["u1", "i2", "u2", ">i2", "f4", "f8", "i4"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_pillow_bit_for_bit(shape, wanted, dtype, seed):
    image = random_image(shape, dtype, seed)
    np.testing.assert_array_equal(resize_bilinear(image[None], wanted)[0], pillow(image, wanted))


@pytest.mark.parametrize(
    "wanted", [(256, 256), (400, 400), (512, 512), (512, 256), (320, 512), (137, 641), (300, 90)]
)
def test_equals_pillow_at_the_sizes_of_scans(wanted):
    images = random_image((2, 512, 320), "i2", 1)
    result = resize_bilinear(images, wanted)
    assert result.dtype == np.float32
    for image, resized in zip(images, result, strict=True):
        np.testing.assert_array_equal(resized, pillow(image, wanted))


@settings(deadline=None, max_examples=60)
@given(rows=sizes, columns=sizes, slices=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_halving_equals_pillow_also_in_the_sign_of_zero(rows, columns, slices, seed):
    rng = np.random.default_rng(seed)
    images = rng.choice(np.float32([-0.0, 0.0, -1e-40, 0.1, -3.7]), (slices, 2 * rows, 2 * columns))
    expected = np.stack([pillow(image, (rows, columns)) for image in images])
    result = resize_bilinear(images, (rows, columns))
    np.testing.assert_array_equal(result.view(np.uint32), expected.view(np.uint32))


def test_equals_pillow_on_infinity_and_nan():
    image = random_image((9, 7), "f4", 2)
    image[2, 3], image[6, 1] = np.inf, np.nan
    for wanted in [(9, 7), (9, 14), (5, 7), (4, 3), (20, 20)]:
        np.testing.assert_array_equal(resize_bilinear(image[None], wanted)[0], pillow(image, wanted))


@settings(deadline=None, max_examples=50)
@given(shape=st.tuples(sizes, sizes), wanted=st.tuples(sizes, sizes), seed=st.integers(0, 2**32 - 1))
def test_ones_stay_ones_and_flips_and_transposes_commute(shape, wanted, seed):
    assert (resize_bilinear(np.ones((1, *shape), np.uint8), wanted) == 1).all()
    images = random_image((1, *shape), "i2", seed)
    result = resize_bilinear(images, wanted)
    flipped = resize_bilinear(images[:, ::-1, ::-1], wanted)[:, ::-1, ::-1]
    turned = resize_bilinear(images.transpose(0, 2, 1), wanted[::-1]).transpose(0, 2, 1)
    # The order of additions differs: a few roundings of the largest value (32768) in float32.
    np.testing.assert_allclose(flipped, result, rtol=0, atol=0.01)
    np.testing.assert_allclose(turned, result, rtol=0, atol=0.01)


def test_any_memory_order_and_number_of_slices():
    images = random_image((3, 20, 30), "i2", 3)
    expected = resize_bilinear(images, (13, 41))
    np.testing.assert_array_equal(resize_bilinear(np.asfortranarray(images), (13, 41)), expected)
    np.testing.assert_array_equal(resize_bilinear(images[::-1], (13, 41)), expected[::-1])
    np.testing.assert_array_equal(resize_bilinear(images[1:2], (13, 41)), expected[1:2])
    assert resize_bilinear(images[:0], (13, 41)).shape == (0, 13, 41)


def test_threads_give_the_same():
    images = random_image((16, 90, 70), "u2", 4)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda part: resize_bilinear(part, (64, 80)), np.split(images, 8)))
    np.testing.assert_array_equal(np.concatenate(parts), resize_bilinear(images, (64, 80)))


def test_leaves_its_input_alone():
    images = random_image((2, 8, 8), "f4", 5)
    before = images.copy()
    resize_bilinear(images, (8, 8))[:] = 0
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros((4, 4)), (2, 2)),
        (np.zeros((1, 4, 4), complex), (2, 2)),
        (np.zeros((1, 0, 4)), (2, 2)),
        (np.zeros((1, 4, 4)), (0, 2)),
    ],
)
def test_refuses_what_is_no_stack_of_slices(array, shape):
    with pytest.raises(UsageError):
        resize_bilinear(array, shape)
