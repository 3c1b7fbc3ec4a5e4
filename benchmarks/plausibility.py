"""What true bones measure, and that they raise no alarm: the figures behind `seg_core.plausibility`.

People from 108 to 190 cm are drawn, every second one a measured adult of the shape model, scaled; their true
labels are measured, then looked at whole and through fields of view that cut them: any stretch of the body,
one leg, a joint alone, slices 2 to 10 mm thick. Whatever a check says there is a false alarm.

    python -m benchmarks.plausibility --people 120 --json FILE

That no bone lies wholly in view is said where it is so, and counts as an alarm only where it is not so.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.command import command, parser_of, write_figures
from seg_core.apparent_size import shafts_mm
from seg_core.geometry import LabelMap
from seg_core.labels import BONES, SIDES
from seg_core.limb_range import COARSE_MM
from seg_core.plausibility import LENGTH_RATIOS, OVERLAP_MM, check_plausibility
from seg_core.report import Check
from seg_core.statistics import bone_statistics
from trainers.anatomy import Anatomy, AnatomyConfig, make_anatomy
from trainers.draw import scan_geometry, true_labels
from trainers.shape_model import ShapeModel, load_shape_model
from trainers.synthetic import USUAL_CM

FIRST_SEED = 930_000
STATURES_CM = (108.0, 190.0)
MEASURED = 26
MARGIN_MM = 15.0
Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Person:
    """A synthetic person's bones, and true labels with everything in view."""

    anatomy: Anatomy
    labels: LabelMap
    stature_cm: float


def people(count: int, pixel_mm: float = 2.0) -> Iterator[Person]:
    """Draw people of evenly spread stature; slices 2 to 10 mm thick."""
    model = load_shape_model()
    rng = np.random.default_rng(FIRST_SEED)
    for number, stature in enumerate(np.linspace(*STATURES_CM, count)):
        config = AnatomyConfig(
            seed=FIRST_SEED + number,
            subject=number // 2 % MEASURED if number % 2 else None,
            stature_cm=float(stature),
            asymmetry=float(rng.uniform(0.1, 0.3)),
            pose=float(rng.uniform(0.5, 1.5)),
        )
        yield draw(config, model, pixel_mm, float(rng.uniform(2, 10)) if number % 3 else 3.0)


def draw(config: AnatomyConfig, model: ShapeModel, pixel_mm: float, slice_mm: float) -> Person:
    """Make a person and label a grid that holds all bones."""
    anatomy = make_anatomy(config, model)
    points = np.concatenate([mesh.vertices_mm for mesh in anatomy.bones.values()])
    low, high = points.min(axis=0) - MARGIN_MM, points.max(axis=0) + MARGIN_MM
    size = int(np.ceil(max(high[:2] - low[:2]) / pixel_mm))
    slices = int(np.ceil((high[2] - low[2]) / slice_mm))
    geometry = scan_geometry((low + high) / 2, size, pixel_mm, slices, slice_mm)
    return Person(anatomy, true_labels(anatomy, geometry), config.stature_cm or float("nan"))


def views(person: Person, rng: np.random.Generator, stretches: int = 6) -> Iterator[tuple[str, LabelMap]]:
    """Yield the labels in several fields of view."""
    labels = person.labels
    yield "whole", labels
    size, _, slices = labels.geometry.shape
    middle = (person.anatomy.landmarks["right_hip"] + person.anatomy.landmarks["left_hip"]) / 2
    column = int(labels.geometry.to_index(middle)[0])
    for _ in range(stretches):
        first, last = sorted(rng.integers(0, slices + 1, 2).tolist())
        if last - first >= 2:
            yield "stretch", crop(labels, (0, 0, first), (size, size, last))
            start, stop = ((0, column), (column, size))[int(rng.integers(2))]
            yield "one leg", crop(labels, (start, 0, first), (stop, size, last))
    for side in SIDES:
        for joint in ("hip", "knee", "ankle"):
            reach = np.array([80, 80, float(rng.uniform(40, 120))]) / labels.geometry.voxel_sizes
            centre = labels.geometry.to_index(person.anatomy.landmarks[f"{side}_{joint}"])
            low = np.clip(np.floor(centre - reach), 0, labels.geometry.shape).astype(int).tolist()
            high = np.clip(np.ceil(centre + reach), 0, labels.geometry.shape).astype(int).tolist()
            yield joint, crop(labels, (low[0], low[1], low[2]), (high[0], high[1], high[2]))


def crop(labels: LabelMap, low: tuple[int, int, int], high: tuple[int, int, int]) -> LabelMap:
    """Cut a box out of a label map."""
    i, j, k = (slice(a, b) for a, b in zip(low, high, strict=True))
    shape = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    return LabelMap(labels.array[i, j, k], labels.geometry.window(low, shape), labels.labels)


def false_alarms(labels: LabelMap) -> list[Check]:
    """Return the checks that true labels fail, although nothing is wrong with them."""
    rows = bone_statistics(labels)
    if not any(row.voxels for row in rows):
        return []
    failed = [check for check in check_plausibility(labels, rows) if not check.passed]
    cut = all(row.status != "found" for row in rows if row.voxels)
    return [check for check in failed if not (check.check == "view" and cut)]


def measure(person: Person, figures: Figures) -> None:
    """Add what one person measures to the figures that the limits, and usual shafts, come from."""
    rows = {row.name: row for row in bone_statistics(person.labels)}
    ends = {
        name: (mesh.vertices_mm[:, 2].min(), mesh.vertices_mm[:, 2].max())
        for name, mesh in person.anatomy.bones.items()
    }
    for side in SIDES:
        own = {bone: rows[f"{side}_{bone}"] for bone in BONES}
        for bone, row in own.items():
            length = row.length_mm or np.nan
            _add(figures, f"{bone}: length mm", length)
            _add(figures, f"{bone}: volume cm3", row.volume_cm3)
            _add(figures, f"{bone}: stoutness", 1000 * row.volume_cm3 / length**3)
        for a, b in LENGTH_RATIOS:
            _add(figures, f"{a} to {b}: length", _ratio(own[a].length_mm, own[b].length_mm))
        for upper, lower in OVERLAP_MM:
            overlap = ends[f"{side}_{lower}"][1] - ends[f"{side}_{upper}"][0]
            _add(figures, f"{lower} above the lower end of {upper}: mm", overlap)
    for bone, thickness in shafts(person).items():
        _add(figures, f"{bone}: shaft mm, as of {USUAL_CM:g} cm", thickness * USUAL_CM / person.stature_cm)
    for bone in BONES:
        right, left = rows[f"right_{bone}"], rows[f"left_{bone}"]
        _add(figures, f"{bone}: difference of lengths", _difference(right.length_mm, left.length_mm))
        _add(figures, f"{bone}: difference of volumes", _difference(right.volume_cm3, left.volume_cm3))


def shafts(person: Person) -> dict[str, float]:
    """Measure shafts as the runner does, in slices about 15 mm apart."""
    width, height, apart = person.labels.geometry.voxel_sizes
    slices = person.labels.array.T[:: max(round(COARSE_MM / apart), 1)]
    return shafts_mm(
        np.where(slices > 0, (slices - 1) % len(BONES) + 1, 0).astype(np.uint8), width * height, BONES
    )


def _add(figures: Figures, name: str, value: float) -> None:
    figures.setdefault(name, []).append(float(value))


def _ratio(a: float | None, b: float | None) -> float:
    return float("nan") if a is None or b is None else a / b


def _difference(a: float | None, b: float | None) -> float:
    return float("nan") if a is None or b is None else abs(a - b) / ((a + b) / 2)


def table(figures: Figures) -> str:
    """Return least, median and greatest of each figure as Markdown."""
    lines = ["| what | least | median | greatest |", "|---|---|---|---|"]
    for name, values in figures.items():
        cells = " | ".join(f"{value:.4g}" for value in np.quantile(values, [0, 0.5, 1]))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure people and count false alarms; return 1 if there is one."""
    parser = parser_of(__doc__)
    parser.add_argument("--people", type=int, default=120)
    parser.add_argument("--pixel-mm", type=float, default=2.0)
    parser.add_argument("--json", type=Path, help="write every figure here")
    chosen = parser.parse_args(arguments)
    figures: Figures = {}
    looked, alarms = Counter[str](), Counter[str]()
    for number, person in enumerate(people(chosen.people, chosen.pixel_mm)):
        measure(person, figures)
        for name, labels in views(person, np.random.default_rng([FIRST_SEED, number])):
            looked[name] += 1
            for check in false_alarms(labels):
                alarms[name] += 1
                print(f"person {number}, {name}: {check.check}: {check.detail}", flush=True)
    print(table(figures))
    print("\n| field of view | looked at | false alarms |\n|---|---|---|")
    print("\n".join(f"| {name} | {looked[name]} | {alarms[name]} |" for name in looked))
    write_figures(chosen.json, {"figures": figures, "views": looked, "false_alarms": alarms})
    return int(alarms.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
