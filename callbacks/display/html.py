"""The output of a notebook's cell as HTML: sentences, tables of epochs, a live line, a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from fitorch.templates.rendering import render

from .rows import STAR, Cell, EpochCells, EpochRow, plain_line

_MOST_ROWS = 12  # of a table; the history has all epochs

_COLORS = {"green": "#1a7f37", "red": "#cf222e", "cyan": "#0b6bcb", "yellow": "#9a6700"}

_STYLES = {"bold": "font-weight:600", "dim": "opacity:.65"}


class PageRow(str):
    """An epoch as plain text, with its cells for HTML.

    Attributes:
        cells: The cells of the epoch.
    """

    cells: Sequence[Cell]

    @property
    def best(self) -> bool:
        """Whether the epoch is the best so far."""
        return any(cell.mark == STAR for cell in self.cells)


class PageTable:
    """Formats epochs for `Page`, as `Table` does for `Screen`.

    Args:
        rows: Turns epochs into cells.
    """

    def __init__(self, rows: EpochCells) -> None:
        self._rows = rows

    def title(self, epoch: int) -> str:
        """Return the number of an epoch: `"3/20"`."""
        return self._rows.title(epoch).strip()

    def lines(self, row: EpochRow) -> list[str]:
        """Return the row of an epoch."""
        cells = self._rows.take(row)
        line = PageRow(plain_line(cells))
        line.cells = cells
        return [line]


class Page:
    """The output of a notebook's cell, with the interface of `Screen`.

    It is one output, updated in place by its `display_id`: JupyterLab, the classic notebook, VS
    Code and Colab support that without widgets and scripts. Frontends that do not show HTML show
    the text: the sentences, and the best and the last epoch of each table.

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
        self._live_line = ""  # HTML, made by `paint`
        self._handle: Any = None

    def paint(self, text: str, style: str) -> str:
        """Return `text` as HTML in one of the display's styles."""
        css = _STYLES.get(style) or (f"color:{_COLORS[style]}" if style in _COLORS else "")
        return f'<span style="{css}">{escape(text)}</span>' if css else escape(text)

    def fold(self, sentence: str) -> list[str]:
        """Return a sentence as it is: browsers break lines."""
        return [sentence]

    def write(self, lines: Iterable[str] = (), live_line: str = "") -> None:
        """Add `lines`, and show `live_line` below them."""
        for line in lines:
            self._add(line)
        self._live_line = live_line
        self._show()

    def insert(self, lines: Iterable[str]) -> None:
        """Add `lines`, and leave the live line as it is."""
        self.write(lines, self._live_line)

    def html(self) -> str:
        """Return the whole output as HTML."""
        return render(
            "notebook.html.jinja",
            blocks=self._blocks,
            live_line=self._live_line,
            picture=self.picture,
            shown=_MOST_ROWS,
            star=STAR,
            colors=_COLORS,
        )

    def text(self) -> str:
        """Return the sentences, and the best and the last epoch of each table."""
        lines: list[str] = []
        for block in self._blocks:
            if isinstance(block, str):
                lines.append(block)
            else:
                # The best row is added only if it is not the last one, which is shown anyway.
                best = [row for row in block[:-1] if row.best][-1:]
                lines += [*([] if block[-1].best else best), block[-1]]
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
        # One output is replaced at each refresh.
        if self._handle is None:
            from IPython.display import display

            show: Any = display  # it is not typed
            self._handle = show(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
