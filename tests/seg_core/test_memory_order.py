from itertools import permutations

import numpy as np
import pytest

from seg_core.memory_order import memory_axes, zeros_like


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_zeros_lie_in_memory_as_the_array_does(order):
    array = np.ones((3, 4, 5), np.int16).transpose(order)
    zeros = zeros_like(array, np.uint8)
    assert zeros.shape == array.shape
    assert zeros.dtype == np.uint8
    assert memory_axes(zeros) == memory_axes(array)
    assert not zeros.any()
    zeros[...] = 1
    assert zeros.all()
