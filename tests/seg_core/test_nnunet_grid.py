"""nnU-Net's way onto its grid, against SciPy's splines at single places; and what lies beyond the box."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from seg_core.errors import ModelError
from seg_core.geometry import Geometry, Volume
from seg_core.intensity import nonzero_box
from seg_core.model_spec import Denoise, Grid, Normalisation
from seg_core.nnunet_grid import coarse_axis, resample_cubic
from seg_core.prepare import plan_slices
from seg_core.runner import Runner
from seg_core.segment import SegmentOptions, segment

UNTOUCHED = Denoise(fraction=0.0, minimum_pixels=0, volume_fraction=0.0, fill_holes=False)


@pytest.mark.parametrize("shape", [(9, 8, 5), (4, 13, 11), (6, 8, 9), (1, 1, 1)])
@pytest.mark.parametrize("coarse", [None, 0, 1, 2])
def test_splines_across_and_the_nearest_along_a_coarse_axis(shape, coarse):
    volume = np.random.default_rng(0).normal(size=(6, 8, 9)).astype(np.float32)
    source = volume.shape
    places = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(shape, source, strict=True)]
    if coarse is not None:
        places[coarse] = np.clip(np.floor(places[coarse] + 0.5), 0, source[coarse] - 1)
    grid = np.meshgrid(*places, indexing="ij")
    expected = map_coordinates(volume.astype(float), grid, order=3, mode="nearest")
    if coarse is None:
        expected = np.clip(expected, volume.min(), volume.max())
    else:
        across = tuple(axis for axis in range(3) if axis != coarse)
        bounds = (f(across, keepdims=True) for f in (volume.min, volume.max))
        low, high = (np.take(bound, places[coarse].astype(int), coarse) for bound in bounds)
        expected = np.clip(expected, low, high)
    found = resample_cubic(volume, shape, coarse)
    assert (found.dtype, found.shape) == (np.float32, shape)
    assert np.abs(found - expected).max() < 1e-5


def test_an_axis_is_coarse_beyond_three_to_one():
    assert coarse_axis((3.0, 0.9999999, 1.0), (2.0, 1.0, 1.0)) is None
    assert coarse_axis((3.1, 1.0, 1.0), (1.0, 1.0, 9.0)) == 0  # the scan's own comes first
    assert coarse_axis((1.0, 1.0, 1.0), (1.0, 4.0, 1.0)) == 1
    assert coarse_axis((4.0, 3.9999999, 1.0), (9.0, 1.0, 1.0)) is None  # two long sides are none


def test_only_the_box_that_is_not_0_is_seen(legs, make_spec, make_onnx):
    grid = Grid("nnunet", spacing_mm=(6.0, 5.0), slice_mm=16.0)
    zscore = Normalisation("zscore")
    spec = make_spec(patch=(4, 16, 16), grid=grid, denoise=UNTOUCHED, normalisation=zscore, limb_range=False)
    runner = Runner(make_onnx(spec), "cpu")
    inner = Volume(legs[0].array.astype(np.float32) + 1, legs[0].geometry)
    around = ((2, 3), (4, 0), (1, 2))
    affine = inner.geometry.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [before for before, _ in around]
    array = np.pad(inner.array, around)
    outer = Volume(array, Geometry(array.shape, affine))
    options = SegmentOptions(confidence=True)
    found, alone = (segment(scan, runner, options) for scan in (outer, inner))
    box = nonzero_box(array)
    assert alone.labels.array.any()
    assert np.array_equal(found.labels.array[box], alone.labels.array)
    assert np.array_equal(found.confidence.array[box], alone.confidence.array)
    beyond = np.ones(array.shape, bool)
    beyond[box] = False
    assert not found.labels.array[beyond].any()
    assert not found.confidence.array[beyond].any()


def test_a_network_of_slices_has_no_such_grid(legs, make_spec):
    with pytest.raises(ModelError, match="for a network of slices"):
        plan_slices(legs[0].geometry, make_spec(grid=Grid("nnunet")))
