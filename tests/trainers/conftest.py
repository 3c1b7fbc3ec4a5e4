import json

import numpy as np
import pytest

from trainers.cache import CacheIndex, SliceCacheWriter

CLASSES = ("tibia", "femur")


def make_slices(n, seed, shape=(32, 64)):
    """Slices whose class is their grey value, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, *shape), np.uint8)
    for image in labels:
        for value in (1, 2):
            r, c = rng.integers(4, shape[0] - 8), rng.integers(4, shape[1] - 8)
            image[r : r + 8, c : c + 8] = value
    return (0.1 + 0.4 * labels + rng.normal(0, 0.02, labels.shape)).clip(0, 1).astype(np.float32), labels


@pytest.fixture
def make_cache():
    """Return a function that makes a cache of some subjects in a folder."""

    def make(folder, subjects=2, slices=10, seed=0, dtype="uint8"):
        with SliceCacheWriter(folder, CacheIndex((32, 64), CLASSES, dtype)) as writer:
            for s in range(subjects):
                writer.append(f"{seed}-{s}", *make_slices(slices, seed * 100 + s), (1.0, 1.0, 3.0))
        return folder

    return make


@pytest.fixture(name="make_slices")
def make_slices_fixture():
    return make_slices


class GreyEngine:
    """A trainer's side in NumPy: learns the mean grey value of each class. Fit for `make_slices`."""

    def __init__(self, config, classes):
        self.sums = np.zeros((len(classes) + 1, 2))
        if config.init != "random":
            with open(config.init, encoding="utf-8") as file:
                self.sums = np.array(json.load(file)["sums"])

    def _distances(self, images):
        total, pixels = self.sums.T
        centres = np.where(pixels > 0, total / np.maximum(pixels, 1), 9.0)  # never seen: far from any grey
        return np.abs(images[:, 0] - centres[:, None, None, None])

    def step(self, images, labels, lr):
        for value, row in enumerate(self.sums):
            row += images[:, 0][labels == value].sum(), (labels == value).sum()
        return self.evaluate(images, labels)[0]

    def evaluate(self, images, labels):
        distances = self._distances(images)
        return float(distances.min(0).mean()), distances.argmin(0).astype(np.uint8)

    def save(self, path, facts, resumable):
        path.write_text(json.dumps({"facts": facts, "sums": self.sums.tolist()}), encoding="utf-8")

    def load(self, path):
        state = json.loads(path.read_text(encoding="utf-8"))
        self.sums = np.array(state["sums"])
        return state["facts"]


@pytest.fixture
def grey_engine():
    """Return the class `GreyEngine`, of one's own to be changed."""
    return type("GreyEngine", (GreyEngine,), {})
