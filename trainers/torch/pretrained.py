"""U-Nets of segmentation-models-pytorch, whose encoders ImageNet may have taught (the report's 4.5.3)."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

from seg_core.errors import MissingPackageError, ModelError, install_hint
from trainers.torch import checkpoint


def pretrained_unet(encoder: str, classes: int, channels: int, weights: str = "random") -> torch.nn.Module:
    """Build smp's U-Net on an encoder.

    Parameters
    ----------
    encoder : str
        Its name in smp.
    classes, channels : int
        Of the output and the input.
    weights : str
        See `trainers.torch.network.build_network`.

    Raises
    ------
    MissingPackageError
        If segmentation-models-pytorch is not installed.
    ModelError
        If the weights cannot be had.
    """
    smp = _import_smp()
    loader = weights if weights == "imagenet" else None
    from_file = weights not in ("imagenet", "random")
    try:
        network: torch.nn.Module = smp.Unet(
            encoder, encoder_weights=loader, in_channels=3 if from_file else channels, classes=classes
        )
    except Exception as error:  # the hub's client raises dozens of kinds
        if loader is None:
            raise
        raise ModelError(
            f"the {weights} weights of {encoder} could not be loaded: {error}",
            fix="connect to the internet once, or name a file with the encoder's weights",
        ) from error
    if from_file:
        _fill_encoder(network.encoder, Path(weights), channels)
    return network


def _fill_encoder(encoder: Any, path: Path, channels: int) -> None:
    """Load a file's weights, made for three channels, as smp loads its own."""
    try:
        encoder.load_state_dict(checkpoint.read(path))
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{path} does not fit the encoder: {error}", "its state dict, as torchvision publishes it"
        ) from error
    if channels != 3:
        encoder.set_in_channels(channels, pretrained=True)


def _import_smp() -> Any:
    with warnings.catch_warnings():
        # timm and huggingface_hub use what torch and Python have deprecated; nothing that we can mend.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            torchvision_operators()
            import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingPackageError(
                f"segmentation-models-pytorch cannot be imported: {error}", fix=install_hint("torch")
            ) from error
    return smp


@cache
def torchvision_operators() -> torch.library.Library | None:
    """Let torchvision import where it has no binary for the installed build of torch.

    Its import registers fake kernels for two of its compiled operators and fails where those do not exist;
    smp imports it, but never calls them. They are declared only where torchvision's own library is missing.
    """
    try:
        import torchvision  # type: ignore[import-untyped]  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                library.define(schema)  # type: ignore[no-untyped-call]
        return library
    return None
