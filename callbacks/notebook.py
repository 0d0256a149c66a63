"""What people see in a notebook: one output that is updated in place, with a live plot."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from functools import cached_property
from html import escape
from time import perf_counter
from typing import Any

from .base import Logs
from .progress import Progress
from .rows import STAR, Cell, Row, Rows

_SHOWN = 12  # rows of the table, at most; the history has all
_SHARE = 0.02  # of the time may go into drawing
_PAUSE = 1.0  # seconds between two plots, at least
_COLORS = {"green": "#1a7f37", "red": "#cf222e", "cyan": "#0b6bcb", "yellow": "#9a6700"}
_TEXT = "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px;line-height:1.5"
_NUMBER = "text-align:right;padding:1px 0 1px 14px;white-space:nowrap;border:none"


class NotebookProgress(Progress):
    """Shows in a notebook what `Progress` shows on a terminal, and a plot of the history.

    There is one output per fit. It is updated in place, at most four times a second, the plot at
    most once; nothing has to be installed for that, and a finished notebook keeps the last picture.

    Args:
        monitor: The figure whose best value so far is marked.
        mode: `"min"` or `"max"`, what is best.
        plot: Whether to draw the loss and the monitored figure.
    """

    pause = 0.25

    def __init__(
        self, *, monitor: str | None = None, mode: str = "min", plot: bool = False
    ) -> None:
        super().__init__(1, monitor=monitor, mode=mode)
        self._plots = plot
        self._plot_due = 0.0

    @cached_property
    def _screen(self) -> Page:  # type: ignore[override]
        return Page()

    @cached_property
    def _table(self) -> PageTable:  # type: ignore[override]
        epochs, directions = self.params.get("epochs"), self.directions
        return PageTable(Rows(epochs, self._monitor, self._mode, self.best, directions))

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Go on below what was said before training."""
        page = self._screen
        super().on_train_begin(logs)
        self.__dict__["_screen"] = page  # one output for both
        self._plot_due = 0.0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Keep an epoch's figures for the next refresh, and draw where it is time."""
        super().on_epoch_end(epoch, logs)
        if self._plots and perf_counter() >= self._plot_due:
            self._draw()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Draw the last picture."""
        if self._plots and self._fitting and len(self.model.history) > 1:
            self._draw()
        super().on_train_end(logs)

    def _draw(self) -> None:
        began = perf_counter()
        if len(self.model.history) > 1:
            self._screen.picture = _picture(self.model.history, self._monitor)
        end = perf_counter()
        self._plot_due = end + max(_PAUSE, (end - began) / _SHARE)


class PageTable:
    """Epochs as rows of an HTML table.

    Args:
        rows: Turns epochs into cells.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def title(self, epoch: int) -> str:
        """Write which epoch it is."""
        return self._rows.title(epoch).strip()

    def lines(self, row: Row) -> list[str]:
        """Write an epoch's row, after the heads where these changed."""
        known = len(self._rows.names)
        cells = self._rows.take(row)
        heads = [_heads(self._rows.names)] if len(cells) > known else []
        return [*heads, f"<tr>{''.join(map(_cell, cells))}</tr>"]


class Page:
    """The output of a notebook's cell, as `Screen` is a terminal's.

    Attributes:
        picture: A PNG in base64, or "".
    """

    live = True
    broken = False
    ascii_only = False
    width = 140

    def __init__(self) -> None:
        self.picture = ""
        self._blocks: list[str | list[str]] = []  # sentences, and tables as lists of rows
        self._heads = ""
        self._live_line = ""
        self._handle: Any = None

    def paint(self, text: str, style: str) -> str:
        """Return `text` in one of the display's styles."""
        looks = {"bold": "font-weight:600", "dim": "opacity:.65"}.get(style)
        looks = looks or (f"color:{_COLORS[style]}" if style in _COLORS else "")
        return f'<span style="{looks}">{escape(text)}</span>' if looks else escape(text)

    def write(self, lines: Iterable[str] = (), live_line: str = "") -> None:
        """Add `lines`, and put `live_line` below them."""
        for line in lines:
            self._add(line)
        self._live_line = live_line
        self._show()

    def insert(self, lines: Iterable[str]) -> None:
        """Add `lines`, and leave the live line as it is."""
        self.write(lines, self._live_line)

    def html(self) -> str:
        """Return all of it."""
        parts = [_block(block, self._heads) for block in self._blocks]
        if self._live_line:
            parts.append(f'<div style="white-space:pre">{self._live_line}</div>')
        if self.picture:
            source = f"data:image/png;base64,{self.picture}"
            parts.append(f'<img alt="history" style="max-width:100%" src="{source}">')
        return f'<div style="{_TEXT}">{"".join(parts)}</div>'

    def _add(self, line: str) -> None:
        if line.startswith("<tr><th"):
            self._heads = line
        elif line.startswith("<tr>"):
            if not self._blocks or isinstance(self._blocks[-1], str):
                self._blocks.append([])
            self._blocks[-1].append(line)  # type: ignore[union-attr]
        else:
            self._blocks.append(line)

    def _show(self) -> None:
        data = {"text/html": self.html(), "text/plain": self._plain()}
        if self._handle is None:
            from IPython.display import display

            show: Any = display  # it has no types
            self._handle = show(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def _plain(self) -> str:
        """Return the sentences alone, for where HTML is not shown."""
        return "\n".join(block for block in self._blocks if isinstance(block, str))


def _block(block: str | list[str], heads: str) -> str:
    if isinstance(block, str):
        return f"<div>{escape(block)}</div>"
    left_out = len(block) - _SHOWN
    note = ""
    if left_out > 0:
        text = f"{left_out} epochs before, all of them in model.history.frame"
        note = f'<div style="opacity:.65">{text}</div>'
    rows = "".join(block[-_SHOWN:])
    style = "border-collapse:collapse;margin:4px 0;font-size:inherit"
    return f'{note}<table style="{style}">{heads}{rows}</table>'


def _heads(names: Sequence[str]) -> str:
    style = f"{_NUMBER};border-bottom:1px solid rgba(128,128,128,.5)"
    shown = ("time" if name == "seconds" else escape(name) for name in names)
    heads = "".join(f'<th style="{style}">{name}</th>' for name in shown)
    return f"<tr>{heads}</tr>"


def _cell(cell: Cell) -> str:
    color = _COLORS.get(cell.color, "inherit")
    mark = f'<span style="color:{color}">{cell.mark}</span>' if cell.mark else "&nbsp;"
    text = f'<b style="color:{color}">{escape(cell.text)}</b>' if cell.mark == STAR else cell.text
    return f'<td style="{_NUMBER}">{text if cell.mark == STAR else escape(text)} {mark}</td>'


def _picture(history: Any, monitor: str | None) -> str:
    """Return the loss and the monitored figure over the epochs, as a PNG in base64."""
    names = list(dict.fromkeys(["loss", *([_figure_of(monitor, history)] if monitor else [])]))
    file = io.BytesIO()
    history.plot(metrics=names).savefig(file, format="png", dpi=90)
    return base64.b64encode(file.getvalue()).decode()


def _figure_of(monitor: str, history: Any) -> str:
    """Return the figure of a column: "acc" for val_acc."""
    prefixes = sorted(("train_", *history.sets), key=len, reverse=True)
    prefix = next((p for p in prefixes if monitor.startswith(p)), "")
    return monitor.removeprefix(prefix)
