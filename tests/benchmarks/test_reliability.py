import hashlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from benchmarks import never_seen, reliability
from seg_core import precision
from seg_core.errors import UsageError
from seg_core.labels import BONES
from seg_core.model_spec import METADATA_KEY, ModelSpec, Twin
from seg_core.nifti import write_labels
from seg_core.runner import Runner
from trainers.augment import AUGMENTATIONS, augment
from trainers.cache import CacheIndex, SliceCacheWriter
from trainers.dicom_writer import SeriesInfo, write_series


def drawn(temperature, n=20_000, seed=0):
    """Logits, and truths drawn from their probabilities at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, 4))
    share = np.exp(logits / temperature)
    share /= share.sum(axis=1, keepdims=True)
    return logits, (rng.random((n, 1)) > share.cumsum(axis=1)).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_of_drawn_truths_is_found(temperature):
    fit = reliability.fit_temperature(*drawn(temperature))
    assert fit.temperature == pytest.approx(temperature, rel=0.05)
    assert fit.after <= fit.before + 1e-6
    with pytest.raises(UsageError):
        reliability.fit_temperature(np.zeros((0, 4)), np.zeros(0, np.int64))


def test_a_fitted_temperature_makes_confidence_mean_what_it_says():
    logits, truth = drawn(3.0)
    errors = {}
    for temperature in (1.0, reliability.fit_temperature(logits, truth).temperature):
        share = np.exp(logits / temperature)
        confidence = np.rint(255 * share.max(axis=1) / share.sum(axis=1)).astype(np.uint8)
        called = logits.argmax(axis=1).astype(np.uint8) + 1
        counts = reliability.tally(called, confidence, truth.astype(np.uint8) + 1, 4).sum(axis=0)
        errors[temperature] = reliability.calibration_error(counts)
    unfitted, fitted = errors.values()
    assert unfitted > 0.2
    assert fitted < 0.02


def test_counts_are_those_of_a_slow_loop():
    rng = np.random.default_rng(1)
    labels, truth = rng.integers(0, 9, (2, 6, 7, 8)).astype(np.uint8)
    confidence = rng.integers(0, 256, labels.shape).astype(np.uint8)
    expected = np.zeros((4, 256, 2), np.int64)
    for found, true, value in zip(labels.ravel(), truth.ravel(), confidence.ravel(), strict=True):
        if found:
            same = true > 0 and (found - 1) % 4 == (true - 1) % 4
            expected[(found - 1) % 4, value] += (1, int(same))
    assert np.array_equal(reliability.tally(labels, confidence, truth, 4), expected)


def test_bins_and_error_by_hand():
    counts = np.zeros((256, 2), np.int64)
    counts[51], counts[255], counts[0] = (10, 4), (30, 30), (2, 0)
    rows = reliability.reliability(counts)
    assert rows == pytest.approx(np.array([[0.0, 0.0, 2], [0.2, 0.4, 10], [1.0, 1.0, 30]]))
    assert reliability.calibration_error(counts) == pytest.approx(0.2 * 10 / 42)
    assert np.isnan(reliability.calibration_error(np.zeros((256, 2), np.int64)))
    text = reliability.table({"tibia": counts, "femur": np.zeros((256, 2), np.int64)})
    assert "| tibia | 42 | 0.762 | 0.810 | 0.048 |" in text
    assert "| femur | 0 | none | none | none |" in text


def test_a_curve_needs_no_onnx():
    code = "import sys; sys.modules['onnx'] = None; import benchmarks.reliability"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def with_twin(make_onnx, make_spec, tmp_path, monkeypatch):
    """A model file, and a twin beside it that is taken by itself and sees no bone where the file does."""
    monkeypatch.setattr(precision, "multiplies_bytes", lambda: True)
    path = tmp_path / "tiny.onnx"
    path.write_bytes(make_onnx(make_spec()))
    twin = Twin(
        "int8", hashlib.sha256(path.read_bytes()).hexdigest(), dict.fromkeys(make_spec().classes, 1), 8
    )
    other = dict.fromkeys(("muscle", *make_spec().classes), 250)
    path.with_suffix(".int8.onnx").write_bytes(make_onnx(make_spec(twin=twin), grey=other))
    assert Runner(path).precision == "int8"
    return path


def test_the_curve_of_a_scan(legs, with_twin, tmp_path, monkeypatch, capsys, read_json):
    volume, labels = legs
    folder = tmp_path / "t1" / "legs"

    def make(config, look, place):
        array = volume.array.astype(np.int16)
        write_series(place / "dicom", type(volume)(array, volume.geometry), SeriesInfo("legs"))
        write_labels(place / "labels.nii.gz", labels)

    monkeypatch.setattr(never_seen, "people", lambda look: [SimpleNamespace(), SimpleNamespace()])
    monkeypatch.setattr(never_seen, "scan_name", lambda config: "legs")
    monkeypatch.setattr(never_seen, "make", make)
    flags = ["--picture", tmp_path / "p.png", "--json", tmp_path / "c.json", "--precision", "fp32"]
    call = ["curve", "--look", "t1", "--people", "1", "--scans", tmp_path, *flags, "--model", with_twin]
    assert reliability.main(list(map(str, call))) == 0
    out = capsys.readouterr().out
    assert "model tiny in fp32, temperature 1" in out
    assert f"| any | {np.count_nonzero(labels.array)} | " in out
    assert "| 1.000 |" in out  # every voxel is right
    curves = read_json(tmp_path / "c.json")
    assert set(curves) == {"tibia", "femur", "fibula", "pelvis", "any"}
    assert sum(row[2] for row in curves["any"]) == np.count_nonzero(labels.array)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert folder.is_dir()


def cache_of(folder, images, truth):
    with SliceCacheWriter(folder, CacheIndex((64, 64), BONES)) as cache:
        cache.append("one", images, truth, (4.0, 4.0, 10.0))
    return folder


@pytest.fixture
def squares():
    """Slices (n, 64, 64) of clean squares of bone and muscle as the tiny network knows them, and classes."""
    truth = np.random.default_rng(0).integers(0, 5, (16, 8, 8)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    return (np.array([10, 70, 120, 170, 220])[truth] / 255).astype(np.float32), truth


def test_a_model_file_gets_its_temperature(tiny_model, squares, tmp_path, capsys):
    images, truth = squares
    cache = cache_of(tmp_path / "cache", images, truth)
    call = ["fit", "--validation", cache, "--model", tiny_model, "--out", tmp_path / "new.onnx"]
    assert reliability.main(list(map(str, call))) == 0
    out = capsys.readouterr().out
    known = {e.key: e.value for e in onnx.load(tmp_path / "new.onnx").metadata_props}
    temperature = ModelSpec.from_json(known[METADATA_KEY]).temperature
    assert temperature > 1  # its logits know nothing of blur, shading and noise
    assert f"temperature {temperature:g}" in out
    assert "make its twins again" in out
    before, after = Runner(tiny_model, "cpu"), Runner(tmp_path / "new.onnx", "cpu")
    seeds = np.column_stack([np.full(16, 5), np.arange(16)])  # as the fit's own slices, and others
    seen, true = augment(images[:, None], truth, seeds, AUGMENTATIONS["fine"])
    runs = [runner.run(seen, (64, 64), True) for runner in (before, after)]
    assert np.array_equal(runs[0].labels, runs[1].labels)
    called = runs[0].labels > 0
    right = np.mean(runs[0].labels[called] == true[called])
    said = [run.confidence[called].mean() / 255 for run in runs]
    assert abs(said[1] - right) < abs(said[0] - right)


def test_a_fit_sees_slices_as_training_does(make_spec, squares, tmp_path):
    images, truth = squares
    cache, given = cache_of(tmp_path / "cache", images, truth), []

    def logits(batch):
        given.append(batch)
        return np.moveaxis(np.eye(5, dtype=np.float32)[np.ones(batch[:, 0].shape, int)], 3, 1)

    runner = SimpleNamespace(spec=make_spec(channels=3), logits=logits)
    found = [reliability.called_bone(runner, cache, 16) for _ in range(2)]
    seen, again = np.split(np.concatenate(given), 2)
    np.testing.assert_array_equal(seen, again)  # the same every time
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(seen[:, 0], seen[:, 2])
    greys = [len(np.unique(image)) for image in seen[:, 0]]
    assert np.median(greys) > 100  # of five
    assert len(found[0][1]) == truth.size


def test_a_temperature_is_that_of_the_file_and_not_of_its_twin(
    tiny_model, with_twin, squares, tmp_path, capsys
):
    cache, said = cache_of(tmp_path / "cache", *squares), []
    for model in (tiny_model, with_twin):
        assert reliability.main(["fit", "--validation", str(cache), "--model", str(model)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
