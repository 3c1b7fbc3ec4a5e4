import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.certainty import BoneConfidence
from seg_core.denoise import denoise_slices
from seg_core.model_spec import Denoise


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.02, 0.4]))
def test_means_are_those_of_a_whole_volume_after_cleaning_too(seed, share):
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, 4, (3, 9, 11)) * (rng.random((3, 9, 11)) < share)).astype(np.uint8)
    values = rng.integers(0, 256, labels.shape).astype(np.uint8)
    kept = BoneConfidence()
    for number in range(3):
        kept.keep(number, labels[number], values[number], (2, 1))
    stack = np.zeros((3, 12, 13), np.uint8)
    stack[:, 2:11, 1:12] = denoise_slices(labels, 3, Denoise(0.3, 2))[0]
    found = kept.means(stack)
    inside = stack[:, 2:11, 1:12]
    assert set(found) == set(np.unique(stack)) - {0}
    for value, mean in found.items():
        assert mean == pytest.approx(values[inside == value].mean() / 255)
