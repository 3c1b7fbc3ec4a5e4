"""The labelled leg once more, as its own mirror image, in place of a side that nobody labelled.

What is ignored costs nothing: a network that can tell which side that is may call all of it bone. Where a
copy of the labelled side takes its place, all that a network is shown has a label.
"""

import numpy as np
import numpy.typing as npt

from seg_core.labels import IGNORED

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
LEAST = 0.25  # of the columns: what a narrower strip mirrors is no body


def mirrored(image: Image, labels: Labels) -> tuple[Image, Labels]:
    """Reflect a slice, or slices that belong together, about the column where what nobody labelled begins.

    Parameters
    ----------
    image : ndarray of float32, (..., rows, columns)
    labels : ndarray of uint8, (..., rows, columns)
        ``IGNORED`` where nobody knows: the side beyond the labels, or that with more of it where none is.

    Returns
    -------
    image : ndarray of float32, (..., rows, columns)
        0 where the copy would come from outside the slice.
    labels : ndarray of uint8, (..., rows, columns)
        Background there. Both are the given arrays where nothing is ignored, or not on one side alone: where
        less than a quarter of the columns would be left.
    """
    unknown = _columns(labels == IGNORED)
    if not len(unknown):
        return image, labels
    columns = np.arange(labels.shape[-1])
    known = _columns((labels > 0) & (labels != IGNORED))
    high = unknown.mean() > (known.mean() if len(known) else columns.mean())
    axis = unknown[0] - 0.5 if high else unknown[-1] + 0.5
    beyond = (columns > axis) == high
    if beyond.mean() > 1 - LEAST:
        return image, labels
    source = np.where(beyond, 2 * axis - columns, columns).astype(np.int64)
    outside = (source < 0) | (source >= len(columns))
    image = image.take(source, axis=-1, mode="clip")
    labels = labels.take(source, axis=-1, mode="clip")
    image[..., outside], labels[..., outside] = 0, 0
    return image, labels


def _columns(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return np.flatnonzero(where.any(axis=tuple(range(where.ndim - 1))))
