"""Format epochs as lines of text: a table on a terminal, plain lines in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rich.cells import cell_len

from . import number_format
from .rows import STAR, Cell, EpochCells, EpochRow, plain_line
from .screen import Screen

_WIDEST_NUMBER = 9  # 2.314e-05; a minus sign is in the gap before it

_GAP = 2

_STAR_WIDTH = 2  # columns for the mark of a best value


class Column(NamedTuple):
    """A column of the table: its metric, its head, its width with the gap before it.

    `marks` columns after it are for marks: an arrow, or a star.
    """

    name: str
    head: str
    width: int
    marks: int


class Table:
    """Formats one epoch after the other.

    On a terminal, columns that do not fit are left out: the epoch, the monitored metric and the
    training loss are kept longest. The header is repeated when a metric is added, or when the width
    of the terminal changes. An arrow after a value shows its change since the last epoch, green for
    better and red for worse.

    Args:
        screen: The output.
        epochs: The number of the last epoch, None if it is not known.
        monitor: The metric whose best value so far is marked.
        mode: Whether `"min"` or `"max"` is best.
        best: The best value before the first row, or None.
        directions: "min" or "max" for each metric that gets arrows.
    """

    def __init__(
        self,
        screen: Screen,
        epochs: int | None,
        monitor: str | None,
        mode: str,
        best: float | None = None,
        directions: Mapping[str, str] | None = None,
    ) -> None:
        self._screen = screen
        known = {} if screen.ascii_only else directions
        self._rows = EpochCells(epochs, monitor, mode, best, known)
        self._star = STAR if screen.live and not screen.ascii_only else "*"
        self._ellipsis = ".." if screen.ascii_only else "…"
        self._columns: list[Column] = []  # the shown ones
        self._width = 0  # of the terminal when the header was written

    def title(self, epoch: int) -> str:
        """Return the number of an epoch: `" 3/20"`."""
        return self._rows.title(epoch)

    def lines(self, row: EpochRow) -> list[str]:
        """Return the line of an epoch, after a header if one is due."""
        known = len(self._rows.names)
        cells = self._rows.take(row)
        if not self._screen.live:
            return [plain_line(cells)]
        added = len(cells) > known or not self._columns
        # A new column, or another width of the terminal, needs a new header.
        header = self._header() if added or self._width != self._screen.width else []
        by_name = {cell.name: cell for cell in cells}
        line = "".join(self._padded(by_name[column.name], column) for column in self._columns)
        return [*header, line]

    def _padded(self, cell: Cell, column: Column) -> str:
        """Return a cell, aligned to the right of its column."""
        text = number_format.clip(cell.text, column.width - 1, self._ellipsis)
        pad = " " * (column.width - cell_len(text))
        if cell.mark == STAR:
            return pad + self._screen.paint(f"{text} {self._star}", "bold green")
        painted = self._screen.paint(text, "dim" if column.name == "seconds" else "")
        rest = " " * (column.marks - len(cell.mark))
        return pad + painted + self._screen.paint(cell.mark, cell.color) + rest

    def _header(self) -> list[str]:
        """Choose the columns that fit; return their heads and a rule."""
        self._width = self._screen.width
        columns = [self._column(name) for name in self._rows.names]
        widths = [column.width + column.marks for column in columns]
        ranks = [self._rank(name) for name in self._rows.names]
        if sum(widths) > self._width:  # the number of columns left out is shown too
            # The count of hidden columns takes part like a column: it may have to make room too.
            widths, ranks = [*widths, len(f"  +{len(columns)}")], [*ranks, self._rank("+")]
        chosen = number_format.fold(widths, ranks, self._width)
        self._columns = [columns[at] for at in chosen if at < len(columns)]
        heads = "".join(
            " " * (column.width - cell_len(column.head)) + column.head + " " * column.marks
            for column in self._columns
        )
        rule = ("-" if self._screen.ascii_only else "─") * cell_len(heads)
        if len(columns) in chosen:
            heads += f"  +{len(columns) - len(self._columns)}"
        return [self._screen.paint(heads, "bold"), self._screen.paint(rule, "dim")]

    def _column(self, name: str) -> Column:
        if name == "epoch":
            return Column(name, name, max(len(self.title(0)), len(name)) + 1, 0)
        if name == "seconds":
            return Column(name, "time", len("59.9 s") + _GAP, 0)
        head = number_format.clip(name, max(_WIDEST_NUMBER, self._width // 3), self._ellipsis)
        width = max(_WIDEST_NUMBER, cell_len(head)) + _GAP
        arrow = int(name in self._rows.directions)
        return Column(name, head, width, _STAR_WIDTH if name == self._rows.monitored else arrow)

    def _rank(self, name: str) -> int:
        """Return how early a column is left out on narrow terminals; 0 for never."""
        twin = f"train_{self._rows.monitored.removeprefix('val_')}"
        first = ("epoch", self._rows.monitored, "train_loss", "+", "val_loss", "seconds", twin)
        if name in first:
            return first.index(name)
        prefixes = ("val_", "lr", "train_")
        return next((7 + i for i, prefix in enumerate(prefixes) if name.startswith(prefix)), 10)
