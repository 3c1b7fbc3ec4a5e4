"""Opened cases: scan and labels in memory, planes of them as bytes, and which stay open."""

import asyncio
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gui.viewer.case import Case
from gui.viewer.painting import Painting, Stroke, write_correction
from seg_core.colours import bone_colours
from seg_core.comparison import mask_of_one
from seg_core.errors import GeometryError, LlsError, ScanError, UsageError
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import BONES, sided_labels
from seg_core.mesh import surface
from seg_core.metrics import evaluate
from seg_core.moments import label_moments
from seg_core.nifti import read_labels
from seg_core.planes import PLANES, Plane, Planes
from seg_core.ply import Mesh, read_ply
from seg_core.scan import read_scan
from seg_core.views import display_window

Layer = Literal["labels", "other"]


@dataclass(eq=False)
class OpenedCase:
    """A case in memory.

    Parameters
    ----------
    case : Case
        Where it comes from.
    volume : Volume
        The scan.
    painting : Painting
        Its labels, which can be corrected.
    other : LabelMap or None
        What they are compared with.
    corrections : Path or None
        Folder that takes corrected label maps; without it nothing is kept.

    Attributes
    ----------
    lock : threading.RLock
        Held by who changes the labels or reads them whole.
    """

    case: Case
    volume: Volume
    painting: Painting
    other: LabelMap | None = None
    corrections: Path | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, init=False)

    def __post_init__(self) -> None:
        self.planes = Planes(self.volume.geometry)
        low, high = float(self.volume.array.min()), float(self.volume.array.max())
        whole = self.volume.array.dtype.kind in "iub" and high - low <= 65535
        self.low, self.step = low, 1.0 if whole else max((high - low) / 65535, 1e-30)

    def image(self, plane: Plane, level: int) -> bytes:
        """Return a plane of the scan, row by row, as uint16, little endian: ``(value - low) / step``."""
        pixels = self.planes.cut(self.volume.array, plane, level)
        if self.step == 1 and pixels.dtype.itemsize <= 2:  # differences of 16 bits are right modulo 2 ** 16
            return (pixels.astype("<u2") - np.uint16(int(self.low) % 65536)).tobytes()
        scaled = (pixels.astype(np.float64) - self.low) / self.step
        return np.clip(np.rint(scaled), 0, 65535).astype("<u2").tobytes()

    def labels(self, layer: Layer, plane: Plane, level: int) -> bytes:
        """Return a plane of the labels, row by row, as uint8."""
        if layer == "other":
            if self.other is None:
                raise ScanError("no second label map is open")
            return self.planes.cut(self.other.array, plane, level).tobytes()
        with self.lock:
            return self.planes.cut(self.painting.array, plane, level).tobytes()

    def bone(self, value: int) -> bytes:
        """Return the surface of a bone, see :func:`pack`; its origin is the middle of the scan."""
        names = self.painting.original.labels
        if value not in names:
            raise ScanError(f"no bone {value}")
        given = self.case.meshes.get(names[value])
        if given is not None and value not in self.painting.changed_at:
            mesh = read_ply(given)
        else:  # without the lock, which strokes would wait for: what they change meanwhile is drawn later
            mesh = surface(self.painting.labelmap, value)
        middle = self.volume.geometry.to_world((np.array(self.volume.geometry.shape) - 1) / 2)
        return pack(mesh, middle)

    @property
    def colours(self) -> dict[int, tuple[int, int, int]]:
        """Colour of each label."""
        return bone_colours(self.names)

    @property
    def names(self) -> Mapping[int, str]:
        """Names of the labels of both label maps."""
        return {**(self.other.labels if self.other else {}), **self.painting.original.labels}

    def facts(self) -> dict[str, Any]:
        """Return what the browser needs to know, as plain JSON values; nothing of it names the patient."""
        colours = self.colours
        window = display_window(self.volume.array)
        return {
            "name": self.case.name,
            "shape": list(self.planes.shape),
            "sizes": list(self.planes.sizes),
            "affine": self.planes.affine.tolist(),
            "flipped": [self.planes.stored(plane, 0) != 0 for plane in ("sagittal", "coronal", "axial")],
            "low": self.low,
            "step": self.step,
            "top": self.low + 65535 * self.step if self.step != 1 else float(self.volume.array.max()),
            "window": list(window),
            "bones": [
                {"value": value, "name": name.replace("_", " "), "colour": list(colours[value])}
                for value, name in sorted(self.names.items())
            ],
            "start": self._start(),
            "compare": self.other is not None,
            "scores": self.scores(),
        }

    def _start(self) -> list[int]:
        """Return the index (left, back, head) in the middle of the largest bone, else of the scan."""
        found = label_moments(self.painting.array)
        if not found:
            return [n // 2 for n in self.planes.shape]
        largest = max(found.values(), key=lambda moments: moments.voxels)
        point = self.volume.geometry.to_world(largest.mean)
        index = np.linalg.solve(self.planes.affine, [*point, 1])[:3].round().astype(int)
        return [int(n) for n in np.clip(index, 0, np.array(self.planes.shape) - 1)]

    def edit(self, message: Mapping[str, Any]) -> str:
        """Do what a browser asks for: ``kind`` is stroke, undo, redo or fill; return what is to be said.

        Raises
        ------
        UsageError
            If it asks for what makes no sense.
        """
        with self.lock:
            match message.get("kind"):
                case "stroke":
                    self.painting.apply(Stroke.from_message(message))
                case "undo":
                    self.painting.undo()
                case "redo":
                    self.painting.redo()
                case "fill":
                    return self._fill(message)
                case kind:
                    raise UsageError(f"an edit of kind {kind!r}", "stroke, undo, redo or fill")
        return ""

    def _fill(self, message: Mapping[str, Any]) -> str:
        plane, value = message.get("plane"), message.get("value")
        if plane not in PLANES or not isinstance(value, int):
            raise UsageError(f"fill of {value!r} between {plane!r} slices", "a plane and a bone")
        changed = self.painting.fill_between(plane, value, bool(message.get("over")))
        return f"{changed} voxels drawn between the slices" if changed else "nothing to fill"

    def save(self, folder: Path) -> Path:
        """Write the labels as they are under a new name; return where. See :func:`write_correction`."""
        return self._write(folder, "corrected")

    def recover(self, folder: Path) -> Path | None:
        """Write corrections that nobody has saved, as a page does that is closed; None if there are none."""
        with self.lock:
            return self._write(folder, "recovered") if self.painting.unsaved else None

    def _write(self, folder: Path, kind: str) -> Path:
        with self.lock:
            path = write_correction(self.painting.labelmap, folder, self.case.name, kind)
            self.painting.mark_saved()
        return path

    def scores(self) -> dict[int, float]:
        """Return the Dice coefficient of both label maps by bone, where one of them has it."""
        if self.other is None:
            return {}
        with self.lock:
            dsc = evaluate(self.painting.labelmap, self.other, n_labels=max(self.names)).dsc
        alone = len(self.other.labels) == 1  # it says nothing of other bones
        names = self.other.labels if alone else self.names
        return {value: float(dsc[value - 1]) for value in names if np.isfinite(dsc[value - 1])}


def pack(mesh: Mesh, origin: npt.ArrayLike = (0.0, 0.0, 0.0)) -> bytes:
    """Return a surface as numbers of points and faces, points in RAS+ mm from an origin, and faces.

    uint32, float32, uint32; little endian.
    """
    counts = np.array([len(mesh.vertices_mm), len(mesh.faces)], "<u4")
    points = (mesh.vertices_mm - np.asarray(origin)).astype("<f4")
    return b"".join(part.tobytes() for part in (counts, points, mesh.faces.astype("<u4")))


def open_case(case: Case) -> OpenedCase:
    """Read a case.

    Raises
    ------
    LlsError
        If a file cannot be read.
    GeometryError
        If labels do not lie on the scan's grid.
    """
    volume = read_scan(case.scan, case.series).volume
    geometry = volume.geometry
    if case.labels is None:
        empty = np.zeros(geometry.shape, np.uint8, order="F")
        labels = LabelMap(empty, geometry, sided_labels(BONES))
    else:
        labels = _on_grid(read_labels(case.labels), geometry, case.labels.name)
    other = None if case.other is None else _other_labels(case.other, labels, geometry)
    return OpenedCase(case, volume, Painting(labels), other)


def _other_labels(path: Path, labels: LabelMap, geometry: Geometry) -> LabelMap:
    other = read_labels(path)
    return _on_grid(mask_of_one(other, path, labels.labels) or other, geometry, path.name)


def _on_grid(labels: LabelMap, geometry: Geometry, name: str) -> LabelMap:
    if not labels.geometry.is_close(geometry, tolerance_mm=0.1):
        raise GeometryError(
            f"{name} has a grid of {labels.geometry.shape} that is not the scan's",
            f"the scan's own, {geometry.shape}, in the same place",
            "choose the scan and the labels that belong together",
        )
    # What is written lies on the scan's affine, not on one that was rounded in a file.
    return LabelMap(labels.array, geometry, labels.labels)


class OpenedCases:
    """The cases that are open, by keys that cannot be guessed.

    Parameters
    ----------
    limit : int
        How many stay open; beyond it the one that nobody has looked at for longest is closed, unless it
        holds corrections that are not saved. Who shows a case keeps its key alone, so that its memory is free
        then.

    Attributes
    ----------
    turn : asyncio.Semaphore
        Held by who reads a case: two at a time, each needs the memory of its scan.
    """

    def __init__(self, limit: int = 4) -> None:
        self._limit = limit
        self.turn = asyncio.Semaphore(2)
        self._cases: OrderedDict[str, OpenedCase] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, opened: OpenedCase) -> str:
        """Keep a case open; return its key."""
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._cases[key] = opened
            idle = [k for k, case in self._cases.items() if k != key and not case.painting.unsaved]
            for old in idle[: max(0, len(self._cases) - self._limit)]:
                del self._cases[old]
        return key

    def get(self, key: str) -> OpenedCase | None:
        """Return an open case, None where it has been closed."""
        with self._lock:
            if key in self._cases:
                self._cases.move_to_end(key)
            return self._cases.get(key)

    def close(self, key: str) -> None:
        """Forget a case; nothing happens if it is not open."""
        with self._lock:
            self._cases.pop(key, None)

    def leave(self, key: str) -> None:
        """Close a case whose page has gone, as that of a laptop that sleeps, and keep what was not saved.

        Nothing is kept of a result that was deleted.
        """
        case = self.get(key)
        try:
            if case is not None and case.corrections is not None and case.corrections.parent.is_dir():
                case.recover(case.corrections)
        except (LlsError, OSError):
            logging.getLogger(__name__).exception("corrections were lost")
        finally:
            self.close(key)

    def leave_all(self) -> None:
        """Close all, when the server ends."""
        for key in list(self._cases):
            self.leave(key)
