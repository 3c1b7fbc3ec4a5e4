r"""The bundled network: a training run on synthetic legs -> ``seg_core/models/default.onnx``.

python -m exporters.bundle --run RUN --validation CACHE --out seg_core/models/default.onnx
lls export seg_core/models/default.onnx --precision int8 --keep-last 1 --overwrite \
    -o seg_core/models/default.int8.onnx
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import onnx

from exporters.onnx_graph import with_background, with_mean, write
from exporters.options import ExportOptions
from exporters.run import RunExport, export_run
from seg_core.model_spec import Denoise, ModelSpec
from trainers.loop import Source


def described(validation: Path) -> ModelSpec:
    """Return how the slices were prepared, and what is known of the network before it is exported."""
    return replace(
        ModelSpec.from_json(json.dumps(Source(validation).open().index.meta["spec"])),
        denoise=Denoise(fraction=0.05, minimum_pixels=12, volume_fraction=0.1),
        provenance={
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
    parser.add_argument("--mean-with", type=Path, help="the file that the training began with")
    parser.add_argument("--share", type=float, default=0.5, help="of the training in that mean")
    parser.add_argument("--background", type=float, default=0.0, help="added to the logits of background")
    arguments = parser.parse_args()
    earlier = onnx.load(arguments.mean_with) if arguments.mean_with else None  # may be the file to replace
    data = described(arguments.validation)
    request = RunExport("default", arguments.validation, data, ExportOptions("float16"))
    exported = export_run(arguments.run, arguments.out, request)
    digest = exported.sha256
    if arguments.background:
        digest = write(with_background(onnx.load(exported.path), arguments.background), exported.path)
    if earlier is not None:
        digest = write(with_mean(onnx.load(exported.path), earlier, arguments.share), exported.path)
    print(f"{exported.path}: sha256 {digest}")
    print(f"ONNX Runtime against torch with 16-bit weights: {exported.parity}")
    print(f"against the network as it was trained: {exported.difference}")


if __name__ == "__main__":
    main()
