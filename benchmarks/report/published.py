"""What the student report found: its tables, of real scans of children.

Pages are those of its list of tables; what stands in the text beside a table is named in ``also``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from seg_core.labels import BONES

MEAN = "mean"
"""In the place of a structure: the mean over all of them."""


@dataclass(frozen=True)
class Figure:
    """A mean with its standard deviation, where there is one; how many had none and are left out."""

    mean: float
    sd: float | None = None
    none: int = field(default=0, kw_only=True)


Figures = Mapping[tuple[str, str], Mapping[str, Figure]]
"""(row, structure) -> measure -> figure."""


@dataclass(frozen=True)
class Published:
    """A table of the report.

    Parameters
    ----------
    number : str
        As the report numbers it.
    page : int
        Where it stands.
    title : str
        What it compares.
    figures : Figures
        What it says.
    also : str
        Which of them stand elsewhere, and where.
    """

    number: str
    page: int
    title: str
    figures: Figures
    also: str = ""


Pairs = Sequence[tuple[float, ...]]


def _scores(row: str, dsc: Pairs, volume_error: Pairs = ()) -> Figures:
    """Figures of the bones, and then of their mean; () where there is none."""
    figures: dict[tuple[str, str], dict[str, Figure]] = {}
    for measure, pairs in (("dsc", dsc), ("volume_error_cm3", volume_error)):
        for structure, pair in zip((*BONES, MEAN), pairs, strict=False):
            if pair:
                figures.setdefault((row, structure), {})[measure] = Figure(*pair)
    return figures


def _means(dsc: Mapping[str, float]) -> Figures:
    return {(row, MEAN): {"dsc": Figure(value)} for row, value in dsc.items()}


_TABLE_1 = {
    (f"{size} x {size}", "tibia"): {"dsc": Figure(dsc), "epoch": Figure(seconds), "data": Figure(percent)}
    for size, dsc, seconds, percent in ((512, 0.74, 138, 60), (400, 0.74, 108, 34), (256, 0.73, 79, 14))
}
_TABLE_2A = {
    **_scores("pretrained", [(0.92,), (0.93,), (0.72,), (0.86,), (0.86,)]),
    **_scores("random", [(0.89,), (0.90,), (0.55,), (0.83,), (0.79,)]),
}
_TABLE_3 = {
    **_scores(
        "nnunet-2d",
        [(0.89, 0.03), (0.92, 0.03), (0.75, 0.03), (0.84, 0.04), (0.85,)],
        [(18.3, 3.4), (1.1, 0.8), (3.4, 1.6), (31.8, 5.1), (13.7,)],
    ),
    **_scores(
        "nnunet-3d",
        [(0.90, 0.03), (0.91, 0.03), (0.75, 0.06), (0.70, 0.05), (0.82,)],
        [(9.6, 2.2), (0.9, 0.2), (5.4, 2.6), (43.3, 5.2), (14.8,)],
    ),
    **_scores(
        "unet-resnet34",
        [(0.93, 0.02), (0.95, 0.01), (0.78, 0.04), (0.88, 0.03), (0.89,)],
        [(5.4, 0.9), (0.9, 0.2), (2.9, 1.2), (24.5, 3.9), (8.4,)],
    ),
    **_scores(
        "unet-baseline",
        [(0.78, 0.02), (0.83, 0.03), (0.64, 0.03), (0.68, 0.03), (0.73,)],
        [(25.0, 6.2), (8.3, 2.3), (8.8, 3.0), (53.4, 8.1), (23.9,)],
    ),
    **_scores("h-denseunet", [(0.89,), (), (0.89,)], [(24.8,), (), (3.4,)]),
}
_TABLE_4 = {
    **_scores("as it is", [(0.23,), (0.32,), (0.08,), (0.03,)]),
    **_scores("fine-tuned", [(0.93, 0.01), (0.95, 0.03), (0.87, 0.02), (0.81, 0.02)]),
}
_TABLE_5 = {
    (name, ""): {"trainable": Figure(millions * 1e6), "scan": Figure(seconds)}
    for name, millions, seconds in (
        ("unet-resnet34", 3, 20),
        ("nnunet-2d", 45, 180),
        ("nnunet-3d", 62, 540),
        ("unet-baseline", 31, 40),
    )
}
_TABLES = (
    Published("1", 31, "image sizes (plain 2D U-Net, tibia)", _TABLE_1),
    Published("2A", 32, "pretrained or random weights", _TABLE_2A, "the means: section 5.2.1"),
    Published(
        "2B",
        33,
        "pretrained backbones",
        _means({"unet-resnet34": 0.86, "unet-resnet50": 0.86, "unet-vgg19": 0.75, "unet-mobilenetv2": 0.76}),
    ),
    Published("2C", 33, "losses", _means({"dice": 0.86, "cross_entropy": 0.80, "dice_focal": 0.88})),
    Published("2D", 34, "learning rates", _means({"1e-4": 0.86, "1e-5": 0.75, "falling": 0.86})),
    Published(
        "3",
        35,
        "networks",
        _TABLE_3,
        "the means: section 5.3; H-DenseUNet: section 6.2, another study on scans of its own",
    ),
    Published("4", 35, "a second population", _TABLE_4, "as it is: section 5.4, three scans"),
    Published("5", 37, "parameters and time", _TABLE_5),
)
PUBLISHED: Mapping[str, Published] = MappingProxyType({table.number: table for table in _TABLES})
"""Number of a table -> the table."""
