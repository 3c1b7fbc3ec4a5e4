"""Confidence where bones are, kept slice by slice: a whole volume of it is rarely wanted."""

from typing import Any

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]


class BoneConfidence:
    """Confidence of the pixels that the network labelled in each slice, and a bit for each in their box.

    What cleaning changes among them is forgotten; what it gives a bone else, in holes, is not among them.
    """

    def __init__(self) -> None:
        self._boxes: dict[int, tuple[slice, slice]] = {}
        self._labelled: dict[int, Uint8Array] = {}
        self._values: dict[int, Uint8Array] = {}

    def keep(self, number: int, labels: Uint8Array, confidence: Uint8Array, corner: tuple[int, int]) -> None:
        """Keep a slice's.

        Parameters
        ----------
        number : int
            Of the slice.
        labels, confidence : ndarray of uint8, (rows, columns)
            Classes, and 255 times their probability.
        corner : tuple of int
            Where the first pixel lies in the scan's slice.
        """
        rows, columns = (np.flatnonzero(labels.any(axis=axis)) for axis in (1, 0))
        if rows.size == 0:
            return
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        (top, left), (r, c), labelled = corner, box, labels[box] > 0
        self._boxes[number] = slice(top + r.start, top + r.stop), slice(left + c.start, left + c.stop)
        self._labelled[number], self._values[number] = np.packbits(labelled), confidence[box][labelled]

    def _of(self, number: int, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return those pixels (n,) of an image (rows, columns) of a slice."""
        inside = image[self._boxes[number]].ravel()
        pixels: npt.NDArray[Any] = inside[np.unpackbits(self._labelled[number], count=inside.size) > 0]
        return pixels

    def forget(self, first: int, before: Uint8Array, after: Uint8Array) -> None:
        """Leave out what cleaning changed: in a hole that it fills the network is sure of something else.

        Parameters
        ----------
        first : int
            Number of the first slice.
        before, after : ndarray of uint8, (n, rows, columns)
            Classes of slices as the network said them, and cleaned.
        """
        for number, old, new in zip(range(first, first + len(before)), before, after, strict=True):
            if number in self._boxes:
                # No choice has so little: the likeliest of 256 classes has 1.
                self._values[number][self._of(number, old != new)] = 0

    def means(self, slices: Uint8Array) -> dict[int, float]:
        """Return each label's mean confidence, 0 to 1, over the voxels that cleaning left alone.

        Parameters
        ----------
        slices : ndarray of uint8, (n, rows, columns)
            The final labels, with slices as they were kept.
        """
        totals, counts = np.zeros(256), np.zeros(256, np.int64)
        for number, values in self._values.items():
            labels = self._of(number, slices[number])
            totals += np.bincount(labels, values, 256)
            counts += np.bincount(labels[values > 0], minlength=256)
        return {int(v): float(totals[v] / counts[v] / 255) for v in np.flatnonzero(counts) if v}
