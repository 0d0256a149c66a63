"""Epochs as lines of text: a table on a terminal, one plain line each in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rich.cells import cell_len

from . import number_format as figures
from .rows import STAR, Cell, EpochCells, EpochRow, plain_line
from .screen import Screen

_WIDEST_NUMBER = 9  # 2.314e-05; a minus sign stands in the gap before it

_GAP = 2

_ROOM = 2  # columns for the mark beside a best figure


class Column(NamedTuple):
    """A column of the table: whose figures, under which head, how wide with the gap before it.

    Behind it there is room for marks: an arrow, or a star.
    """

    name: str
    head: str
    width: int
    marks: int


class Table:
    """Formats one epoch after the other.

    On a terminal, columns fold when they do not fit: the epoch, the monitored figure and the
    training loss stay longest. The header comes again when figures come to it, or when the terminal
    changes its width. An arrow behind a figure tells where it went since the epoch before, green
    where that is better and red where it is worse.

    Args:
        screen: Where the lines will be written.
        epochs: The number of the last epoch, if there is one.
        monitor: The figure whose best value so far is marked.
        mode: `"min"` or `"max"`, what is best.
        best: What it was before the first row, None where there was none.
        directions: "min" or "max" for each figure of which that is known: they get arrows.
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
        self._columns: list[Column] = []  # those that are shown
        self._width = 0  # of the terminal when the header was written

    def title(self, epoch: int) -> str:
        """Write which epoch it is: `" 3/20"`."""
        return self._rows.title(epoch)

    def lines(self, row: EpochRow) -> list[str]:
        """Write an epoch's line, after the header where that is needed."""
        known = len(self._rows.names)
        cells = self._rows.take(row)
        if not self._screen.live:
            return [plain_line(cells)]
        added = len(cells) > known or not self._columns
        header = self._header() if added or self._width != self._screen.width else []
        by_name = {cell.name: cell for cell in cells}
        line = "".join(self._padded(by_name[column.name], column) for column in self._columns)
        return [*header, line]

    def _padded(self, cell: Cell, column: Column) -> str:
        """Write a cell to the right of its column."""
        text = figures.clip(cell.text, column.width - 1, self._ellipsis)
        pad = " " * (column.width - cell_len(text))
        if cell.mark == STAR:
            return pad + self._screen.paint(f"{text} {self._star}", "bold green")
        painted = self._screen.paint(text, "dim" if column.name == "seconds" else "")
        rest = " " * (column.marks - len(cell.mark))
        return pad + painted + self._screen.paint(cell.mark, cell.color) + rest

    def _header(self) -> list[str]:
        """Choose the columns that fit, and write their heads above a rule."""
        self._width = self._screen.width
        columns = [self._column(name) for name in self._rows.names]
        widths = [column.width + column.marks for column in columns]
        ranks = [self._rank(name) for name in self._rows.names]
        if sum(widths) > self._width:  # then tell how many are left out
            widths, ranks = [*widths, len(f"  +{len(columns)}")], [*ranks, self._rank("+")]
        chosen = figures.fold(widths, ranks, self._width)
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
        head = figures.clip(name, max(_WIDEST_NUMBER, self._width // 3), self._ellipsis)
        width = max(_WIDEST_NUMBER, cell_len(head)) + _GAP
        arrow = int(name in self._rows.directions)
        return Column(name, head, width, _ROOM if name == self._rows.monitored else arrow)

    def _rank(self, name: str) -> int:
        """Return how soon a column goes when the terminal gets narrow; 0 never does."""
        twin = f"train_{self._rows.monitored.removeprefix('val_')}"
        first = ("epoch", self._rows.monitored, "train_loss", "+", "val_loss", "seconds", twin)
        if name in first:
            return first.index(name)
        prefixes = ("val_", "lr", "train_")
        return next((7 + i for i, prefix in enumerate(prefixes) if name.startswith(prefix)), 10)
