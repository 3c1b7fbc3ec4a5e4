"""What every exporter takes and gives back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from exporters.parity import Parity, Tolerance
from seg_core.errors import ModelError, UsageError
from seg_core.model_spec import ModelSpec


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Parameters
    ----------
    weights : {"float32", "float16"}
        Type in which the file stores weights. What rounding to float16 may change has a limit of its own
        (`exporters.parity.ROUNDING`).
    tolerance : Tolerance
        Of the gate.
    """

    weights: Literal["float32", "float16"] = "float32"
    tolerance: Tolerance = field(default_factory=Tolerance)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Parameters
    ----------
    path : Path
    sha256 : str
        Of the file.
    parity : Parity
        How far the file, run by ONNX Runtime, is from the framework's network with the weights that it holds.
    difference : Parity
        How far it is from the framework's network as it was trained: with weights in float32 the same.
    spec : ModelSpec
        The description in it.
    """

    path: Path
    sha256: str
    parity: Parity
    difference: Parity
    spec: ModelSpec


def check_samples(spec: ModelSpec, samples: npt.NDArray[np.float32]) -> None:
    """Refuse prepared slices or patches (n, channels, *space) that do not fit the description.

    Raises
    ------
    UsageError
        If they are fewer than two, of another type or another number of channels, or the layout is not NCHW.
    """
    if spec.layout != "NCHW":
        raise UsageError(f"layout {spec.layout}", "NCHW: exported networks have channels first")
    space = spec.patch or samples.shape[2:4]
    if (
        samples.shape[2:] != space
        or len(space) < 2
        or len(samples) < 2
        or samples.shape[1] != spec.channels
        or samples.dtype != np.float32
    ):
        raise UsageError(
            f"samples {samples.dtype} {samples.shape}",
            f"float32 (2 or more, {spec.channels}, {spec.patch or 'rows, columns'})",
        )


def check_classes(spec: ModelSpec, logits: npt.NDArray[np.float32]) -> None:
    """Refuse logits (n, classes + 1, rows, columns) of another number of classes than the description's.

    Raises
    ------
    ModelError
        If so.
    """
    if logits.shape[1] != len(spec.classes) + 1:
        raise ModelError(f"{logits.shape[1]} output channels", f"{len(spec.classes)} classes and background")
