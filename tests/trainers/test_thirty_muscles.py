"""Other structures are another table, not other code: thirty muscles from labels to the report."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cli.main import run
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import sided_labels
from seg_core.model_spec import ModelSpec
from seg_core.nifti import read_labels, write_label_table, write_labels, write_volume
from trainers import registry
from trainers.cache import read_index

MUSCLES = tuple(f"muscle_{n:02}" for n in range(30))
GREY = 60 + 6 * np.arange(31)  # of class n; one lighter or two in others of the people


def two_legs():
    """Two boxes of 5 strips and 6 stretches, mirrored: a value of `sided_labels` a muscle and side."""
    labels = np.zeros((64, 64, 36), np.uint8, order="F")
    for n in range(30):
        strip, stretch = n % 5, n // 5
        for side, start in ((0, 24 - 4 * strip), (1, 36 + 4 * strip)):
            part = slice(start, start + 4), slice(20, 40), slice(6 * stretch, 6 * stretch + 6)
            labels[part] = 30 * side + n + 1
    affine = np.diag([-4.0, -4.0, 25.0, 1.0])
    affine[:3, 3] = 126, 126, -400
    return LabelMap(labels, Geometry(labels.shape, affine), sided_labels(MUSCLES))


@pytest.fixture
def people(tmp_path):
    """Folders of three people."""
    truth = two_legs()
    for number, name in enumerate(("anna", "ben", "carl")):
        folder = tmp_path / name
        folder.mkdir()
        bone = (truth.array.astype(np.int16) - 1) % 30 + 1
        grey = np.where(truth.array > 0, GREY[bone] + number, 0)
        write_volume(folder / "scan.nii.gz", Volume(grey.astype(np.uint8), truth.geometry))
        write_labels(folder / "labels.nii.gz", truth)
        write_label_table(folder / "labels.json", truth.labels)
    return [tmp_path / name for name in ("anna", "ben", "carl")]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lls(*arguments):
    return run([str(argument) for argument in arguments])


def test_from_labels_to_the_report(people, tmp_path, grey_engine, make_onnx, read_json, monkeypatch):
    trainer = SimpleNamespace(NETWORKS={"grey": registry.Network("a test's", "dev")}, make_engine=grey_engine)
    monkeypatch.setattr(registry, "get_trainer", lambda name: trainer)
    # The page of a subject is drawn as the preview below is.
    monkeypatch.setattr("trainers.prepare.write_page", lambda path, *rest: path.write_bytes(b"page"))
    data, trained, out = tmp_path / "data", tmp_path / "trained", tmp_path / "out"

    assert lls("prepare", *people, "-o", data, "--size", 64, "--normalisation", "divide", "-q") == 0
    training = ("--network", "grey", "--epochs", 1, "--batch", 8, "--epoch-samples", 36, "--augmentation")
    assert lls("crossval", data, "-o", trained, "--trainer", "grey", *training, "none", "-q") == 0
    table = rows(trained / "table3.csv")
    assert [row["class"] for row in table] == [*MUSCLES, "mean"]
    assert min(float(row["dsc_mean"]) for row in table) > 0.99
    assert {f"dsc_{name}" for name in MUSCLES} <= set(rows(trained / "fold-1/log.csv")[0])

    sums = np.array(read_json(trained / "fold-1/best.ckpt")["sums"])
    learned = dict(zip(MUSCLES, (255 * sums[1:, 0] / sums[1:, 1]).tolist(), strict=True))
    spec = ModelSpec.from_json(json.dumps(read_index(data / "cache").meta["spec"]))
    (tmp_path / "model.onnx").write_bytes(make_onnx(spec, grey=learned))
    scan = people[0] / "scan.nii.gz"
    assert lls("segment", scan, "-o", out, "--model", tmp_path / "model.onnx", "-q") == 0
    found, truth = read_labels(out / "scan_dseg.nii.gz"), two_legs()
    assert found.labels == truth.labels
    assert (found.array == truth.array).mean() > 0.999
    statistics = rows(out / "scan_statistics.csv")
    assert [row["name"] for row in statistics] == list(truth.labels.values())
    assert {row["voxels"] for row in statistics} == {str(4 * 20 * 6)}
    with Image.open(out / "scan_preview.png") as picture:
        assert picture.height > 31 * 34  # rows of the legend
