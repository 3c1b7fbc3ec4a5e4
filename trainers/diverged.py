"""What is said where a loss is no longer a number: which slices to look at."""

import numpy as np
import numpy.typing as npt

from seg_core.errors import LlsError
from trainers.batches import Batch
from trainers.cache import CacheIndex


class DivergedError(LlsError):
    """The loss is no longer a number."""


def diverged(found: str, place: tuple[CacheIndex, npt.NDArray[np.int64]], batch: Batch) -> DivergedError:
    """Return the error that says what to look at.

    Parameters
    ----------
    found : str
        Which loss, and when.
    place : (CacheIndex, ndarray of int64, (n,))
        The slices, and whose they are.
    batch : (ndarray of float32, ndarray of uint8)
        Their images and labels, the sample first.
    """
    (index, slices), (images, labels) = place, batch
    finite = np.isfinite(images)
    low, high = np.min(images, initial=np.inf, where=finite), np.max(images, initial=-np.inf, where=finite)
    broken = describe_slices(index, slices[~finite.all(axis=tuple(range(1, finite.ndim)))])
    return DivergedError(
        f"{found}: slices {describe_slices(index, slices)};"
        f" intensities from {low:.4g} to {high:.4g}, not all of them numbers in {broken or 'none'};"
        f" labels {', '.join(map(str, np.unique(labels)))}",
        "intensities in 0 to 1",
        "look at these slices; if they are in order, lower the learning rate and resume",
    )


def describe_slices(index: CacheIndex, slices: npt.NDArray[np.int64]) -> str:
    """Return ``subject: slice, slice; subject: ...``, slices counted from 0 in each subject."""
    parts = []
    for subject in index.subjects:
        own = np.unique(slices[(slices >= subject.start) & (slices < subject.stop)]) - subject.start
        if own.size:
            parts.append(f"{subject.name}: {', '.join(map(str, own))}")
    return "; ".join(parts)
