"""A model folder that nnU-Net v2 trained -> a model file of lls.

nnU-Net itself is not needed, only the package of its networks. What its predictor does besides (mirroring at
test time, post-processing found in cross-validation) is left out.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter

from exporters.options import Exported, ExportOptions
from exporters.run import PATCHES
from exporters.scans import scan_patches
from exporters.torch import export
from seg_core.errors import MissingPackageError, ModelError, UsageError, install_hint
from seg_core.model_spec import Denoise, Grid, ModelSpec, Normalisation
from seg_core.scan import read_scan
from trainers.torch import checkpoint
from trainers.torch.nnunet import plain_conv_unet

NETWORKS = "dynamic_network_architectures.architectures."
UNTOUCHED = Denoise(fraction=0.0, minimum_pixels=0, volume_fraction=0.0, fill_holes=False)


@dataclass(frozen=True)
class NnUNetExport:
    """What to make of a model folder.

    Parameters
    ----------
    name : str
        The network's name; by default the dataset's and the configuration's.
    folds : tuple of str
        Those whose logits are averaged; all that were trained to the end, by default.
    orientation : str
        How the training scans were stored: direction in which i, j, k increase. nnU-Net does not look at it,
        unless its reader turns all scans to RAS, which the plans say and which goes first.
    checkpoint : {"final", "best", "latest"}
        Which of nnU-Net's checkpoints is taken of each fold.
    options : ExportOptions
        Weights and tolerance.
    scans : tuple of Path
        On patches of them the gate compares, as the runner prepares them; by default on smooth noise.
    """

    name: str = ""
    folds: tuple[str, ...] = ()
    orientation: str = "LPS"
    checkpoint: str = "final"
    options: ExportOptions = field(default_factory=ExportOptions)
    scans: tuple[Path, ...] = ()


def export_nnunet(folder: Path, path: Path, request: NnUNetExport | None = None) -> Exported:
    """Write a model that nnU-Net trained as a model file, after comparing the two on patches.

    Parameters
    ----------
    folder : Path
        ``nnUNetTrainer__nnUNetPlans__3d_fullres`` or the like: plans.json, dataset.json and
        fold_*/checkpoint_final.pth. What else nnU-Net leaves there is not read.
    path : Path
        The file; replaced if it is there.
    request : NnUNetExport, optional
        What to make of it.

    Raises
    ------
    ModelError
        If the folder is not such a one, has what the runner cannot do (cascades, several channels, regions,
        another normalisation or resampling), its trainer built another network than the plans say, or the
        gate refuses.
    UsageError
        If there is no such fold, or no such orientation.
    ScanError
        If a scan cannot be read.
    MissingPackageError
        If dynamic-network-architectures is not installed.
    OutputError
        If the file cannot be written.
    """
    request = request or NnUNetExport()
    plans, dataset = _json(folder / "plans.json"), _json(folder / "dataset.json")
    try:
        files = _folds(folder, request)
        states = [_checkpoint(file) for file in files]
        chosen = states[0]["init_args"]["configuration"]
        configuration = _configuration(plans["configurations"], chosen)
        spec = describe(plans, dataset, configuration, request)
        spec = replace(spec, provenance=dict(spec.provenance) | {"trained_as": _origin(files, states[0])})
        networks = [_trained(configuration, len(spec.classes) + 1, state) for state in states]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{folder} cannot be understood: {error!r}", "a model folder of nnU-Net v2, trained to its end"
        ) from error
    both = _Together(networks, flat=len(configuration["patch_size"]) == 2).eval()
    samples = _patches(request.scans, spec) if request.scans else _noise(spec)
    return export(both, spec, path, samples, request.options)


def _origin(files: list[Path], state: Mapping[str, Any]) -> str:
    """Say which checkpoints of which trainer a model is made of."""
    folds = ", ".join(file.parent.name.removeprefix("fold_") for file in files)
    return f"{state.get('trainer_name', 'nnUNetTrainer')}, {files[0].stem} of fold {folds}"


class _Together(torch.nn.Module):
    """Mean logits of the folds' networks; of 2D ones, on patches of one slice."""

    def __init__(self, networks: list[torch.nn.Module], flat: bool) -> None:
        super().__init__()
        self.networks, self.flat = torch.nn.ModuleList(networks), flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes, *patch) of patches (n, channels, *patch)."""
        if self.flat:
            x = x[:, :, 0]
        total = self.networks[0](x)
        for network in self.networks[1:]:
            total = total + network(x)
        mean: torch.Tensor = total / len(self.networks)
        return mean[:, :, None] if self.flat else mean


def describe(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    configuration: Mapping[str, Any],
    request: NnUNetExport,
) -> ModelSpec:
    """Describe a model of nnU-Net for the runner.

    Parameters
    ----------
    plans, dataset : mapping
        As in plans.json and dataset.json.
    configuration : mapping
        One of the plans' configurations, whole.
    request : NnUNetExport
        What to make of it.

    Raises
    ------
    ModelError
        If the runner cannot do what it asks for.
    KeyError
        If something is not said.
    """
    if configuration.get("previous_stage") or len(dataset["channel_names"]) != 1:
        raise ModelError(
            f"a network of {len(dataset['channel_names'])} channels, previous stage"
            f" {configuration.get('previous_stage')!r}",
            "one channel, no cascade",
        )
    _check_resampling(configuration)
    patch, spacing = configuration["patch_size"], configuration["spacing"]
    rows_mm, columns_mm = spacing[-2:]
    return ModelSpec(
        request.name or f"{plans['dataset_name']} {'3d' if len(patch) == 3 else '2d'}",
        _classes(dataset["labels"]),
        sided=False,
        channels=1,
        grid=Grid(
            "nnunet",
            spacing_mm=(rows_mm, columns_mm),
            multiple=1,
            slice_mm=spacing[0] if len(spacing) == 3 else None,
        ),
        normalisation=_normalisation(plans, configuration),
        orientation=_orientation(plans, request.orientation),
        denoise=UNTOUCHED,
        provenance={
            "architecture": configuration["architecture"]["network_class_name"].rpartition(".")[2],
            "framework": "nnU-Net v2",
            "training_data": f"{dataset.get('numTraining', 'unknown number of')} scans"
            f" of {plans['dataset_name']}",
            "intended_use": "research; not for diagnosis",
        },
        patch=(1, patch[0], patch[1]) if len(patch) == 2 else (patch[0], patch[1], patch[2]),
        limb_range=False,
    )


def _check_resampling(configuration: Mapping[str, Any]) -> None:
    """Refuse other resampling than nnU-Net's default, which is the runner's (`seg_core.nnunet_grid`)."""
    for what, order in (("data", 3), ("probabilities", 1)):
        name = configuration[f"resampling_fn_{what}"]
        known = configuration[f"resampling_fn_{what}_kwargs"]
        found = name, known["order"], known["order_z"], known["force_separate_z"]
        if known["is_seg"] or found != ("resample_data_or_seg_to_shape", order, 0, None):
            raise ModelError(
                f"{what} resampled by {name} with {dict(known)}",
                f"resample_data_or_seg_to_shape of order {order}, order_z 0, force_separate_z null",
            )


def _classes(labels: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the values 1, 2, ...; what was to be ignored is not predicted."""
    values = {name: value for name, value in labels.items() if name != "ignore"}
    names = sorted(values, key=lambda name: str(values[name]).zfill(3))
    if [values[name] for name in names] != list(range(len(names))) or len(names) < 2:
        raise ModelError(f"labels {dict(labels)}", "one value a class: 0, 1, 2, ... (no regions)")
    return tuple(names[1:])


def _normalisation(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> Normalisation:
    (scheme,), (masked,) = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
    if scheme == "ZScoreNormalization":
        return Normalisation("zscore_nonzero" if masked else "zscore")
    if scheme == "CTNormalization":
        known = plans["foreground_intensity_properties_per_channel"]["0"]
        return Normalisation(
            "fixed", known["percentile_00_5"], known["percentile_99_5"], known["mean"], known["std"]
        )
    raise ModelError(f"the normalisation {scheme}", "ZScoreNormalization or CTNormalization")


def _orientation(plans: Mapping[str, Any], stored: str) -> str:
    """Return where columns, rows and slices of the network run to.

    nnU-Net's arrays are (k, j, i) of the stored scan, their axes exchanged by ``transpose_forward``.
    """
    if plans["image_reader_writer"].endswith("WithReorient"):
        stored = "RAS"
    stored = stored.upper()
    if len(stored) != 3 or any(sum(x in pair for x in stored) != 1 for pair in ("RL", "AP", "SI")):
        raise UsageError(f"orientation {stored!r}", "one of R L, one of A P, one of S I, as in LPS")
    slices, rows, columns = plans["transpose_forward"]
    return stored[2 - columns] + stored[2 - rows] + stored[2 - slices]


def _configuration(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with all that it inherits, and its architecture."""
    found = dict(configurations[name])
    parent = found.pop("inherits_from", None)
    if parent is not None:
        found = _configuration(configurations, parent) | found
    return found if "architecture" in found else found | {"architecture": _former_architecture(found)}


def _former_architecture(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the architecture of plans from before nnU-Net 2.5: what they do not say was fixed then."""
    modules = {"PlainConvUNet": "unet", "ResidualEncoderUNet": "residual_unet"}
    name, encoder = known["UNet_class_name"], known["n_conv_per_stage_encoder"]
    if name not in modules:
        raise ModelError(f"the architecture {name}", " or ".join(modules))
    dims = len(known["patch_size"])
    most = known["unet_max_num_features"]
    return {
        "network_class_name": f"{NETWORKS}{modules[name]}.{name}",
        "arch_kwargs": {
            "n_stages": len(encoder),
            "features_per_stage": [
                min(known["UNet_base_num_features"] << stage, most) for stage in range(len(encoder))
            ],
            "conv_op": f"torch.nn.Conv{dims}d",
            "kernel_sizes": known["conv_kernel_sizes"],
            "strides": known["pool_op_kernel_sizes"],
            "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage": encoder,
            "n_conv_per_stage_decoder": known["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }


def _trained(configuration: Mapping[str, Any], outputs: int, state: Mapping[str, Any]) -> torch.nn.Module:
    """Return the network of a checkpoint."""
    network = _network(configuration, outputs)
    try:
        network.load_state_dict(state["network_weights"])
    except RuntimeError as error:
        raise ModelError(
            f"{state.get('trainer_name', 'the trainer')} built another network than the plans': {error}",
            "a trainer that keeps the plans' architecture, as nnUNetTrainer does",
        ) from error
    return network


def _network(configuration: Mapping[str, Any], outputs: int) -> torch.nn.Module:
    """Build the network that the plans describe; only nnU-Net's and PyTorch's own classes are let in."""
    plain_conv_unet()  # says what is missing
    known = configuration["architecture"]
    arguments = dict(known["arch_kwargs"])
    for name in known["_kw_requires_import"]:
        if arguments[name] is not None:
            arguments[name] = _imported(arguments[name], "torch.nn.")
    build = _imported(known["network_class_name"], NETWORKS)
    network: torch.nn.Module = build(
        input_channels=1, num_classes=outputs, deep_supervision=False, **arguments
    )
    return network


def _imported(name: str, prefix: str) -> Any:
    if not name.startswith(prefix):
        raise ModelError(f"the architecture's {name}", f"a class of {prefix.rstrip('.')}")
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise MissingPackageError(f"{name}: {error}", fix=install_hint("nnunet")) from error


def _folds(folder: Path, request: NnUNetExport) -> list[Path]:
    """Return the checkpoints of the folds; all by default, those of single folds before that of all data."""
    name = f"checkpoint_{request.checkpoint}.pth"
    files = {file.parent.name.removeprefix("fold_"): file for file in folder.glob(f"fold_*/{name}")}
    missing = [fold for fold in request.folds if fold not in files]
    if missing or not files:
        others = sorted(
            {f"{file.parent.name}/{file.name}" for file in folder.glob("fold_*/checkpoint_*.pth")}
        )
        raise UsageError(
            f"no {name} of {', '.join(missing) or 'any fold'} in {folder}",
            f"some of {', '.join(sorted(files)) or 'fold_0 to fold_4, fold_all'}",
            f"there are {', '.join(others)}: --fold and --checkpoint choose" if others else "",
        )
    single = sorted(fold for fold in files if fold != "all")
    return [files[fold] for fold in request.folds or single or ["all"]]


def _checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; of its log NumPy's numbers are let in too."""
    scalar = np.float64(0).__reduce__()[0]  # what makes a number again; NumPy 1 kept it elsewhere
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    numbers = [np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar"), *kinds]
    with torch.serialization.safe_globals(numbers):
        return checkpoint.read(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "a model folder of nnU-Net v2") from error
    return content


def _patches(scans: Sequence[Path], spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Return patches (n, 1, *patch) of scans, two or more."""
    found = list(scan_patches((read_scan(scan).volume for scan in scans), spec, PATCHES))
    return np.concatenate(found if len(found) > 1 else 2 * found)  # a small scan is a patch alone


def _noise(spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Return two patches of smooth noise of mean 0 and SD 1, as normalised scans have."""
    shape = (2, 1, *(spec.patch or ()))
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(shape), (0, 0, 0, 2, 2), mode="wrap")
    return np.asarray(noise / noise.std(), np.float32)
