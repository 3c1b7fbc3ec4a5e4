"""Pictures of a training: losses and DSC over its epochs, and DSC over subjects. Need matplotlib."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which most colour-blind people tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK = "#333333"


def can_draw() -> bool:
    """Whether matplotlib is installed; does not import it."""
    return find_spec("matplotlib") is not None


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the losses and the validation DSC over the epochs (the report's Figures 8 and 9).

    Parameters
    ----------
    rows : sequence of mapping
        Of ``log.csv``; at least one.
    path : Path
        A PNG file; replaced as a whole.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    figure = _figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    epochs = [int(row["epoch"]) for row in rows]
    columns = {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}
    mark = "o" if len(rows) == 1 else ""
    for name, colour in (("train_loss", _COLOURS[0]), ("validation_loss", _COLOURS[1])):
        text = name.removesuffix("_loss").replace("train", "training")
        left.plot(epochs, columns[name], mark + "-", color=colour, label=text)
    classes = [name for name in columns if name.startswith("dsc_")]
    for number, name in enumerate(classes):
        colour = _COLOURS[number % len(_COLOURS)]
        label = name.removeprefix("dsc_") if len(classes) <= 8 else None
        right.plot(epochs, columns[name], mark + "-", color=colour, lw=1, alpha=0.8, label=label)
    right.plot(epochs, columns["dsc"], mark + "-", color=_INK, lw=2, label="mean")
    best = int(np.argmax(columns["dsc"]))
    right.plot(epochs[best], columns["dsc"][best], "o", color=_INK)
    found = f"best: {columns['dsc'][best]:.3f} in epoch {epochs[best]}"
    title = "nothing was validated" if np.isnan(columns["dsc"]).all() else found
    right.set_title(title, fontsize=9, color=_INK)
    right.set_ylim(-0.02, 1.02)
    for axes, what in ((left, "loss"), (right, "DSC on validation slices")):
        _dress(axes, what)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_boxes(groups: Mapping[str, Sequence[float]], path: Path, title: str = "") -> None:
    """Draw the spread of DSC over subjects, a box a bone or a network (the report's Figure 10).

    Boxes end at the quartiles, whiskers at 1.5 times their distance; a subject is a dot, the mean a diamond.

    Parameters
    ----------
    groups : mapping of str to sequence of float
        Name -> DSC of each subject; NaN is left out, and so is a group with nothing else.
    path : Path
        A PNG file; replaced as a whole.
    title : str
        Above the boxes.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    found = {name: np.array([v for v in values if np.isfinite(v)]) for name, values in groups.items()}
    found = {name: values for name, values in found.items() if values.size}
    figure = _figure(2.2 + 1.1 * len(found), 3.8, left=1.05)  # a bad network's ticks have four decimals
    axes = figure.subplots()
    for place, (name, values) in enumerate(found.items(), 1):
        colour = _COLOURS[(place - 1) % len(_COLOURS)]
        thin = {"color": colour, "linewidth": 1.2}
        axes.boxplot(
            values, positions=[place], widths=0.5, tick_labels=[name], showfliers=False, showmeans=True,
            boxprops=thin, whiskerprops=thin, capprops=thin, medianprops={"color": _INK, "linewidth": 2},
            meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": _INK, "markersize": 5},
        )  # fmt: skip
        spread = np.linspace(-0.12, 0.12, values.size) if values.size > 1 else np.zeros(1)
        axes.plot(place + spread, values, "o", color=colour, alpha=0.6, markersize=4, markeredgewidth=0)
    axes.set_title(title, fontsize=10, color=_INK)
    _dress(axes, "DSC")
    _save(figure, path)


def draw_reliability(curves: Mapping[str, npt.NDArray[np.float64]], path: Path) -> None:
    """Draw how often voxels are right that have some confidence; on the diagonal it means what it says.

    Parameters
    ----------
    curves : mapping of str to ndarray, (bins, 3)
        Name -> mean confidence, share of right voxels, and voxels of each bin; a dot's area grows with these.
    path : Path
        A PNG file; replaced as a whole.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    figure = _figure(4.6, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color=_INK, lw=1)
    for number, (name, bins) in enumerate(curves.items()):
        said, right, voxels = bins.T
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(said, right, "-", color=colour, lw=1.2, label=name)
        axes.scatter(said, right, s=4 + 120 * voxels / voxels.sum(), color=colour, linewidths=0)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("confidence")
    axes.legend(frameon=False, fontsize=8)
    _dress(axes, "share of right voxels")
    _save(figure, path)


def _figure(width: float, height: float, left: float = 0.65) -> "Figure":
    """Return a figure of its own, without pyplot's list of open ones; fixed margins draw twice as fast."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    figure.subplots_adjust(left / width, 0.5 / height, 1 - 0.15 / width, 1 - 0.35 / height, 0.2)
    return figure


def _dress(axes: "Axes", what: str) -> None:
    axes.set_ylabel(what)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: "Figure", path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, format="png", metadata={"Software": None})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
