"""Train: a network on a dataset."""

from pathlib import Path

from nicegui import ui

from gui import parts, words
from gui.desk import Desk
from gui.pages.training import PIXEL_MM, dataset_subjects, other_than_bundled
from gui.places import plain_name
from seg_core.errors import LlsError, install_hint

_BEGIN = {
    "default": "from the bundled network",
    "imagenet": "from ImageNet's encoder",
    "random": "anew",
}
_BUNDLED = "torch/unet-resnet34-fine"
"""What the bundled network is, as a test holds; no other can go on from it."""
_DEVICES = {"auto": "choose by itself", "cpu": "processor", "cuda": "NVIDIA graphics card"}


def register(desk: Desk) -> None:
    """Add the page."""

    @ui.page("/train", title="Train · lls")
    def train_page(data: str = "") -> None:
        about = "A network learns from a dataset. It can be stopped and goes on where it was."
        with parts.frame(desk, "/train", "Train a network", about), parts.box("columns"):
            with parts.box("stack"):
                TrainForm(desk, data)
            with parts.card("Trainings"):
                parts.job_list(desk, lambda: desk.store.jobs("train")[:8], "No training yet.")


def networks() -> dict[tuple[str, str], tuple[str, str]]:
    """Return (trainer, network) -> what it is, and the extra that is missing for it or nothing."""
    from trainers.registry import get_trainer, trainer_names

    return {
        (trainer, name): (network.about, network.extra if network.missing else "")
        for trainer in trainer_names()
        for name, network in get_trainer(trainer).NETWORKS.items()
    }


class TrainForm:
    """What is asked of the user."""

    def __init__(self, desk: Desk, data: str) -> None:
        self.desk, self.networks = desk, networks()
        datasets = desk.datasets()
        if not datasets:
            with parts.card():
                parts.empty("dataset", "There is no dataset to train on yet.")
                with parts.box("line").style("justify-content: center"):
                    parts.button("Prepare one", lambda: ui.navigate.to("/prepare"), "arrow_forward", "main")
            return
        with parts.card("1  Data"):
            self.data = ui.select(datasets, label="Dataset", on_change=self._dataset)
            self.data.props("outlined dense")
            self.held = ui.select(
                [], label="Subjects held back, to choose the best network by", multiple=True
            )
            self.held.props("outlined dense use-chips")
            parts.text(
                "With nobody held back all epochs are trained, and the last network is kept.", "muted small"
            )
        with parts.card("2  Network"):
            self._network()
        with parts.card("3  Run"):
            self._options()
        self.data.set_value(data if data in datasets else next(iter(datasets)))

    def _network(self) -> None:
        choices = {
            f"{trainer}/{name}": f"{name} ({trainer}): {about}"
            for (trainer, name), (about, _) in self.networks.items()
        }
        installed = (f"{t}/{n}" for (t, n), (_, missing) in self.networks.items() if not missing)
        first = _BUNDLED if _BUNDLED in choices else next(installed, next(iter(choices), None))
        self.network = ui.select(choices, label="Network", value=first, on_change=self._check)
        self.network.props("outlined dense")
        self.begin = ui.select(_BEGIN, label="Begins", value="default", on_change=self._check)
        self.begin.props("outlined dense")
        self.missing = parts.box("stack")

    def _options(self) -> None:
        with parts.box("pair"):
            self.name = ui.input("Name of the network", value="network").props("outlined dense")
            self.epochs = ui.number("Epochs at most", value=50, min=1, precision=0).props("outlined dense")
        with (
            ui.expansion("Options", caption="empty: the network's own", icon="tune").classes("field"),
            parts.box("pair"),
        ):
            self.numbers = {
                key: ui.number(label, min=0).props("outlined dense clearable")
                for key, label in (
                    ("epoch_samples", "Slices an epoch"),
                    ("batch", "Slices a step"),
                    ("lr", "Learning rate"),
                    ("patience", "Epochs without progress until it stops"),
                    ("validation_samples", "Slices that are validated on"),
                    ("threads", "Threads"),
                )
            }
            self.device = ui.select(_DEVICES, label="Runs on", value="auto").props("outlined dense")
        with parts.box("line"):
            self.start = parts.button("Train", self.submit, "play_arrow", "main").classes("big")

    def _dataset(self) -> None:
        names = dataset_subjects(Path(self.data.value))
        self.held.set_options(names, value=names[-1:])
        self._check()

    def _check(self) -> None:
        """Say what is missing for the network that is chosen, and where the data do not suit it."""
        trainer, name = self.network.value.split("/", 1)
        extra = self.networks[trainer, name][1]
        if self.begin.value == "default" and self.network.value != _BUNDLED:
            self.begin.set_value("random")
        self.missing.clear()
        self.start.set_enabled(not extra)
        with self.missing:
            if extra:
                fix = f"In a terminal: {install_hint(extra)}, then start lls gui again."
                parts.banner("look", "This network needs a package that is not installed", [fix])
            if self.begin.value == "default":
                self._suits()

    def _suits(self) -> None:
        """Say where the bundled network knows slices that were prepared otherwise."""
        try:
            differences = other_than_bundled(Path(self.data.value))
        except LlsError as error:
            differences = words.error_sentences(error)
        if differences:
            fix = f"Prepare the data with {PIXEL_MM} mm a pixel, or let the network begin otherwise."
            remarks = [words.sentence(f"the bundled network knows {text}") for text in differences]
            parts.banner("look", "These data do not suit the bundled network", [*remarks, fix])

    def submit(self) -> None:
        """Put the training in the queue."""
        names = dataset_subjects(Path(self.data.value))
        held = list(self.held.value or [])
        if len(held) == len(names):
            parts.complain(
                LlsError(f"all {words.plural(len(names), 'subject')} held back", "one to learn from")
            )
            return
        self.start.set_enabled(False)  # a second click would ask for the same again
        trainer, network = self.network.value.split("/", 1)
        run = self.desk.store.free_name("runs", plain_name(self.name.value or "network"))
        request = {
            "data": self.data.value,
            "validation_subjects": held,
            "run": str(run),
            "trainer": trainer,
            "network": network,
            "init": self.begin.value,
            "epochs": int(self.epochs.value or 50),
            "device": self.device.value,
        }
        for key, field in self.numbers.items():
            if field.value:
                request[key] = field.value if key == "lr" else int(field.value)
        job = self.desk.worker.submit("train", run.name, request)
        ui.navigate.to(f"/job/{job.id}")
