"""What a network's file says about itself: JSON under one metadata key of the ONNX file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any, Literal, get_args, get_origin, get_type_hints

from seg_core.errors import ModelError

METADATA_KEY = "lls.model_spec"
FORMAT_VERSION = 1


def _check_words(part: Any) -> None:
    """Refuse a word that a field does not have: it would be taken for another one."""
    for name, hint in get_type_hints(type(part)).items():
        if get_origin(hint) is Literal and getattr(part, name) not in get_args(hint):
            wanted = ", ".join(map(str, get_args(hint)))
            raise ModelError(f"{name} {getattr(part, name)!r} in a model description", wanted)


@dataclass(frozen=True)
class Grid:
    """The pixels that the network wants.

    Parameters
    ----------
    kind : {"size", "spacing", "nnunet"}
        ``size``: every slice is resized to ``size`` whatever its millimetres, as in the report.
        ``spacing``: slices are resized to ``spacing_mm`` a pixel and padded to a multiple of ``multiple``.
        ``nnunet``, for a network of patches: cut to what is not 0 and resampled to ``spacing_mm`` and
        ``slice_mm`` as nnU-Net does (`seg_core.nnunet_grid`).
    size : tuple of int
        (rows, columns), for ``kind="size"``.
    spacing_mm : tuple of float
        (row, column) distance in mm, for the other kinds.
    multiple : int
        What the network's number of rows and columns must be divisible by.
    slice_mm : float, optional
        Of a 3D network, the distance of slices that it wants; by default the scan's own slices, whatever
        their distance.
    """

    kind: Literal["size", "spacing", "nnunet"] = "size"
    size: tuple[int, int] = (256, 256)
    spacing_mm: tuple[float, float] = (1.875, 1.875)
    multiple: int = 32
    slice_mm: float | None = None

    def __post_init__(self) -> None:
        _check_words(self)


@dataclass(frozen=True)
class Normalisation:
    """Intensity to [0, 1], clipped; or to a mean of 0 and a standard deviation of 1, as nnU-Net does.

    Parameters
    ----------
    kind : {"divide", "minmax", "percentile", "zscore", "zscore_nonzero", "fixed"}
        ``divide`` by ``high``; ``minmax`` over the volume; ``percentile``: the volume's percentiles
        ``low`` and ``high`` become 0 and 1. ``zscore``: mean and deviation of the smallest box that holds all
        voxels but 0; ``zscore_nonzero``: of all voxels but those 0 that reach the volume's border, which stay
        0. ``fixed``: clipped to ``low`` and ``high``, then by ``mean`` and ``sd``.
    low, high, mean, sd : float
        See ``kind``.
    """

    kind: Literal["divide", "minmax", "percentile", "zscore", "zscore_nonzero", "fixed"] = "minmax"
    low: float = 0.0
    high: float = 255.0
    mean: float = 0.0
    sd: float = 1.0

    def __post_init__(self) -> None:
        _check_words(self)


@dataclass(frozen=True)
class Denoise:
    """Parameters of the adaptive denoiser (report 4.7).

    Parameters
    ----------
    fraction : float
        A component smaller than this share of its class's pixels in the slice is noise.
    minimum_pixels : int
        ... and so is one with fewer pixels than this, on the scan's own grid; where these are larger than the
        network's, one of less than that many of the network's.
    connectivity : {4, 8}
        Neighbours of a pixel.
    volume_fraction : float
        Across slices: a component of a bone with less than this share of its largest one's voxels is noise.
    fill_holes : bool
        Whether holes in a slice become the class around them.
    """

    fraction: float = 0.1
    minimum_pixels: int = 5
    connectivity: Literal[4, 8] = 8
    volume_fraction: float = 0.1
    fill_holes: bool = True

    def __post_init__(self) -> None:
        _check_words(self)


@dataclass(frozen=True)
class Twin:
    """Says that a file computes another one's labels in fewer bits, and how well.

    Parameters
    ----------
    precision : {"fp16", "int8"}
        In what it computes.
    of : str
        sha256 of the file in float32.
    agreement : mapping of str to float
        DSC of each class against that file, over the slices on which they were compared; a class that
        these hardly show is not in it.
    slices : int
        How many these were.
    """

    precision: Literal["fp16", "int8"]
    of: str
    agreement: Mapping[str, float]
    slices: int

    def __post_init__(self) -> None:
        _check_words(self)


@dataclass(frozen=True)
class ModelSpec:
    """Everything that the runner must know about a network.

    Parameters
    ----------
    name : str
        The network's name.
    classes : tuple of str
        Names of the values 1, 2, ...; 0 is background.
    sided : bool
        Whether the classes come in pairs, right and left, told apart after inference.
    layout : {"NCHW", "NHWC"}
        Axes of the input ``image``; rows and columns as in ``orientation``.
    channels : int
        Number of input channels.
    channel_fill : {"repeat", "neighbours"}
        The same slice in each channel, or slices around it in order.
    neighbour_mm : float
        How far apart the slices of neighbouring channels lie, to the nearest slice; 0: slices in a row,
        whatever their distance.
    grid : Grid
        The pixels that the network wants.
    normalisation : Normalisation
        What becomes 0 and 1.
    orientation : str
        Direction in which columns, rows and slices increase: ``"LPS"`` is the radiological axial view.
    denoise : Denoise
        Cleaning that suits this network.
    temperature : float
        Logits are divided by it where the confidence is computed, so that of voxels with a confidence of 0.9
        nine in ten are right; changes no label. Fitted on validation data (Guo et al., On calibration of
        modern neural networks, ICML 2017).
    provenance : mapping
        Free JSON: framework, versions, training data, scores, licence, intended use.
    patch : tuple of int, optional
        (slices, rows, columns) that a 3D network sees at once. Its input is (n, channels, *patch), its only
        output ``logits``; it is slid over the volume (`seg_core.sliding`). By default networks see slices.
    overlap : float
        Share of a patch that the next one covers again, at least.
    usual_mm : mapping of str to float
        Thickness of the shafts of people whom a network of slices knows best, as `seg_core.apparent_size`
        measures it; smaller people are magnified until theirs seem as thick. Empty: nobody is.
    limb_range : bool
        Whether only slices that show the limb are kept (`seg_core.limb_range`).
    twin : Twin, optional
        Of a file that computes in fewer bits.
    format_version : int
        Of this description.
    """

    name: str
    classes: tuple[str, ...]
    sided: bool = True
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: int = 3
    channel_fill: Literal["repeat", "neighbours"] = "repeat"
    neighbour_mm: float = 0.0
    grid: Grid = field(default_factory=Grid)
    normalisation: Normalisation = field(default_factory=Normalisation)
    orientation: str = "LPS"
    denoise: Denoise = field(default_factory=Denoise)
    temperature: float = 1.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    patch: tuple[int, int, int] | None = None
    overlap: float = 0.5
    usual_mm: Mapping[str, float] = field(default_factory=dict)
    limb_range: bool = True
    twin: Twin | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not 0 < self.temperature < inf:
            raise ModelError(f"a temperature of {self.temperature}", "a positive number", "fit it again")
        most = 127 if self.sided else 255
        if not 1 <= len(self.classes) <= most:
            raise ModelError(f"{len(self.classes)} classes", f"1 to {most}, as labels are bytes")
        if not set(self.usual_mm) <= set(self.classes) or not all(mm > 0 for mm in self.usual_mm.values()):
            raise ModelError(f"shafts of {dict(self.usual_mm)} mm", "classes, with positive millimetres")
        if self.usual_mm and (self.grid.kind != "spacing" or self.patch is not None):
            raise ModelError("small people to magnify", "a network of slices on pixels in millimetres")
        _check_words(self)

    def magnified(self, size: float) -> "ModelSpec":
        """Return the description for people of a size, of a usual person's: on pixels as much smaller."""
        rows, columns = self.grid.spacing_mm
        grid = replace(self.grid, spacing_mm=(rows * size, columns * size))
        return replace(self, grid=grid, neighbour_mm=self.neighbour_mm * size)

    def to_json(self) -> str:
        """Return the description as JSON with sorted keys, the same bytes for equal descriptions."""
        facts = asdict(self)
        if not self.usual_mm:  # as they were before there was magnification
            del facts["usual_mm"]
        return json.dumps(facts, sort_keys=True, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Read a description.

        Raises
        ------
        ModelError
            If it is no JSON, of a newer format, or lacks or misspells a field.
        """
        try:
            raw = json.loads(text)
            version = raw["format_version"]
            if version > FORMAT_VERSION:
                raise ModelError(
                    f"a model description of format {version}",
                    f"format {FORMAT_VERSION} or older",
                    "install a newer lls",
                )
            raw["classes"] = tuple(raw["classes"])
            grid = raw["grid"] | {
                "size": tuple(raw["grid"]["size"]),
                "spacing_mm": tuple(raw["grid"]["spacing_mm"]),
            }
            raw["grid"] = Grid(**grid)
            raw["normalisation"] = Normalisation(**raw["normalisation"])
            raw["denoise"] = Denoise(**raw["denoise"])
            if raw.get("patch") is not None:
                raw["patch"] = tuple(raw["patch"])
            if raw.get("twin") is not None:
                raw["twin"] = Twin(**raw["twin"])
            return cls(**raw)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"a model description that cannot be read: {error!r}",
                "JSON as `lls info` shows it",
                "export the model again",
            ) from error
