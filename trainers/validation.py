"""The slices that a network is chosen by: whether they fit those that teach, and how they are shown."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from trainers.augment import Augmentation, augment
from trainers.batches import Batch, columns
from trainers.batches3d import fixed_patches
from trainers.cache import CacheIndex, SliceCache
from trainers.config import IGNORED, TrainConfig

_LOOK, _GRAIN = 3, 4  # name the draws of validation slices beside their numbers


def fitting(training: SliceCache, validation: SliceCache | None) -> CacheIndex:
    """Return the training data's index where they can teach, and those to choose by, if any, fit them.

    Raises
    ------
    UsageError
        If not.
    """
    both = [(training, "learn from")] + ([] if validation is None else [(validation, "choose by")])
    if validation is not None:
        _check_alike(training.index, validation.index)
    for cache, use in both:
        if not len(cache):
            raise UsageError(f"no slices to {use} in {cache.folder}", "some")
        if not cache.has_labels():
            names = ", ".join(subject.name for subject in cache.index.subjects)
            raise UsageError(f"no label in any slice to {use}: {names}", "labels; see quality.png of each")
    return training.index


def _check_alike(index: CacheIndex, other: CacheIndex) -> None:
    if (index.shape, index.classes) != (other.shape, other.classes):
        raise UsageError("training and validation slices of another size or with other classes", "the same")
    specs = [cache.meta.get("spec") for cache in (index, other)]
    if None not in specs:
        ways = [name for name in ("grid", "normalisation", "orientation") if specs[0][name] != specs[1][name]]
        if (specs[0].get("usual_mm") or {}) != (specs[1].get("usual_mm") or {}):
            ways.append("magnification")
        if ways:
            raise UsageError(
                f"training and validation slices prepared with another {' and '.join(ways)}",
                "the same",
                "prepare one of them anew",
            )


def fixed_batch(cache: SliceCache, slices: npt.NDArray[np.int64], config: TrainConfig) -> Batch:
    """Return some slices (n,), or a patch around each, as a network with this configuration takes them.

    Images are as they were prepared. Looks that are drawn of materials know no noise, blur or shading: these
    are the training's augmentation, which changes them here too, each slice always alike and where it is.
    """
    if config.patches:
        batch = fixed_patches(cache, slices, config.patches)
    else:
        batch = cache.batch(slices, config.around)
    return _as_taught(batch, slices, config.augmentation) if cache.index.image_dtype == "uint32" else batch


def _as_taught(batch: Batch, slices: npt.NDArray[np.int64], options: Augmentation) -> Batch:
    """Change the intensities; of a patch's slices alike but for noise, of what lies beyond the scan not."""
    images, labels = batch
    planes = labels.reshape(-1, *labels.shape[-2:])
    each = len(planes) // len(slices)
    numbers = slices.repeat(each)
    changed, _ = augment(
        images.reshape(len(planes), -1, *labels.shape[-2:]),
        planes,
        columns(numbers, _LOOK),
        replace(options, flip=0, rotation=0, scale=0, shift=0),
        columns(numbers, np.tile(np.arange(each), len(slices)), _GRAIN),
    )
    return changed.reshape(images.shape) * (labels != IGNORED)[:, None], labels
