"""The Keras trainer, on TensorFlow. Importing it imports neither; making an engine does."""

from trainers.config import TrainConfig
from trainers.loop import Engine
from trainers.registry import Network

_PACKAGES = ("keras", "tensorflow")

NETWORKS = {
    "unet-resnet34": Network(
        "U-Net on a pre-activation ResNet34 (report 4.5.3, Figure 11)", "keras", packages=_PACKAGES
    ),
    "unet-resnet50": Network("U-Net on ResNet50 (report Table 2B)", "keras", packages=_PACKAGES),
    "unet-vgg19": Network("U-Net on VGG19 (report Table 2B)", "keras", packages=_PACKAGES),
    "unet-mobilenetv2": Network("U-Net on MobileNetV2 (report Table 2B)", "keras", packages=_PACKAGES),
    "unet-baseline": Network(
        "plain U-Net of 4 stages, dropout (report 4.5.1)",
        "keras",
        {"batch": 30, "lr": 1e-3, "lr_step": 0.0, "loss": "dice", "channels": 1},
        packages=_PACKAGES,
        multiple=16,
    ),
}


def make_engine(config: TrainConfig, classes: tuple[str, ...]) -> Engine:
    """Make a network of ``NETWORKS`` that learns.

    Raises
    ------
    MissingPackageError
        If Keras or TensorFlow are not installed, or Keras is set to another backend.
    ModelError
        If weights to begin with cannot be had.
    """
    from seg_core.errors import MissingPackageError, install_hint

    try:
        from trainers.keras.engine import KerasEngine
    except ImportError as error:
        raise MissingPackageError(
            f"Keras and TensorFlow cannot be imported: {error}", fix=install_hint("keras")
        ) from error
    return KerasEngine(config, classes)
