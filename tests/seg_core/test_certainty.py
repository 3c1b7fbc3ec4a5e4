import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_core.certainty import BoneConfidence
from seg_core.denoise import denoise_slices
from seg_core.geometry import Volume
from seg_core.model_spec import Denoise
from seg_core.runner import Runner
from seg_core.segment import SegmentOptions, segment


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.02, 0.4, 0.8]))
def test_means_are_those_of_a_whole_volume_after_cleaning_too(seed, share):
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, 4, (3, 9, 11)) * (rng.random((3, 9, 11)) < share)).astype(np.uint8)
    values = rng.integers(1, 256, labels.shape).astype(np.uint8)
    kept = BoneConfidence()
    for number in range(3):
        kept.keep(number, labels[number], values[number], (2, 1))
    said = np.zeros((3, 12, 13), np.uint8)
    said[:, 2:11, 1:12] = labels
    stack, _ = denoise_slices(said, 3, Denoise(0.3, 2))
    kept.forget(0, said[:1], stack[:1])
    kept.forget(1, said[1:], stack[1:])
    found = kept.means(stack)
    inside = stack[:, 2:11, 1:12]
    assert set(found) == set(np.unique(stack)) - {0}
    for value, mean in found.items():
        own = (inside == value) & (labels == value)  # the rest of it are holes that were filled
        assert mean == pytest.approx(values[own].mean() / 255)


@pytest.mark.parametrize("patch", [None, (12, 40, 48)])
def test_a_filled_hole_adds_no_confidence_in_background(legs, make_spec, make_onnx, patch):
    """The marrow of one tibia is taken for muscle, surely, and its compact bone called bone, hardly so."""
    scan, truth = (Volume(legs[0].array.copy(order="K"), legs[0].geometry), legs[1].array)
    tibia = truth == 1
    marrow = tibia.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            marrow &= np.roll(tibia, step, axis)
    scan.array[tibia] = 48  # halfway between muscle, at 10, and a tibia, at 70, it is 40
    scan.array[marrow] = 10
    found = segment(scan, Runner(make_onnx(make_spec(patch=patch)), "cpu"), SegmentOptions(confidence=True))
    assert np.array_equal(found.labels.array, truth)
    assert found.removed["slices"].filled[1] == marrow.sum() > 0
    row = found.bones[0]
    shell, filled = (found.confidence.array[part].mean() / 255 for part in (tibia & ~marrow, marrow))
    assert row.confidence == pytest.approx(shell)
    assert filled > shell + 0.05
    assert found.bones[4].confidence == pytest.approx(found.confidence.array[truth == 5].mean() / 255)
