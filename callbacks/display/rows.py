"""Epochs as cells: how each figure reads, whether it is the best so far, where it went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import number_format as figures

_SMALL = 5e-4  # of a figure: a change that its four digits hardly show

STAR, DOWN, UP = "★", "↓", "↑"


class EpochRow(NamedTuple):
    """An epoch that is over: its number, from 1, its figures and how long it took."""

    epoch: int
    logs: dict[str, Any]
    seconds: float


class Cell(NamedTuple):
    """A figure of an epoch: its column, what to write, and a mark behind it with its colour.

    The mark is a star for the best value so far, an arrow for where the figure went since the epoch
    before, green where that is better and red where it is worse, or "".
    """

    name: str
    text: str
    mark: str
    color: str


class EpochCells:
    """Turns one epoch after the other into cells.

    Args:
        epochs: The number of the last epoch, if there is one.
        monitor: The figure whose best value so far is marked.
        mode: `"min"` or `"max"`, what is best.
        best: What it was before the first row, None where there was none.
        directions: "min" or "max" for each figure of which that is known: they get arrows.

    Attributes:
        names: Every column there is, in its order.
        monitored: The column whose best value is marked, "" as long as there is none.
    """

    def __init__(
        self,
        epochs: int | None,
        monitor: str | None,
        mode: str,
        best: float | None = None,
        directions: Mapping[str, str] | None = None,
    ) -> None:
        self.names = ["epoch", "seconds"]
        self.monitored = ""
        self.directions = dict(directions or {})
        self._epochs = epochs
        self._monitor = monitor
        self._sign = -1 if mode == "min" else 1
        self._best = -math.inf if best is None else self._sign * best
        self._before: dict[str, Any] = {}  # what each figure was when it was measured last

    def title(self, epoch: int) -> str:
        """Write which epoch it is: `" 3/20"`."""
        if self._epochs is None:
            return str(epoch)
        return f"{epoch:>{len(str(self._epochs))}}/{self._epochs}"

    def take(self, row: EpochRow) -> list[Cell]:
        """Return the cells of the next epoch, in the order of `names`, which may grow."""
        added = [name for name in row.logs if name not in self.names]
        if added:
            self.names[-1:-1] = added
            meant = (self._monitor, f"train_{self._monitor}")  # Keras leaves out the prefix
            self.monitored = next((name for name in meant if name in self.names), "")
        best = self._is_best(row)
        cells = [self._cell(row, name, best and name == self.monitored) for name in self.names]
        self._before |= {name: value for name, value in row.logs.items() if value == value}
        return cells

    def _is_best(self, row: EpochRow) -> bool:
        try:
            value = self._sign * float(row.logs[self.monitored])
        except (KeyError, TypeError, ValueError, RuntimeError):
            return False
        if not value > self._best:  # NaN never is
            return False
        self._best = value
        return True

    def _cell(self, row: EpochRow, name: str, best: bool) -> Cell:
        if name == "epoch":
            return Cell(name, self.title(row.epoch), "", "")
        if name == "seconds":
            return Cell(name, figures.duration(row.seconds), "", "")
        rate = name == "lr" or name.endswith("_weight")
        write = figures.learning_rate if rate else figures.number
        text = write(row.logs.get(name, math.nan))
        return (
            Cell(name, text, STAR, "green") if best else Cell(name, text, *self._trend(row, name))
        )

    def _trend(self, row: EpochRow, name: str) -> tuple[str, str]:
        try:
            value, before = float(row.logs[name]), float(self._before[name])
        except (KeyError, TypeError, ValueError, RuntimeError):
            return "", ""
        if name not in self.directions or not abs(value - before) > _SMALL * abs(before):
            return "", ""
        better = (value < before) == (self.directions[name] == "min")
        return DOWN if value < before else UP, "green" if better else "red"


def plain_line(cells: Sequence[Cell]) -> str:
    """Write an epoch as plain text, each figure with its name."""
    shown = [f"{cell.name} {cell.text}{' *' * (cell.mark == STAR)}" for cell in cells[:-1]]
    return "  ".join([*shown, cells[-1].text])
