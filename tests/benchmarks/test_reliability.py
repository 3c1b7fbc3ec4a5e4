import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from benchmarks import never_seen, reliability
from seg_core.errors import UsageError
from seg_core.model_spec import METADATA_KEY, ModelSpec
from seg_core.nifti import write_labels
from seg_core.runner import Runner
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


def test_the_curve_of_a_scan(legs, tiny_model, tmp_path, monkeypatch, capsys, read_json):
    volume, labels = legs
    folder = tmp_path / "t1" / "legs"

    def make(config, look, place):
        array = volume.array.astype(np.int16)
        write_series(place / "dicom", type(volume)(array, volume.geometry), SeriesInfo("legs"))
        write_labels(place / "labels.nii.gz", labels)

    monkeypatch.setattr(never_seen, "people", lambda look: [SimpleNamespace(), SimpleNamespace()])
    monkeypatch.setattr(never_seen, "scan_name", lambda config: "legs")
    monkeypatch.setattr(never_seen, "make", make)
    flags = ["--picture", tmp_path / "p.png", "--json", tmp_path / "c.json", "--model", tiny_model]
    call = ["curve", "--look", "t1", "--people", "1", "--scans", tmp_path, *flags]
    reliability.main(list(map(str, call)))
    out = capsys.readouterr().out
    assert "model tiny, temperature 1" in out
    assert f"| any | {np.count_nonzero(labels.array)} | " in out
    assert "| 1.000 |" in out  # every voxel is right
    curves = read_json(tmp_path / "c.json")
    assert set(curves) == {"tibia", "femur", "fibula", "pelvis", "any"}
    assert sum(row[2] for row in curves["any"]) == np.count_nonzero(labels.array)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert folder.is_dir()


def test_a_model_file_gets_its_temperature(tiny_model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.integers(0, 5, (4, 8, 8)), 8, axis=1).repeat(8, axis=2).astype(np.uint8)
    grey = np.array([10, 70, 120, 170, 220])[truth] + rng.normal(0, 25, truth.shape)
    images = (np.clip(grey, 0, 255) / 255).astype(np.float32)
    with SliceCacheWriter(tmp_path / "cache", CacheIndex((64, 64), Runner(tiny_model).spec.classes)) as cache:
        cache.append("one", images, truth, (4.0, 4.0, 10.0))
    call = ["fit", "--validation", tmp_path / "cache", "--model", tiny_model, "--out", tmp_path / "new.onnx"]
    reliability.main(list(map(str, call)))
    out = capsys.readouterr().out
    known = {e.key: e.value for e in onnx.load(tmp_path / "new.onnx").metadata_props}
    temperature = ModelSpec.from_json(known[METADATA_KEY]).temperature
    assert temperature > 1  # its logits know nothing of noise
    assert f"temperature {temperature:g}" in out
    before, after = Runner(tiny_model, "cpu"), Runner(tmp_path / "new.onnx", "cpu")
    runs = [runner.run(images[:, None], (64, 64), True) for runner in (before, after)]
    assert np.array_equal(runs[0].labels, runs[1].labels)
    called = runs[0].labels > 0
    right = np.mean(runs[0].labels[called] == truth[called])
    said = [run.confidence[called].mean() / 255 for run in runs]
    assert abs(said[1] - right) < abs(said[0] - right)
