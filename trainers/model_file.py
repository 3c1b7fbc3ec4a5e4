"""A model file to begin a training with: its description and its weights."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seg_core.errors import MissingPackageError, ModelError
from seg_core.model_spec import METADATA_KEY, ModelSpec
from seg_core.runner import model_path


def model_file(init: str) -> Path | None:
    """Return the model file that ``TrainConfig.init`` names; None if it names something else."""
    path = model_path(init)
    return path if path.suffix == ".onnx" else None


def read_model(path: Path) -> tuple[ModelSpec, dict[str, npt.NDArray[np.float32]]]:
    """Return a model file's description, and its weights by name.

    Raises
    ------
    ModelError
        If it is no model file of lls.
    MissingPackageError
        If onnx is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingPackageError(f"onnx cannot be imported: {error}", fix="pip install onnx") from error
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf and the file system raise many kinds
        raise ModelError(f"{path} cannot be read: {error}", "a model file of lls") from error
    described = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if not described:
        raise ModelError(f"{path} has no description of lls", fix="name a file that lls export wrote")
    weights = {
        tensor.name.removesuffix(".float16"): numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in model.graph.initializer
    }
    return ModelSpec.from_json(described[0]), weights


def samples_seen(init: str) -> int:
    """Return how many slices the network that ``TrainConfig.init`` names has seen; 0 of no model file."""
    path = model_file(init)
    return int(read_model(path)[0].provenance.get("samples_seen", 0)) if path else 0


def network_of(spec: ModelSpec) -> str:
    """Return a file's network, as ``lls networks`` calls it; the report's where the file does not say."""
    return str(spec.provenance.get("network", "unet-resnet34"))


def channel_settings(spec: ModelSpec) -> dict[str, Any]:
    """Return the fields of a `TrainConfig` that a network's channels ask for."""
    return {name: getattr(spec, name) for name in ("channels", "channel_fill", "neighbour_mm")}


def other_preparation(spec: ModelSpec, data: ModelSpec) -> list[str]:
    """Say how the network's slices were prepared, each where the data's were prepared otherwise."""

    def pixels(some: ModelSpec) -> str:
        grid = some.grid
        if grid.kind == "size":
            return f"slices of {' x '.join(map(str, grid.size))} pixels"
        return f"pixels of {' x '.join(map(str, grid.spacing_mm))} mm"

    def intensities(some: ModelSpec) -> str:
        kind = some.normalisation
        return f"intensities by {kind.kind} ({kind.low:g}, {kind.high:g})"

    def people(some: ModelSpec) -> str:
        thickness = " and ".join(f"{mm:g} mm of a {bone}" for bone, mm in sorted(some.usual_mm.items()))
        return (
            f"small people magnified to shafts of {thickness}" if thickness else "people as large as they are"
        )

    sayings = (pixels, intensities, people)
    return [f"{say(spec)}, not {say(data)}" for say in sayings if say(spec) != say(data)]
