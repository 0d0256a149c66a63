"""A table of layers that people look at: as text of any width, and as HTML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from fitorch.environment import in_notebook
from fitorch.templates.rendering import render

_GAP = 2  # blanks between columns

_LEAST = 12  # columns for a layer's name, however narrow the terminal

_ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "…": "~"})


class _Form(NamedTuple):
    """How much of a table is shown."""

    notes: bool = False  # in a column of their own
    tight: bool = False  # shapes without blanks
    shapes: bool = True
    cut: bool = False  # names


_FORMS = (
    _Form(notes=True),
    _Form(),
    _Form(tight=True),
    _Form(tight=True, cut=True),
    _Form(shapes=False, cut=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A layer's line: tree, name, cells of lines, and a note on what is special about it.

    Args:
        branch: The tree to the left of the name.
        below: The tree to the left of what stands below the name.
        name: What the layer is called.
        kind: Its class, or "".
        cells: What stands in the other columns, each a list of lines.
        note: A few words, or "".
        depth: How deep the layer lies.
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
        """The name with the kind."""
        return f"{self.name} ({self.kind})" if self.kind else self.name

    def fitted(self, width: int | None) -> str:
        """Return the label, without the kind where that does not fit and the name says enough."""
        fits = width is None or len(self.branch + self.label) <= width
        return self.label if fits or self.name.isdigit() else self.name


@dataclass(frozen=True, slots=True)
class Totals:
    """A block of figures below the layers.

    Args:
        heads: What stands above the columns; the first is above the labels.
        lines: A label, and a figure for each column.
    """

    heads: Sequence[str]
    lines: Sequence[tuple[str, ...]]


class Sheet:
    """Layers in lines, totals below. `str(sheet)` is the text; a notebook shows a table.

    Args:
        heads: What stands above the columns, layers first. All but the shapes, which come second,
            are aligned to the right.
        rows: The layers.
        totals: What stands below them.
        caption: What it is in a few words, for `repr`.
    """

    def __init__(
        self, heads: Sequence[str], rows: Sequence[Row], totals: Sequence[Totals], caption: str
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
            width: Columns to keep to, None for what it takes. Where they are few, notes go below
                the layers, shapes become short or go, and names are cut.
        """
        lines = self._fitting(width)
        widths = _widths(lines)
        totals = [_block(block, width) for block in self.totals]
        rule = "─" * max(_taken(lines), *(len(line) for block in totals for line in block))
        body = [self._join(line, widths, len(rule)) for line in lines]
        parts = [rule, body[0], rule, *body[1:], rule]
        for block in totals:
            parts += [*block, rule]
        return "\n".join(part.rstrip() for part in parts)

    def show(self) -> None:
        """Print the table, or display it where this is a notebook."""
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
        """Display the table, but not again where it is also what the cell gives."""
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

    def _fitting(self, width: int | None) -> list[list[str]]:
        """Return head and lines as cells, in the fullest form that fits."""
        lines, room = self._layers(_FORMS[0]), 0
        for form in _FORMS:
            lines = self._layers(form)
            missing = 0 if width is None else _taken(lines) - width
            if missing <= 0:
                return lines
            room = _widths(lines)[0] - missing
            if form.cut and room >= _LEAST:
                return self._layers(form, room)
        return self._layers(_FORMS[-1], max(room, _LEAST))

    def _layers(self, form: _Form, cut: int | None = None) -> list[list[str]]:
        """Return the head and each line as cells; a line of one cell goes over all columns."""
        noted = form.notes and any(row.note for row in self.rows)
        heads = [*self.heads, ""] if noted else list(self.heads)
        lines = [heads if form.shapes else [heads[0], *heads[2:]]]
        for row in self.rows:
            shapes = [_tight(cell) for cell in row.cells[0]] if form.tight else row.cells[0]
            cells = [*([shapes] if form.shapes else []), *row.cells[1:]]
            cells += [[row.note]] if noted else []
            for number in range(max(1, *map(len, cells))):
                first = row.below if number else row.branch + row.fitted(cut)
                rest = [cell[number] if number < len(cell) else "" for cell in cells]
                lines.append([_cut(first, cut), *rest])
            if row.note and not noted:
                lines.append([f"{row.below}    {row.note}"])
        return lines

    def _join(self, cells: list[str], widths: list[int], width: int) -> str:
        """Join cells: names, shapes and notes to the left, numbers to the right."""
        if len(cells) == 1:
            return _cut(cells[0], width)
        figures = len(self.heads) - 2
        noted = len(widths) - 1 if len(widths) > len(self.heads) else len(widths)
        aligned = [
            cell.rjust(width) if noted - figures <= number < noted else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return (" " * _GAP).join(aligned)


def _widths(lines: list[list[str]]) -> list[int]:
    whole = [line for line in lines if len(line) > 1]
    return [max(map(len, column)) for column in zip(*whole, strict=True)]


def _taken(lines: list[list[str]]) -> int:
    return sum(_widths(lines)) + _GAP * (len(lines[0]) - 1)


def _block(block: Totals, width: int | None) -> list[str]:
    """Return totals as lines; where they don't fit, the first of two columns of figures goes."""
    table = _without_empty(block)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if width is not None and sum(widths) + _GAP * (len(widths) - 1) > width and len(widths) > 2:
        widths, table = [widths[0], *widths[2:]], [(line[0], *line[2:]) for line in table]
    lines = []
    for label, *figures in table:
        rest = [figure.rjust(w) for figure, w in zip(figures, widths[1:], strict=True)]
        lines.append((" " * _GAP).join([label.ljust(widths[0]), *rest]))
    return lines


def _without_empty(block: Totals) -> list[Sequence[str]]:
    return [line for line in (block.heads, *block.lines) if line]


def _tight(shape: str) -> str:
    """Return a shape without its path and without blanks."""
    return shape[shape.find("[") :].replace(", ", ",") if "[" in shape else shape


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: width - 1] + "…"
