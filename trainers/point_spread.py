"""What a point becomes in a scan: Gaussians, and the ripples of an acquisition that ends in k-space."""

import numpy as np
import numpy.typing as npt

from seg_core.kernel import kernel

Images = npt.NDArray[np.float32]


def gaussian(sigma: float) -> Images:
    """Return the weights (2 n + 1,) of a Gaussian of ``sigma`` pixels, to three of them; of sum 1."""
    x = np.arange(-_radius(3 * sigma), _radius(3 * sigma) + 1)
    return _normed(np.exp(-0.5 * (x / sigma) ** 2))


def truncation(cutoff: float, ripples: float) -> Images:
    """Return the weights (2 n + 1,) with which zero-filling interpolates; of sum 1.

    Parameters
    ----------
    cutoff : float
        Share of the k-space of these pixels that was acquired, above 0, at most 1.
    ripples : float
        Zeros of the sinc on either side, 1 or more, from where on a Hann window ends it: few where a filter
        calms the ripples beside an edge, many where they are left as they are (Gibbs).
    """
    n = _radius(ripples / cutoff)
    x = np.arange(-n, n + 1)
    return _normed(np.sinc(cutoff * x) * np.cos(np.pi / 2 * x / (n + 1)) ** 2)


def _radius(pixels: float) -> int:
    return int(pixels + 0.5)


def _normed(weights: npt.NDArray[np.float64]) -> Images:
    normed: Images = (weights / weights.sum()).astype(np.float32)
    return normed


def spread(image: Images, down: Images, across: Images) -> None:
    """Convolve slices with weights along each axis, in place; beyond the edge its pixel goes on.

    Parameters
    ----------
    image : ndarray of float32, (channels, rows, columns)
    down, across : ndarray of float32, (2 n + 1,)
        Weights from row to row, and from column to column.
    """
    for plane in image:
        _spread(plane, down, across)


@kernel
def _spread(plane, down, across):  # type: ignore[no-untyped-def]
    """Whole rows are added to whole rows, so that the compiler takes several pixels at once."""
    rows, columns = plane.shape
    radius = len(down) // 2
    buffer = np.zeros_like(plane)
    for r in range(rows):
        total = buffer[r]
        for w in range(len(down)):
            weight, row = down[w], plane[min(max(r + w - radius, 0), rows - 1)]
            for c in range(columns):
                total[c] += weight * row[c]
    radius = len(across) // 2
    padded = np.empty(columns + 2 * radius, np.float32)
    for r in range(rows):
        total = plane[r]
        padded[:radius], padded[radius : radius + columns] = buffer[r, 0], buffer[r]
        padded[radius + columns :] = buffer[r, columns - 1]
        total[:] = np.float32(0)
        for w in range(len(across)):
            weight = across[w]
            for c in range(columns):
                total[c] += weight * padded[w + c]
