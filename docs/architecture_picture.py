"""Draw the packages of fitorch in their layers, and which of them import which.

`python docs/architecture.py docs/images/architecture.svg` calls it. Everything that the picture
shows is read from the code: names, sizes, first lines of docstrings, imports.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from architecture import RANK, SIDE_FOLDERS, imports, modules, sizes, unit

# The ground and the small modules of the root are drawn as one row each.
GROUND = ("version", "errors", "tree", "randomness", "files", "checks", "environment")
SURFACE = ("compat", "vlog", "sklearn", "selfcheck", "__init__", "__main__")
INK, PALE, SOFT, ACCENT = "#24292f", "#8a94a0", "#eef2f6", "#0b6bcb"
LONGEST = 61  # letters of a description


def draw(path: Path) -> None:
    """Write the picture as SVG."""
    rows = _rows()
    figure = Figure(figsize=(11.6, 0.36 * len(rows) + 1.5))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 11.6)
    axes.set_ylim(-0.36 * len(rows) - 0.25, 1.25)
    arrows = _counts_by_row(rows)
    for place, row in enumerate(rows):
        _draw_row(axes, place, row, len(rows), arrows)
    axes.text(0.2, 0.95, "The packages of fitorch", color=INK, fontsize=13, weight="bold")
    legend = "a dot: the package of the row imports the one of the column; it lies above it"
    axes.text(11.4, -0.36 * len(rows) - 0.12, legend, color=PALE, fontsize=7.5, ha="right")
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fitorch"}):
        figure.savefig(path, metadata={"Date": None})


def _rows() -> list[tuple[str, tuple[str, ...]]]:
    """Return the rows from the ground up: what each is called, and its packages."""
    between = [name for name in RANK if name not in (*GROUND, *SURFACE)]
    return [
        ("ground", GROUND),
        *((name, (name,)) for name in between),
        ("surface", SURFACE),
    ]


def _counts_by_row(rows: list[tuple[str, tuple[str, ...]]]) -> Counter[tuple[int, int]]:
    """Return how many imports lead from a row to another one."""
    place = {name: number for number, (_, names) in enumerate(rows) for name in names}
    found: Counter[tuple[int, int]] = Counter()
    for each in imports():
        importer, imported = place[unit(each.importer)], place[unit(each.imported)]
        if importer != imported:
            found[importer, imported] += 1
    return found


def _draw_row(axes, place, row, count, arrows) -> None:  # noqa: ANN001 - of matplotlib
    name, names = row
    y, side = -0.36 * place, 0.21
    files = sum(sizes()[each][0] for each in names)
    lines = sum(sizes()[each][1] for each in names)
    width = 0.18 + 2.1 * (lines / max(total for _, total in sizes().values())) ** 0.5
    width = max(width, 0.25 + 0.1 * len(name))  # the box of a small package still holds its name
    colour = ACCENT if name in SIDE_FOLDERS else INK
    box = FancyBboxPatch(
        (0.2, y - 0.11), width, 0.27, boxstyle="round,pad=0,rounding_size=0.05", fc=SOFT, ec="none"
    )
    axes.add_patch(box)
    axes.text(0.28, y + 0.025, name, color=colour, fontsize=9, weight="bold", va="center")
    axes.text(
        3.25,
        y + 0.025,
        f"{files} file{'s' * (files > 1)}",
        color=PALE,
        fontsize=7,
        va="center",
        ha="right",
    )
    axes.text(3.35, y + 0.025, _description(names), color=INK, fontsize=7.5, va="center")
    left = 11.4 - side * count
    for column in range(place):
        x, imported = left + side * column, arrows[place, column]
        if imported:
            axes.scatter([x], [y + 0.02], s=6 + 3 * min(imported, 20), color=ACCENT, lw=0)
        else:
            axes.scatter([x], [y + 0.02], s=1, color="#c8d0d8", lw=0)
    axes.scatter([left + side * place], [y + 0.02], s=14, marker="s", color=INK, lw=0)
    axes.text(
        left + side * place,
        0.2,
        name,
        color=PALE,
        fontsize=6.5,
        rotation=60,
        ha="left",
        va="bottom",
    )


def _description(names: tuple[str, ...]) -> str:
    if len(names) > 1:
        return _shortened(", ".join(name.strip("_") for name in names))
    file = modules().get(f"{names[0]}.__init__") or modules()[names[0]]
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return _shortened(text.split("\n")[0].rstrip("."))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1].rsplit(' ', 1)[0]} …"
