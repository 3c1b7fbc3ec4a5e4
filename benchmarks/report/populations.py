"""Two synthetic populations in the place of the report's two, each seen by a scanner of its own.

The first (report 4.1): children of 7 to 12 years, Dixon water images of 512 x 512 px of 0.9375 mm, slices
3 mm apart, as `trainers.phantom` draws them. The second (report 4.10): other children, T1-weighted spin echo
by the signal equations of `benchmarks.looks`, so that fat and marrow are bright; smaller fields of view,
resolutions that vary, slices 1 mm apart. In the report only the right leg was labelled, so only the surfaces
of the right leg are taken, and the left one is nobody's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.looks import ScannerLook, keep_scan
from seg_core.errors import ScanError
from seg_core.model_spec import Grid, ModelSpec
from trainers.masks import MaskOptions
from trainers.phantom import PhantomConfig
from trainers.prepare import PrepareConfig, prepare
from trainers.subjects import read_subjects

Population = Literal["first", "second"]
FIRST_SEED = {"first": 700_000, "second": 750_000}
STATURE_CM = {"first": (122.0, 150.0), "second": (115.0, 160.0)}
_T1 = ScannerLook("spin_echo", tr_ms=600, te_ms=11, vessel=0.25, noise=0.05, shading=0.3, scale=1200)
LOOKS = (
    replace(_T1, size=512, pixel_mm=0.78),
    replace(_T1, size=384, pixel_mm=1.05),
    replace(_T1, size=448, pixel_mm=0.85),
)
"""Of the second population, in turn."""
_SMALL = 8
"""Pixels and slices of a smoke run are that much larger."""


@dataclass(frozen=True)
class Person:
    """Someone of a population.

    Parameters
    ----------
    name : str
        In the population.
    config : PhantomConfig
        Body and slices.
    look : ScannerLook or None
        The scanner; None: as ``lls phantom`` draws it.
    """

    name: str
    config: PhantomConfig
    look: ScannerLook | None


def people(population: Population, count: int, smoke: bool = False) -> list[Person]:
    """Return the first people of a population; 50 slices (report 4.4.4) lie above their hips.

    Parameters
    ----------
    population : {"first", "second"}
    count : int
    smoke : bool
        Whether slices shall be few and small.
    """
    return [_person(population, number, _SMALL if smoke else 1) for number in range(count)]


def _person(population: Population, number: int, coarser: int) -> Person:
    seed = FIRST_SEED[population] + number
    config = PhantomConfig(
        seed=seed, stature_cm=float(np.random.default_rng([seed, 9]).uniform(*STATURE_CM[population]))
    )
    config, look = replace(config, trunk_mm=165.0), None
    if population == "second":
        look = LOOKS[number % len(LOOKS)]
        config = replace(config, size=look.size, pixel_mm=look.pixel_mm, slice_mm=1.0, trunk_mm=65.0)
    if coarser > 1:
        config = replace(
            config, size=config.size // coarser, pixel_mm=config.pixel_mm * coarser, slice_mm=80.0
        )
    return Person(f"{population}-{number + 1}", config, look)


def scan(person: Person, folder: Path) -> Path:
    """Write someone's scan with its truth into a folder of his own, where it is not there yet.

    Raises
    ------
    UsageError
        If another scan is there under his name.
    """
    return keep_scan(person.config, folder / person.name, person.look)


def prepared(scans: Sequence[Path], folder: Path, size: int, structures: Sequence[str] = ()) -> Path:
    """Prepare scans as ``lls prepare --labelled-side right --size`` does; what has not changed is left alone.

    Parameters
    ----------
    scans : sequence of Path
        Folders as `scan` leaves them.
    folder : Path
        The dataset.
    size : int
        Rows and columns.
    structures : sequence of str
        The only ones that are labelled; by default all that there are.

    Returns
    -------
    Path
        The dataset.

    Raises
    ------
    ScanError
        If a subject cannot be prepared.
    """
    config = PrepareConfig(
        grid=Grid("size", (size, size), multiple=16),
        masks=MaskOptions(side="right"),
        classes=dict(enumerate(structures, 1)) or None,
    )
    return _prepared(scans, folder, config)


def prepared_for(scans: Sequence[Path], folder: Path, spec: ModelSpec) -> Path:
    """Prepare scans as `prepared` does, all bones, with the pixels and intensities that a network knows."""
    masks = MaskOptions(side="right")
    config = PrepareConfig(spec.grid, spec.normalisation, masks, usual_mm=spec.usual_mm)
    return _prepared(scans, folder, config)


def _prepared(scans: Sequence[Path], folder: Path, config: PrepareConfig) -> Path:
    for outcome in prepare(read_subjects(scans), folder, config, jobs=2).outcomes:
        if outcome.error is not None:
            raise ScanError(f"{outcome.name} cannot be prepared: {outcome.error}") from outcome.error
    return folder
