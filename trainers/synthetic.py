"""Training data from drawn legs: a slice cache that grows while a training reads it.

    python -m trainers.synthetic --out CACHE --people 60 --first-seed 100000 --size 512

A slice is prepared as the runner prepares it; its labels are drawn on the network's own pixels, by the rule
that a pixel is inside when its centre is. The whole slice is kept: a network that has never seen the
air above a hand takes it for bone.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seg_core.geometry import Geometry
from seg_core.intensity import intensity_window, scale
from seg_core.labels import BONES
from seg_core.model_spec import Grid, ModelSpec, Normalisation
from seg_core.resize import resize_bilinear
from trainers.anatomy import Anatomy
from trainers.cache import CacheIndex, SliceCacheWriter
from trainers.draw import true_labels
from trainers.materials import Mixtures, draw_materials
from trainers.phantom import PhantomConfig, make_phantom, place

NORMALISATION = Normalisation("percentile", 1.0, 99.5)
FIELD_MM = 480.0
SIZE = 256
"""Rows and columns over the field of view, where nothing else is said."""


def spec_of(size: int) -> ModelSpec:
    """Say how slices of ``size`` pixels are prepared, as a network's description does."""
    pixel_mm = FIELD_MM / size
    grid = Grid("spacing", spacing_mm=(pixel_mm, pixel_mm))
    return ModelSpec("synthetic", BONES, grid=grid, normalisation=NORMALISATION, usual_mm=USUAL_MM)


STATURES_CM = (108.0, 178.0)
"""Range of statures, where nothing else is said."""

USUAL_CM, UNSCALED = 170.0, 0.25
"""Smaller people are drawn on smaller pixels, so that they seem to be of this stature, as the runner shows
them to a network (`seg_core.apparent_size`); that share of them seems to be of any stature up to it."""
USUAL_MM = {"tibia": 22.2, "femur": 25.7}
"""Thickness of their shafts: means of 40 synthetic people in slices of 15 mm, a single measurement.

Of 40 of those of `benchmarks.plausibility` means are 21.9 and 25.5, medians 21.9 and 24.9.
"""

JOINTS, THIN, PLANE_MM = 0.75, 0.15, 2.0
"""Share of people whose joints are drawn, of scans with slices below 3 mm; thickness of a slice's planes."""
FLESH = (0.9, 1.35)
"""Range of `trainers.soft_tissue.Body.flesh`. Without it the thickest calves of five drawn people of 166 to
177 cm have 79 to 105 cm2; those of two real people have 108 and 132 (single measurements)."""


def draw_phantom_config(
    seed: int, subjects: tuple[int, ...] = (), statures_cm: tuple[float, float] = STATURES_CM
) -> PhantomConfig:
    """Draw a scan for training; of one of the subjects, else of a draw from the training basis."""
    rng = np.random.default_rng([seed, 5])
    drawn = PhantomConfig(
        seed=seed,
        subject=int(rng.choice(subjects)) if subjects else None,
        stature_cm=float(rng.uniform(*statures_cm)),
        slice_mm=float(rng.uniform(3.0, 6.5)),
        trunk_mm=float(rng.uniform(20, 150)),
        difficulty="hard" if rng.random() < 0.15 else "ordinary",
        contrast="in_phase" if rng.random() < 0.08 else "water",
        bare_shin=float(rng.uniform(0.5, 1.2)) if rng.random() < 0.75 else 0.0,
    )
    joints, thin = rng.random(2) < (JOINTS, THIN)
    slice_mm = float(rng.uniform(1.0, 3.0)) if thin else drawn.slice_mm
    planes = max(round(slice_mm / PLANE_MM), 2)
    pixel_mm = drawn.pixel_mm * _shrunk(rng, drawn.stature_cm or USUAL_CM)
    flesh = float(rng.uniform(*FLESH))
    return replace(
        drawn, joints=bool(joints), slice_mm=slice_mm, planes=planes, pixel_mm=pixel_mm, flesh=flesh
    )


def _shrunk(rng: np.random.Generator, stature_cm: float) -> float:
    """Return the size of a person's pixels, of a usual person's."""
    unscaled, share = rng.random(2)
    full = min(stature_cm / USUAL_CM, 1.0)
    return float(full + share * (1 - full) if unscaled < UNSCALED else full)


def training_slices(
    config: PhantomConfig, size: int = SIZE, threads: int = 1
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Draw a person and prepare the slices for training.

    Returns
    -------
    images : ndarray of float32, (slices, rows, columns)
        In [0, 1].
    labels : ndarray of uint8, (slices, rows, columns)
        The bone, 0 to 4, whatever its side.
    """
    phantom = make_phantom(config, threads)
    stored = phantom.volume.array.T
    low, high = intensity_window(phantom.volume.array, NORMALISATION)
    images = resize_bilinear(scale(stored, low, high), (size, size))
    return images, _bones(phantom.anatomy, phantom.volume.geometry, size)


def training_materials(
    config: PhantomConfig, size: int = SIZE, threads: int = 1
) -> tuple[Mixtures, npt.NDArray[np.uint8]]:
    """Say of what a person's slices are made, to be drawn in every look.

    Returns
    -------
    mixtures : ndarray of uint32, (slices, rows, columns)
        As `trainers.materials.mix` gives them.
    labels : ndarray of uint8, (slices, rows, columns)
        The bone, 0 to 4, whatever its side.
    """
    anatomy, geometry, drawing, _ = place(config)
    mixtures = draw_materials(anatomy, geometry, drawing, geometry.shape[0] // size, threads)
    return mixtures, _bones(anatomy, geometry, size)


def _bones(anatomy: Anatomy, geometry: Geometry, size: int) -> npt.NDArray[np.uint8]:
    labels = true_labels(anatomy, _resized(geometry, size)).array.T
    return np.where(labels > len(BONES), labels - len(BONES), labels).astype(np.uint8)


def _resized(geometry: Geometry, size: int) -> Geometry:
    """Return the grid of ``size`` pixels over the same square slices."""
    factor = geometry.shape[0] / size
    affine = geometry.affine.copy()
    affine[:3, :2] *= factor
    affine[:3, 3] = geometry.to_world(((factor - 1) / 2, (factor - 1) / 2, 0))
    return Geometry((size, size, geometry.shape[2]), affine)


def main() -> None:
    """Append people to a cache."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, required=True)
    parser.add_argument("--first-seed", type=int, required=True)
    parser.add_argument(
        "--subjects", type=int, nargs="*", default=[], help="measured subjects instead of draws"
    )
    parser.add_argument(
        "--stature", type=float, nargs=2, default=STATURES_CM, metavar=("LOW", "HIGH"), help="range in cm"
    )
    parser.add_argument(
        "--materials", action="store_true", help="what slices are made of, for looks drawn while training"
    )
    parser.add_argument("--size", type=int, default=SIZE, choices=(256, 512), help="rows and columns")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    size, spec = arguments.size, spec_of(arguments.size)
    spacing_mm = spec.grid.spacing_mm
    meta = {"pixel_mm": spacing_mm[0], "spec": json.loads(spec.to_json())}
    make = training_materials if arguments.materials else training_slices
    index = CacheIndex((size, size), BONES, "uint32" if arguments.materials else "uint8", meta)
    with SliceCacheWriter(arguments.out, index) as writer:
        known = {subject.name for subject in writer.index.subjects}
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.people):
            config = draw_phantom_config(seed, tuple(arguments.subjects), tuple(arguments.stature))
            if str(seed) in known:
                continue
            images, labels = make(config, size, arguments.threads)
            shrunk = config.pixel_mm * config.size / FIELD_MM
            spacing = (spacing_mm[0] * shrunk, spacing_mm[1] * shrunk, config.slice_mm)
            writer.append(str(seed), images, labels, spacing, asdict(config), shrunk)
            print(f"{seed}: {len(images)} slices", flush=True)


if __name__ == "__main__":
    main()
