"""`lls train` scores the network that it kept on the whole subjects that chose it."""

import csv
import shutil

import numpy as np
import pytest

from seg_core.geometry import Volume
from seg_core.nifti import write_label_table, write_labels, write_volume
from trainers.cache import SliceCache
from trainers.log import read_log
from trainers.loop import BEST, SCORE_TABLE, Training

SMALL = (
    "--validation-subject", "ben", "--device", "cpu", "--threads", 1, "--epochs", 1, "--epoch-samples", 4,
    "--batch", 2, "--augmentation", "none", "--channels", 1, "--lr", 1e-6, "-q",
)  # fmt: skip
GREY = np.array([10, 70, 120, 170, 220]) / 220
"""Of background and bones, as the made-up legs are prepared."""


@pytest.fixture(scope="module")
def data(tmp_path_factory, legs):
    """A dataset of two subjects of 40 slices."""
    from cli.main import run

    base, (volume, labels) = tmp_path_factory.mktemp("scored"), legs
    for n, name in enumerate(("anna", "ben")):
        (base / name).mkdir()
        noise = np.random.default_rng(n).integers(0, 4, volume.array.shape)
        write_volume(
            base / name / "scan.nii.gz", Volume((volume.array + noise).astype(np.int16), volume.geometry)
        )
        write_labels(base / name / "labels.nii.gz", labels)
        write_label_table(base / name / "labels.json", labels.labels)
    code = run(
        ["prepare", str(base / "anna"), str(base / "ben"), "-o", str(base / "data"), "--size", "64", "-q"]
    )
    assert code == 0
    return base / "data"


@pytest.fixture
def train(lls, data, tmp_path, monkeypatch):
    """Run `lls train` on the dataset, with networks that see grey values alone; no curves."""
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)

    def call(trainer, *arguments):
        if trainer == "keras":
            monkeypatch.setattr("trainers.keras.engine.build_network", grey_keras)
        else:
            monkeypatch.setattr("trainers.torch.engine.build_network", grey_torch)
        return lls("train", data, "-o", tmp_path / "run", "--trainer", trainer, *SMALL, *arguments)

    return call


def grey_torch(name, classes, channels, weights="random", patch=None):
    """A network that finds each bone by its grey value, next to nothing of which is unlearned."""
    import torch

    layer = (torch.nn.Conv2d if patch is None else torch.nn.Conv3d)(channels, classes, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(400 * GREY).reshape(layer.weight.shape))
        layer.bias.copy_(torch.tensor(-200 * GREY**2))
    return torch.nn.Sequential(layer)


def grey_keras(name, classes, channels, weights="random"):
    from keras import Input, Model, layers

    image = Input((None, None, channels), name="image")
    head = layers.Conv2D(classes, 1, dtype="float32", name="decoder_head")
    network = Model(image, head(image), name=name)
    head.set_weights([400 * GREY.reshape(1, 1, 1, -1), -200 * GREY**2])
    return network


def rows_of(run):
    with (run / SCORE_TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("trainer", ["torch", "keras"])
def test_slices(train, data, tmp_path, trainer):
    code, out, err = train(trainer)
    assert code == 0, err
    rows = rows_of(tmp_path / "run")
    assert [row["class"] for row in rows] == ["tibia", "femur", "fibula", "pelvis"]
    assert {row["subject"] for row in rows} == {"ben"}
    cache = SliceCache(data / "cache", ["ben"])
    truth = cache.batch(np.arange(len(cache)))[1]
    (logged,) = read_log(tmp_path / "run" / "log.csv")  # of the same slices: they are fewer than 400
    for value, row in enumerate(rows, 1):
        assert int(row["true_voxels"]) == (truth == value).sum()
        assert float(row["dsc"]) == pytest.approx(float(logged[f"dsc_{row['class']}"]), abs=1e-5)
        volumes = float(row["predicted_cm3"]), float(row["true_cm3"])
        assert float(row["volume_error_cm3"]) == pytest.approx(abs(volumes[0] - volumes[1]))
        assert float(row["dsc"]) > 0.8
        assert np.isfinite([float(row["hd95_mm"]), float(row["assd_mm"])]).all()
    header, tibia, *_, mean, said = out.splitlines()[1:]
    assert header.split() == ["bone", "DSC", "volume", "error", "HD95", "mean", "distance", "subjects"]
    assert tibia.split()[:2] == ["tibia", f"{float(rows[0]['dsc']):.4f}"]
    assert mean.split()[0] == "mean"
    assert said.startswith(str(tmp_path / "run" / SCORE_TABLE))


@pytest.mark.parametrize("trainer", ["torch", "keras"])
def test_nobody_is_held_back(lls, data, tmp_path, monkeypatch, trainer):
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)
    network = grey_keras if trainer == "keras" else grey_torch
    monkeypatch.setattr(f"trainers.{trainer}.engine.build_network", network)
    arguments = ("--validation", "none", "-o", tmp_path / "run", "--trainer", trainer, *SMALL[2:])
    code, out, err = lls("train", data, *arguments, "--epochs", 2, "--patience", 1)
    assert code == 0, err
    assert out == f"epoch 2 of 2: nothing was validated, {tmp_path / 'run' / BEST}\n"
    assert f"no {SCORE_TABLE}: nobody was held back" in err
    assert not (tmp_path / "run" / SCORE_TABLE).exists()
    rows = read_log(tmp_path / "run" / "log.csv")
    assert [(row["epoch"], row["slices"], row["dsc"]) for row in rows] == [
        ("1", "80", "nan"),
        ("2", "80", "nan"),
    ]


def test_patches(train, data, tmp_path):
    import torch

    from trainers.torch.engine import load_best

    code, _, err = train("torch", "--network", "nnunet-3d", "--patch", 8, 32, 32)
    assert code == 0, err
    network, _ = load_best(tmp_path / "run" / BEST)
    cache = SliceCache(data / "cache", ["ben"])
    images, truth = cache.block(0, len(cache))
    with torch.inference_mode():  # a voxel at a time: where the patches lie does not matter
        found = network(torch.from_numpy(images)[None, None])[0].argmax(0).numpy()
    for value, row in enumerate(rows_of(tmp_path / "run"), 1):
        p, t = found == value, truth == value
        assert float(row["dsc"]) == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), abs=0.01)
        assert float(row["dsc"]) > 0.8


def test_once_and_anew_for_a_better_network(train, tmp_path, monkeypatch):
    from trainers import scores

    better = iter(np.linspace(0.1, 0.9, 9))
    monkeypatch.setattr(Training, "validate", lambda self: (0.5, np.full(4, next(better))))
    scored, score = [], scores.score_best
    monkeypatch.setattr(scores, "score_best", lambda *rest: scored.append(rest) or score(*rest))
    assert train("torch")[0] == 0
    first = rows_of(tmp_path / "run")
    code, out, _ = train("torch")
    assert (code, len(scored)) == (0, 1)
    assert "scored already" in out
    (tmp_path / "run" / SCORE_TABLE).unlink()  # as if it had been killed while it scored
    assert train("torch")[0] == 0
    assert len(scored) == 2
    assert rows_of(tmp_path / "run") == first
    (tmp_path / "run" / SCORE_TABLE).write_text("of the first network")
    assert train("torch", "--epochs", 2)[0] == 0
    assert len(scored) == 3
    assert rows_of(tmp_path / "run")[0]["class"] == "tibia"


def test_slices_of_no_dataset_are_not_scored(lls, data, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.torch.engine.build_network", grey_torch)
    other = shutil.copytree(data / "cache", tmp_path / "other")
    arguments = ("--validation", other, "-o", tmp_path / "run", *SMALL[2:])
    code, out, err = lls("train", data, *arguments)
    assert (code, len(out.splitlines())) == (0, 1)
    assert f"no {SCORE_TABLE}: {other} is no dataset" in err
    assert not (tmp_path / "run" / SCORE_TABLE).exists()
