"""Layer table: the rows of a summary as text of any width, and as HTML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from fitorch.environment import in_notebook
from fitorch.templates.rendering import render

_GAP = 2  # spaces between columns

_MIN_NAME_WIDTH = 12  # characters for a layer's name, even in a narrow terminal

_ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "…": "~"})


class _Layout(NamedTuple):
    """Which parts of a table are shown."""

    notes: bool = False  # whether notes have their own column
    compact: bool = False  # whether shapes have no spaces
    shapes: bool = True
    cut: bool = False  # whether names are truncated


_LAYOUTS = (
    _Layout(notes=True),
    _Layout(),
    _Layout(compact=True),
    _Layout(compact=True, cut=True),
    _Layout(shapes=False, cut=True),
)


@dataclass(frozen=True, slots=True)
class LayerRow:
    """The row of a layer: tree, name, cells, and a note.

    Args:
        branch: The tree characters to the left of the name.
        below: The tree characters to the left of the lines below the name.
        name: The name of the layer.
        kind: The name of its class, or "".
        cells: The other columns, each a list of lines.
        note: A short note, or "".
        depth: The depth of the layer in the tree.
    """

    branch: str
    below: str
    name: str
    kind: str
    cells: Sequence[Sequence[str]]
    note: str = ""
    depth: int = 0

    @property
    def label(self) -> str:
        """The name with the class."""
        return f"{self.name} ({self.kind})" if self.kind else self.name

    def fitted(self, width: int | None) -> str:
        """Return the label, without the class if that does not fit and the name is not a number."""
        fits = width is None or len(self.branch + self.label) <= width
        return self.label if fits or self.name.isdigit() else self.name


@dataclass(frozen=True, slots=True)
class Totals:
    """A block of totals below the layers.

    Args:
        heads: The column heads; the first is above the labels.
        lines: A label, and a number for each column.
    """

    heads: Sequence[str]
    lines: Sequence[tuple[str, ...]]


class LayerTable:
    """A table of layers with totals below; `str(table)` is text, and notebooks show HTML.

    Args:
        heads: The column heads: layers, shapes, and columns that are aligned to the right.
        rows: The layers.
        totals: The blocks of totals.
        caption: A short description, for `repr`.
    """

    def __init__(
        self, heads: Sequence[str], rows: Sequence[LayerRow], totals: Sequence[Totals], caption: str
    ) -> None:
        self.heads, self.rows, self.totals, self.caption = heads, rows, totals, caption
        self._shown_in: Any = None  # the notebook's cell

    def __repr__(self) -> str:
        return f"<{self.caption}>"

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """Return the table as text.

        Args:
            width: The maximum width in characters; None is unlimited. In narrow tables, notes are
                below the layers, shapes are compact or left out, and names are truncated.
        """
        lines = self._fitting_lines(width)
        widths = _widths(lines)
        totals = [_totals_lines(block, width) for block in self.totals]
        rule = "─" * max(_total_width(lines), *(len(line) for block in totals for line in block))
        body = [self._join(line, widths, len(rule)) for line in lines]
        parts = [rule, body[0], rule, *body[1:], rule]
        for block in totals:
            parts += [*block, rule]
        return "\n".join(part.rstrip() for part in parts)

    def show(self) -> None:
        """Print the table, or display it in a notebook."""
        if in_notebook():
            import_module("IPython.display").display(self)
            return
        from rich.console import Console

        console = Console()
        text = self.text(console.width if console.is_terminal else None)
        if console.options.ascii_only:
            text = text.translate(_ASCII)
        sys.stdout.write(f"{text}\n")

    def _ipython_display_(self) -> None:
        """Display the table, but not a second time if it is also the result of the cell."""
        cell = getattr(import_module("IPython").get_ipython(), "execution_count", None)
        if cell is None or cell != self._shown_in:
            self._shown_in = cell
            publish = import_module("IPython.display").publish_display_data
            publish({"text/plain": str(self), "text/html": self._repr_html_()})

    def _repr_html_(self) -> str:
        return render(
            "layer_table.html.jinja",
            heads=self.heads,
            rows=self.rows,
            noted=any(row.note for row in self.rows),
            totals=[_without_empty(block) for block in self.totals],
        )

    def _fitting_lines(self, width: int | None) -> list[list[str]]:
        """Return head and lines as cells, in the most complete layout that fits."""
        lines, room = self._table_lines(_LAYOUTS[0]), 0
        # The layouts go from the most complete to the smallest.
        for layout in _LAYOUTS:
            lines = self._table_lines(layout)
            missing = 0 if width is None else _total_width(lines) - width
            if missing <= 0:
                return lines
            room = _widths(lines)[0] - missing
            if layout.cut and room >= _MIN_NAME_WIDTH:
                return self._table_lines(layout, room)
        return self._table_lines(_LAYOUTS[-1], max(room, _MIN_NAME_WIDTH))

    def _table_lines(self, layout: _Layout, cut: int | None = None) -> list[list[str]]:
        """Return the head and each line as cells; a line of one cell spans all columns."""
        noted = layout.notes and any(row.note for row in self.rows)
        heads = [*self.heads, ""] if noted else list(self.heads)
        lines = [heads if layout.shapes else [heads[0], *heads[2:]]]
        for row in self.rows:
            shapes = [_compact(cell) for cell in row.cells[0]] if layout.compact else row.cells[0]
            cells = [*([shapes] if layout.shapes else []), *row.cells[1:]]
            cells += [[row.note]] if noted else []
            for number in range(max(1, *map(len, cells))):
                first = row.below if number else row.branch + row.fitted(cut)
                rest = [cell[number] if number < len(cell) else "" for cell in cells]
                lines.append([_cut(first, cut), *rest])
            if row.note and not noted:
                lines.append([f"{row.below}    {row.note}"])
        return lines

    def _join(self, cells: list[str], widths: list[int], width: int) -> str:
        """Join cells: names, shapes and notes are aligned left, numbers right."""
        if len(cells) == 1:
            return _cut(cells[0], width)
        numbers = len(self.heads) - 2
        noted = len(widths) - 1 if len(widths) > len(self.heads) else len(widths)
        aligned = [
            cell.rjust(width) if noted - numbers <= number < noted else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return (" " * _GAP).join(aligned)


def _widths(lines: list[list[str]]) -> list[int]:
    # Lines of one cell span all columns and do not count.
    whole = [line for line in lines if len(line) > 1]
    return [max(map(len, column)) for column in zip(*whole, strict=True)]


def _total_width(lines: list[list[str]]) -> int:
    return sum(_widths(lines)) + _GAP * (len(lines[0]) - 1)


def _totals_lines(block: Totals, width: int | None) -> list[str]:
    """Return totals as lines, without the first of two columns of numbers if that does not fit."""
    table = _without_empty(block)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if width is not None and sum(widths) + _GAP * (len(widths) - 1) > width and len(widths) > 2:
        widths, table = [widths[0], *widths[2:]], [(line[0], *line[2:]) for line in table]
    lines = []
    for label, *numbers in table:
        rest = [number.rjust(w) for number, w in zip(numbers, widths[1:], strict=True)]
        lines.append((" " * _GAP).join([label.ljust(widths[0]), *rest]))
    return lines


def _without_empty(block: Totals) -> list[Sequence[str]]:
    return [line for line in (block.heads, *block.lines) if line]


def _compact(shape: str) -> str:
    """Return a shape without its path and without spaces."""
    return shape[shape.find("[") :].replace(", ", ",") if "[" in shape else shape


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: width - 1] + "…"
