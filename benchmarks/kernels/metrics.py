"""DSC and volume error of all classes."""

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from benchmarks.kernels.data import Labels, as_predicted, legs
from benchmarks.kernels.row import Goal, Peers, Row
from benchmarks.timing import Action
from seg_core.metrics import evaluate
from seg_core.threads import in_parts

READING = "just reading both volumes"


def rows(small: bool) -> list[Row]:
    """Return a row for five and one for nine classes, the background among them."""
    return [_row(small, 4), _row(small, 8)]


def _row(small: bool, n_labels: int) -> Row:
    slices, size = (6, 64) if small else (600, 512)
    truth = legs(slices, size, sided=n_labels == 8)
    predicted = as_predicted(truth, n_labels)
    peers = Peers()
    peers.add("NumPy, a class at a time", lambda: lambda: _with_numpy(predicted, truth, n_labels))
    peers.add("SimpleITK", lambda: _simpleitk(predicted, truth, n_labels))
    peers.add("medpy", lambda: _medpy(predicted, truth, n_labels))
    peers.add("MONAI", lambda: _monai(predicted, truth, n_labels))
    peers.add("scikit-learn", lambda: _scikit_learn(predicted, truth, n_labels))

    def ours() -> npt.NDArray[np.float64]:
        return evaluate(predicted, truth, n_labels, 1.0).dsc

    def agree(answers: Mapping[str, Any]) -> str:
        expected = _with_numpy(predicted, truth, n_labels)
        for name, answer in answers.items():
            # MONAI counts in float32
            tolerance = 1e-6 if name == "MONAI" else 1e-12
            np.testing.assert_allclose(answer, expected, rtol=tolerance, err_msg=name)
        error = [abs(int((predicted == c).sum()) - int((truth == c).sum())) for c in range(1, n_labels + 1)]
        found = evaluate(predicted, truth, n_labels, 1000.0).volume_error_cm3
        np.testing.assert_array_equal(found, error)
        return "DSC of all equal, our volume errors those of NumPy."

    what = f"DSC and volume error, {slices} x {size} x {size}"
    reading = {READING: lambda: _read_all(predicted, truth)}
    return Row(f"metrics {n_labels + 1}", what, ours, Goal(1.15, READING), peers, agree, reading)


def _read_all(*arrays: Labels) -> list[int]:
    words = [array.reshape(-1)[: array.size // 8 * 8].view(np.uint64) for array in arrays]
    return in_parts(lambda start, stop: int(_read(*(w[start:stop] for w in words))), words[0].size, 1 << 17)


@numba.njit(nogil=True)
def _read(first, second):  # type: ignore[no-untyped-def]
    total = np.uint64(0)
    for n in range(first.size):
        total += first[n] ^ second[n]
    return total


def _with_numpy(predicted: Labels, truth: Labels, n_labels: int) -> npt.NDArray[np.float64]:
    dsc = []
    for value in range(1, n_labels + 1):
        p, t = predicted == value, truth == value
        dsc.append(2 * np.count_nonzero(p & t) / (np.count_nonzero(p) + np.count_nonzero(t)))
    return np.array(dsc)


def _simpleitk(predicted: Labels, truth: Labels, n_labels: int) -> Action:
    import SimpleITK as sitk  # noqa: N813 (its usual name)

    images = [sitk.GetImageFromArray(array) for array in (truth, predicted)]

    def run() -> list[float]:
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*images)
        return [overlap.GetDiceCoefficient(value) for value in range(1, n_labels + 1)]

    return run


def _medpy(predicted: Labels, truth: Labels, n_labels: int) -> Action:
    from medpy.metric.binary import dc

    return lambda: [dc(predicted == value, truth == value) for value in range(1, n_labels + 1)]


def _monai(predicted: Labels, truth: Labels, n_labels: int) -> Action:
    import torch
    from monai.metrics import compute_dice

    values = torch.arange(n_labels + 1, dtype=torch.uint8).reshape(-1, 1, 1, 1)

    def run() -> npt.NDArray[np.float64]:
        one_hot = [(torch.from_numpy(array)[None] == values)[None] for array in (predicted, truth)]
        found: npt.NDArray[np.float64] = compute_dice(*one_hot, include_background=False)[0].numpy()
        return found

    return run


def _scikit_learn(predicted: Labels, truth: Labels, n_labels: int) -> Action:
    from sklearn.metrics import f1_score

    wanted = list(range(1, n_labels + 1))
    return lambda: f1_score(truth.ravel(), predicted.ravel(), labels=wanted, average=None)
