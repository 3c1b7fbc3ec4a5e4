"""The network: segmentation-models-pytorch's U-Net on ResNet34."""

import warnings
from functools import cache
from typing import Any

import torch

from seg_core.errors import MissingPackageError, ModelError, UsageError


def build_network(classes: int, channels: int = 3, weights: str | None = None) -> torch.nn.Module:
    """Build a U-Net on ResNet34 that gives logits.

    Parameters
    ----------
    classes : int
        Number of output channels, the background among them; at least 2.
    channels : int
        Number of input channels.
    weights : {None, "imagenet"}
        The encoder's start: random, or what smp's own loader brings.

    Returns
    -------
    torch.nn.Module
        (n, channels, rows, columns) float32 -> logits (n, classes, rows, columns); rows and
        columns are multiples of 32.

    Raises
    ------
    MissingPackageError
        If segmentation-models-pytorch is not installed.
    ModelError
        If the weights cannot be had.
    """
    if classes < 2 or channels < 1 or weights not in (None, "imagenet"):
        raise UsageError(
            f"{classes} classes, {channels} channels, weights {weights!r}", "2 or more, 1 or more, imagenet"
        )
    smp = _import_smp()
    try:
        network: torch.nn.Module = smp.Unet(
            "resnet34", encoder_weights=weights, in_channels=channels, classes=classes
        )
        return network
    except Exception as error:
        if weights is None:
            raise
        # The hub's client raises dozens of kinds of errors.
        raise ModelError(
            f"the {weights} weights of the encoder could not be loaded: {error}",
            fix="connect to the internet once, or train without them",
        ) from error


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
                f"segmentation-models-pytorch cannot be imported: {error}", fix="pip install 'lls[torch]'"
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
