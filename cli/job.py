"""One scan from its path to the output folder: read, segment, measure, draw, prove, write."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from seg_core.colours import bone_colours
from seg_core.geometry import LabelMap, Volume
from seg_core.labels import sided_labels
from seg_core.model_spec import ModelSpec
from seg_core.moments import label_moments
from seg_core.nifti import write_label_table, write_labels, write_volume
from seg_core.output import check_free, staged_output
from seg_core.ply import write_ply
from seg_core.report import (
    Check,
    RunFacts,
    Step,
    build_report,
    check_label_file,
    check_mesh_file,
    write_report,
)
from seg_core.runner import Runner
from seg_core.scan import Scan, read_scan
from seg_core.segment import Segmentation, SegmentOptions, segment
from seg_core.statistics import BoneStatistics, write_statistics

Progress = Callable[[str, int, int], None]

_WRITERS = ("nibabel", "seg_core.mesh", "seg_core.preview")
"""What only writing needs: half a second of imports, while the network computes."""


@dataclass(frozen=True)
class Settings:
    """What is asked for, the same for every scan of a call.

    Parameters
    ----------
    target : Path
        The output folder.
    options : SegmentOptions
        How to segment.
    device : str
        The device that was asked for.
    series : str, optional
        Which DICOM series.
    mesh_space : {"lps", "ras"}
        Coordinates in the PLY files.
    overwrite : bool
        Whether an earlier run's files are replaced.
    html : bool
        Whether the report is also written as a page.
    """

    target: Path
    options: SegmentOptions
    device: str = "auto"
    series: str | None = None
    mesh_space: Literal["lps", "ras"] = "lps"
    overwrite: bool = False
    html: bool = False


@dataclass(frozen=True)
class Result:
    """What came out: the report as it was written, and what falls short of a complete result."""

    name: str
    folder: Path
    report: Mapping[str, Any]
    bones: tuple[BoneStatistics, ...]
    shortcomings: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """Names of all files that were written."""
        return [entry["file"] for entry in self.report["outputs"]] + [f"{self.name}_report.json"]


@dataclass
class _Clock:
    """Collects the steps and their seconds."""

    progress: Progress
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, **parameters: Any) -> Iterator[None]:
        self.progress(name, 0, 0)
        begun = time.perf_counter()
        yield
        self.steps.append(Step(name, round(time.perf_counter() - begun, 4), parameters))


def run_job(path: Path, name: str, runner: Runner, settings: Settings, progress: Progress) -> Result:
    """Segment one scan and write its folder, complete or not at all.

    Parameters
    ----------
    path : Path
        The scan.
    name : str
        What the files' names begin with.
    runner : Runner
        The network.
    settings : Settings
        What is asked for.
    progress : callable
        ``progress(step, done, total)``; total 0 where that is not known.

    Raises
    ------
    LlsError
        Typed by what went wrong; nothing has been written then.
    """
    ends = ["dseg.nii.gz", "dseg.json", "statistics.csv", "preview.png", "report.json"]
    ends += ["confidence.nii.gz"] * settings.options.confidence + ["report.html"] * settings.html
    planned = [f"{name}_{end}" for end in ends] + [_mesh_file(name, label) for label in _labels(runner.spec)]
    check_free(settings.target, name, planned, settings.overwrite)
    clock = _Clock(progress)
    with clock.step(
        "read"
    ):  # which series and why stands in the scan's facts: a UID would lead to the patient
        scan = read_scan(path, settings.series)
    with clock.step("segment", side=settings.options.side, laterality=scan.laterality):
        options = replace(settings.options, laterality=scan.laterality)
        with ThreadPoolExecutor(1) as pool:
            for module in _WRITERS:  # what fails fails again where it is used
                pool.submit(import_module, module)
            found = segment(scan.volume, runner, options, progress)
    clock.steps += _inner_steps(runner, settings.options, found)
    with staged_output(settings.target, name, settings.overwrite) as stage:
        subtitle = f"model {runner.spec.name}, for research use"
        checks = _write_files(stage, (name, subtitle), (scan.volume, found), settings, clock)
        facts = _facts(name, runner, settings, (scan, found), clock.steps)
        report = build_report(facts, stage, checks)
        if settings.html:
            with clock.step("html"):
                _write_html(stage / f"{name}_report.html", scan.volume, found.labels, report)
            report = build_report(facts, stage, checks)  # which lists the page too
        write_report(stage / f"{name}_report.json", report)
    return Result(name, settings.target, report, found.bones, tuple(_shortcomings(found, checks)))


def _inner_steps(runner: Runner, options: SegmentOptions, found: Segmentation) -> list[Step]:
    """Return what `segment` did inside, with its parameters; preparing overlaps with inferring."""
    spec = runner.spec
    hip = {"hip_slice": options.hip_slice, "hip_tolerance": options.hip_tolerance}
    parameters: dict[str, dict[str, Any]] = {
        "range": {"first_slice": found.slices[0], "last_slice": found.slices[1] - 1, **hip},
        "prepare": {
            "grid": asdict(spec.magnified(found.size).grid),
            "normalisation": asdict(spec.normalisation),
            "size": found.size,
        },
        "infer": {"batch": runner.batch, "share_of_pixels": round(found.share, 4)},
        "denoise": asdict(found.denoise or spec.denoise),
    }
    return [
        Step(f"segment: {step}", round(seconds, 4), parameters.get(step, {}))
        for step, seconds in found.seconds.items()
    ]


def _write_files(
    stage: Path,
    titles: tuple[str, str],
    made: tuple[Volume, Segmentation],
    settings: Settings,
    clock: _Clock,
) -> list[Check]:
    """Write everything but the report into the stage, and prove the geometry of what was written."""
    from seg_core.preview import write_preview

    (name, subtitle), (volume, found) = titles, made
    preview = stage / f"{name}_preview.png"
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(write_preview, preview, volume, found.labels, found.bones, name, subtitle)
        with clock.step("write"):
            write_labels(stage / f"{name}_dseg.nii.gz", found.labels)
            write_label_table(stage / f"{name}_dseg.json", found.labels.labels)
            if found.confidence is not None:
                write_volume(stage / f"{name}_confidence.nii.gz", found.confidence)
            write_statistics(stage / f"{name}_statistics.csv", found.bones)
        with clock.step("mesh", space=settings.mesh_space):
            _write_meshes(stage, name, found.labels, settings.mesh_space)
        with clock.step("check"):
            checks = check_label_file(stage / f"{name}_dseg.nii.gz", found.labels, volume.geometry)
            for row in found.bones:
                if row.voxels:
                    checks += check_mesh_file(stage / _mesh_file(name, row.name), row, volume.geometry)
        with clock.step("draw"):  # what is left of it: it has begun with the writing, and takes the longest
            drawn.result()
    return checks


def _write_meshes(stage: Path, name: str, labels: LabelMap, space: Literal["lps", "ras"]) -> None:
    from seg_core.mesh import surface

    colours = bone_colours(labels.labels)
    for value, moments in label_moments(labels.array).items():
        mesh = surface(labels, value, moments.box)
        write_ply(stage / _mesh_file(name, labels.labels[value]), mesh, space, colours[value])


def _write_html(path: Path, volume: Volume, labels: LabelMap, report: Mapping[str, Any]) -> None:
    from gui.html_report import html_report

    path.write_text(html_report(volume, labels, report), encoding="utf-8")


def _labels(spec: ModelSpec) -> list[str]:
    """Return the names that labels may have, with sides and without."""
    return [*spec.classes, *(sided_labels(spec.classes).values() if spec.sided else ())]


def _mesh_file(name: str, label: str) -> str:
    return f"{name}_label-{label}.ply"


def _facts(
    name: str,
    runner: Runner,
    settings: Settings,
    made: tuple[Scan, Segmentation],
    steps: list[Step],
) -> RunFacts:
    scan, found = made
    return RunFacts(
        name=name,
        scan={"kind": scan.kind, **scan.series},
        model={
            "name": runner.spec.name,
            "sha256": runner.fingerprint,
            "classes": runner.spec.classes,
            "provenance": runner.spec.provenance,
        },
        device={"asked": settings.device, "used": runner.device, "precision": runner.precision},
        steps=steps,
        sides=asdict(found.sides) if found.sides else {"kind": "none", "detail": "a network without sides"},
        bones=found.bones,
        warnings=[*scan.warnings, *found.warnings],
        plausibility=found.plausibility,
    )


def _shortcomings(found: Segmentation, checks: list[Check]) -> list[str]:
    """Return what `--strict` does not accept; where one leg alone is seen, the other is not missed here."""
    kind = found.sides.kind if found.sides else "none"
    single = kind in ("laterality", "fibula")
    seen = {row.side for row in found.bones if row.voxels}
    missed = [
        f"{row.name.replace('_', ' ')} is {row.status}"
        for row in found.bones
        if row.status != "found" and not (single and row.side not in seen)
    ]
    unknown = ["the side is unknown"] if kind == "unknown" else []
    failed = [f"check failed: {check.check} ({check.detail})" for check in checks if not check.passed]
    implausible = [f"not plausible: {check.detail}" for check in found.plausibility if not check.passed]
    return missed + unknown + implausible + failed
