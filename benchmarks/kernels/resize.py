"""Slices from 512 x 512 to 256 x 256, as Pillow's bilinear filter."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.kernels.row import Goal, Peers, Row
from benchmarks.timing import Action
from seg_core.resize import resize_bilinear

Float32Array = npt.NDArray[np.float32]
PILLOW = "Pillow"


def rows(small: bool) -> list[Row]:
    """Return a row for a slice on one core, and one for a slab on all of them."""
    return [_row(small, 1), _row(small, 16)]


def _row(small: bool, slices: int) -> Row:
    size = 64 if small else 512
    stack = np.random.default_rng(0).random((slices, size, size), np.float32)
    peers = Peers()
    for name, make in {PILLOW: _pillow, "torch, antialias": _torch, "OpenCV sepFilter2D": _opencv}.items():
        peers.add(name, lambda make=make: make(stack))

    def agree(answers: Mapping[str, Any]) -> str:
        ours = answers["ours"]
        np.testing.assert_array_equal(ours, answers[PILLOW])
        for name, answer in answers.items():
            # the others round otherwise; OpenCV knows no edges where fewer pixels count
            inner = (slice(None), slice(1, -1), slice(1, -1))
            np.testing.assert_allclose(answer[inner], ours[inner], atol=1e-6, err_msg=name)
        return "Equal to Pillow to the last bit, to the others within 1e-6 but at the edge."

    what = f"{slices} slices of {size} x {size} to {size // 2} x {size // 2}"
    where = "one core" if slices == 1 else "all cores"
    return Row(
        f"resize {slices}",
        f"{what}, {where}",
        lambda: resize_bilinear(stack, (size // 2, size // 2)),
        Goal(0.25, PILLOW),
        peers,
        agree,
        single=slices == 1,
    )


def _pillow(stack: Float32Array) -> Action:
    from PIL import Image

    images = [Image.fromarray(plane) for plane in stack]
    half = (stack.shape[2] // 2, stack.shape[1] // 2)
    return lambda: np.stack([np.asarray(i.resize(half, Image.Resampling.BILINEAR)) for i in images])


def _torch(stack: Float32Array) -> Action:
    import torch

    images = torch.from_numpy(stack)[:, None]

    def run() -> Float32Array:
        halved = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
        found: Float32Array = halved[:, 0].numpy()
        return found

    return run


def _opencv(stack: Float32Array) -> Action:
    import cv2

    taps = np.array([0.125, 0.375, 0.375, 0.125])

    def run() -> Float32Array:
        planes = [cv2.sepFilter2D(plane, cv2.CV_32F, taps, taps, anchor=(1, 1)) for plane in stack]
        return np.stack([plane[::2, ::2] for plane in planes])

    return run
