"""Surface to voxels: a voxel is inside when its centre is.

In the space of the voxel's indices each triangle is cut by the planes of constant k, then by the lines of
constant j; where such a line crosses the triangle the winding number changes by one. A vertex that lies on a
plane counts as above it, a point that lies on a line as beyond it, and the point where an edge meets a plane
is always computed from the edge's lower end. So both triangles at an edge agree to the last bit, and a closed
surface cannot leak, whatever its position on the grid.
"""

import numpy as np
import numpy.typing as npt

from seg_core.geometry import Geometry
from seg_core.kernel import inner_kernel, kernel
from seg_core.ply import Mesh


def voxelize(mesh: Mesh, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Find the voxels whose centre lies inside a closed surface.

    Parameters
    ----------
    mesh : Mesh
        Closed surface in RAS+ mm. Inside is where the winding number is not zero, so parts that overlap
        are united, and the faces may look inwards. The vertices of neighbouring faces need not be shared, but
        must have equal coordinates.
    geometry : Geometry
        The grid, of any orientation, also oblique or sheared.

    Returns
    -------
    ndarray of bool, (i, j, k)
        True inside; k is slowest in memory. All False for an empty mesh or one beyond the grid.
    """
    shape = geometry.shape
    inside = np.zeros(shape[::-1], dtype=np.bool_)
    if len(mesh.faces):
        points = np.ascontiguousarray(geometry.to_index(mesh.vertices_mm))
        faces = _facing_planes(points, mesh.faces, shape[2])
        _fill(points, faces, inside)
    return inside.T


def _facing_planes(
    points: npt.NDArray[np.float64], faces: npt.NDArray[np.int32], slices: int
) -> npt.NDArray[np.int32]:
    """Return the faces that some plane k = 0..slices-1 cuts, sorted by their first such plane."""
    heights = points[:, 2][faces]
    first = np.ceil(heights.min(axis=1))
    last = np.ceil(heights.max(axis=1)) - 1
    order = np.argsort(first, kind="stable")
    cut = (np.maximum(first, 0) <= np.minimum(last, slices - 1))[order]
    return np.ascontiguousarray(faces[order[cut]])


@kernel
def _fill(points, faces, inside):  # type: ignore[no-untyped-def]
    """Fill ``inside`` (k, j, i), plane after plane, with the faces that are cut by it."""
    slices, rows, columns = inside.shape
    steps = np.zeros((rows, columns), np.int32)
    low = np.full(rows, columns, np.int64)
    active = np.empty(len(faces), np.int64)
    count = 0
    waiting = 0
    for k in range(slices):
        while waiting < len(faces) and _lowest(points, faces, waiting) <= k:
            active[count] = waiting
            count += 1
            waiting += 1
        kept = 0
        for n in range(count):
            if _cut(points, faces[active[n]], k, steps, low):
                active[kept] = active[n]
                kept += 1
        count = kept
        for j in range(rows):
            if low[j] < columns:
                winding = 0
                for i in range(low[j], columns):
                    winding += steps[j, i]
                    steps[j, i] = 0
                    inside[k, j, i] = winding != 0
                low[j] = columns


@inner_kernel
def _lowest(points, faces, n):  # type: ignore[no-untyped-def]
    return min(points[faces[n, 0], 2], points[faces[n, 1], 2], points[faces[n, 2], 2])


@kernel
def _cut(points, face, k, steps, low):  # type: ignore[no-untyped-def]
    """Add to ``steps`` (j, i) how the winding number changes at this face in plane k; False once above it."""
    rows, columns = steps.shape
    crossings = 0
    up_i = up_j = down_i = down_j = 0.0
    above = False
    for n in range(3):
        a, b = face[n], face[(n + 1) % 3]
        above |= points[a, 2] > k
        rising = points[a, 2] < k <= points[b, 2]
        falling = points[b, 2] < k <= points[a, 2]
        if not (rising or falling):
            continue
        if falling:
            a, b = b, a
        t = (k - points[a, 2]) / (points[b, 2] - points[a, 2])
        i = points[a, 0] + t * (points[b, 0] - points[a, 0])
        j = points[a, 1] + t * (points[b, 1] - points[a, 1])
        crossings += 1
        if rising:
            up_i, up_j = i, j
        else:
            down_i, down_j = i, j
    if crossings == 2 and up_j != down_j:
        sign = 1
        if up_j > down_j:  # from the same end in both directions: a face and its reverse cancel exactly
            sign, up_i, up_j, down_i, down_j = -1, down_i, down_j, up_i, up_j
        slope = (down_i - up_i) / (down_j - up_j)
        first, end = int(np.ceil(max(up_j, 0.0))), int(np.ceil(min(down_j, float(rows))))
        for j_line in range(first, end):
            crossing = up_i + (j_line - up_j) * slope
            if crossing <= columns - 1:
                column = int(np.ceil(max(crossing, 0.0)))
                steps[j_line, column] += sign
                low[j_line] = min(low[j_line], column)
    return above
