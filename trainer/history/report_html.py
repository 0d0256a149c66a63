"""The pieces of a report's page, and its style sheet. All text that comes in is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


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


STYLE = """
:root { color-scheme: light dark; --page: #f4f6f8; --card: #ffffff; --ink: #1c2128;
  --faint: #636c76;
  --line: #d8dee4; --head: #f6f8fa; --best: #fff4e5; --star: #d9480f; --blue: #0b6bcb;
  --good: #1a7f37; --warn: #9a6700; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --card: #161b22; --ink: #e6edf3;
  --faint: #8d96a0; --line: #30363d; --head: #1c2229; --best: #33260f; --star: #ff8b4d;
  --blue: #58a6ff; --good: #3fb950; --warn: #d29922; --bad: #f85149; }
  .plots img { filter: invert(1) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 40px; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; }
.sub { width: 100%; color: var(--faint); margin: 0; }
.status { font-size: 13px; font-weight: 600; padding: 2px 12px; border-radius: 99px;
  border: 1px solid currentColor; color: var(--faint); }
.complete { color: var(--good); } .stopped { color: var(--blue); }
.interrupted { color: var(--warn); } .failed { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 14px;
  margin: 22px 0 14px; }
.card, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 14px 18px; }
.card .name, .card .note { color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
.card .value { font-size: 25px; line-height: 1.3; font-weight: 650;
  font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.card.first .value { color: var(--star); }
section { padding: 18px 20px; margin: 14px 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 5px 20px; margin: 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: 14px 0 0; padding: 12px 14px; background: var(--head);
  border-left: 3px solid var(--bad);
  border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px;
  align-items: start; }
.pair section { margin: 0; height: 100%; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr));
  gap: 8px 18px; }
.plots img { display: block; width: 100%; max-width: 560px; height: auto; margin: 0 auto; }
p.note { color: var(--faint); margin: 0 0 12px; } .plots + p.note { margin: 12px 0 0; }
.scroll { overflow: auto; max-height: 560px; margin: 0 -20px -18px;
  border-top: 1px solid var(--line);
  border-radius: 0 0 10px 10px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--head); font-weight: 600; z-index: 1; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--card);
  padding-left: 20px; }
th:first-child { background: var(--head); z-index: 2; }
tr:last-child td { border-bottom: none; }
tr.best td { background: var(--best); font-weight: 600; } .star { color: var(--star); }
.fits td, .fits th { text-align: left; white-space: normal; }
footer { color: var(--faint); font-size: 13px; margin-top: 20px; }
@media (max-width: 720px) { main { padding: 20px 12px; } .pair {
  grid-template-columns: minmax(0, 1fr); }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .card { padding: 10px 14px; } .card .value { font-size: 20px; } h1 { font-size: 23px; }
  section { padding: 14px; } .scroll { margin: 0 -14px -14px; }
  th, td { padding: 5px 10px; } th:first-child, td:first-child { padding-left: 14px; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin: 0 0 8px; } }
@media print { body { background: none; } .scroll { max-height: none; overflow: visible; }
  section, .card { break-inside: avoid; } section.long { break-inside: auto; } }
"""
