"""Slices that are far more than memory holds are trained on: of them only what a batch shows is read."""

import subprocess
import sys

import pytest

from trainers.cache import CacheIndex, Subject, _header

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sparse files")

SHAPE, SLICES, BATCHES = (512, 512), 200_000, 12  # 52 GB of images and as many of labels
READING = """
import resource, sys
from pathlib import Path
from trainers.augment import AUGMENTATIONS
from trainers.batches import Draw, training_batches
from trainers.batches3d import patch_batches
from trainers.config import Around, Patches, TrainConfig
from trainers.loop import Source
from trainers.validation import fixed_batch
import numpy as np

def peak():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

# What reads all of it fails by itself, instead of filling the machine.
resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
cache, seen = Source(Path(sys.argv[1])).open(), 0
before = peak()
draw = Draw(seed=0, epoch=0, slices=len(cache), samples=8 * int(sys.argv[2]), batch=8, window=128)
for images, labels in training_batches(cache, draw, AUGMENTATIONS["full"], Around(3)):
    seen += len(images)
patches = Patches((16, 64, 64))
for images, labels in patch_batches(cache, Draw(0, 0, len(cache), 4, 2), AUGMENTATIONS["none"], patches):
    seen += len(images)
config = TrainConfig(channels=1)
seen += len(fixed_batch(cache, np.arange(0, len(cache), len(cache) // 16), config)[0])
assert cache.has_labels()
print(seen, peak() - before)
"""


def make_sparse(folder):
    """Make a cache of two subjects whose arrays take no room on the disk, with one labelled pixel."""
    half = SLICES // 2
    subjects = (Subject("a", 0, half, (1.0, 1.0, 3.0)), Subject("b", half, SLICES, (1.0, 1.0, 3.0)))
    index = CacheIndex(SHAPE, ("tibia",), subjects=subjects)
    header = _header("uint8", (SLICES, *SHAPE))
    for name in ("images", "labels"):
        with (folder / f"{name}.npy").open("wb") as file:
            file.write(header + bytes([1]))
            file.truncate(len(header) + SLICES * SHAPE[0] * SHAPE[1])
    (folder / "index.json").write_text(index.to_json())
    return folder


def test_batches_read_what_they_show_alone(tmp_path):
    folder = make_sparse(tmp_path)
    command = [sys.executable, "-c", READING, str(folder), str(BATCHES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen, grown_mb = map(float, done.stdout.split())
    assert seen >= 8 * BATCHES + 4 + 16
    assert grown_mb < 500
