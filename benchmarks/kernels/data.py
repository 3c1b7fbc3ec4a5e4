"""What the kernels are measured on: drawn legs, of the size of a long scan, the same at every call."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]

# Of the right leg: value, first and last height, centre and radii (row, column), all as shares of the frame.
_BONES: Sequence[tuple[int, float, float, tuple[float, float], tuple[float, float]]] = (
    (1, 0.04, 0.44, (0.50, 0.22), (0.035, 0.040)),  # tibia
    (3, 0.05, 0.42, (0.57, 0.30), (0.012, 0.013)),  # fibula
    (2, 0.45, 0.88, (0.48, 0.24), (0.040, 0.045)),  # femur
    (4, 0.80, 0.99, (0.45, 0.34), (0.090, 0.060)),  # hip bone
)


def legs(slices: int, size: int, sided: bool = False) -> Labels:
    """Return labels of two legs, (slice, row, column) with as many rows as columns.

    Four bones as wavy tubes, about 2 % of the voxels; the left ones are 5 to 8 where they have a ``side``.
    """
    labels = np.zeros((slices, size, size), np.uint8)
    for value, first, last, centre, radii in _BONES:
        for k in range(round(first * slices), round(last * slices)):
            wave = 1 + 0.2 * np.sin(24 * k / slices + value)
            for left in (False, True):
                column = 1 - centre[1] if left else centre[1]
                shape = (centre[0] * size, column * size), (wave * radii[0] * size, radii[1] * size / wave)
                _ellipse(labels[k], value + 4 * (left and sided), *shape)
    return labels


def _ellipse(plane: Labels, value: int, centre: tuple[float, float], radii: tuple[float, float]) -> None:
    low = [max(int(c - r), 0) for c, r in zip(centre, radii, strict=True)]
    high = [int(c + r) + 2 for c, r in zip(centre, radii, strict=True)]
    box = plane[low[0] : high[0], low[1] : high[1]]
    rows, columns = np.ogrid[low[0] : low[0] + box.shape[0], low[1] : low[1] + box.shape[1]]
    inside = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1
    box[inside & (box == 0)] = value


def as_predicted(labels: Labels, n_labels: int, seed: int = 0) -> Labels:
    """Return the labels as a network finds them: a voxel aside, and one voxel in ten thousand any class."""
    rng = np.random.default_rng(seed)
    predicted = np.roll(labels, (1, 1), (1, 2))
    noise = rng.integers(0, labels.size, labels.size // 10_000)
    predicted.reshape(-1)[noise] = rng.integers(0, n_labels + 1, noise.size)
    return predicted


def with_flaws(labels: Labels, n_labels: int, seed: int = 0) -> Labels:
    """Return slices with holes in their bones and small pieces beside them, as a denoiser meets them."""
    rng = np.random.default_rng(seed)
    flawed = labels.copy()
    rows, columns = labels.shape[1:]
    for plane, bones in zip(flawed, labels, strict=True):
        for _ in range(6):
            row, column = rng.integers(8, rows - 8), rng.integers(8, columns - 8)
            if not bones[row - 4 : row + 5, column - 4 : column + 5].any():
                plane[row : row + 2, column : column + 3] = rng.integers(1, n_labels + 1)
        inner = np.argwhere(bones)
        for row, column in inner[rng.integers(0, len(inner), 4 if len(inner) else 0)]:
            around = bones[row - 2 : row + 4, column - 2 : column + 4]
            if around.size == 36 and (around == bones[row, column]).all():
                plane[row : row + 2, column : column + 2] = 0
    return flawed
