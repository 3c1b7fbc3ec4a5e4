"""Exporters, found by entry point under their trainer's name: another party's come with its trainer."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from exporters.options import Exported, ExportOptions
from seg_core.errors import MissingPackageError, UsageError, install_hint
from seg_core.model_spec import ModelSpec

GROUP = "lls.exporters"


class Exporter(Protocol):
    """What an exporter's module has."""

    def load(self, path: Path) -> tuple[Any, dict[str, Any]]:
        """Read a checkpoint of the trainer: the network, ready to infer, and the facts beside it.

        Raises
        ------
        ModelError
            If it cannot be read.
        """
        ...

    def export(
        self,
        network: Any,
        spec: ModelSpec,
        path: Path,
        samples: npt.NDArray[np.float32],
        options: ExportOptions | None = None,
    ) -> Exported:
        """Write a network that ``load`` gave as a model file, or refuse; see `exporters.torch.export`."""
        ...


def get_exporter(trainer: str) -> Exporter:
    """Return the exporter of a trainer's networks.

    Raises
    ------
    UsageError
        If there is none.
    MissingPackageError
        If its framework is not installed.
    """
    points = entry_points(group=GROUP)
    for point in points.select(name=trainer):
        try:
            exporter: Exporter = point.load()
        except ImportError as error:
            raise MissingPackageError(
                f"the exporter {trainer} cannot be imported: {error}", fix=install_hint(trainer)
            ) from error
        return exporter
    raise UsageError(f"networks of the trainer {trainer!r}", f"one of {', '.join(sorted(points.names))}")
