"""Slices that a network cannot take are refused before it is built."""

import numpy as np
import pytest

from trainers.cache import CacheIndex, SliceCacheWriter


@pytest.fixture
def start(lls, tmp_path, monkeypatch):
    """Begin to train on slices of some pixels; a network that would be built says so instead."""

    def built(config, classes):
        raise AssertionError(f"{config.network} is built")

    for trainer in ("torch", "keras"):
        monkeypatch.setattr(f"trainers.{trainer}.make_engine", built)

    def call(command, pixels, *arguments, size=1.0):
        labels = np.ones((2, pixels, pixels), np.uint8)
        images = np.random.default_rng(pixels).random((3, *labels.shape), np.float32)
        with SliceCacheWriter(tmp_path / "data", CacheIndex((pixels, pixels), ("tibia",))) as writer:
            for name, some in zip("abc", images, strict=True):
                writer.append(name, some, labels, (1.0, 1.0, 5.0), size=size)
        chosen = ("--validation-subject", "a") * (command == "train")
        code, _, err = lls(command, tmp_path / "data", "-o", tmp_path / "run", *chosen, *arguments)
        assert not (tmp_path / "run" / "last.ckpt").exists()
        return code, err

    return call


@pytest.mark.parametrize("trainer", ["torch", "keras"])
@pytest.mark.parametrize("command", ["train", "crossval"])
def test_slices_that_cannot_be_halved_so_often(start, command, trainer):
    code, err = start(command, 400, "--trainer", trainer, "--network", "unet-resnet34")
    assert code == 2
    assert "on 400 x 400 pixels\nexpected: multiples of 32\nwhat to do: prepare the data anew" in err


def test_windows_too(start):
    code, err = start("train", 64, "--window", 40)
    assert code == 2
    assert "on 40 x 40 pixels\nexpected: multiples of 32\nwhat to do: name another --window" in err


def test_people_who_were_magnified_are_not_for_patches(start):
    patches = ("--network", "nnunet-3d", "--patch", 8, 48, 48)
    code, err = start("train", 80, *patches, size=0.8)
    assert code == 2
    assert "prepare them with lls prepare --pixel-mm instead of --like" in err


@pytest.mark.parametrize(
    ("pixels", "arguments"),
    [
        (400, ("--network", "unet-baseline")),
        (64, ("--window", 32)),
        (80, ("--network", "nnunet-3d", "--patch", 8, 48, 48)),
    ],
)
def test_others_are_taken(start, pixels, arguments):
    code, err = start("train", pixels, *arguments)
    assert code == 1
    assert "is built" in err
