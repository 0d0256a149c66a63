"""A notebook's output as HTML: sentences, tables of epochs, a live line, a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from .rows import STAR, Cell, Row, Rows, plain_line

_SHOWN = 12  # rows of the table, at most; the history has all

_COLORS = {"green": "#1a7f37", "red": "#cf222e", "cyan": "#0b6bcb", "yellow": "#9a6700"}

_TEXT = "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px;line-height:1.5"

_NUMBER = "text-align:right;padding:1px 0 1px 14px;white-space:nowrap;border:none"

_MARK = "display:inline-block;width:1.4em;text-align:left"  # beside a number, or empty

_UNMARKED = ("epoch", "seconds")  # columns whose cells have no marks


class PageRow(str):
    """An epoch's row of the table, in HTML.

    Attributes:
        heads: The row of heads that belongs above it.
        plain: The same epoch as plain text.
        best: Whether it is the best so far.
    """

    heads: str
    plain: str
    best: bool


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
        """Write an epoch's row."""
        cells = self._rows.take(row)
        line = PageRow(f"<tr>{''.join(map(_cell, cells))}</tr>")
        line.heads = _heads(self._rows.names)
        line.plain = plain_line(cells)
        line.best = any(cell.mark == STAR for cell in cells)
        return [line]


class Page:
    """The output of a notebook's cell, as `Screen` is a terminal's.

    It is one output, updated in place by its `display_id`: JupyterLab, the classic notebook, VS
    Code and Colab all do that, without widgets and without scripts. Where HTML is not shown, its
    text is: the sentences, and of each table the best and the last epoch.

    Attributes:
        picture: An `<img>`, or "".
    """

    live = True
    broken = False
    ascii_only = False
    width = 140

    def __init__(self) -> None:
        self.picture = ""
        self._blocks: list[str | list[PageRow]] = []  # sentences, and tables as lists of rows
        self._live_line = ""
        self._handle: Any = None

    def paint(self, text: str, style: str) -> str:
        """Return `text` in one of the display's styles."""
        looks = {"bold": "font-weight:600", "dim": "opacity:.65"}.get(style)
        looks = looks or (f"color:{_COLORS[style]}" if style in _COLORS else "")
        return f'<span style="{looks}">{escape(text)}</span>' if looks else escape(text)

    def fold(self, sentence: str) -> list[str]:
        """Leave a sentence as it is: a browser breaks it."""
        return [sentence]

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
        parts = [_sentence(b) if isinstance(b, str) else _table(b) for b in self._blocks]
        if self._live_line:
            parts.append(f'<div style="white-space:pre">{self._live_line}</div>')
        return f'<div style="{_TEXT}">{"".join(parts)}{self.picture}</div>'

    def text(self) -> str:
        """Return what matters of it, for where HTML is not shown."""
        lines = []
        for block in self._blocks:
            if isinstance(block, str):
                lines.append(block)
            else:
                best = [row.plain for row in block[:-1] if row.best][-1:]
                lines += [*([] if block[-1].best else best), block[-1].plain]
        return "\n".join(lines)

    def _add(self, line: str) -> None:
        if not isinstance(line, PageRow):
            self._blocks.append(line)
        elif self._blocks and not isinstance(self._blocks[-1], str):
            self._blocks[-1].append(line)
        else:
            self._blocks.append([line])

    def _show(self) -> None:
        data = {"text/html": self.html(), "text/plain": self.text()}
        if self._handle is None:
            from IPython.display import display

            show: Any = display  # it has no types
            self._handle = show(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def _sentence(text: str) -> str:
    return f"<div>{escape(text)}</div>"


def _table(rows: Sequence[PageRow]) -> str:
    left_out = len(rows) - _SHOWN
    note = ""
    if left_out > 0:
        text = f"{left_out} epochs before, all of them in model.history.frame"
        note = f'<div style="opacity:.65">{text}</div>'
    style = "border-collapse:collapse;margin:4px 0;font-size:inherit"
    return f'{note}<table style="{style}">{rows[-1].heads}{"".join(rows[-_SHOWN:])}</table>'


def _heads(names: Sequence[str]) -> str:
    style = f"{_NUMBER};border-bottom:1px solid rgba(128,128,128,.5)"
    heads = []
    for name in names:
        text = "time" if name == "seconds" else escape(name)
        heads.append(f'<th style="{style}">{text}{_mark(name)}</th>')
    return f"<tr>{''.join(heads)}</tr>"


def _cell(cell: Cell) -> str:
    color = _COLORS.get(cell.color, "inherit")
    text = escape(cell.text)
    if cell.mark == STAR:
        text = f'<b style="color:{color}">{text}</b>'
    return f'<td style="{_NUMBER}">{text}{_mark(cell.name, cell.mark, color)}</td>'


def _mark(name: str, mark: str = "", color: str = "inherit") -> str:
    """Return the place beside a number, as wide with a mark as without one."""
    if name in _UNMARKED:
        return ""
    inside = f'<span style="color:{color}">&nbsp;{mark}</span>' if mark else ""
    return f'<span style="{_MARK}">{inside}</span>'
