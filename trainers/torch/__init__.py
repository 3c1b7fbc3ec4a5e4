"""The PyTorch trainer. Importing it does not import torch; making an engine does."""

from trainers.config import TrainConfig
from trainers.loop import Engine
from trainers.registry import Network

NETWORKS = {
    "unet-resnet34": Network("the report's 4.5.3: U-Net on ResNet34 (segmentation-models-pytorch)", "torch"),
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
    from seg_core.errors import MissingPackageError

    try:
        from trainers.torch.engine import TorchEngine
    except ImportError as error:
        raise MissingPackageError(
            f"PyTorch cannot be imported: {error}", fix="pip install 'lls[torch]'"
        ) from error
    return TorchEngine(config, classes)
