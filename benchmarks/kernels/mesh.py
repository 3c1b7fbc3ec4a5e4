"""Surfaces of all bones, and the boxes that they are made in."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.kernels.data import Labels, legs
from benchmarks.kernels.row import Goal, Peers, Row
from benchmarks.timing import Action
from seg_core.geometry import Geometry, LabelMap
from seg_core.mesh import surface
from seg_core.moments import Box, label_moments

MESHING = "meshing in the boxes"
NETS = "VTK SurfaceNets"
VALUES = range(1, 9)


def rows(small: bool) -> list[Row]:
    """Return a row for the boxes and one for the meshes.

    These are not smoothed, nor are volumes restored, which `lls segment` does and no peer here.
    """
    slices, size = (40, 64) if small else (600, 512)
    labels = legs(slices, size, sided=True)
    names = {value: f"bone {value}" for value in VALUES}
    labelmap = LabelMap(labels.T, Geometry(labels.T.shape, np.eye(4)), names)
    what = f"8 bones, {slices} x {size} x {size}"
    return [_boxes(labelmap, what), _meshes(labelmap, what)]


def _boxes(labelmap: LabelMap, what: str) -> Row:
    peers = Peers()
    peers.add("SciPy find_objects", lambda: _find_objects(labelmap.array.T))
    boxes = _own_boxes(labelmap)

    def agree(answers: Mapping[str, Any]) -> str:
        for name, answer in answers.items():
            assert answer == boxes, name
        return "All boxes equal."

    meshing = {MESHING: lambda: _mesh(labelmap, boxes)}
    return Row("boxes", what, lambda: _own_boxes(labelmap), Goal(1.0, MESHING), peers, agree, meshing)


def _meshes(labelmap: LabelMap, what: str) -> Row:
    peers = Peers()
    for name, make in PEERS.items():
        peers.add(name, lambda make=make: make(labelmap.array.T))

    def agree(answers: Mapping[str, Any]) -> str:
        for mesh, box in zip(answers["ours"], _own_boxes(labelmap).values(), strict=True):
            assert mesh.is_watertight
            reach = np.array([[side.start - 0.5, side.stop - 0.5] for side in box]).T
            np.testing.assert_array_equal([mesh.vertices_mm.min(axis=0), mesh.vertices_mm.max(axis=0)], reach)
        for name, answer in answers.items():
            polygons = _bones_apart(answer) if name == NETS else [_polygons(mesh) for mesh in answer]
            assert len(polygons) == len(VALUES), f"{name}: {len(polygons)} surfaces"
            assert min(polygons) > 0, f"{name}: polygons of the bones: {polygons}"
        return "Ours are watertight and reach half a voxel beyond the bones; peers' surfaces are other ones."

    def ours() -> Any:
        return _mesh(labelmap, _own_boxes(labelmap))

    what = f"{what}, boxes and surfaces, not smoothed as those of `lls segment` are"
    return Row("mesh", what, ours, Goal(1.0), peers, agree)


def _polygons(mesh: Any) -> int:
    """Return how many a surface has: ours, VTK's, zmesh's or scikit-image's."""
    if isinstance(mesh, tuple):
        return len(mesh[1])
    return int(mesh.GetNumberOfPolys()) if hasattr(mesh, "GetNumberOfPolys") else len(mesh.faces)


def _bones_apart(answer: list[Any]) -> list[int]:
    """Return how many polygons of the surface of all bones in one (VTK's SurfaceNets) border on each bone."""
    from vtkmodules.util.numpy_support import vtk_to_numpy

    (mesh,) = answer
    if not _polygons(mesh):
        return [0] * len(VALUES)
    sides = vtk_to_numpy(mesh.GetCellData().GetArray("BoundaryLabels"))
    return [int((sides == value).any(axis=1).sum()) for value in VALUES]


def _own_boxes(labelmap: LabelMap) -> dict[int, Box]:
    return {value: moments.box for value, moments in label_moments(labelmap.array).items()}


def _mesh(labelmap: LabelMap, boxes: Mapping[int, Box]) -> list[Any]:
    return [surface(labelmap, value, box, smooth=False) for value, box in boxes.items()]


def _find_objects(labels: Labels) -> Action:
    from scipy import ndimage

    def run() -> dict[int, Box]:
        found = ndimage.find_objects(labels)
        return {value: (box[2], box[1], box[0]) for value, box in enumerate(found, 1)}

    return run


def _vtk(labels: Labels) -> Any:
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    image = vtkImageData()
    image.SetDimensions(*labels.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(labels.ravel()))
    return image


def _flying_edges(labels: Labels) -> Action:
    from vtkmodules.vtkFiltersGeneral import vtkDiscreteFlyingEdges3D

    def run() -> list[Any]:
        meshes = []
        for value, box in label_moments(labels.T).items():
            i, j, k = box.box
            part = np.pad(labels[k, j, i] == value, 1).astype(np.uint8)
            edges = vtkDiscreteFlyingEdges3D()
            edges.SetInputData(_vtk(part))
            edges.SetValue(0, 1)
            edges.Update()
            meshes.append(edges.GetOutput())
        return meshes

    return run


def _surface_nets(labels: Labels) -> Action:
    from vtkmodules.vtkFiltersCore import vtkSurfaceNets3D

    image = _vtk(labels)

    def run() -> list[Any]:
        nets = vtkSurfaceNets3D()
        nets.SetInputData(image)
        for n, value in enumerate(VALUES):
            nets.SetValue(n, value)
        nets.SmoothingOff()
        nets.Update()
        return [nets.GetOutput()]  # all bones in one

    return run


def _zmesh(labels: Labels) -> Action:
    from zmesh import Mesher

    def run() -> list[Any]:
        mesher = Mesher((1, 1, 1))
        mesher.mesh(labels, close=True)
        return [mesher.get(value, normals=False) for value in mesher.ids()]

    return run


def _scikit_image(labels: Labels) -> Action:
    from skimage.measure import marching_cubes

    return lambda: [marching_cubes((labels == value).astype(np.float32), 0.5) for value in VALUES]


PEERS: Mapping[str, Callable[[Labels], Action]] = {
    "VTK FlyingEdges, cropped": _flying_edges,
    NETS: _surface_nets,
    "zmesh": _zmesh,
    "scikit-image, uncropped": _scikit_image,
}
