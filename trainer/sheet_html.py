"""A table of layers as HTML, in the colours of the notebook around it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sheet import Row, Sheet, Totals

_TABLE = "border-collapse:collapse;margin:0 0 0.8em 0;font-size:13px;border:none"
_CELL = "padding:2px 14px 2px 4px;border:none;vertical-align:top;background:none"
_HEAD = f"{_CELL};font-weight:600;border-bottom:1px solid currentColor"
_NUMBER = "text-align:right;font-variant-numeric:tabular-nums"
_FAINT = "opacity:0.6"


def html(sheet: Sheet) -> str:
    """Return a sheet as tables; all that comes from the net is escaped."""
    noted = any(row.note for row in sheet.rows)
    heads = [*sheet.heads, ""] if noted else list(sheet.heads)
    columns = len(sheet.heads)
    head = "".join(_cell("th", text, _HEAD, number, columns) for number, text in enumerate(heads))
    body = "".join(_row(row, columns, noted=noted) for row in sheet.rows)
    layers = f"<table style='{_TABLE}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div>{layers}{''.join(map(_totals, sheet.totals))}</div>"


def _cell(tag: str, text: str, style: str, number: int, columns: int) -> str:
    align = _NUMBER if 1 < number < columns else "text-align:left"
    return f"<{tag} style='{style};{align}'>{_lines([text])}</{tag}>"


def _row(row: Row, columns: int, *, noted: bool) -> str:
    kind = f" <span style='{_FAINT}'>{_lines([row.kind])}</span>" if row.kind else ""
    indent = f"padding-left:{4 + 18 * row.depth}px"
    name = f"<td style='{_CELL};text-align:left;{indent}'>{_lines([row.name])}{kind}</td>"
    cells = "".join(
        f"<td style='{_CELL};{_NUMBER if number > 1 else 'text-align:left'}'>{_lines(cell)}</td>"
        for number, cell in enumerate(row.cells, start=1)
    )
    note = f"<td style='{_CELL};text-align:left;{_FAINT}'>{_lines([row.note])}</td>"
    return f"<tr>{name}{cells}{note if noted else ''}</tr>"


def _totals(block: Totals) -> str:
    table = [line for line in (block.heads, *block.lines) if line]
    rows = []
    for label, *figures in table:
        first = f"<td style='{_CELL};text-align:left'>{_lines([label])}</td>"
        rest = "".join(f"<td style='{_CELL};{_NUMBER}'>{_lines([each])}</td>" for each in figures)
        rows.append(f"<tr>{first}{rest}</tr>")
    return f"<table style='{_TABLE}'><tbody>{''.join(rows)}</tbody></table>"


def _lines(lines: Iterable[str]) -> str:
    return "<br>".join(escape(line, quote=True) for line in lines)
