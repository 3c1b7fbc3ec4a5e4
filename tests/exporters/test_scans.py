"""What files are calibrated and compared on is what the runner shows a network of a scan."""

import numpy as np
import pytest

from exporters.scans import scan_patches
from seg_core.errors import ScanError
from seg_core.geometry import Volume
from seg_core.model_spec import Grid, Normalisation
from seg_core.runner import Runner
from seg_core.segment import segment

PATCH = (8, 24, 16)
SPECS = {
    "millimetres": {"grid": Grid("spacing", spacing_mm=(5.0, 4.0), multiple=1, slice_mm=20.0)},
    "nnU-Net's": {
        "grid": Grid("nnunet", spacing_mm=(5.0, 4.0), multiple=1, slice_mm=20.0),
        "normalisation": Normalisation("zscore_nonzero"),
        "sided": False,
    },
    "three channels, as scanned": {"channels": 3, "orientation": "RAS"},
}


@pytest.fixture
def shown(make_spec, make_onnx, monkeypatch):
    """Return a function that segments a scan and gives the patches that its network was shown."""

    def record(scan, spec):
        patches, infer = [], Runner.logits
        with monkeypatch.context() as patch:
            patch.setattr(Runner, "logits", lambda self, x: patches.append(x.copy()) or infer(self, x))
            segment(scan, Runner(make_onnx(spec), "cpu", 1))
        return patches

    return record


@pytest.mark.parametrize("count", [1, 3, 5, 1000])
@pytest.mark.parametrize("kind", SPECS)
def test_patches_are_evenly_spread_ones_of_those_that_the_network_is_shown(
    make_legs, make_spec, shown, kind, count
):
    spec, (scan, _) = make_spec(patch=PATCH, **SPECS[kind]), make_legs()
    wanted = shown(scan, spec)
    found = list(scan_patches([scan], spec, count))
    assert len(found) == min(count, len(wanted))
    assert all(patch.shape == (1, spec.channels, *PATCH) and patch.dtype == np.float32 for patch in found)
    assert len(wanted) > 20
    places, next_one = [], 0
    for patch in found:
        next_one = next(n for n in range(next_one, len(wanted)) if np.array_equal(patch, wanted[n])) + 1
        places.append(next_one - 0.5)
    even = (np.arange(len(found)) + 0.5) * len(wanted) / len(found)
    assert np.abs(np.array(places) - even).max() <= len(wanted) / len(found)


def test_scans_come_one_after_the_other(make_legs, make_spec):
    spec, (scan, _) = make_spec(patch=(40, 64, 64)), make_legs()
    darker = Volume(scan.array // 2, scan.geometry)
    found = list(scan_patches(iter([scan, darker]), spec, 4))  # each is one patch
    assert len(found) == 2
    assert found[0].max() == pytest.approx(2 * found[1].max(), abs=0.01)


def test_a_scan_that_cannot_be_segmented_is_refused(make_legs, make_spec):
    scan = make_legs()[0]
    with pytest.raises(ScanError, match="constant"):
        list(scan_patches([Volume(np.ones_like(scan.array), scan.geometry)], make_spec(patch=PATCH), 2))
