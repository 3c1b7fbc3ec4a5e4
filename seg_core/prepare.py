"""From the scan's slices to the network's input, and its labels back to the scan's own grid."""

from dataclasses import dataclass, replace
from math import ceil, floor, inf
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import ModelError, UsageError
from seg_core.geometry import Geometry
from seg_core.intensity import Window, scale
from seg_core.model_spec import ModelSpec
from seg_core.resize import resize_bilinear

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]
Pair = tuple[int, int]

HARDLY = 0.02
"""Share by which a network's pixels may be larger or smaller than it wants them."""

_OPPOSITE = str.maketrans("RLAPSI", "LRPAIS")


@dataclass(frozen=True)
class SlicePlan:
    """How a scan's slices become the network's, and back.

    Parameters
    ----------
    axes : tuple of int
        Axes of the stored array that become slice, row, column.
    flips : tuple of bool
        Whether slice, row, column run against the stored order.
    slices : int
        Number of slices as the network sees them.
    native : tuple of int
        (rows, columns) of a slice, in the scan's own pixels.
    frame : tuple of int
        (rows, columns) that the network's grid covers, in the scan's own pixels; not smaller than native, but
        for a `part`.
    before : tuple of int
        (rows, columns) of air between the frame's beginning and the slice's; negative where a `part` begins
        within the slice.
    grid : tuple of int
        (rows, columns) of the network's input.
    spacing_mm : tuple of float
        Distance of slices, rows, columns.
    channels : int
        Of the network.
    stride : int
        Slices from one channel to the next; 0: each holds the same one.
    depth_mm : float
        Distance of slices that a 3D network wants, see `seg_core.patches`; other networks take the scan's.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    slices: int
    native: Pair
    frame: Pair
    before: Pair
    grid: Pair
    spacing_mm: tuple[float, float, float]
    channels: int
    stride: int
    depth_mm: float

    @property
    def pixel_mm2(self) -> float:
        """Area of a pixel of the scan."""
        return self.spacing_mm[1] * self.spacing_mm[2]

    @property
    def pixels_each(self) -> float:
        """How many of the network's pixels lie in one of the scan's."""
        return self.grid[0] * self.grid[1] / (self.frame[0] * self.frame[1])

    def oriented(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view (slice, row, column) of a stored array (i, j, k); writing to it writes there."""
        step = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array.transpose(self.axes)[step]

    def part(self, rows: Pair, columns: Pair) -> "SlicePlan":
        """Return the plan of a part of the frame.

        Where a pixel of the network is a whole number of the scan's, the part lies on the whole frame's
        grid; else it is shifted by up to half a pixel of the scan, image and labels alike.

        Parameters
        ----------
        rows, columns : tuple of int
            First and one past the last, of the network's grid.
        """
        spans, frame, before = (rows, columns), [], []
        for (start, stop), pixels, grid, air in zip(spans, self.frame, self.grid, self.before, strict=True):
            frame.append(max(1, round((stop - start) * pixels / grid)))
            before.append(air - round(start * pixels / grid))
        return replace(
            self,
            frame=(frame[0], frame[1]),
            before=(before[0], before[1]),
            grid=(rows[1] - rows[0], columns[1] - columns[0]),
        )

    def within(self, slices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of what lies within the frame, from arrays (n, *native)."""
        spans = [
            slice(max(-air, 0), min(frame - air, native))
            for frame, native, air in zip(self.frame, self.native, self.before, strict=True)
        ]
        return slices[:, spans[0], spans[1]]

    def slice_index(self, stored: int) -> int:
        """Return the network's number of a stored slice, or the other way round."""
        return self.slices - 1 - stored if self.flips[0] else stored


def plan_slices(geometry: Geometry, spec: ModelSpec) -> SlicePlan:
    """Plan how the slices of a scan become the network's.

    Axes are exchanged and turned round so that they run to the nearest axes of the network's orientation;
    nothing is interpolated between slices. Then one resize takes the frame to the network's grid, another the
    logits back, both mapping the outer edges of the one to those of the other.

    Parameters
    ----------
    geometry : Geometry
        Of the scan: any of the 48 orientations, oblique ones too.
    spec : ModelSpec
        With grid ``size`` the frame is the whole slice. With ``spacing`` the grid is the smallest multiple
        that covers the slice, its pixels within `HARDLY` of those that are wanted, and the slice lies in the
        frame's middle with air around it; a network of patches has the whole slice for its frame, and a grid
        as near to the spacing as that allows.

    Raises
    ------
    ModelError
        If the description's orientation or grid makes no sense.
    """
    _check_spec(spec)
    wanted = spec.orientation[2], spec.orientation[1], spec.orientation[0]
    found = geometry.orientation
    axes, flips = [], []
    for letter in wanted:
        same = letter in found
        axes.append(found.index(letter if same else letter.translate(_OPPOSITE)))
        flips.append(not same)
    counts = [geometry.shape[a] for a in axes]
    sizes = [geometry.voxel_sizes[a] for a in axes]
    native = counts[1], counts[2]
    frame, grid = native, spec.grid.size
    if spec.grid.kind != "size" and spec.patch is not None:
        pixels = zip(native, sizes[1:], spec.grid.spacing_mm, strict=True)
        rows, columns = (resampled(n, mm, wanted_mm) for n, mm, wanted_mm in pixels)
        grid = rows, columns
    elif spec.grid.kind == "spacing":
        pairs = [_cover(n, mm, i, spec) for i, (n, mm) in enumerate(zip(native, sizes[1:], strict=True))]
        frame, grid = (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1])
    return SlicePlan(
        axes=(axes[0], axes[1], axes[2]),
        flips=(flips[0], flips[1], flips[2]),
        slices=counts[0],
        native=native,
        frame=frame,
        before=((frame[0] - native[0]) // 2, (frame[1] - native[1]) // 2),
        grid=grid,
        spacing_mm=(sizes[0], sizes[1], sizes[2]),
        channels=spec.channels if spec.patch is None else 1,
        stride=slice_stride(spec.neighbour_mm, sizes[0]) if spec.channel_fill == "neighbours" else 0,
        depth_mm=spec.grid.slice_mm or sizes[0],
    )


def slice_stride(neighbour_mm: float, slice_mm: float) -> int:
    """Return how many slices further the next channel looks: nearest to the distance, at least 1."""
    return max(1, round(neighbour_mm / slice_mm))


def resampled(voxels: int, mm: float, wanted_mm: float) -> int:
    """Return how many voxels of about the wanted millimetres cover the same length, at least 1."""
    return max(1, round(voxels * mm / wanted_mm))


def _cover(pixels: int, pixel_mm: float, axis: int, spec: ModelSpec) -> Pair:
    """Return the frame in the scan's pixels and in the network's, along one axis.

    A multiple of the network's pixels is a whole number of the scan's, if they hardly change for it: views
    (`seg_core.body`), which end at multiples, then end between two of the scan's pixels, on the frame's grid.
    """
    mm, multiple = spec.grid.spacing_mm[axis], spec.grid.multiple
    exact = multiple * mm / pixel_mm
    step = exact
    for whole in sorted((floor(exact), ceil(exact)), key=lambda n: abs(n - exact)):
        if abs(whole / exact - 1) <= HARDLY and _blocks(pixels, whole) <= _blocks(pixels, exact):
            step = whole
            break
    blocks = _blocks(pixels, step)
    return max(pixels, round(blocks * step)), blocks * multiple


def _blocks(pixels: int, step: float) -> int:
    """Return how many steps cover so many pixels; what fits exactly shall not grow by the last bit."""
    return max(1, ceil(pixels / step - 1e-6))


def _check_spec(spec: ModelSpec) -> None:
    letters = spec.orientation
    if len(letters) != 3 or any(sum(x in pair for x in letters) != 1 for pair in ("RL", "AP", "SI")):
        raise ModelError(f"orientation {letters!r}", "one of R L, one of A P, one of S I, as in LPS")
    grid = spec.grid
    if grid.multiple < 1 or min(grid.spacing_mm) <= 0 or min(grid.size) < 1 or spec.channels < 1:
        raise ModelError(f"grid {grid} with {spec.channels} channels", "positive numbers")
    if not 0 <= spec.neighbour_mm < inf:
        raise ModelError(f"channels {spec.neighbour_mm} mm apart", "0 or a distance")
    _check_patch(spec)
    if grid.kind == "size" and spec.patch is None and any(n % grid.multiple for n in grid.size):
        raise ModelError(f"grid {grid.size}", f"multiples of {grid.multiple}")


def _check_patch(spec: ModelSpec) -> None:
    patch, slice_mm = spec.patch, spec.grid.slice_mm
    if patch is None:
        if slice_mm is not None or spec.grid.kind == "nnunet":
            raise ModelError(f"grid {spec.grid} for a network of slices", "a patch with it")
        return
    if len(patch) != 3 or min(patch) < 1 or not 0 <= spec.overlap < 1:
        raise ModelError(f"patches of {patch} that overlap by {spec.overlap}", "3 numbers, 0 to below 1")
    if (slice_mm is not None and not 0 < slice_mm < inf) or spec.channel_fill != "repeat":
        raise ModelError(
            f"patches with slices {slice_mm} mm apart, channels of {spec.channel_fill}",
            "a distance, and the same slice in each channel",
        )


def prepare(array: npt.NDArray[Any], plan: SlicePlan, window: Window, start: int, stop: int) -> Float32Array:
    """Prepare some slices for the network.

    Parameters
    ----------
    array : ndarray, (i, j, k)
        The whole scan as it is stored; left alone.
    plan : SlicePlan
        Of this scan and network.
    window : Window
        Intensities that become 0 and 1, see `seg_core.intensity`.
    start, stop : int
        Slices as the network sees them, ``0 <= start <= stop <= plan.slices``.

    Returns
    -------
    ndarray of float32, (stop - start, channels, rows, columns)
        In [0, 1], or as the window says; air around the slice is 0. Beyond the scan's ends its last slice
        stands in.

    Raises
    ------
    UsageError
        If there are no such slices.
    """
    if not 0 <= start <= stop <= plan.slices:
        raise UsageError(f"slices {start} to {stop}", f"within 0 to {plan.slices}")
    return prepare_slices(array, plan, window, np.arange(start, stop))


def prepare_slices(
    array: npt.NDArray[Any],
    plan: SlicePlan,
    window: Window,
    slices: npt.NDArray[np.int64],
    kept: dict[int, Float32Array] | None = None,
) -> Float32Array:
    """Prepare slices (n,) that need not follow one another; all else as in `prepare`.

    ``kept`` holds single slices (rows, columns) that earlier calls of the same plan prepared, by number; what
    this one prepares is added, and what comes before all that it needs is dropped.
    """
    offsets = (np.arange(plan.channels) - plan.channels // 2) * plan.stride
    wanted = np.clip(slices[:, None] + offsets, 0, plan.slices - 1)
    kept = {} if kept is None else kept
    missing = sorted(set(wanted.ravel().tolist()) - kept.keys())
    for number in [n for n in kept if n < wanted.min(initial=plan.slices)]:
        del kept[number]
    framed = _framed(plan.within(plan.oriented(array))[missing], plan, window)
    resized = framed if plan.frame == plan.grid else resize_bilinear(framed, plan.grid)
    kept.update(zip(missing, resized, strict=True))
    channels = np.empty((*wanted.shape, *plan.grid), np.float32)
    for place, number in np.ndenumerate(wanted):
        channels[place] = kept[int(number)]
    return channels


def _framed(slices: npt.NDArray[Any], plan: SlicePlan, window: Window) -> Float32Array:
    scaled = scale(slices, *window)
    if plan.frame == scaled.shape[1:]:
        return scaled
    framed = np.zeros((len(slices), *plan.frame), np.float32)
    crop(framed, plan)[...] = scaled
    return framed


def crop(framed: npt.NDArray[Any], plan: SlicePlan) -> npt.NDArray[Any]:
    """Return a view of what lies within the slice, from arrays (n, *frame); (n, *native) but for a part."""
    (top, left), (rows, columns) = plan.before, plan.native
    return framed[:, max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)]


def restore(labels: Uint8Array, plan: SlicePlan, out: Uint8Array, start: int) -> None:
    """Write slices of labels into an array on the scan's own grid.

    Parameters
    ----------
    labels : ndarray of uint8, (n, rows, columns)
        Of the frame's size, or already cropped to the slice's.
    plan : SlicePlan
        Of this scan and network.
    out : ndarray of uint8, (i, j, k)
        Written to.
    start : int
        First slice, as the network sees them.

    Raises
    ------
    UsageError
        If the labels are of another size, or go beyond the scan.
    """
    if labels.shape[1:] not in (plan.frame, plan.native) or not 0 <= start <= plan.slices - len(labels):
        raise UsageError(
            f"labels {labels.shape} from slice {start}", f"(n, *{plan.frame}), within {plan.slices}"
        )
    inside = crop(labels, plan) if labels.shape[1:] == plan.frame else labels
    plan.oriented(out)[start : start + len(labels)] = inside
