"""Format epochs as cells: the text of each metric, and its marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import number_format

_SMALL = 5e-4  # relative change that four digits hardly show

STAR, DOWN, UP = "★", "↓", "↑"


class EpochRow(NamedTuple):
    """A finished epoch: its number, from 1, its metrics and its duration."""

    epoch: int
    logs: dict[str, Any]
    seconds: float


class Cell(NamedTuple):
    """A metric of an epoch: its column, its text, and a mark with its colour.

    The mark is a star for the best value so far, or an arrow for the change since the last epoch,
    green for better and red for worse, or "".
    """

    name: str
    text: str
    mark: str
    color: str


class EpochCells:
    """Formats one epoch after the other as cells.

    Args:
        epochs: The number of the last epoch, None if it is not known.
        monitor: The metric whose best value so far is marked.
        mode: Whether `"min"` or `"max"` is best.
        best: The best value before the first row, or None.
        directions: "min" or "max" for each metric that gets arrows.

    Attributes:
        names: All columns in their order.
        monitored: The column whose best value is marked, "" if there is none yet.
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
        self._before: dict[str, Any] = {}  # the last measured value of each metric

    def title(self, epoch: int) -> str:
        """Return the number of an epoch: `" 3/20"`."""
        if self._epochs is None:
            return str(epoch)
        return f"{epoch:>{len(str(self._epochs))}}/{self._epochs}"

    def take(self, row: EpochRow) -> list[Cell]:
        """Return the cells of the next epoch, in the order of `names`, which may grow."""
        added = [name for name in row.logs if name not in self.names]
        if added:
            # New columns come before the last one, which is the time.
            self.names[-1:-1] = added
            candidates = (self._monitor, f"train_{self._monitor}")  # Keras omits the prefix
            self.monitored = next((name for name in candidates if name in self.names), "")
        best = self._is_best(row)
        cells = [self._cell(row, name, best and name == self.monitored) for name in self.names]
        # NaN is skipped: an epoch without validation does not interrupt the comparison.
        self._before |= {name: value for name, value in row.logs.items() if value == value}
        return cells

    def _is_best(self, row: EpochRow) -> bool:
        try:
            value = self._sign * float(row.logs[self.monitored])
        except (KeyError, TypeError, ValueError, RuntimeError):
            return False
        if not value > self._best:  # NaN is never the best
            return False
        self._best = value
        return True

    def _cell(self, row: EpochRow, name: str, best: bool) -> Cell:
        if name == "epoch":
            return Cell(name, self.title(row.epoch), "", "")
        if name == "seconds":
            return Cell(name, number_format.duration(row.seconds), "", "")
        rate = name == "lr" or name.endswith("_weight")
        write = number_format.learning_rate if rate else number_format.number
        text = write(row.logs.get(name, math.nan))
        return (
            Cell(name, text, STAR, "green") if best else Cell(name, text, *self._trend(row, name))
        )

    def _trend(self, row: EpochRow, name: str) -> tuple[str, str]:
        try:
            value, before = float(row.logs[name]), float(self._before[name])
        except (KeyError, TypeError, ValueError, RuntimeError):
            return "", ""
        # "not >" is True for NaN as well, which gets no arrow.
        if name not in self.directions or not abs(value - before) > _SMALL * abs(before):
            return "", ""
        better = (value < before) == (self.directions[name] == "min")
        return DOWN if value < before else UP, "green" if better else "red"


def plain_line(cells: Sequence[Cell]) -> str:
    """Return an epoch as plain text, each metric with its name."""
    texts = [f"{cell.name} {cell.text}{' *' * (cell.mark == STAR)}" for cell in cells[:-1]]
    return "  ".join([*texts, cells[-1].text])
