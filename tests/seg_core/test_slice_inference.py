from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from seg_core import slice_inference
from seg_core.ahead import Begun
from seg_core.geometry import Volume
from seg_core.limb_range import coarse_slices
from seg_core.model_spec import Grid
from seg_core.prepare import plan_slices, prepare_slices
from seg_core.runner import Runner
from seg_core.segment import SegmentOptions, segment
from seg_core.slice_inference import PROBES, Clock, Input, SliceInference

WINDOW = (0.0, 255.0)


class Watched:
    """A runner that counts slices, and may miss a class where it does not see the whole frame."""

    def __init__(self, runner, whole, wrong=0, precision="fp32", sure=None):
        self.runner, self.spec, self.batch, self.device = runner, runner.spec, runner.batch, runner.device
        self.at_once = runner.at_once
        self.precision, self.sure = precision, sure
        self.whole, self.wrong, self.seen = whole, wrong, 0

    def begin(self, images, size, confidence=False):
        return Begun([], lambda _: self.run(images, size, confidence))

    def run(self, images, size, confidence=False):
        self.seen += len(images)
        found = self.runner.run(images, size, confidence)
        if self.wrong and images.shape[2:] != self.whole:
            return replace(
                found, labels=np.where(found.labels == self.wrong, 0, found.labels).astype(np.uint8)
            )
        if self.sure is not None and confidence:
            return replace(found, confidence=np.full_like(found.labels, round(255 * self.sure)))
        return found


@pytest.fixture(scope="module", params=[1, 3])
def runner(make_spec, make_onnx, request):
    return Runner(make_onnx(make_spec(grid=Grid("size", (64, 64), multiple=8))), "cpu", threads=request.param)


@pytest.fixture(scope="module")
def long_legs(make_legs):
    """Legs that are small in a large frame."""
    return make_legs(shape=(128, 128, 200), spacing=(4.0, 4.0, 5.0))


def test_labels_are_those_of_the_whole_frame_for_less(long_legs, runner):
    scan, truth = long_legs
    less = segment(scan, runner, SegmentOptions(confidence=True))
    whole = segment(scan, runner, SegmentOptions(confidence=True, whole_frame=True))
    assert np.array_equal(less.labels.array, whole.labels.array)
    assert less.labels.array.any()
    assert less.share < 0.75
    assert whole.share == 1
    bone = truth.array > 0
    assert np.array_equal(less.confidence.array[bone], whole.confidence.array[bone])
    inside = less.confidence.array[:, :, less.slices[0] : less.slices[1]]
    assert (inside > 0).all()
    assert not less.confidence.array[:, :, less.slices[1] :].any()


def test_no_slice_is_inferred_twice_but_the_probes(long_legs, runner):
    scan = long_legs[0]
    watched = Watched(runner, (64, 64))
    found = segment(scan, watched)
    coarse = coarse_slices(plan_slices(scan.geometry, runner.spec))
    assert 2 * PROBES < len(coarse) < 80
    twice = watched.seen - len({*coarse, *range(*found.slices)})
    assert PROBES <= twice <= PROBES + len(runner.spec.classes)


def test_where_views_would_change_labels_the_whole_frame_is_seen(long_legs, runner):
    scan = long_legs[0]
    watched = Watched(runner, (64, 64), wrong=2)
    found = segment(scan, watched)
    expected = segment(scan, runner, SegmentOptions(whole_frame=True))
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert found.share > 1  # the probes were seen twice


@pytest.mark.parametrize(
    ("precision", "sure", "taken"), [("int8", 0.65, True), ("int8", 0.75, False), ("fp32", 0.65, False)]
)
def test_in_few_bits_what_rounding_may_change_speaks_against_no_view(
    long_legs, runner, precision, sure, taken
):
    watched = Watched(runner, (64, 64), 2, precision, sure)
    assert (segment(long_legs[0], watched).share < 0.8) == taken


def test_a_wider_margin_is_taken_where_a_narrow_one_changes_labels(long_legs, runner, monkeypatch):
    scan = long_legs[0]
    monkeypatch.setattr(slice_inference, "MARGINS_MM", (64.0,))
    wide = segment(scan, runner)
    monkeypatch.setattr(slice_inference, "MARGINS_MM", (-48.0, 64.0))  # the first cuts bone away
    found = segment(scan, runner)
    assert found.share > wide.share  # and was tried
    assert np.array_equal(found.labels.array, wide.labels.array)


@pytest.fixture
def long_body(long_legs):
    """Legs of a metre in a scan of two, the rest of which shows flesh without bone."""
    array = np.repeat(long_legs[0].array[:, :, [75]], 400, axis=2)
    array[:, :, 170:370] = long_legs[0].array
    return Volume(array, replace(long_legs[0].geometry, shape=array.shape))


@pytest.mark.parametrize("wrong", [1, 2, 3, 4])
def test_every_bone_speaks_for_or_against_views_wherever_the_leg_lies(long_body, runner, wrong):
    found = segment(long_body, Watched(runner, (64, 64), wrong))
    expected = segment(long_body, runner, SegmentOptions(whole_frame=True))
    assert np.array_equal(found.labels.array, expected.labels.array)
    assert expected.labels.array.any()
    assert segment(long_body, runner).share < 0.6


def test_views_are_not_taken_on_trust(long_body, runner):
    plan = plan_slices(long_body.geometry, runner.spec)
    for span in ((0, 160), (0, 200)):  # no bone, hardly any
        slices = SliceInference(Input(long_body.array, plan, WINDOW), runner, False, Clock())
        assert not slices.see_the_body(slices.look(span))
    assert slices.see_the_body(slices.look((0, 400)))


def test_a_batch_changes_nothing_where_views_differ(long_legs, runner):
    array = np.concatenate([np.zeros((128, 128, 40), np.uint8), long_legs[0].array], axis=2)  # air below
    array[4:10, 60:66, 160:] = 90  # and something at one side above
    scan = Volume(array, replace(long_legs[0].geometry, shape=array.shape))
    expected = segment(scan, runner, SegmentOptions(confidence=True))
    assert expected.share < 0.8
    for batch in (3, 16):
        other = Watched(runner, (64, 64))
        other.batch = batch
        found = segment(scan, other, SegmentOptions(confidence=True))
        assert np.array_equal(found.labels.array, expected.labels.array)
        assert np.array_equal(found.confidence.array, expected.confidence.array)


def test_a_short_scan_is_seen_whole(legs, runner):
    scan = Volume(legs[0].array[:, :, :20], legs[0].geometry.window((0, 0, 0), (64, 64, 20)))
    assert segment(scan, runner).share == 1


def test_what_lies_beyond_the_range_is_erased(long_legs, runner):
    scan = long_legs[0]
    plan = plan_slices(scan.geometry, runner.spec)
    slices = SliceInference(Input(scan.array, plan, WINDOW), runner, True, Clock())
    for part in slices.apart(np.arange(0, 200, 9)):
        slices.labelled(part, prepare_slices(scan.array, part.plan, WINDOW, part.slices)).result()
    parts = list(slices.run((30, 50)))
    assert (parts[0][0], parts[-1][1]) == (30, 50)
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    most = max(slice_inference.SLAB, runner.at_once)
    assert all(0 < stop - start <= most for start, stop in parts)
    for array in (slices.classes, slices.confidence):
        assert array[:, :, 30:50].any()
        assert not array[:, :, :30].any()
        assert not array[:, :, 50:].any()
