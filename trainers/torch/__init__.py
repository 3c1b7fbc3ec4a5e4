"""The PyTorch trainer. Importing it does not import torch; making an engine does."""

from trainers.config import TrainConfig
from trainers.loop import Engine
from trainers.registry import Network

_SMP = ("torch", "segmentation_models_pytorch")
_NNUNET = ("torch", "dynamic_network_architectures")

NETWORKS = {
    "unet-resnet34": Network("U-Net on ResNet34 (report 4.5.3)", "torch", packages=_SMP),
    "unet-resnet34-fine": Network(
        "U-Net on ResNet34, pixels half as large at its cost", "torch", packages=_SMP, multiple=64
    ),
    "unet-resnet50": Network("U-Net on ResNet50 (report Table 2B)", "torch", packages=_SMP),
    "unet-vgg19": Network("U-Net on VGG19 (report Table 2B)", "torch", packages=_SMP),
    "unet-mobilenetv2": Network("U-Net on MobileNetV2 (report Table 2B)", "torch", packages=_SMP),
    "unet-baseline": Network(
        "plain U-Net of 4 stages, dropout (report 4.5.1)",
        "torch",
        {"batch": 30, "lr": 1e-3, "lr_step": 0.0, "loss": "dice", "channels": 1},
        packages=("torch",),
        multiple=16,
    ),
    "nnunet-2d": Network(
        "nnU-Net's 2D U-Net of 7 stages (report 4.5.2)",
        "nnunet",
        {
            "batch": 12,
            "epochs": 40,
            "lr": 1e-3,
            "lr_step": 1e-5,
            "loss": "dice_cross_entropy",
            "channels": 1,
        },
        packages=_NNUNET,
        multiple=64,
    ),
    "nnunet-3d": Network(
        "nnU-Net's 3D U-Net of 6 stages (report 4.5.2)",
        "nnunet",
        {
            "batch": 2,
            "epochs": 100,
            "epoch_samples": 500,
            "validation_samples": 50,
            "lr": 1e-3,
            "lr_step": 1e-5,
            "loss": "dice_cross_entropy",
            "channels": 1,
            "patch": (128, 112, 160),
        },
        packages=_NNUNET,
        multiple=1,
    ),
    "denseunet-161": Network(
        "DenseUNet on DenseNet-161, of a slice and its neighbours (report 6.2)",
        "torch",
        {
            "batch": 10,
            "loss": "dice_cross_entropy",
            "channel_fill": "neighbours",
        },
        packages=("torch",),
    ),
    "h-denseunet": Network(
        "H-DenseUNet: DenseUNets of slices and of volumes, joined (report 6.2)",
        "torch",
        {
            "batch": 1,
            "epochs": 100,
            "epoch_samples": 500,
            "validation_samples": 50,
            "loss": "dice_cross_entropy",
            "channels": 1,
            "patch": (12, 224, 224),
        },
        packages=("torch",),
        multiple=1,
    ),
}


def make_engine(config: TrainConfig, classes: tuple[str, ...]) -> Engine:
    """Make a network of ``NETWORKS`` that learns.

    Raises
    ------
    MissingPackageError
        If a package is not installed.
    ModelError
        If weights to begin with cannot be had.
    """
    from seg_core.errors import MissingPackageError, install_hint

    try:
        from trainers.torch.engine import TorchEngine
    except ImportError as error:
        raise MissingPackageError(
            f"PyTorch cannot be imported: {error}", fix=install_hint("torch")
        ) from error
    return TorchEngine(config, classes)
