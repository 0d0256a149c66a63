"""The pieces of a report's page. All text that comes in is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from .report_style import STYLE


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def header(title: str, subtitle: str, status: str = "") -> str:
    """Return the head line, with the status as a badge."""
    kind = escape(status.partition(" ")[0])
    badge = f'<span class="status {kind}">{escape(status)}</span>' if status else ""
    return f'<header><h1>{escape(title)}</h1>{badge}<p class="sub">{escape(subtitle)}</p></header>'


def cards(facts: Sequence[tuple[str, str, str]]) -> str:
    """Return figures in large type, each with its name and a note; the first stands out."""
    shown = []
    for number, (name, value, note) in enumerate(facts):
        kind = "card" if number else "card first"
        below = f'<div class="note">{escape(note)}</div>' if note else ""
        shown.append(
            f'<div class="{kind}"><div class="name">{escape(name)}</div>'
            f'<div class="value">{escape(value)}</div>{below}</div>'
        )
    return f'<div class="cards">{"".join(shown)}</div>'


def section(title: str, *parts: str, kind: str = "") -> str:
    """Return a part of the page under a title, "" where there is nothing to show."""
    content = "".join(parts)
    named = f' class="{kind}"' if kind else ""
    return f"<section{named}><h2>{escape(title)}</h2>{content}</section>" if content else ""


def pair(*sections: str) -> str:
    """Return sections side by side."""
    given = [each for each in sections if each]
    return f'<div class="pair">{"".join(given)}</div>' if len(given) > 1 else "".join(given)


def facts(named: Mapping[str, str]) -> str:
    """Return a list of names and what they stand for."""
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in named.items())
    return f"<dl>{''.join(rows)}</dl>" if named else ""


def note(text: str) -> str:
    """Return a remark."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def block(text: str) -> str:
    """Return text as it is, with its line breaks."""
    return f"<pre>{escape(text)}</pre>" if text else ""


def table(heads: Sequence[str], rows: Iterable[tuple[Sequence[str], bool]], kind: str = "") -> str:
    """Return a table; a row that is marked has a star.

    Args:
        heads: The names of the columns.
        rows: The cells of each row, and whether it is marked.
        kind: The class of the table's box.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = []
    for cells, marked in rows:
        first, *others = (escape(cell) for cell in cells)
        star = ' <span class="star">★</span>' if marked else ""
        shown = f"<td>{first}{star}</td>" + "".join(f"<td>{cell}</td>" for cell in others)
        row = '<tr class="best">' if marked else "<tr>"
        body.append(f"{row}{shown}</tr>\n")
    return (
        f'<div class="scroll {kind}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{''.join(body)}</tbody></table></div>"
    )


def images(pictures: Iterable[tuple[str, str]]) -> str:
    """Return pictures in a grid: of each what it shows, and its data URL."""
    shown = (f'<img alt="{escape(alt)}" src="{escape(source)}">' for alt, source in pictures)
    return f'<div class="plots">{"".join(shown)}</div>'


def footer(text: str) -> str:
    """Return the last line."""
    return f"<footer>{escape(text)}</footer>"
