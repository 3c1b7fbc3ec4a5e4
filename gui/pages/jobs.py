"""A job: how far it is, its log, and what came of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nicegui import ui

from gui import parts, requests, words
from gui.desk import Desk
from gui.pages import compare, training
from gui.pages.results import took
from gui.progress import in_words
from gui.store import Job
from gui.viewer.case import Case
from gui.viewer.element import show as show_case
from gui.worker import LOG
from seg_core.colours import Colour, bone_colours

_FILES = {
    "_dseg.nii.gz": "Labels, on the scan's own grid (NIfTI)",
    "_dseg.json": "Table of the labels",
    "_confidence.nii.gz": "The network's confidence (NIfTI)",
    "_statistics.csv": "Volumes, lengths, centres (table)",
    "_preview.png": "The picture",
    "_report.json": "How it was made, with checks",
    ".html": "Report for any browser, in one file",
}


def register(desk: Desk) -> None:
    """Add the page."""

    @ui.page("/job/{number}", title="Result · lls")
    def job_page(number: int) -> None:
        job = desk.store.get(number)
        if job is None:
            with parts.frame(desk, "/results", "There is no such job"):
                ui.link("All results", "/results")
            return
        with parts.frame(desk, "/results", ""):
            _head(desk, job)
            if job.kind == "train":
                training.TrainingView(desk, job)
            elif not job.is_over:
                _running(desk, job)
            elif job.state != "done":
                _failed(desk, job)
            elif job.kind == "segment":
                SegmentResult(desk, job).show()
            elif job.kind == "prepare":
                training.show_dataset(desk, Path(job.request["dataset"]))
            else:
                _plain(desk, job)

    @ui.page("/difference/{number}", title="Difference · lls")
    def difference_page(number: int) -> None:
        """Show two label maps of a scan beside each other, and where they differ."""
        job = desk.store.get(number)
        parent = desk.store.get(job.parent) if job and job.parent and job.kind == "evaluate" else None
        with parts.frame(desk, "/results", f"{parent.title} against {job.title}" if parent and job else ""):
            if job is None or parent is None:
                parts.banner("bad", "There is no such comparison")
                return
            ui.link("Back to the result", f"/job/{parent.id}")
            with parts.box("viewer"):
                show_case(case_of(parent, Path(job.request["prediction"]), Path(job.request["truth"])))


def _head(desk: Desk, job: Job) -> None:
    async def delete() -> None:
        if await parts.confirm(f"Delete “{job.title}” with all its files?", "Delete"):
            await desk.delete(job)
            ui.navigate.to("/results")

    with parts.box("head"):
        with parts.box("stack tight grow"):
            with parts.box("line"):
                parts.heading(job.title, 1)
                parts.state_chip(job)
            about = [words.KINDS[job.kind]]
            about += [f"took {took(job)}"] if job.ended and job.started else []
            about += [str(job.request.get("scan", ""))] if desk.reveal and "scan" in job.request else []
            parts.text(" · ".join(about), "muted")
        with parts.box("line"):
            parts.job_buttons(desk, job, lambda new: ui.navigate.to(f"/job/{new.id}"))
            if job.is_over:
                parts.button("Delete", delete, "delete_outline", "flat").props("dense color=negative")


def _running(desk: Desk, job: Job) -> None:
    """Show how far it is; the page shows the result as soon as there is one."""
    with parts.card():
        doing = ui.label("").style("font-weight: 600; font-size: 1.05rem")
        bar = ui.linear_progress(0, show_value=False).props('aria-label="Progress"')
        detail = ui.label("").classes("soft num").props("role=status")
    log = _log(desk, job)

    def refresh() -> None:
        now = desk.store.get(job.id)
        if now is None or now.is_over:
            timer.cancel()
            ui.navigate.reload()
            return
        running = desk.worker.running.get(job.id)
        if running is None:
            doing.set_text("Waiting for its turn")
            return
        progress = running.progress
        doing.set_text(words.sentence(progress.doing)[:-1])
        bar.set_value(round(progress.fraction, 3))
        share = f"{100 * progress.fraction:.0f} %"
        parts_ = (share, progress.detail, in_words(progress.seconds_left))
        detail.set_text(" · ".join(part for part in parts_ if part))
        log()

    timer = ui.timer(0.5, refresh)


def _failed(desk: Desk, job: Job) -> None:
    headline = {
        "failed": "This did not work",
        "cancelled": "This was cancelled; nothing was left behind",
        "cut short": "This was cut short; nothing was left behind",
    }[job.state]
    if job.kind == "prepare" and Path(job.request["dataset"]).exists():
        headline = headline.replace("nothing was left behind", "finished subjects are kept")
    remarks = [words.sentence(line) for line in desk.shown(job, job.message).splitlines() if line]
    parts.banner("bad" if job.state == "failed" else "look", headline, remarks)
    _log(desk, job)()


def _plain(desk: Desk, job: Job) -> None:
    if job.kind == "export":
        with parts.card("A new network"):
            parts.text("It can be chosen when a scan is segmented.")
            with parts.box("line"):
                target = f"/?model={quote(job.request['model'])}"
                parts.button("Segment with it", lambda: ui.navigate.to(target), "play_arrow", "main")
    if job.kind == "evaluate":
        with parts.card("Comparison"):
            compare.scores(desk.store.folder(job))
    _log(desk, job)()


def _log(desk: Desk, job: Job) -> Callable[[], None]:
    """Show the log, folded away; return what brings it up to date."""
    path = desk.store.folder(job) / LOG
    with ui.expansion("Log", icon="notes").classes("field"):
        if desk.reveal:
            parts.text(requests.command_line(job, desk.store.folder(job)), "mono soft")
        label = ui.label("").classes("log mono")

    def refresh() -> None:
        found = path.read_text(encoding="utf-8")[-20000:] if path.is_file() else ""
        label.set_text(desk.shown(job, found) or "Nothing was said.")

    return refresh


class SegmentResult:
    """What a segmentation gave."""

    def __init__(self, desk: Desk, job: Job) -> None:
        self.desk, self.job = desk, job
        self.folder = desk.store.folder(job) / requests.RESULT
        self.corrections = desk.store.folder(job) / requests.CORRECTIONS
        self.name = str(job.request["name"])
        self.report = json.loads((self.folder / f"{self.name}_report.json").read_text(encoding="utf-8"))

    def show(self) -> None:
        """Build the result's page."""
        judged = words.verdict(self.report)
        parts.banner(judged.tone, judged.headline, judged.remarks)
        self.tabs = ui.tabs().props("align=left inline-label no-caps")
        with self.tabs:
            look = ui.tab("look", "Look", "visibility")
            ui.tab("numbers", "Numbers", "table_chart")
            ui.tab("compare", "Compare", "compare")
            ui.tab("files", "Take away", "download")
            ui.tab("how", "How it was made", "fact_check")
        with ui.tab_panels(self.tabs, value=look, animated=False, keep_alive=True).classes("field"):
            for name, build in (
                ("look", self.look),
                ("numbers", self.numbers),
                ("compare", lambda: compare.show(self.desk, self.job, self.labels)),
                ("files", self.files),
                ("how", self.how),
            ):
                with ui.tab_panel(name):
                    build()

    @property
    def labels(self) -> Path:
        """The label map."""
        return self.folder / f"{self.name}_dseg.nii.gz"

    def url(self, file: str, download: bool = False) -> str:
        """Return where the page finds a file of the result."""
        return f"/job/{self.job.id}/file/{file}" + "?download=true" * download

    def look(self) -> None:
        """Show the scan with its labels, to look at and to correct; the picture where the scan has gone."""
        scan = Path(self.job.request["scan"])
        if not scan.exists():
            parts.banner("look", "The scan is no longer where it was", ["The picture shows what was found."])
            self._picture()
            return
        with parts.box("viewer"):
            show_case(self.case(), on_saved=self._saved, corrections=self.corrections)

    def _picture(self) -> None:
        url = self.url(f"{self.name}_preview.png")
        parts.picture(url, "Contours of the bones on slices, and the bones")

    def case(self) -> Case:
        """Return what the viewer shows."""
        return case_of(self.job, self.labels, meshes=meshes_of(self.folder, self.name))

    def _saved(self, path: Path) -> None:
        ui.notify(f"Saved as {path.name}. The original is kept.", type="positive")
        self.list_corrections.refresh()

    @ui.refreshable_method
    def list_corrections(self) -> None:
        """Offer the corrected label maps."""
        files = sorted(self.corrections.glob("*.nii.gz"))
        if not files:
            return
        with parts.card("Corrections", "Painted in Look; the labels that the network gave are kept."):
            for file in files:
                with parts.box("line"):
                    url = f"/job/{self.job.id}/correction/{file.name}"
                    ui.link(file.name, url).classes("grow")
                    parts.button(
                        "Compare with the original", lambda f=file: self._compare(f), "compare", "flat"
                    )
                    parts.button(
                        "Send to the training data", lambda f=file: self._teach(f), "dataset", "flat"
                    )

    def _compare(self, file: Path) -> None:
        compare.against(self.desk, self.job, self.labels, file, file.name)
        self.tabs.set_value("compare")

    def _teach(self, file: Path) -> None:
        """Add the corrected scan to the subjects that wait on the page of training data."""
        subjects = self.desk.store.setting("subjects", [])
        row = {"name": f"{self.name}-{self.job.id}", "scan": self.job.request["scan"], "labels": str(file)}
        row |= {"series": self.job.request.get("series")}  # that which was painted on
        self.desk.store.set("subjects", [s for s in subjects if s["name"] != row["name"]] + [row])
        ui.navigate.to("/prepare")

    def numbers(self) -> None:
        """Show what was measured."""
        header = ["Bone", "In the scan", "Volume", "Length", "Confidence"]
        with parts.card("Volumes and lengths"):
            parts.table(header, _bone_rows(self.report["bones"]), left=2)
            sides = words.sentence(f"right and left: {self.report['sides']['detail']}")
            parts.text(sides, "muted small")
            parts.text(
                "Length is the greatest extent along the bone's own axis. Confidence is the share of a "
                "bone's voxels that the network expects to be right.", "muted small",
            )  # fmt: skip

    def files(self) -> None:
        """Offer everything for download."""
        self.list_corrections()
        names = sorted(file.name for file in self.folder.iterdir() if file.is_file())
        with parts.card("Take away"):
            with parts.box("line"):
                zipped = f"/job/{self.job.id}/all.zip"
                parts.button("Everything as zip", lambda: ui.navigate.to(zipped), "archive", "main")
                report = f"{self.name}_report.html"
                if report in names:
                    url = self.url(report, True)
                    parts.button("Report in one file", lambda: ui.navigate.to(url), "description")
            rows = [[lambda f=f: ui.link(f, self.url(f, True)), _what(f), self._size(f)] for f in names]
            parts.table(["File", "What it is", "Size"], rows, left=2)
            if self.desk.reveal:
                parts.text(f"On this computer in {self.folder}", "mono soft")

    def _size(self, file: str) -> str:
        return words.size((self.folder / file).stat().st_size)

    def how(self) -> None:
        """Show the network, the steps, the checks."""
        report = self.report
        with parts.box("pair"):
            with parts.card("The run"):
                parts.facts(_run_facts(report))
            with parts.card("The scan"):
                parts.facts(_scan_facts(report["scan"]))
        with parts.card("Checks", "Of the anatomy, and of the files that were written."):
            for passed in (False, True):
                self._checks(passed)
        _log(self.desk, self.job)()

    def _checks(self, passed: bool) -> None:
        """Show the checks that failed, and folded away those that passed."""
        checks = [*self.report["plausibility"], *self.report["checks"]]
        rows = [_check_row(entry) for entry in checks if entry["passed"] == passed]
        if rows and passed:
            with ui.expansion(f"{len(rows)} of {len(checks)} passed", icon="check").classes("field"):
                parts.table(["", "Check", "Found"], rows, left=3)
        elif rows:
            parts.table(["", "Check", "Found"], rows, left=3)


def _bone_rows(bones: Sequence[Mapping[str, Any]]) -> list[list[parts.Cell]]:
    colours = bone_colours({row["label"]: row["name"] for row in bones})
    return [_bone_row(row, colours[row["label"]]) for row in bones]


def _bone_row(row: Mapping[str, Any], colour: Colour) -> list[parts.Cell]:
    word, hint = words.STATUS[row["status"]]
    tone = {"found": "good", "truncated": "look", "empty": "bad"}[row["status"]]
    icon = {"found": "check", "truncated": "content_cut", "empty": "close"}[row["status"]]
    there = bool(row["voxels"])
    return [
        lambda: parts.bone_label(row["name"], colour),
        lambda: parts.chip(word, tone, icon, hint),
        f"{row['volume_cm3']:.1f} cm³" if there else "–",
        f"{row['length_mm']:.0f} mm" if row["length_mm"] else "–",
        words.confidence(row["confidence"]),
    ]


def case_of(
    job: Job, labels: Path, other: Path | None = None, meshes: Mapping[str, Path] | None = None
) -> Case:
    """Return what the viewer shows of a segmentation."""
    series = job.request.get("series")
    return Case(job.title, Path(job.request["scan"]), series, labels, other, meshes or {})


def meshes_of(folder: Path, name: str) -> dict[str, Path]:
    """Return label's name -> surface of a result."""
    files = folder.glob(f"{name}_label-*.ply")
    return {file.stem.rpartition("_label-")[2]: file for file in files}


def _check_row(entry: Mapping[str, Any]) -> list[parts.Cell]:
    chip = ("passed", "good", "check") if entry["passed"] else ("look", "look", "visibility")
    return [lambda: parts.chip(*chip), words.bone_name(entry["check"]), entry["detail"]]


def _what(file: str) -> str:
    if file.endswith(".ply"):
        bone = file.rpartition("_label-")[2].removesuffix(".ply")
        return f"Surface of the {words.bone_name(bone).lower()} (PLY)"
    return next((what for end, what in _FILES.items() if file.endswith(end)), "")


def _run_facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds = sum(step["seconds"] or 0 for step in report["steps"] if not step["step"].startswith("segment:"))
    memory = report.get("peak_memory_bytes")
    return [
        ("Network", f"{report['model']['name']} ({report['model']['sha256'][:12]})"),
        ("Ran on", f"{report['device']['used']} (asked for: {report['device']['asked']})"),
        ("Took", f"{seconds:.0f} s"),
        ("Memory", words.size(memory) if memory else "–"),
        (
            "Software",
            f"lls {report['software']['lls'] or 'development'}, Python {report['software']['python']}",
        ),
        ("Intended use", report["intended_use"]),
    ]


def _scan_facts(scan: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = [
        ("Read from", str(scan.get("kind", "")).upper().replace("NIFTI", "NIfTI")),
        ("Series", str(scan.get("description") or "")),
        ("Chosen", str(scan.get("why") or "")),
        ("Voxels", words.times(scan["shape"]) if "shape" in scan else ""),
        ("Voxel size", f"{words.times(scan['spacing_mm'])} mm" if "spacing_mm" in scan else ""),
        ("Orientation", str(scan.get("orientation") or "")),
        ("Stored as", str(scan.get("type") or "")),
    ]
    return [(name, value) for name, value in named if value]
