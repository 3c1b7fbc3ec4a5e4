"""Shapes of real legs: the principal components of 26 adults' pelvis, femur, patella, tibia and fibula.

The data come with the package ``musculoskeletal-models`` (MPL-2.0, Auckland Bioengineering Institute).
A shape is ``mean + modes @ scores``, coordinates of nodes in LPS mm; the nodes belong to Lagrange elements,
whose bases are evaluated on a finer lattice for smooth surfaces. Only left legs were measured.

Subjects 0 to 19 and draws are for training, 20 to 22 for validation, 23 to 25 for testing. The file's own
mean and variances know all 26, so draws come from a basis refitted on the first twenty.
"""

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from seg_core.errors import MissingPackageError, ModelError, UsageError, install_hint
from seg_core.ply import Mesh

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SUBJECTS = 26
TRAINING_SUBJECTS = range(20)
STRUCTURES = ("femur", "tibia", "fibula", "patella", "left_hip", "right_hip", "sacrum")

# In the order of the nodes in the shape model.
_MESHES = (
    "pelvis_combined_cubic_flat",
    "femur_left_quartic_flat",
    "patella_11_left",
    "tibia_fibula_left_cubic_flat",
)
# Nodes in each row of an element's lattice.
_LATTICES = {
    "tri10": (4, 3, 2, 1),
    "tri15": (5, 4, 3, 2, 1),
    "quad44": (4, 4, 4, 4),
    "quad54": (5, 5, 5, 5),
    "quad55": (5, 5, 5, 5, 5),
}
_ALLOWED_PICKLES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


@dataclass(frozen=True, eq=False)
class Surface:
    """Points of a fine surface as weighted sums of the model's nodes.

    Parameters
    ----------
    weights : sparse array, (points, nodes)
        Each row sums to one.
    faces : ndarray of int, (m, 3)
        Triangles, anticlockwise seen from outside in LPS (and RAS).
    """

    weights: sparse.csr_array
    faces: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """Principal components of the left leg and pelvis, and their surfaces.

    Parameters
    ----------
    mean : ndarray, (3, nodes)
        Mean node coordinates, LPS mm.
    modes : ndarray, (3, nodes, modes)
        Change of the nodes (mm) a unit of score.
    scores : ndarray, (modes, subjects)
        Scores of the 26 real subjects.
    surfaces : mapping of str to Surface
        One for each of ``STRUCTURES``.
    """

    mean: FloatArray
    modes: FloatArray
    scores: FloatArray
    surfaces: Mapping[str, Surface]

    def subject_scores(self, subject: int) -> FloatArray:
        """Return the scores (modes,) of a real subject, 0 to 25.

        Raises
        ------
        UsageError
            If there is no such subject.
        """
        if not 0 <= subject < self.scores.shape[1]:
            raise UsageError(f"subject {subject}", f"0 to {self.scores.shape[1] - 1}")
        return self.scores[:, subject].copy()

    @cached_property
    def training_basis(self) -> tuple[FloatArray, FloatArray]:
        """Centre (modes,) and axes (modes, 19) of the scores of subjects 0 to 19.

        The modes are orthonormal, so principal components of the scores are those of the shapes. Each axis is
        scaled to one standard deviation.
        """
        scores = self.scores[:, list(TRAINING_SUBJECTS)]
        centre = scores.mean(axis=1)
        count = scores.shape[1]
        axes, lengths, _ = np.linalg.svd(scores - centre[:, None], full_matrices=False)
        return centre, axes[:, : count - 1] * (lengths[: count - 1] / np.sqrt(count - 1))

    def draw_scores(self, rng: np.random.Generator, limit: float = 2.0) -> FloatArray:
        """Draw the scores (modes,) of a new subject from the training subjects' normal distribution.

        Parameters
        ----------
        rng : numpy.random.Generator
            The source of chance.
        limit : float
            Each component is drawn again until it lies within this many standard deviations.
        """
        centre, axes = self.training_basis
        scores: FloatArray = centre + axes @ truncated_normal(rng, axes.shape[1], limit)
        return scores

    def meshes(self, scores: FloatArray) -> dict[str, Mesh]:
        """Return the closed surfaces of ``STRUCTURES`` for scores (modes,), RAS+ mm."""
        nodes = self.mean + self.modes @ scores
        nodes_ras = nodes.T * [-1.0, -1.0, 1.0]
        return {name: Mesh(s.weights @ nodes_ras, s.faces) for name, s in self.surfaces.items()}


def load_shape_model(fineness: int = 3) -> ShapeModel:
    """Load the shape model from the installed package.

    Parameters
    ----------
    fineness : int
        The fine lattice has this many steps for each step between an element's nodes.

    Raises
    ------
    MissingPackageError
        If ``musculoskeletal-models`` is not installed.
    ModelError
        If its files are not those of version 0.2.4.
    """
    data = _ArraysOnly(io.BytesIO(_read("shape_models/LLP26_rigid.pc"))).load()
    grids = [_Grid.parse(json.loads(_read(f"atlas_meshes/{name}.mesh"))) for name in _MESHES]
    nodes = sum(grid.points for grid in grids)
    mean = data["mean"].reshape(3, -1)
    if mean.shape[1] != nodes:
        raise ModelError(f"a shape model of {mean.shape[1]} nodes", f"{nodes}", "install version 0.2.4")
    surfaces: dict[str, Surface] = {}
    first = 0
    for name, grid in zip(_MESHES, grids, strict=True):
        whole = grid.refine(fineness, first, nodes)
        surfaces |= _name_parts(name, _split(whole), mean)
        first += grid.points
    ordered = {name: _facing_out(surfaces[name], mean) for name in STRUCTURES}
    return ShapeModel(mean, data["modes"].reshape(3, nodes, -1), data["projectedWeights"], ordered)


def truncated_normal(rng: np.random.Generator, size: int, limit: float) -> FloatArray:
    """Draw standard normal numbers (size,), each again until it lies within +-limit."""
    values = rng.standard_normal(size)
    while (far := np.abs(values) > limit).any():
        values[far] = rng.standard_normal(int(far.sum()))
    return values


def _read(path: str) -> bytes:
    try:
        return (resources.files("musculoskeletal.models") / path).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise MissingPackageError(
            "the bones' shape model (musculoskeletal-models) is not installed",
            "musculoskeletal-models 0.2.4",
            install_hint("phantom"),
        ) from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays; refuses everything else, since a pickle can name any function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED_PICKLES:
            raise ModelError(f"a shape model that asks for {module}.{name}", "NumPy arrays only")
        return super().find_class(module, name)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Elements of a mesh: the type of each and the united numbers of its nodes."""

    types: list[str]
    nodes: list[IntArray]

    @property
    def points(self) -> int:
        return int(max(n.max() for n in self.nodes)) + 1

    @classmethod
    def parse(cls, mesh: dict[str, Any]) -> "_Grid":
        """Give each united point the next number, in the order in which the elements name them."""
        types = [str(mesh["elements"][key]).split()[1] for key in sorted(mesh["elements"], key=int)]
        numbers: dict[tuple[int, int], int] = {}
        elements = []
        count = 0
        for element, kind in enumerate(types):
            ids = []
            for node in range(sum(_LATTICES[kind])):
                if (element, node) not in numbers:
                    numbers[element, node] = count
                    for twin in mesh["connectivity"][f"{element}_{node}"].split():
                        other, other_node = twin.split("_")
                        numbers[int(other), int(other_node)] = count
                    count += 1
                ids.append(numbers[element, node])
            elements.append(np.array(ids))
        return cls(types, elements)

    def refine(self, fineness: int, first: int, nodes: int) -> Surface:
        """Evaluate the elements on a finer lattice; ``first`` is this mesh's first of all ``nodes``."""
        steps = fineness * (max(len(_LATTICES[t]) for t in self.types) - 1)
        rows: list[IntArray] = []
        columns, values, faces = list(rows), list[FloatArray](), list(rows)
        count = 0
        bases = {
            t: (_basis(_LATTICES[t], steps), _lattice_faces(_LATTICES[t], steps)) for t in set(self.types)
        }
        for kind, ids in zip(self.types, self.nodes, strict=True):
            basis, triangles = bases[kind]
            point, node = np.nonzero(basis)
            rows.append(point + count)
            columns.append(ids[node] + first)
            values.append(basis[point, node])
            faces.append(triangles + count)
            count += len(basis)
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return _weld(
            Surface(sparse.csr_array(entries, shape=(count, nodes)), np.concatenate(faces).astype(np.int32))
        )


def _basis(lattice: tuple[int, ...], steps: int) -> FloatArray:
    """Return the Lagrange basis (fine points, nodes) of an element, row by row of the fine lattice."""
    degree_u, degree_v = lattice[0] - 1, len(lattice) - 1
    if lattice[-1] == 1:
        fine = [(u, v, steps - u - v) for v in range(steps + 1) for u in range(steps + 1 - v)]
        coarse = [(u, v, degree_u - u - v) for v in range(degree_u + 1) for u in range(degree_u + 1 - v)]
        ramp = _ramps(degree_u, steps)
        return np.array([[ramp[a, i] * ramp[b, j] * ramp[c, k] for a, b, c in coarse] for i, j, k in fine])
    along_u, along_v = _lagrange(degree_u, steps), _lagrange(degree_v, steps)
    basis: FloatArray = np.einsum("vb,ua->vuba", along_v, along_u)
    return basis.reshape((steps + 1) ** 2, -1)


def _lagrange(degree: int, steps: int) -> FloatArray:
    """Return the Lagrange polynomials (steps + 1, degree + 1) of equally spaced nodes on [0, 1]."""
    x = np.arange(steps + 1) * degree / steps
    columns = [
        np.prod([(x - m) / (n - m) for m in range(degree + 1) if m != n], axis=0) for n in range(degree + 1)
    ]
    return np.stack(columns, axis=1)


def _ramps(degree: int, steps: int) -> FloatArray:
    """Return the factors (degree + 1, steps + 1) of a triangle's basis: zero at nodes 0..n-1, one at n."""
    x = np.arange(steps + 1) * degree / steps
    return np.stack(
        [
            np.prod([np.ones(steps + 1)] + [(x - m) / (n - m) for m in range(n)], axis=0)
            for n in range(degree + 1)
        ]
    )


def _lattice_faces(lattice: tuple[int, ...], steps: int) -> IntArray:
    """Return the triangles (m, 3) of a fine lattice, all wound alike."""
    lengths = [steps + 1 - v if lattice[-1] == 1 else steps + 1 for v in range(steps + 1)]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    faces = []
    for v in range(steps):
        for u in range(lengths[v] - 1):
            here, above = starts[v] + u, starts[v + 1] + u
            faces.append((here, here + 1, above))
            if u + 1 < lengths[v + 1]:
                faces.append((here + 1, above + 1, above))
    return np.array(faces, dtype=np.int64)


def _weld(surface: Surface) -> Surface:
    """Unite points that are the same weighted sum of nodes, and drop triangles that vanish by it."""
    # Points on a shared edge have equal weights, so they agree for nodes put anywhere.
    anywhere = np.random.default_rng(0).random((surface.weights.shape[1], 3))
    keys = np.round(surface.weights @ anywhere, 9)
    _, first, united = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = united.reshape(-1).astype(np.int32)[surface.faces]
    whole = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    return Surface(surface.weights[first], faces[whole])


def _split(surface: Surface) -> list[Surface]:
    """Return the connected parts."""
    count = surface.weights.shape[0]
    edges = surface.faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = sparse.csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    parts, part_of = sparse.csgraph.connected_components(graph, directed=False)
    surfaces = []
    for part in range(parts):
        points = np.flatnonzero(part_of == part)
        number = np.full(count, -1, np.int32)
        number[points] = np.arange(len(points))
        faces = surface.faces[part_of[surface.faces[:, 0]] == part]
        surfaces.append(Surface(surface.weights[points], number[faces]))
    return surfaces


def _name_parts(mesh: str, parts: list[Surface], mean: FloatArray) -> dict[str, Surface]:
    """Name the parts of a mesh by where they lie on the mean shape (LPS)."""
    x = [float((part.weights @ mean.T)[:, 0].mean()) for part in parts]
    by_x = [parts[n] for n in np.argsort(x)]
    if mesh.startswith("pelvis"):
        names: tuple[str, ...] = ("right_hip", "sacrum", "left_hip")
    elif mesh.startswith("tibia"):
        names = ("tibia", "fibula")
    else:
        names = (mesh.split("_")[0],)
    return dict(zip(names, by_x, strict=True))


def _facing_out(surface: Surface, mean: FloatArray) -> Surface:
    if Mesh(surface.weights @ mean.T, surface.faces).volume_mm3 < 0:
        return Surface(surface.weights, surface.faces[:, ::-1])
    return surface
