"""The bundled network: a training run on synthetic legs -> ``seg_core/models/default.onnx``.

python -m exporters.bundle --run RUN --validation CACHE --out seg_core/models/default.onnx
"""

import argparse
from dataclasses import replace
from pathlib import Path

from exporters.options import ExportOptions
from exporters.run import RunExport, export_run
from seg_core.model_spec import Denoise
from trainers.synthetic import SPEC

DATA = replace(
    SPEC,
    denoise=Denoise(fraction=0.05, minimum_pixels=12, volume_fraction=0.1),
    provenance={
        "architecture": "U-Net on ResNet34 (segmentation-models-pytorch)",
        "training_data": "synthetic legs only: drawn MR of adult bone shapes, scaled",
        "validation_data": "synthetic scans of measured subjects 20 to 22",
        "licence": "Apache-2.0",
    },
)


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a training, or its checkpoint")
    parser.add_argument("--validation", type=Path, required=True, help="slices for the parity gate")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    request = RunExport("default", arguments.validation, DATA, ExportOptions("float16"))
    exported = export_run(arguments.run, arguments.out, request)
    print(f"{exported.path}: sha256 {exported.sha256}")
    print(f"ONNX Runtime against torch: {exported.parity}")
    print(f"folding and 16-bit weights: {exported.rounding}")


if __name__ == "__main__":
    main()
