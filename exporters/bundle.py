"""The bundled network: a training run on synthetic legs -> ``seg_core/models/default.onnx``.

python -m exporters.bundle --run RUN --validation CACHE --out seg_core/models/default.onnx
"""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from exporters.options import ExportOptions
from exporters.torch import export
from seg_core.labels import BONES
from seg_core.model_spec import Denoise, Grid, ModelSpec
from trainers.cache import SliceCache
from trainers.loop import BEST
from trainers.synthetic import NORMALISATION, PIXEL_MM
from trainers.torch.engine import load_best


def bundled_spec(state: dict[str, Any]) -> ModelSpec:
    """Describe the network of a checkpoint (see ``trainers.torch.engine.load_best``)."""
    config, progress = state["config"], state["progress"]
    return ModelSpec(
        name="default",
        classes=BONES,
        channels=config["channels"],
        channel_fill=config["channel_fill"],
        grid=Grid("spacing", spacing_mm=(PIXEL_MM, PIXEL_MM)),
        normalisation=NORMALISATION,
        denoise=Denoise(fraction=0.05, minimum_pixels=12, volume_fraction=0.1),
        provenance={
            "architecture": "U-Net on ResNet34 (segmentation-models-pytorch)",
            "framework": f"torch {version('torch').split('+')[0]}",
            "training_data": "synthetic legs only: drawn MR of adult bone shapes, scaled",
            "samples_seen": progress["samples"],
            "validation_dsc": round(float(progress["best_dsc"]), 4),
            "validation_data": "synthetic scans of measured subjects 20 to 22",
            "licence": "Apache-2.0",
            "intended_use": "research; not for diagnosis",
        },
    )


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a training")
    parser.add_argument("--validation", type=Path, required=True, help="slices for the parity gate")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    network, state = load_best(arguments.run / BEST)
    cache = SliceCache(arguments.validation)
    chosen = np.linspace(0, len(cache) - 1, 8).round().astype(np.int64)
    images, _ = cache.batch(chosen)
    samples = np.repeat(images, state["config"]["channels"], axis=1)
    exported = export(network, bundled_spec(state), arguments.out, samples, ExportOptions("float16"))
    print(f"{exported.path}: sha256 {exported.sha256}")
    print(f"ONNX Runtime against torch: {exported.parity}")
    print(f"folding and 16-bit weights: {exported.rounding}")


if __name__ == "__main__":
    main()
