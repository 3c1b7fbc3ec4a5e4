from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.degradations import __main__ as command
from benchmarks.degradations import degrade
from benchmarks.degradations.degrade import DEGRADATIONS, Scan
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import BONES
from trainers.curves import can_draw

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def scan(legs):
    volume, labels = legs
    return Scan(Volume(np.asfortranarray(volume.array.astype(np.int16) * 4), volume.geometry), labels)


@pytest.fixture(scope="module")
def turned(scan):
    """The same scan with its first axis the other way round."""
    affine = scan.volume.geometry.affine.copy()
    affine[:3, 3] = scan.volume.geometry.to_world([scan.volume.array.shape[0] - 1, 0, 0])
    affine[:3, 0] *= -1
    geometry = Geometry(scan.volume.geometry.shape, affine)
    arrays = (np.asfortranarray(a[::-1]) for a in (scan.volume.array, scan.labels.array))
    image, labels = arrays
    return Scan(Volume(image, geometry), LabelMap(labels, geometry, scan.labels.labels))


def error(worse, scan):
    return np.abs(worse.volume.array.astype(float) - scan.volume.array).mean()


@pytest.mark.parametrize("name", ["noise", "shading", "motion"])
def test_each_step_of_intensity_is_worse_than_the_last(scan, name):
    one = DEGRADATIONS[name]
    worse = [one.apply(scan, step, RNG(1)) for step in one.steps]
    errors = [error(w, scan) for w in worse]
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert all(w.labels is scan.labels and w.volume.array.dtype == np.int16 for w in worse)
    np.testing.assert_array_equal(one.apply(scan, one.steps[0], RNG(1)).volume.array, worse[0].volume.array)


def test_noise_is_rician(scan):
    worse = degrade.add_noise(scan, 0.2, RNG(0))
    sd = 0.2 * np.percentile(scan.volume.array[scan.volume.array > 0], 99)
    air = worse.volume.array[scan.volume.array == 0]
    assert air.mean() == pytest.approx(sd * np.sqrt(np.pi / 2), rel=0.02)
    bright = scan.volume.array > 4 * sd
    assert (worse.volume.array - scan.volume.array)[bright].std() == pytest.approx(sd, rel=0.05)


def test_shading_is_as_strong_as_it_says(scan):
    flat = Scan(Volume(np.full_like(scan.volume.array, 1000), scan.volume.geometry), scan.labels)
    assert np.log(degrade.shade(flat, 0.4, RNG(0)).volume.array / 1000).std() == pytest.approx(0.4, abs=0.01)


def test_a_body_that_lies_still_has_no_ghosts(scan):
    np.testing.assert_array_equal(degrade.move(scan, 0.0, RNG(0)).volume.array, scan.volume.array)
    moved = degrade.move(scan, 8.0, RNG(0)).volume.array
    air = scan.volume.array.max(axis=(1, 2)) == 0
    assert not moved[air].any()  # ghosts lie along j alone
    assert moved[scan.volume.array == 0].mean() > 1


def test_blocks_are_averaged_and_lie_where_they_were(scan):
    worse = degrade.coarsen(scan, (3, 2, 2))
    assert worse.volume.array.shape == (21, 32, 20)
    for i, j, k in RNG(0).integers(0, (21, 32, 20), (200, 3)):
        block = np.s_[3 * i : 3 * i + 3, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]
        assert worse.volume.array[i, j, k] == round(float(scan.volume.array[block].mean()))
        values, counts = np.unique(scan.labels.array[block], return_counts=True)
        bone = [v for v, n in zip(values, counts, strict=True) if v and n >= 6]
        assert worse.labels.array[i, j, k] == (max(bone) if bone else 0)
        corners = np.stack(np.meshgrid(*[[s.start, s.stop - 1] for s in block]), -1).reshape(-1, 3)
        centre = scan.volume.geometry.to_world(corners).mean(axis=0)
        np.testing.assert_allclose(worse.volume.geometry.to_world([i, j, k]), centre)


def test_resolutions_are_those_that_they_say(scan):
    assert degrade.thicken(scan, 50.0, RNG()).volume.geometry.voxel_sizes == pytest.approx((4, 4, 50))
    assert degrade.enlarge(scan, 8.0, RNG()).volume.geometry.voxel_sizes == pytest.approx((8, 8, 25))


@pytest.mark.parametrize("which", ["scan", "turned"])
@pytest.mark.parametrize(
    ("name", "step"), [("along", 300.0), ("along", 100.0), ("across", 0.5), ("across", 0.3)]
)
def test_a_smaller_view_shows_the_same(which, name, step, request):
    scan = request.getfixturevalue(which)
    cut = DEGRADATIONS[name].apply(scan, step, RNG())
    first = np.rint(scan.volume.geometry.to_index(cut.volume.geometry.to_world([0, 0, 0]))).astype(int)
    part = tuple(slice(a, a + n) for a, n in zip(first, cut.volume.array.shape, strict=True))
    np.testing.assert_array_equal(cut.volume.array, scan.volume.array[part])
    np.testing.assert_array_equal(cut.labels.array, scan.labels.array[part])
    shown = set(np.unique(cut.labels.array[cut.labels.array > 0]))
    if name == "along":
        assert cut.volume.array.shape[2] == step / 25
        assert {1, 2, 5, 6} <= shown  # both knees
    else:
        assert shown <= {1, 2, 3, 4}  # the patient's right


def test_a_quarter_of_a_turn(scan):
    worse = degrade.turn(scan, 90.0, RNG())
    np.testing.assert_array_equal(worse.labels.array, np.rot90(scan.labels.array, 1, (0, 1)))
    assert np.abs(worse.volume.array - np.rot90(scan.volume.array, 1, (0, 1))).max() <= 1


def test_a_perfect_network_and_one_that_breaks(scan, tiny_model):
    from seg_core.runner import Runner

    grey = Scan(Volume((scan.volume.array // 4).astype(np.uint8), scan.volume.geometry), scan.labels)
    runner = Runner(tiny_model, "cpu")
    assert command.score(grey, runner) == [1.0] * 5 + [0.0]
    knees = degrade.cut_along(grey, 300.0, RNG())
    *bones, some, crossed = command.score(knees, runner)
    assert [np.isnan(v) for v in bones] == [False, False, False, True]  # no hip in view
    assert (some, crossed) == (1, 0)
    bad = degrade.add_noise(grey, 0.5, RNG())
    assert command.score(bad, runner)[4] < 0.9


def test_where_it_breaks_is_said():
    nan = float("nan")
    rows = {
        0.0: [0.9, 0.9, 0.8, 0.8, 0.9, 0],
        1.0: [0.9, 0.8, 0.8, nan, 0.9, 0],
        2.0: [0.7, nan, 0.7, nan, 0.9, 0],
    }
    rows = {step: np.array(values) for step, values in rows.items()}
    assert command.breaks(rows) == "Broken at 2: the mean DSC over bones is 0.15 lower."
    assert command.breaks({0.0: rows[0.0], 3.0: np.full(6, nan)}).startswith("Not broken")
    lines = command.table("noise", rows).splitlines()
    assert lines[0].startswith("| noise (Rician): SD, share of full scale | tibia |")
    assert lines[3] == "| 1 | 0.900 | 0.800 | 0.800 | - | 0.900 | 0.000 |"


def test_people_are_the_frozen_ones_and_new():
    from benchmarks import accuracy

    configs = list(command.people(smoke=False))
    assert [config.subject for config in configs] == list(accuracy.SUBJECTS)
    assert {config.seed for config in configs}.isdisjoint(
        config.seed for name in accuracy.SETS for config in accuracy.configurations(name)
    )


def test_the_command_keeps_what_is_done(tmp_path, scan, tiny_model, monkeypatch, capsys):
    calls = []

    def score(one, runner):
        calls.append(one.volume.array.shape)
        return [0.5, 0.6, 0.7, float("nan"), 0.8, 0.0]

    monkeypatch.setattr(command, "score", score)
    monkeypatch.setattr(command, "read", lambda config, folder: scan)
    arguments = ["-o", str(tmp_path), "--model", str(tiny_model), "--smoke"]
    command.main([*arguments, "--only", "noise", "--only", "along"])
    assert len(calls) == 5
    command.main(arguments)
    assert len(calls) == 1 + 2 * len(DEGRADATIONS)
    command.main(arguments)
    assert len(calls) == 1 + 2 * len(DEGRADATIONS)
    text = (tmp_path / "smoke" / "degradations.md").read_text()
    assert command.SMOKE in text
    assert text in capsys.readouterr().out
    assert text.count("| as it was | 0.500 | 0.600 | 0.700 | - | 0.800 | 0.000 |") == len(DEGRADATIONS)
    assert (tmp_path / "smoke" / "degradations.png").is_file() == can_draw()
    assert len(BONES) == 4


def test_scores_are_those_of_the_file_that_runs(tmp_path, monkeypatch):
    """A twin is taken for the file of the same name, and labels otherwise."""
    monkeypatch.setattr(command, "Runner", lambda model: SimpleNamespace(fingerprint=64 * "b"))
    assert command.Study(tmp_path, "default", smoke=False).file == tmp_path / "scores-bbbbbbbbbbbb.json"
