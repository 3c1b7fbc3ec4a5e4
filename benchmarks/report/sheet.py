"""A table of ours beside the report's, as Markdown and as CSV."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from benchmarks.report.published import Figure, Figures, Published
from seg_core.output import output_error, write_whole
from trainers.curves import can_draw, draw_boxes

SYNTHETIC = (
    "Ours: synthetic scans (scaled adult bones, drawn images). The report's: real scans of children."
    " The two columns are not a contest; what can be compared is the order of the rows."
)
BOXES = (
    "where matplotlib is installed: a box a network, a dot the DSC of a held-out person's bone, from left to"
    " right as in the table."
)
SMOKE = "SMOKE RUN: it proves only that the command runs. These figures mean nothing and are not published."


@dataclass(frozen=True)
class Measure:
    """A column: its title, digits behind the point, whether it is shown as a ratio to a row's."""

    title: str
    digits: int
    ratio: bool = False


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "dsc": Measure("DSC", 2),
        "volume_error_cm3": Measure("volume error (cm³)", 1),
        "hd95_mm": Measure("HD95 (mm)", 1),
        "epoch": Measure("time an epoch, ratio", 2, True),
        "data": Measure("memory, ratio", 2, True),
        "parameters": Measure("parameters", 0),
        "trainable": Measure("trainable", 0),
        "scan": Measure("time a scan, ratio", 2, True),
        "slice": Measure("time a slice, ratio", 2, True),
    }
)


@dataclass(frozen=True)
class Sheet:
    """A table.

    Parameters
    ----------
    published : Published
        The report's.
    measures : tuple of str
        Names of ``MEASURES``: the columns.
    ours : Figures
        What was found here. Rows that only the report has are shown without figures of ours.
    conditions : tuple of str
        How it was made, and what is missing: a line each.
    smoke : bool
        Whether the figures mean nothing.
    reference : str
        The row that ratios are to.
    boxes : mapping of str to sequence of float
        Row -> DSC of every held-out person and structure, for the report's Figure 10; by default no picture.
    """

    published: Published
    measures: tuple[str, ...]
    ours: Figures
    conditions: tuple[str, ...]
    smoke: bool = False
    reference: str = ""
    boxes: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return the table for people."""
        report = self.published
        lines = [f"# Table {report.number}: {report.title}", "", *([SMOKE, ""] if self.smoke else [])]
        lines += [SYNTHETIC, "", *_rows(self._cells()), ""]
        also = f"; {report.also}" if report.also else ""
        source = f"The report's: Table {report.number}, page {report.page}{also}. `-`: there is none."
        lines += [f"- {line}" for line in (source, *self.conditions)]
        lines += [f"- The report's Figure 10: {self._picture}, {BOXES}"] * bool(self.boxes)
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Return the table for programs: a row a figure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        numbers = ("ours", "ours_sd", "report", "report_sd")
        writer.writerow(("table", "row", "structure", "measure", *numbers, "kind"))
        kind = "smoke: not to be published" if self.smoke else "synthetic scans"
        for row, structure in self._keys():
            for measure in self.measures:
                pair = self._pair((row, structure), measure)
                values = [value for f in pair for value in ((f.mean, f.sd) if f else (None, None))]
                writer.writerow((self.published.number, row, structure, measure, *values, kind))
        return text.getvalue()

    def write(self, folder: Path) -> None:
        """Write both, and the picture where there are boxes and matplotlib is installed.

        Raises
        ------
        OutputError
            If they cannot be written.
        """
        write_whole(folder / f"{self._stem}.md", self.markdown())
        write_whole(folder / f"{self._stem}.csv", self.csv())
        if self.boxes and can_draw():
            title = "SMOKE RUN" if self.smoke else "synthetic scans"
            try:
                draw_boxes(self.boxes, folder / self._picture, title)
            except OSError as error:
                raise output_error(error, folder) from error

    @property
    def _stem(self) -> str:
        return f"table-{self.published.number.lower()}" + ("-smoke" if self.smoke else "")

    @property
    def _picture(self) -> str:
        return f"{self._stem}-figure10.png"

    def _keys(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys([*self.ours, *self.published.figures]))

    def _pair(self, key: tuple[str, str], measure: str) -> tuple[Figure | None, Figure | None]:
        """Return a figure of ours and the report's."""
        return self._of(self.ours, key, measure), self._of(self.published.figures, key, measure)

    def _of(self, figures: Figures, key: tuple[str, str], measure: str) -> Figure | None:
        figure = figures.get(key, {}).get(measure)
        if figure is None or not MEASURES[measure].ratio:
            return figure
        to = figures[self.reference, key[1]][measure].mean
        return Figure(figure.mean / to, None if figure.sd is None else figure.sd / to) if to else None

    def _cells(self) -> Iterator[list[str]]:
        """Give the header and the rows; the report has no column where it has no figure."""
        known = {m for cell in self.published.figures.values() for m in cell}
        titles = [""] + [""] * any(structure for _, structure in self._keys())
        for measure in self.measures:
            titles += [MEASURES[measure].title] + ["in the report"] * (measure in known)
        yield titles
        for key in self._keys():
            cells = [part for part in key if part]
            for measure in self.measures:
                for figure in self._pair(key, measure)[: 1 + (measure in known)]:
                    cells.append(_text(figure, MEASURES[measure].digits))
            yield cells


def _text(figure: Figure | None, digits: int) -> str:
    if figure is None:
        return "-"
    spread = "" if figure.sd is None else f" ± {figure.sd:,.{digits}f}"
    return f"{figure.mean:,.{digits}f}{spread}" + f" ({figure.none} none)" * bool(figure.none)


def _rows(cells: Iterator[list[str]]) -> list[str]:
    header, *rest = cells
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rest)]
