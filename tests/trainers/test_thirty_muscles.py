"""Other structures are another table, not other code: thirty muscles from labels to the report."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from cli.main import run
from seg_core.colours import bone_colours
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import sided_labels
from seg_core.nifti import read_labels, write_label_table, write_labels, write_volume

torch = pytest.importorskip("torch")
engine = pytest.importorskip("trainers.torch.engine")

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


def in_legend(path):
    """Return the structures whose colour fills a square at the left of a picture, where the legend is."""
    with Image.open(path) as picture:
        left = np.asarray(picture.crop((0, 0, picture.width // 3, picture.height)))
    names = sided_labels(MUSCLES)
    colours = bone_colours(names)
    return [name for value, name in names.items() if (left == colours[value]).all(axis=2).sum() > 50]


def lls(*arguments):
    return run([str(argument) for argument in arguments])


class Greys(torch.nn.Module):
    """A network that learns which class each of 86 grey values is."""

    def __init__(self, classes):
        super().__init__()
        self.register_buffer("places", torch.arange(86.0)[:, None, None])
        self.head = torch.nn.Conv2d(86, classes, 1)

    def forward(self, x):
        return self.head(torch.relu(1 - (85 * x - self.places).abs()))


def test_from_labels_to_the_report(people, tmp_path, monkeypatch, read_json):
    monkeypatch.setattr(engine, "build_network", lambda name, classes, *rest, **options: Greys(classes))
    data, trained, out = tmp_path / "data", tmp_path / "trained", tmp_path / "out"
    names = list(two_legs().labels.values())

    assert lls("prepare", *people, "-o", data, "--size", 64, "--normalisation", "divide", "-q") == 0
    assert [row["name"] for row in read_json(data / "anna/quality.json")["structures"]] == names
    assert in_legend(data / "anna/quality.png") == names

    training = ("--network", "unet-baseline", "--epochs", 1, "--epoch-samples", 108, "--batch", 8, "--lr", 1)
    training += ("--loss", "cross_entropy", "--augmentation", "none", "--device", "cpu", "--threads", 1)
    assert lls("crossval", data, "-o", trained, *training, "-q") == 0
    table = rows(trained / "table3.csv")
    assert [row["class"] for row in table] == [*MUSCLES, "mean"]
    assert min(float(row["dsc_mean"]) for row in table) > 0.99
    assert {f"dsc_{name}" for name in MUSCLES} <= set(rows(trained / "fold-1/log.csv")[0])

    model = tmp_path / "model.onnx"
    assert lls("export", trained / "fold-1", "-o", model) == 0
    scan = people[0] / "scan.nii.gz"
    assert lls("segment", scan, "-o", out, "--model", model, "--html", "-q") == 0
    found, truth = read_labels(out / "scan_dseg.nii.gz"), two_legs()
    assert found.labels == truth.labels
    assert (found.array == truth.array).mean() > 0.999
    statistics = rows(out / "scan_statistics.csv")
    assert [row["name"] for row in statistics] == names
    assert {row["voxels"] for row in statistics} == {str(4 * 20 * 6)}
    assert in_legend(out / "scan_preview.png") == names

    html = (out / "scan_report.html").read_text(encoding="utf-8")
    cells = re.findall(r"</i>(\w+)</label></td><td>(\w+)</td><td>(\w+)</td>", html)
    assert [f"{side}_{name}" for name, side, _ in cells] == names
    assert {status for *_, status in cells} == {"found", "truncated"}  # those at the scan's ends are cut
    (pictures,) = re.findall(r'<script[^>]* id="data"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert [bone["value"] for bone in json.loads(pictures)["bones"]] == list(truth.labels)
