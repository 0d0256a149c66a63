"""Epochs as lines of text: a table on a terminal, one plain line each in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.cells import cell_len

from . import figures
from .screen import Screen

_WIDEST_NUMBER = 9  # 2.314e-05; a minus sign stands in the gap before it
_GAP = 2
_STAR = 2  # columns for the mark beside a best figure
_SMALL = 5e-4  # of a figure: a change that its four digits hardly show


class Row(NamedTuple):
    """An epoch that is over: its number, from 1, its figures and how long it took."""

    epoch: int
    logs: dict[str, Any]
    seconds: float


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
        self._epochs = epochs
        self._monitor = monitor
        self._monitored = ""  # the column that is meant
        self._sign = -1 if mode == "min" else 1
        self._best = -math.inf if best is None else self._sign * best
        self._directions = {} if screen.ascii_only else dict(directions or {})
        self._before: dict[str, Any] = {}  # the figures of the epoch before
        self._star = "★" if screen.live and not screen.ascii_only else "*"
        self._names: list[str] = ["epoch", "seconds"]  # every column there is, in its order
        self._columns: list[Column] = []  # those that are shown
        self._width = 0  # of the terminal when the header was written

    def title(self, epoch: int) -> str:
        """Write which epoch it is: `" 3/20"`."""
        if self._epochs is None:
            return str(epoch)
        return f"{epoch:>{len(str(self._epochs))}}/{self._epochs}"

    def lines(self, row: Row) -> list[str]:
        """Write an epoch's line, after the header where that is needed."""
        added = [name for name in row.logs if name not in self._names]
        if added:
            self._add(added)
        best = self._is_best(row)
        if not self._screen.live:
            return [self._plain(row, best)]
        header = self._header() if added or self._width != self._screen.width else []
        line = "".join(self._padded(row, column, best) for column in self._columns)
        self._before |= {name: value for name, value in row.logs.items() if value == value}
        return [*header, line]

    def _add(self, names: list[str]) -> None:
        self._names[-1:-1] = names
        meant = (self._monitor, f"train_{self._monitor}")  # Keras leaves out the prefix
        self._monitored = next((name for name in meant if name in self._names), "")

    def _is_best(self, row: Row) -> bool:
        try:
            value = self._sign * float(row.logs[self._monitored])
        except (KeyError, TypeError, ValueError, RuntimeError):
            return False
        if not value > self._best:  # NaN never is
            return False
        self._best = value
        return True

    def _cell(self, row: Row, name: str) -> str:
        if name == "epoch":
            return self.title(row.epoch)
        if name == "seconds":
            return figures.duration(row.seconds)
        write = (
            figures.learning_rate if name == "lr" or name.endswith("_weight") else figures.number
        )
        return write(row.logs.get(name, math.nan))

    def _plain(self, row: Row, best: bool) -> str:
        cells = [
            f"{name} {self._cell(row, name)}{' *' if best and name == self._monitored else ''}"
            for name in self._names[:-1]
        ]
        return "  ".join([*cells, self._cell(row, "seconds")])

    def _padded(self, row: Row, column: Column, best: bool) -> str:
        """Write a cell to the right of its column."""
        text = figures.clip(self._cell(row, column.name), column.width - 1)
        pad = " " * (column.width - cell_len(text))
        if best and column.name == self._monitored:
            return pad + self._screen.paint(f"{text} {self._star}", "bold green")
        painted = self._screen.paint(text, "dim" if column.name == "seconds" else "")
        arrow, style = self._trend(row, column.name) if column.marks else ("", "")
        rest = " " * (column.marks - len(arrow))
        return pad + painted + self._screen.paint(arrow, style) + rest

    def _trend(self, row: Row, name: str) -> tuple[str, str]:
        """Return an arrow for where a figure went since the epoch before, and its style."""
        try:
            value, before = float(row.logs[name]), float(self._before[name])
        except (KeyError, TypeError, ValueError, RuntimeError):
            return "", ""
        if name not in self._directions or not abs(value - before) > _SMALL * abs(before):
            return "", ""
        better = (value < before) == (self._directions[name] == "min")
        return "↓" if value < before else "↑", "green" if better else "red"

    def _header(self) -> list[str]:
        """Choose the columns that fit, and write their heads above a rule."""
        self._width = self._screen.width
        columns = [self._column(name) for name in self._names]
        widths = [column.width + column.marks for column in columns]
        ranks = [self._rank(name) for name in self._names]
        self._columns = [columns[at] for at in figures.fold(widths, ranks, self._width)]
        heads = "".join(
            " " * (column.width - cell_len(column.head)) + column.head + " " * column.marks
            for column in self._columns
        )
        rule = ("-" if self._screen.ascii_only else "─") * cell_len(heads)
        folded = f"  +{len(columns) - len(self._columns)}"
        if len(columns) > len(self._columns) and cell_len(heads + folded) <= self._width:
            heads += folded
        return [self._screen.paint(heads, "bold"), self._screen.paint(rule, "dim")]

    def _column(self, name: str) -> Column:
        if name == "epoch":
            return Column(name, name, max(len(self.title(0)), len(name)) + 1, 0)
        if name == "seconds":
            return Column(name, "time", len("59.9 s") + _GAP, 0)
        head = figures.clip(name, max(_WIDEST_NUMBER, self._width // 3))
        width = max(_WIDEST_NUMBER, cell_len(head)) + _GAP
        arrow = int(name in self._directions)
        return Column(name, head, width, _STAR if name == self._monitored else arrow)

    def _rank(self, name: str) -> int:
        """Return how soon a column goes when the terminal gets narrow; 0 never does."""
        twin = f"train_{self._monitored.removeprefix('val_')}"
        first = ("epoch", self._monitored, "train_loss", "val_loss", "seconds", twin)
        if name in first:
            return first.index(name)
        prefixes = ("val_", "lr", "train_")
        return next((7 + i for i, prefix in enumerate(prefixes) if name.startswith(prefix)), 10)
