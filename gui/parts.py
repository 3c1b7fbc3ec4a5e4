"""What the pages are built of: the frame around them, cards, tables, a browser of folders, progress."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nicegui import run, ui

from gui import words
from gui.desk import Desk
from gui.places import MOST_FILES, readable
from gui.progress import in_words
from gui.store import Job
from seg_core.colours import Colour
from seg_core.errors import LlsError

TABS = (
    ("/", "Segment", "accessibility_new"),
    ("/results", "Results", "folder_open"),
    ("/prepare", "Training data", "dataset"),
    ("/train", "Train", "insights"),
)
_TONES = {
    "queued": ("", "schedule"),
    "running": ("run", "play_arrow"),
    "done": ("good", "check"),
    "failed": ("bad", "error_outline"),
    "cancelled": ("", "block"),
    "cut short": ("look", "content_cut"),
}
_MOST_ROWS = 500  # of a folder's listing; more would hold the page up
_ICONS = {"good": "check_circle", "look": "visibility", "bad": "error", "": "info"}
_LOGO = (
    '<svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="9" fill="#2f55d4"/>'
    '<path d="M11 6.5a3 3 0 0 1 5 1 3 3 0 0 1 5 2c0 2-2 2.4-2 4.500l0 6c0 2 2 2.500 2 4.500a3 3 0 0 1-5 1.500'
    ' 3 3 0 0 1-5-1.500c0-2 2-2.500 2-4.500l0-6c0-2-3-3-3-5a3 3 0 0 1 1-2.500z" fill="#fff"/></svg>'
)


@contextmanager
def frame(desk: Desk, here: str, title: str, about: str = "") -> Iterator[None]:
    """Build the page around what is built inside."""
    ui.colors(primary="#2f55d4", positive="#0b6b46", negative="#a8232b", warning="#8a5300")
    dark = ui.dark_mode(desk.store.setting("dark"))
    ui.add_head_html('<link rel="stylesheet" href="/assets/style.css">')
    ui.add_head_html('<script src="/assets/drop.js"></script>')
    with box("shell"):
        with ui.element("nav").classes("rail").props('aria-label="Pages"'):
            _rail(desk, here, dark)
        with ui.element("main").classes("main"):
            if title:
                with box("stack tight"):
                    heading(title, 1)
                    if about:
                        text(about, "soft")
            yield


def _rail(desk: Desk, here: str, dark: ui.dark_mode) -> None:
    with ui.link(target="/").classes("brand"):
        ui.html(_LOGO, sanitize=False)
        with box(""):
            ui.label("lls")
            with ui.element("small"):
                ui.label("leg bones in MRI")
    for target, name, icon in TABS:
        link = ui.link(target=target).classes("item")
        if target == here:
            link.props("aria-current=page")
        with link:
            ui.icon(icon)
            ui.label(name)
    with box("foot"):

        def keep_dark(value: bool) -> None:
            desk.store.set("dark", value)
            dark.set_value(value)

        def keep_reveal(value: bool) -> None:
            desk.store.set("reveal", value)
            ui.navigate.reload()

        ui.switch("Dark", value=bool(desk.store.setting("dark")), on_change=lambda e: keep_dark(e.value))
        ui.switch("Show names", value=desk.reveal, on_change=lambda e: keep_reveal(e.value)).tooltip(
            "Patients' names from the headers, and where scans lie. Off: they stay hidden."
        )
        text("For research. Not for diagnosis.", "small muted")


def box(classes: str) -> ui.element:
    """Return a plain box."""
    return ui.element("div").classes(classes)


def text(words_: str, classes: str = "") -> ui.element:
    """Write a paragraph; a text never becomes HTML."""
    paragraph = ui.element("p").classes(classes)
    with paragraph:
        ui.label(readable(words_))
    return paragraph


def heading(words_: str, level: int = 2) -> None:
    """Write a heading."""
    with ui.element(f"h{level}"):
        ui.label(words_)


@contextmanager
def card(title: str = "", about: str = "") -> Iterator[ui.element]:
    """Build a card."""
    outer = ui.element("section").classes("card")
    with outer:
        if title:
            with box("stack tight"):
                heading(title)
                if about:
                    text(about, "muted small")
        yield outer


def chip(words_: str, tone: str = "", icon: str = "", hint: str = "") -> ui.element:
    """Show a word with a tone: good, look, bad, run, or none; never by colour alone."""
    outer = ui.element("span").classes(f"chip {tone}")
    with outer:
        if icon:
            ui.icon(icon)
        ui.label(readable(words_))
        if hint:
            ui.tooltip(hint)
    return outer


def state_chip(job: Job) -> ui.element:
    """Show what has become of a job."""
    tone, icon = _TONES[job.state]
    stopped = job.kind == "train" and job.state == "cancelled"
    return chip("stopped" if stopped else job.state, tone, icon)


def banner(tone: str, headline: str, remarks: Sequence[str] = ()) -> ui.element:
    """Show what must not be overlooked."""
    outer = box(f"banner {tone}").props("role=status")
    with outer:
        ui.icon(_ICONS[tone])
        with box("grow"):
            heading(headline)
            if len(remarks) == 1:
                text(remarks[0])
            elif remarks:
                with ui.element("ul"):
                    for remark in remarks:
                        with ui.element("li"):
                            ui.label(readable(remark))
    return outer


def picture(address: str, about: str) -> ui.element:
    """Show a picture; the address and the words may hold anything."""
    image = ui.element("img").classes("picture")
    image._props |= {"src": address, "alt": about, "loading": "lazy"}
    return image


def empty(icon: str, words_: str) -> None:
    """Say that there is nothing yet."""
    with box("empty"):
        ui.icon(icon)
        ui.label(words_)


Cell = str | Callable[[], object]


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]], left: int = 1) -> ui.element:
    """Show rows; a cell is a text or what builds it; all but the first ``left`` columns are flush right."""
    outer = box("scroll")
    with outer, ui.element("table").classes("grid"):
        with ui.element("thead"), ui.element("tr"):
            for place, name in enumerate(header):
                with ui.element("th").props("scope=col").classes("" if place < left else "right"):
                    ui.label(name)
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr"):
                    for place, cell in enumerate(row):
                        with ui.element("td").classes("" if place < left else "right"):
                            ui.label(cell) if isinstance(cell, str) else cell()
    return outer


def bone_label(name: str, colour: Colour) -> None:
    """Show a bone's name with its colour, that of the pictures."""
    r, g, b = colour
    with box("line"):
        box("dot").style(f"background: rgb({r},{g},{b})")
        ui.label(words.bone_name(name))


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Show names with what stands for them."""
    with ui.element("dl").classes("facts"):
        for name, value in pairs:
            with ui.element("dt"):
                ui.label(name)
            with ui.element("dd"):
                ui.label(value)


def button(words_: str, do: Callable[[], object], icon: str = "", kind: str = "outline") -> ui.button:
    """Return a button: ``main``, ``outline``, ``flat`` or ``danger``."""
    props = {"main": "unelevated", "outline": "outline", "flat": "flat", "danger": "outline color=negative"}
    return ui.button(words_, on_click=do, icon=icon or None).props(f"no-caps {props[kind]}")


def complain(error: Exception) -> None:
    """Say what went wrong in a corner of the page."""
    found = error if isinstance(error, LlsError) else LlsError(f"{type(error).__name__}: {error}")
    ui.notify(readable(str(found)), type="negative", multi_line=True, timeout=12000, close_button="Close")


async def confirm(question: str, do: str) -> bool:
    """Ask before something is lost."""
    with ui.dialog() as dialog, card(question), box("line"):
        button(do, lambda: dialog.submit(True), kind="danger")
        button("Keep it", lambda: dialog.submit(False), kind="flat")
    return bool(await dialog)


async def browse(desk: Desk, want_folder: bool = False) -> Path | None:
    """Let the user choose a file or folder of this computer, within the roots; None if they do not."""
    chooser = _FolderDialog(desk, want_folder)
    await chooser.show(chooser.folder)
    chosen: Path | None = await chooser.dialog
    return chosen


class _FolderDialog:
    """A listing of folders to walk through."""

    def __init__(self, desk: Desk, want_folder: bool) -> None:
        self.desk = desk
        last = Path(desk.store.setting("folder", ""))
        usable = last.is_absolute() and desk.places.allows(last) and last.is_dir()
        self.folder = last if usable else desk.places.roots[0]
        title = "Choose a folder" if want_folder else "Choose a scan"
        with ui.dialog() as self.dialog, card(title):
            self.here = ui.label("").classes("mono")
            self.listing = box("stack tight scroll").style("height: 46vh; overflow: auto")
            with box("line"):
                button("Take this folder", lambda: self.dialog.submit(self.folder), "check", "main")
                button("Cancel", lambda: self.dialog.submit(None), kind="flat")

    async def show(self, folder: Path) -> None:
        """Go to a folder."""
        try:
            entries = await run.io_bound(self.desk.places.listing, folder)
        except LlsError as error:
            complain(error)
            return
        self.folder = folder
        self.desk.store.set("folder", str(folder))
        self.here.set_text(readable(folder))
        self.listing.clear()
        with self.listing:
            self._elsewhere()
            for entry in entries[:_MOST_ROWS]:
                if entry.is_folder:
                    _folder_row("folder", entry.name, lambda path=entry.path: self.show(path))
                else:
                    line = f"{entry.name}  ({words.size(entry.size)})"
                    _folder_row("insert_drive_file", line, lambda path=entry.path: self.dialog.submit(path))
            if not entries:
                empty("folder_off", "Nothing in here")
            if len(entries) > _MOST_ROWS:
                text(f"… and {len(entries) - _MOST_ROWS} more", "muted small")

    def _elsewhere(self) -> None:
        """Show the ways up, and to other roots."""
        if above := self.desk.places.parent(self.folder):
            _folder_row("arrow_upward", "Up", lambda: self.show(above))
        for root in self.desk.places.roots:
            if not self.folder.is_relative_to(root):
                _folder_row("folder_special", readable(root), lambda root=root: self.show(root))


def _folder_row(icon: str, name: str, do: Callable[[], object]) -> None:
    with ui.element("button").classes("folderrow").props("type=button").on("click", do):
        ui.icon(icon)
        with ui.element("span"):
            ui.label(name)


@dataclass
class JobLine:
    """A job in a list, kept up to date."""

    desk: Desk
    job: Job

    def __post_init__(self) -> None:
        with box("job"):
            with box("line nowrap"):
                with ui.link(target=f"/job/{self.job.id}").classes("title grow"):
                    ui.label(self.job.title)
                state_chip(self.job)
            self.words = ui.label("").classes("small muted")
            self.bar = ui.linear_progress(0, show_value=False).props('aria-label="Progress"')
            with box("line") as actions:
                job_buttons(self.desk, self.job)
            actions.set_visibility(self.job.state != "done")
            if not self.job.is_over:
                ui.timer(0.7, self.update)
        self.update()

    def update(self) -> None:
        """Show how far it is."""
        running = self.desk.worker.running.get(self.job.id)
        self.bar.set_visibility(running is not None)
        if running is None:
            message = self.desk.shown(self.job, self.job.message.split("\n")[0])
            self.words.set_text(message or words.KINDS[self.job.kind])
            return
        progress = running.progress
        self.bar.set_value(round(progress.fraction, 3))
        left = in_words(progress.seconds_left)
        self.words.set_text(" · ".join(part for part in (progress.doing, progress.detail, left) if part))


def job_buttons(desk: Desk, job: Job, then: Callable[[Job], object] | None = None) -> None:
    """Show what can be done with a job: cancel it, or run it again."""

    async def cancel() -> None:
        await desk.worker.cancel(job)

    def again() -> None:
        new = desk.worker.again(job)
        if then:
            then(new)

    if not job.is_over:
        button("Stop" if job.kind == "train" else "Cancel", cancel, "stop", "flat").props("dense")
    elif job.state != "done":
        button("Go on" if job.kind == "train" else "Run again", again, "replay", "flat").props("dense")


def watch(
    desk: Desk, choose: Callable[[], Sequence[Job]], build: Callable[[Sequence[Job]], object]
) -> ui.element:
    """Build what shows some jobs, anew whenever one of them has changed, in this tab or in another."""
    outer = box("stack")
    version, shown = -1, list[tuple[int, str]]()

    def refresh() -> None:
        nonlocal version, shown
        if version == desk.store.version:
            return
        jobs, first = choose(), version == -1
        version, now = desk.store.version, [(job.id, job.state) for job in jobs]
        if first or now != shown:
            shown = now
            outer.clear()
            with outer:
                build(jobs)

    refresh()
    ui.timer(0.7, refresh)
    return outer


def job_list(desk: Desk, choose: Callable[[], Sequence[Job]], nothing: str) -> None:
    """Show jobs, kept up to date: also those that another tab asks for."""

    def build(jobs: Sequence[Job]) -> None:
        if not jobs:
            empty("inbox", nothing)
        for job in jobs:
            JobLine(desk, job)

    watch(desk, choose, build).classes("tight")


Handler = Callable[[str], Awaitable[None] | None]


class DropZone(ui.element, component="assets/dropzone.js"):
    """A place to drop files or a folder; calls back with the name of the drop."""

    def __init__(self, desk: Desk, on_drop: Handler, words_: str, hint: str) -> None:
        super().__init__()
        self._props["words"], self._props["hint"] = words_, hint
        self._props["largest"], self._props["most"] = desk.uploads.largest, MOST_FILES
        self.on("dropped", lambda event: on_drop(str(event.args)))
        self.on("abandoned", lambda event: desk.uploads.discard(str(event.args)))
        self.on("refused", lambda event: ui.notify(str(event.args), type="negative", timeout=12000))


def path_field(
    desk: Desk, label: str, on_path: Callable[[Path], object], want_folder: bool = False
) -> ui.input:
    """Return a field for a path that is typed or browsed for; calls back with one that the page may see."""

    async def take(given: str | Path) -> None:
        try:
            path = desk.places.find(given)
        except LlsError as error:
            complain(error)
            return
        field.set_value(readable(path))
        result = on_path(path)
        if isinstance(result, Awaitable):
            await result

    async def look() -> None:
        if (path := await browse(desk, want_folder)) is not None:
            await take(path)

    with box("line nowrap").style("width: 100%"):
        field = ui.input(label).props("outlined dense").classes("grow")
        field.on("keydown.enter", lambda: take(field.value or ""))
        button("Browse", look, "folder_open")
    return field
