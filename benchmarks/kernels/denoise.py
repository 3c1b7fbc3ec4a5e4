"""Cleaning a slice, and filling its holes, of all classes in one pass; on one core."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.kernels.data import Labels, legs, with_flaws
from benchmarks.kernels.row import Goal, Peers, Row
from benchmarks.timing import Action
from seg_core.denoise import denoise_slices
from seg_core.model_spec import Denoise

CLASSES = 4
CLEAN = Denoise(fill_holes=False)
FILL = Denoise(fraction=0.0, minimum_pixels=0)
Cleaner = Callable[[Labels], Labels]


def rows(small: bool) -> list[Row]:
    """Return a row for small pieces and one for holes."""
    return [_row(small, CLEAN), _row(small, FILL)]


def _row(small: bool, params: Denoise) -> Row:
    size = 128 if small else 512
    stack = with_flaws(legs(20, size), CLASSES)[6:18:3]  # shin, shin, thigh, thigh with hip
    peers = Peers()
    makers = PIECES if params is CLEAN else HOLES
    for name, make in makers.items():
        peers.add(name, lambda make=make: _all(make(), stack))

    def agree(answers: Mapping[str, Any]) -> str:
        for name, answer in answers.items():
            for found, expected in zip(answer, answers["ours"], strict=True):
                np.testing.assert_array_equal(found, expected, err_msg=name)
        changed = sum(int((a != b).sum()) for a, b in zip(answers["ours"], stack, strict=True))
        assert changed, "nothing was there to be cleaned"
        return f"All slices equal, {changed} pixels changed."

    def ours(plane: Labels) -> Labels:
        return denoise_slices(plane[None], CLASSES, params)[0][0]

    what = "small pieces" if params is CLEAN else "holes"
    goal = Goal(1 / 9 if params is CLEAN else 1 / 3.5)
    size_text = f"{len(stack)} slices of {size} x {size}, {CLASSES} classes, one core"
    name, what = f"denoise {what.split()[-1]}", f"{what}, {size_text}"
    return Row(name, what, _all(ours, stack), goal, peers, agree, single=True)


def _all(clean: Cleaner, stack: Labels) -> Action:
    """Return what cleans slice after slice, each into a plane of its own."""
    planes = [np.ascontiguousarray(plane) for plane in stack]
    return lambda: [clean(plane) for plane in planes]


def _keep_large(plane: Labels, components: Any) -> Labels:
    """Return the plane without components (row, column; from 1) that are small beside their class."""
    bones = np.flatnonzero(plane)
    number, value = components.ravel()[bones], plane.ravel()[bones]
    sizes, total = np.bincount(number), np.bincount(value, minlength=CLASSES + 1)
    keep = sizes[number] >= np.maximum(CLEAN.fraction * total[value], CLEAN.minimum_pixels)
    cleaned = np.zeros_like(plane)
    cleaned.reshape(-1)[bones[keep]] = value[keep]
    return cleaned


def _cc3d() -> Cleaner:
    import cc3d

    return lambda plane: _keep_large(plane, cc3d.connected_components(plane, connectivity=8))


def _scikit_image() -> Cleaner:
    from skimage.measure import label

    return lambda plane: _keep_large(plane, label(plane, connectivity=2, background=0))


def _a_class(clean: Callable[[Labels], Labels]) -> Cleaner:
    """Return a cleaner of label maps from one of masks (uint8, 0 or 1) of a class."""

    def run(plane: Labels) -> Labels:
        result = np.zeros_like(plane)
        for value in range(1, CLASSES + 1):
            mask = (plane == value).view(np.uint8)
            if mask.any():
                result[clean(mask) != 0] = value
        return result

    return run


def _opencv() -> Cleaner:
    import cv2

    return _a_class(lambda mask: _keep_large(mask, cv2.connectedComponents(mask, connectivity=8)[1]))


def _scipy() -> Cleaner:
    from scipy import ndimage

    return _a_class(lambda mask: _keep_large(mask, ndimage.label(mask, np.ones((3, 3)))[0]))


def _simpleitk() -> Cleaner:
    import SimpleITK as sitk  # noqa: N813 (its usual name)

    def clean(mask: Labels) -> Labels:
        found = sitk.ConnectedComponent(sitk.GetImageFromArray(mask), True)
        return _keep_large(mask, sitk.GetArrayViewFromImage(found))

    return _a_class(clean)


def _fill_each(fill: Callable[[Labels], Any]) -> Cleaner:
    """Return what fills the holes of a label map from what fills those of a mask; bones are kept."""

    def run(plane: Labels) -> Labels:
        result = plane.copy()
        for value in range(1, CLASSES + 1):
            mask = (plane == value).view(np.uint8)
            if mask.any():
                result[(fill(mask) != 0) & (plane == 0)] = value
        return result

    return run


def _opencv_contours() -> Cleaner:
    import cv2

    def run(plane: Labels) -> Labels:
        result = plane.copy()
        for value in range(1, CLASSES + 1):
            mask = (plane == value).view(np.uint8)
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(result, contours, -1, value, cv2.FILLED)
        return result

    return run


def _scipy_boxes() -> Cleaner:
    from scipy import ndimage

    def run(plane: Labels) -> Labels:
        result = plane.copy()
        for value, box in enumerate(ndimage.find_objects(plane), 1):
            if box is not None:
                part = plane[box]
                filled = ndimage.binary_fill_holes(part == value)
                result[box][filled & (part == 0)] = value
        return result

    return run


def _fill_voids() -> Cleaner:
    import fill_voids

    return _fill_each(lambda mask: fill_voids.fill(mask))


def _simpleitk_holes() -> Cleaner:
    import SimpleITK as sitk  # noqa: N813 (its usual name)

    return _fill_each(
        lambda mask: sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(mask), False, 1))
    )


PIECES: Mapping[str, Callable[[], Cleaner]] = {
    "cc3d + bincount": _cc3d,
    "scikit-image": _scikit_image,
    "OpenCV": _opencv,
    "SciPy": _scipy,
    "SimpleITK": _simpleitk,
}
HOLES: Mapping[str, Callable[[], Cleaner]] = {
    "OpenCV contours": _opencv_contours,
    "SciPy in boxes": _scipy_boxes,
    "fill_voids": _fill_voids,
    "SimpleITK": _simpleitk_holes,
}
