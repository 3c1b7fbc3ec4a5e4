"""Triangle meshes, and PLY files that say in which patient space they are.

The space stands in the header as ``comment SPACE=LPS`` or ``comment SPACE=RAS``, which 3D Slicer reads; a
file without it is taken as LPS, as Slicer does. RAS and LPS differ by the signs of x and y, which is a
rotation, so the faces keep their winding.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seg_core.errors import ScanError
from seg_core.output import output_error

Space = Literal["lps", "ras"]
FloatArray = npt.NDArray[np.float64]

_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float32": "f4",
    "float64": "f8",
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_LPS_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles.

    Parameters
    ----------
    vertices_mm : array_like, (n, 3)
        Points in RAS+ millimetres.
    faces : array_like of int, (m, 3)
        Indices of the points of each triangle, anticlockwise seen from outside.

    Raises
    ------
    ScanError
        If the shapes are wrong, a point is not finite, or a face names a point that is not there.
    """

    vertices_mm: FloatArray
    faces: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        vertices = np.array(self.vertices_mm, dtype=np.float64)
        faces = np.array(self.faces)
        if faces.size == 0:
            faces = np.zeros((0, 3), np.int32)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
            raise ScanError(
                f"a mesh of vertices {vertices.shape} and faces {faces.shape}", "(n, 3) and (m, 3)"
            )
        if not np.isfinite(vertices).all():
            raise ScanError("a mesh with a vertex that is not finite", fix="repair the mesh")
        if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
            raise ScanError(
                f"a mesh whose faces name vertices {faces.min()} to {faces.max()}",
                f"0 to {len(vertices) - 1}",
                "repair the mesh",
            )
        faces = faces.astype(np.int32)
        vertices.setflags(write=False)
        faces.setflags(write=False)
        object.__setattr__(self, "vertices_mm", vertices)
        object.__setattr__(self, "faces", faces)

    @cached_property
    def volume_mm3(self) -> float:
        """Volume of the solid in mm3; negative where the faces look inwards, 0 for an empty mesh."""
        return float(self._tetrahedra[0].sum())

    @cached_property
    def centroid(self) -> FloatArray:
        """Centroid (3,) of the solid in RAS+ mm; NaN where there is no volume."""
        volumes, centres = self._tetrahedra
        total = volumes.sum()
        if total == 0:
            return np.full(3, np.nan)
        centroid: FloatArray = volumes @ centres / total
        return centroid

    @cached_property
    def is_watertight(self) -> bool:
        """Whether every edge lies in exactly two faces, once in each direction; False for an empty mesh."""
        if not len(self.faces):
            return False
        start = self.faces.astype(np.int64)
        end = np.roll(start, -1, axis=1)
        edges = np.sort((start * len(self.vertices_mm) + end).ravel())
        opposite = np.sort((end * len(self.vertices_mm) + start).ravel())
        return bool((np.diff(edges) > 0).all() and (edges == opposite).all() and (start != end).all())

    @cached_property
    def _tetrahedra(self) -> tuple[FloatArray, FloatArray]:
        """Return signed volumes (m,) and centres (m, 3) of the tetrahedra between each face and one point."""
        if not len(self.faces):
            return np.zeros(0), np.zeros((0, 3))
        # A point amid the vertices, so that no digits are lost far from the origin.
        origin = self.vertices_mm.mean(axis=0)
        corners = (self.vertices_mm - origin)[self.faces]
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        volumes: FloatArray = np.einsum("ni,ni->n", a, np.cross(b, c)) / 6
        return volumes, corners.sum(axis=1) / 4 + origin


def write_ply(
    path: str | Path, mesh: Mesh, space: Space = "lps", colour: tuple[int, int, int] | None = None
) -> None:
    """Write a mesh as binary little-endian PLY; the same mesh gives the same bytes.

    Parameters
    ----------
    path : str or Path
        The file; overwritten where it exists.
    mesh : Mesh
        The mesh, RAS+ mm; an empty one gives a file without faces.
    space : {"lps", "ras"}
        The space of the file's coordinates (float32, mm), stated in its header.
    colour : tuple of int, optional
        sRGB, given to every vertex, which is where viewers look for it.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    inks = () if colour is None else ("red", "green", "blue")
    row = np.dtype([("place", "<f4", (3,)), *((ink, "u1") for ink in inks)])
    vertices = np.empty(len(mesh.vertices_mm), dtype=row)
    vertices["place"] = mesh.vertices_mm * _signs(space)
    for ink, share in zip(inks, colour or (), strict=True):
        vertices[ink] = share
    header = (
        f"ply\nformat binary_little_endian 1.0\ncomment SPACE={space.upper()}\ncomment millimetres\n"
        f"element vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        + "".join(f"property uchar {ink}\n" for ink in inks)
        + f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.empty(len(mesh.faces), dtype=[("n", "u1"), ("v", "<i4", (3,))])
    faces["n"], faces["v"] = 3, mesh.faces
    try:
        Path(path).write_bytes(header.encode("ascii") + vertices.tobytes() + faces.tobytes())
    except OSError as error:
        raise output_error(error, path) from error


def read_ply(path: str | Path, space: Space | None = None) -> Mesh:
    """Read a PLY file (ascii, binary little or big endian) as a mesh in RAS+ mm.

    Other elements and properties are skipped, polygons become fans of triangles.

    Parameters
    ----------
    path : str or Path
        The file.
    space : {"lps", "ras"}, optional
        The space of a file whose header does not say it; LPS where neither says.

    Returns
    -------
    Mesh
        Points in RAS+ mm; without faces for a cloud of points.

    Raises
    ------
    ScanError
        If the file cannot be read, is no PLY, is truncated, or names points that it does not hold.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ScanError(f"{path} cannot be read: {error.strerror}") from error
    try:
        header, body = _parse_header(data)
        columns = _read_elements(header, body)
        vertex = columns["vertex"]
        vertices = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=1)
        face = columns.get("face", {})
        polygons: Any = next((face[name] for name in ("vertex_indices", "vertex_index") if name in face), [])
        return Mesh(vertices * _signs(header.space or space or "lps"), _triangles(polygons))
    except (ValueError, KeyError, IndexError, StopIteration, OverflowError, ScanError) as error:
        reason = (str(error) or "it ends too soon").splitlines()[0]
        raise ScanError(
            f"{path} is not a whole PLY mesh: {reason}",
            "a PLY file with x, y, z of its vertices and its faces",
            "export the mesh again",
        ) from error


@dataclass(frozen=True)
class _Property:
    """A scalar (``count`` empty) or a list of a file's element."""

    name: str
    kind: str
    count: str = ""


@dataclass(frozen=True)
class _Element:
    name: str
    length: int
    properties: list[_Property] = field(default_factory=list)


@dataclass(frozen=True)
class _Header:
    order: str
    space: Space | None
    elements: list[_Element]


def _signs(space: str) -> FloatArray:
    if space not in ("lps", "ras"):
        raise ScanError(f"a coordinate space {space!r}", "lps or ras")
    return _LPS_RAS if space == "lps" else np.ones(3)


def _parse_header(data: bytes) -> tuple[_Header, bytes]:
    end = re.search(rb"\nend_header[ \t]*\r?\n", data)
    if not data.startswith(b"ply") or end is None:
        raise ValueError("no PLY header")
    form, space, elements = "", None, list[_Element]()
    for line in data[: end.start()].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if not words:
            continue
        if words[0] == "format":
            form = words[1]
        elif words[0] == "comment":
            found = re.search(r"\bSPACE=(LPS|RAS)\b", line, re.IGNORECASE)
            space = found[1].lower() if found else space
        elif words[0] == "element":
            elements.append(_Element(words[1], int(words[2])))
        elif words[0] == "property":
            elements[-1].properties.append(_property(words))
    if form not in _ORDERS:
        raise ValueError(f"format {form!r}")
    if any(element.length < 0 for element in elements):
        raise ValueError("an element with a negative length")
    return _Header(form, space, elements), data[end.end() :]  # type: ignore[arg-type]


def _property(words: list[str]) -> _Property:
    if words[1] == "list":
        return _Property(words[4], _TYPES[words[3]], _TYPES[words[2]])
    return _Property(words[2], _TYPES[words[1]])


def _read_elements(header: _Header, body: bytes) -> dict[str, dict[str, Any]]:
    """Return element -> property -> values; a list property gives (n, k), or a list of arrays."""
    if header.order == "ascii":
        words = iter(body.split())
        return {e.name: _read_ascii(e, words) for e in header.elements}
    columns, offset = {}, 0
    for element in header.elements:
        columns[element.name], offset = _read_binary(element, body, offset, _ORDERS[header.order])
    return columns


def _read_ascii(element: _Element, words: Iterator[bytes]) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {p.name: [] for p in element.properties}
    for _ in range(element.length):
        for p in element.properties:
            value: Any
            if p.count:
                value = np.array([float(next(words)) for _ in range(int(next(words)))], dtype=p.kind)
            else:
                value = float(next(words))
            columns[p.name].append(value)
    return columns


def _read_binary(element: _Element, body: bytes, offset: int, order: str) -> tuple[dict[str, Any], int]:
    """Read an element as a table, taking each list to be as long as in the first row, else row by row."""
    if not element.properties:
        return {}, offset
    first = _read_row(element, body, offset, order)[0] if element.length else []
    fields: list[Any] = []
    for n, p in enumerate(element.properties):
        if p.count:
            fields.append((f"count {n}", order + p.count))
            fields.append((f"value {n}", order + p.kind, (len(first[n]) if first else 0,)))
        else:
            fields.append((f"value {n}", order + p.kind))
    row = np.dtype(fields)
    if offset + row.itemsize * element.length <= len(body):
        table = np.frombuffer(body, row, element.length, offset)
        lists = [n for n, p in enumerate(element.properties) if p.count]
        if all((table[f"count {n}"] == len(first[n])).all() for n in lists if first):
            columns = {p.name: table[f"value {n}"] for n, p in enumerate(element.properties)}
            return columns, offset + row.itemsize * element.length
    rows = []
    for _ in range(element.length):
        values, offset = _read_row(element, body, offset, order)
        rows.append(values)
    return {p.name: [r[n] for r in rows] for n, p in enumerate(element.properties)}, offset


def _read_row(element: _Element, body: bytes, offset: int, order: str) -> tuple[list[Any], int]:
    values: list[Any] = []
    for p in element.properties:
        length = 1
        if p.count:
            length = int(np.frombuffer(body, order + p.count, 1, offset)[0])
            offset += np.dtype(p.count).itemsize
        value = np.frombuffer(body, order + p.kind, length, offset) if length else np.zeros(0, p.kind)
        values.append(value if p.count else value[0])
        offset += length * np.dtype(p.kind).itemsize
    return values, offset


def _triangles(polygons: Any) -> npt.NDArray[np.int32]:
    """Split polygons, (n, k) or a list of arrays, into fans of triangles (m, 3)."""
    if isinstance(polygons, np.ndarray):
        table = polygons.astype(np.int32)
        fans = [table[:, [0, n, n + 1]] for n in range(1, table.shape[1] - 1)]
        return np.stack(fans, axis=1).reshape(-1, 3) if fans else np.zeros((0, 3), np.int32)
    triangles = [(p[0], p[n], p[n + 1]) for p in polygons for n in range(1, len(p) - 1)]
    return np.array(triangles, dtype=np.int32).reshape(-1, 3)
