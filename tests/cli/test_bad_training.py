"""What cannot be trained on: typed errors of `lls train`, `crossval` and `export`."""

import re

import numpy as np
import pytest

from cli.train import _SETTINGS
from trainers.cache import CacheIndex, SliceCacheWriter
from trainers.config import TrainConfig

CLASSES = ("tibia", "femur")


def make_cache(folder, subjects=("anna", "ben"), classes=CLASSES, labels=None):
    rng = np.random.default_rng(len(subjects))
    with SliceCacheWriter(folder, CacheIndex((64, 64), classes)) as writer:
        for name in subjects:
            images = rng.random((4, 64, 64), np.float32)
            drawn = (images * (len(classes) + 1)).astype(np.uint8)
            writer.append(name, images, drawn if labels is None else labels, (2.0, 2.0, 5.0))
    return folder


@pytest.fixture
def data(tmp_path):
    return make_cache(tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--validation-subject", "carl"), 2, "carl"),
        (("--validation-subject", "anna", "--validation-subject", "ben"), 2, "by none: --validation none"),
        ((), 2, "add --validation none"),
        (("--validation", "none", "--validation-subject", "anna"), 2, "two kinds"),
        (("--validation-subject", "anna", "--trainer", "jax"), 2, "trainer 'jax'"),
        (("--validation-subject", "anna", "--network", "unet-resnet35"), 2, "unet-resnet34"),
        (("--validation-subject", "anna", "--loss", "hinge"), 2, "dice_focal"),
        (("--validation-subject", "anna", "--augmentation", "much"), 2, "full"),
        (("--validation-subject", "anna", "--channels", "0"), 2, "channels"),
        (("--validation-subject", "anna", "--balance", "0.5", "--favour", "skull"), 2, "one of tibia, femur"),
        (("--validation-subject", "anna", "--init", "default"), 2, "tibia, femur, fibula, pelvis"),
        (("--validation-subject", "anna", "--init", "nowhere.ckpt"), 5, "nowhere.ckpt"),
        (("--validation-subject", "anna", "--patch", "8", "8", "8"), 2, "leave --patch out"),
        (("--validation-subject", "anna", "--batch", "0"), 2, "error: --batch 0\nexpected: 1 or more"),
        (("--validation-subject", "anna", "--network", "h-denseunet", "--patch", "8", "8", "8"), 2,
         "multiples"),
    ],
)  # fmt: skip
def test_unknown_names_and_values_that_make_no_sense(lls, data, tmp_path, arguments, code, text):
    found, out, err = lls("train", data, "-o", tmp_path / "run", "--device", "cpu", *arguments)
    assert (found, out) == (code, "")
    assert text in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_what_does_not_hold_slices_or_labels(lls, data, tmp_path):
    (tmp_path / "empty").mkdir()
    nothing = np.where(np.arange(64) < 32, np.uint8(0), np.uint8(255)) * np.ones((4, 64, 1), np.uint8)
    bare = make_cache(tmp_path / "bare", labels=nothing)
    other = make_cache(tmp_path / "other", classes=("tibia", "femur", "fibula"))
    cases = (
        (tmp_path / "empty", data, 5, "no cache of slices"),
        (bare, data, 2, "no label in any slice to learn from: anna, ben"),
        (data, bare, 2, "no label in any slice to choose by: anna, ben"),
        (data, other, 2, "other classes"),
        (data, data, 2, "--validation-subject"),
    )
    for taught, chosen, code, text in cases:
        found, _, err = lls("train", taught, "--validation", chosen, "-o", tmp_path / "run")
        assert found == code
        assert text in err


def test_too_few_people(lls, tmp_path):
    for names in (("anna",), ("anna", "ben")):
        alone = make_cache(tmp_path / str(len(names)), names)
        code, _, err = lls("crossval", alone, "-o", tmp_path / "study")
        assert code == 2
        assert "three subjects" in err
    assert not (tmp_path / "study").exists()


def test_help_gives_the_defaults_that_hold():
    told = {name: re.findall(r"\[([^\]]+)\]\.$", text) for name, (_, text) in _SETTINGS.items()}
    known = vars(TrainConfig())
    assert [name for name, found in told.items() if not found and name in known] == ["favour", "patch"]
    for name, found in told.items():
        if found and isinstance(known.get(name), int | float | str):
            assert type(known[name])(*found) == known[name]


def test_an_interruption_says_that_the_same_command_goes_on(lls, data, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainers.loop.train", interrupted)
    monkeypatch.setattr("trainers.crossval.cross_validate", interrupted)
    for command in (("train", "--validation-subject", "anna"), ("crossval",)):
        code, _, err = lls(*command, data, "-o", tmp_path / "out")
        assert code == 130
        assert "the same command goes on" in err


def test_what_is_no_training(lls, tmp_path):
    code, _, err = lls("export", tmp_path, "-o", tmp_path / "x.onnx")
    assert "what to do" in err
    assert code == 5
    assert "best.ckpt" in err
