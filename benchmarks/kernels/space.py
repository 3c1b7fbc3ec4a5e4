"""Classes from logits, labels back to the scan's grid, surfaces to voxels, distances of surfaces."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.kernels.data import Labels, legs
from benchmarks.kernels.row import Goal, Peers, Row
from benchmarks.timing import Action
from seg_core.geometry import Geometry, LabelMap
from seg_core.mesh import surface
from seg_core.model_spec import Grid, ModelSpec
from seg_core.ply import Mesh
from seg_core.prepare import plan_slices, restore
from seg_core.surface_distance import surface_distances
from seg_core.upsample import greatest_classes
from seg_core.voxelize import voxelize

SPACING = (0.9375, 0.9375, 1.5)


def rows(small: bool) -> list[Row]:
    """Return a row each."""
    slices, size = (40, 64) if small else (200, 512)
    labels = legs(slices, size)
    what = f"{slices} x {size} x {size}"
    distances = _distances(labels[: slices // 2])
    classes = [_classes((8, size // 2), size), _classes((8, size), size)]
    return [*classes, _restoring(labels, what), _voxelizing(labels, what), distances]


def _classes(grid: tuple[int, int], wanted: int) -> Row:
    """Logits (slices, size) on the scan's pixels, and the greatest of them: labels of networks of slices.

    As many pixels as the network's is what the bundled one meets in a scan of its own millimetres a pixel. In
    `lls segment` one core does it, while others infer the next slices.
    """
    slices, size = grid
    drawn = np.random.default_rng(0).integers(-128, 128, (slices, 5, size, size)).astype(np.float32)
    # Weights are quarters: float32 rounds nothing then, whatever the order, and no two classes are equal.
    logits = drawn / 16 + np.arange(5, dtype=np.float32)[:, None, None] / 4096
    frame = (wanted, wanted)
    peers = Peers()
    peers.add("torch interpolate, argmax", lambda: _torch_classes(logits, frame))
    peers.add("SimpleITK resampled, argmax", lambda: _resampled_classes(logits, frame))

    def agree(answers: Mapping[str, Any]) -> str:
        for name, answer in answers.items():
            np.testing.assert_array_equal(answer, answers["ours"], err_msg=name)
        return "All classes equal."

    def ours() -> Labels:
        return greatest_classes(logits, frame, confidence=False)[0]

    what = f"{slices} slices, logits of {size} x {size} to classes of {wanted} x {wanted}, one core"
    return Row(f"classes {wanted // size}", what, ours, Goal(1.0), peers, agree, single=True)


def _torch_classes(logits: npt.NDArray[np.float32], size: tuple[int, int]) -> Action:
    import torch

    images = torch.from_numpy(logits)

    def run() -> Labels:
        found = torch.nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        labels: Labels = found.argmax(1).to(torch.uint8).numpy()
        return labels

    return run


def _resampled_classes(logits: npt.NDArray[np.float32], size: tuple[int, int]) -> Action:
    import SimpleITK as sitk  # noqa: N813 (its usual name)

    image = sitk.GetImageFromArray(np.moveaxis(logits, 1, -1), isVector=True)
    step = [logits.shape[3] / size[1], logits.shape[2] / size[0], 1.0]

    def run() -> Labels:
        resample = sitk.ResampleImageFilter()
        resample.SetInterpolator(sitk.sitkLinear)
        resample.SetSize([size[1], size[0], len(logits)])
        resample.SetOutputSpacing(step)
        resample.SetOutputOrigin([(s - 1) / 2 for s in step])  # the outer edges coincide
        found = resample.Execute(image)  # lives as long as the view
        return sitk.GetArrayViewFromImage(found).argmax(-1).astype(np.uint8)

    return run


def _restoring(labels: Labels, what: str) -> Row:
    """Slices as a network in LPS sees them, onto a scan stored in RAS; `lls segment` does so with patches."""
    geometry = Geometry(labels.T.shape, np.diag([*SPACING, 1.0]))
    spec = ModelSpec("", ("bone",), grid=Grid("size", (labels.shape[1], labels.shape[2])))
    plan = plan_slices(geometry, spec)
    flips = tuple(slice(None, None, -1 if flip else 1) for flip in plan.flips)

    def ours() -> Labels:
        out = np.zeros(geometry.shape, np.uint8, order="F")
        for start in range(0, len(labels), 16):
            restore(labels[start : start + 16], plan, out, start)
        return out.T

    def agree(answers: Mapping[str, Any]) -> str:
        for name, answer in answers.items():
            np.testing.assert_array_equal(answer, labels[flips], err_msg=name)
        return "All equal."

    peers = Peers()
    peers.add("SimpleITK DICOMOrient", lambda: _orient(labels, flips))
    peers.add("SimpleITK resampled", lambda: _resample(labels, flips))
    return Row(
        "grid", f"labels of a network of patches to the scan's grid, {what}", ours, Goal(1.0), peers, agree
    )


def _image(labels: Labels, flips: tuple[slice, ...]) -> Any:
    import SimpleITK as sitk  # noqa: N813 (its usual name)

    image = sitk.GetImageFromArray(labels)
    k, j, i = (side.step or 1 for side in flips)
    image.SetDirection([i, 0, 0, 0, j, 0, 0, 0, k])
    return image


def _orient(labels: Labels, flips: tuple[slice, ...]) -> Action:
    import SimpleITK as sitk  # noqa: N813 (its usual name)

    image = _image(labels, flips)
    return lambda: sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))


def _resample(labels: Labels, flips: tuple[slice, ...]) -> Action:
    import SimpleITK as sitk  # noqa: N813 (its usual name)

    image = _image(labels, flips)
    target = sitk.DICOMOrient(image, "LPS")
    nearest = sitk.sitkNearestNeighbor
    return lambda: sitk.GetArrayFromImage(sitk.Resample(image, target, sitk.Transform(), nearest))


def _voxelizing(labels: Labels, what: str) -> Row:
    geometry = Geometry(labels.T.shape, np.diag([*SPACING, 1.0]))
    labelmap = LabelMap(labels.T, geometry, {1: "a", 2: "b", 3: "c", 4: "d"})
    mesh = surface(labelmap, 2)
    peers = Peers()
    peers.add("VTK stencil", lambda: _stencil(mesh, geometry))

    def agree(answers: Mapping[str, Any]) -> str:
        ours = answers["ours"]
        for name, answer in answers.items():
            np.testing.assert_array_equal(answer, ours, err_msg=name)
        true = int((labels.T == 2).sum())
        assert abs(int(ours.sum()) - true) < 0.02 * true
        return "All equal, and within 2 % of the voxels that were meshed."

    return Row("voxelize", f"femora to {what}", lambda: voxelize(mesh, geometry), Goal(1.0), peers, agree)


def _stencil(mesh: Mesh, geometry: Geometry) -> Action:
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
    from vtkmodules.vtkImagingStencil import vtkImageStencilToImage, vtkPolyDataToImageStencil

    points, cells, poly = vtkPoints(), vtkCellArray(), vtkPolyData()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(mesh.vertices_mm)))
    counted = np.column_stack([np.full(len(mesh.faces), 3), mesh.faces]).astype(np.int64).ravel()
    cells.ImportLegacyFormat(numpy_to_vtkIdTypeArray(counted))
    poly.SetPoints(points)
    poly.SetPolys(cells)
    columns, rows, slices = geometry.shape

    def run() -> npt.NDArray[np.bool_]:
        stencil, image = vtkPolyDataToImageStencil(), vtkImageStencilToImage()
        stencil.SetInputData(poly)
        stencil.SetOutputSpacing(*geometry.voxel_sizes)
        stencil.SetOutputWholeExtent(0, columns - 1, 0, rows - 1, 0, slices - 1)
        image.SetInputConnection(stencil.GetOutputPort())
        image.SetInsideValue(1)
        image.SetOutsideValue(0)
        image.SetOutputScalarTypeToUnsignedChar()
        image.Update()
        flat = vtk_to_numpy(image.GetOutput().GetPointData().GetScalars())
        return flat.reshape(slices, rows, columns).T.astype(bool)

    return run


def _distances(labels: Labels) -> Row:
    truth, predicted = labels.T, np.roll(labels, (1, 1), (1, 2)).T
    truth, predicted = ((array == 1).astype(np.uint8) for array in (truth, predicted))
    peers = Peers()
    peers.add("SciPy distance transforms", lambda: _scipy(predicted, truth))
    peers.add("MONAI", lambda: _monai(predicted, truth))
    peers.add("surface-distance", lambda: _surface_distance(predicted, truth))

    def ours() -> tuple[float, float]:
        found = surface_distances(predicted, truth, 1, SPACING)
        return float(found.hd95_mm[0]), float(found.assd_mm[0])

    def agree(answers: Mapping[str, Any]) -> str:
        np.testing.assert_allclose(answers["SciPy distance transforms"], answers["ours"], rtol=1e-9)
        for name, answer in answers.items():
            # surface-distance weighs the mean by area and takes it of each surface apart
            measured = 1 if name == "surface-distance" else 2
            np.testing.assert_allclose(answer[:measured], answers["ours"][:measured], rtol=1e-6, err_msg=name)
        return "HD95 of all and the mean but surface-distance's equal within 1e-6, SciPy's within 1e-9."

    what = f"HD95 and mean distance of one bone, {' x '.join(map(str, labels.shape))}"
    return Row("surface distances", what, ours, Goal(1.0), peers, agree)


def _border(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    found: npt.NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask)
    return found


def _scipy(predicted: Labels, truth: Labels) -> Action:
    from scipy import ndimage

    def run() -> tuple[float, float]:
        p, t = _border(predicted == 1), _border(truth == 1)
        to_t = ndimage.distance_transform_edt(~t, SPACING)[p]
        to_p = ndimage.distance_transform_edt(~p, SPACING)[t]
        mean = (to_t.sum() + to_p.sum()) / (to_t.size + to_p.size)
        return max(np.percentile(to_t, 95), np.percentile(to_p, 95)), mean

    return run


def _monai(predicted: Labels, truth: Labels) -> Action:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    p, t = (torch.from_numpy(np.ascontiguousarray(a))[None, None].bool() for a in (predicted, truth))
    given = {"include_background": True, "spacing": list(SPACING)}

    def run() -> tuple[float, float]:
        hd95 = compute_hausdorff_distance(p, t, percentile=95, **given)
        mean = compute_average_surface_distance(p, t, symmetric=True, **given)
        return float(hd95), float(mean)

    return run


def _surface_distance(predicted: Labels, truth: Labels) -> Action:
    import surface_distance

    def run() -> tuple[float, float]:
        found = surface_distance.compute_surface_distances(truth == 1, predicted == 1, SPACING)
        mean = surface_distance.compute_average_surface_distance(found)
        return surface_distance.compute_robust_hausdorff(found, 95), float(np.mean(mean))

    return run
