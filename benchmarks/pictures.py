"""Pictures of benchmarks: panels of lines. Need matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Okabe and Ito's colours, which most colour-blind people tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333", "#E69F00")


@dataclass(frozen=True)
class Panel:
    """Lines over one axis.

    Parameters
    ----------
    title, along : str
        Its heading, and what runs along it.
    ticks : sequence of str
        Names of the places along it, evenly spaced.
    lines : mapping of str to sequence of float
        A value a place; NaN where there is none.
    levels : mapping of str to float
        Levels to compare with.
    """

    title: str
    along: str
    ticks: Sequence[str]
    lines: Mapping[str, Sequence[float]]
    levels: Mapping[str, float] = field(default_factory=dict)


def draw_panels(panels: Sequence[Panel], what: str, path: Path, columns: int = 4) -> None:
    """Draw panels beside each other, with one legend.

    Parameters
    ----------
    panels : sequence of Panel
        At least one.
    what : str
        The values, which lie between 0 and 1.
    path : Path
        A PNG file; replaced.
    columns : int
        Panels a row.
    """
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.1 * columns + 0.6, 2.7 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        for (name, values), colour in zip(panel.lines.items(), _COLOURS, strict=False):
            axes.plot(range(len(values)), values, "o-", color=colour, lw=1.2, ms=3, label=name)
        for name, level in panel.levels.items():
            axes.axhline(level, color="#777777", lw=0.8, ls=":", label=name)
        axes.set_xticks(range(len(panel.ticks)), panel.ticks, fontsize=7)
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(panel.title, fontsize=9)
        axes.set_xlabel(panel.along, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    for axes in grid[:, 0]:
        axes.set_ylabel(what, fontsize=8)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110)
