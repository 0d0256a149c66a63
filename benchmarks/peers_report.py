"""What peers.py found, as Markdown tables and as a bar chart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers import PEERS, Peer

# All contenders run on one thread, so this is the wall time of a machine that does nothing else.
_TIME = "cpu_microseconds"
_OURS, _OTHERS, _BY_HAND, _INK, _FAINT = "#e4572e", "#9db4c0", "#5c6b73", "#253237", "#6b7780"


@dataclass
class Measurements:
    """What was measured.

    Args:
        about: Date, machine, versions of Python and torch.
        versions: Contender to the version of its package, "" for none.
        turns: Workload to the turns; each has for a contender what peer.py printed.
        failed: Workload to contenders that could not be measured, and why.
        epochs: Workload to the epochs of one turn.
    """

    about: dict[str, str]
    versions: dict[str, str]
    turns: dict[str, list[dict[str, Any]]]
    failed: dict[str, dict[str, str]]
    epochs: dict[str, int]

    def values(self, workload: str, name: str, key: str) -> list[float]:
        """Return a figure of a contender, turn by turn."""
        return [turn[name][key] for turn in self.turns[workload]]

    def median(self, workload: str, name: str, key: str) -> float:
        """Return the median of a figure over the turns."""
        return statistics.median(self.values(workload, name, key))

    def ratio(self, workload: str, name: str, reference: str) -> float:
        """Return the median of the ratios of times within a turn."""
        times = self.values(workload, name, _TIME)
        references = self.values(workload, reference, _TIME)
        pairs = zip(times, references, strict=True)
        return statistics.median(time / other for time, other in pairs)

    def names(self, workload: str) -> list[str]:
        """Return the contenders that took part in all turns, the fastest by its ratio first."""
        turns, failed = self.turns[workload], self.failed[workload]
        names = [name for name in turns[0] if name not in failed]
        return sorted(names, key=lambda name: self.ratio(workload, name, "ceiling"))


def report(measured: Measurements) -> str:
    """Return everything as Markdown."""
    parts = [headline(measured)]
    for workload in measured.turns:
        parts += [times(measured, workload), training(measured, workload)]
    parts.append(contenders(measured))
    return "\n\n".join(parts)


def headline(measured: Measurements) -> str:
    """State when and on what it was measured."""
    about = measured.about
    return (
        f"Measured {about['date']}: {about['cpu']}, {about['cores']} logical cores, one thread "
        f"used; Python {about['python']}, torch {about['torch']}."
    )


def times(measured: Measurements, workload: str) -> str:
    """Return the table of what a step, the memory and the import cost."""
    turns, epochs = len(measured.turns[workload]), measured.epochs[workload]
    title = f"### {workload}: what a training step costs ({turns} turns of {epochs} epochs)"
    header = [
        "contender", "us per step, CPU", "quartiles", "x usual loop", "x best loop", "us, wall",
        "extra memory MB", "import s", "import + first epoch s",
    ]  # fmt: skip
    rows = [_time_row(measured, workload, name) for name in measured.names(workload)]
    notes = [
        f"- `import torch` takes {measured.median(workload, 'loader', 'torch_seconds'):.2f} s "
        "before the imports of the table."
    ]
    notes += [
        f"- {PEERS[name].label} could not be measured: {why}"
        for name, why in measured.failed[workload].items()
    ]
    return "\n\n".join([title, table(header, rows), "\n".join(notes)])


def _time_row(measured: Measurements, workload: str, name: str) -> list[str]:
    microseconds = measured.values(workload, name, _TIME)
    memory = [measured.median(workload, each, "peak_megabytes") for each in (name, "loader")]
    imported = measured.median(workload, name, "import_seconds")
    first = measured.median(workload, name, "first_epoch_seconds")
    cells = [
        PEERS[name].label,
        f"{statistics.median(microseconds):,.0f}",
        quartiles(microseconds),
        f"{measured.ratio(workload, name, 'loader'):.2f}",
        f"{measured.ratio(workload, name, 'ceiling'):.2f}",
        f"{measured.median(workload, name, 'microseconds'):,.0f}",
        f"{round(memory[0] - memory[1]):+d}",
        f"{imported:.2f}",
        f"{imported + first:.2f}",
    ]
    return [f"**{cell}**" for cell in cells] if PEERS[name].ours else cells


def quartiles(values: list[float]) -> str:
    """Return the lower and the upper quartile."""
    if len(values) == 1:
        return "-"
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{low:,.0f}-{high:,.0f}"


def training(measured: Measurements, workload: str) -> str:
    """Return the table that shows what each contender trained, and what it reported itself."""
    header = [
        "contender", "train loss", "train acc", "val loss", "val acc",
        "reports: train loss", "train acc", "val loss", "val acc",
    ]  # fmt: skip
    keys = ("train_loss", "train_acc", "val_loss", "val_acc")
    last, names = measured.turns[workload][-1], measured.names(workload)
    rows = [["untrained", *_figures(last[names[0]]["untrained"], keys), *["-"] * len(keys)]]
    rows += [
        [
            PEERS[name].label,
            *_figures(last[name]["trained"], keys),
            *_figures(last[name]["reported"], keys),
        ]
        for name in names
    ]
    return f"### {workload}: what was trained\n\n{table(header, rows)}"


def _figures(found: dict[str, float], keys: Iterable[str]) -> Iterator[str]:
    return (f"{found[key]:.4f}" if key in found else "-" for key in keys)


def contenders(measured: Measurements) -> str:
    """Return the table of versions, displays, and what each computes otherwise."""
    rows = [
        [PEERS[name].label, version or "-", PEERS[name].display, PEERS[name].differs or "nothing"]
        for name, version in measured.versions.items()
    ]
    header = ["contender", "version", "display", "what it does otherwise"]
    return f"### The contenders\n\n{table(header, rows)}"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(measured: Measurements, workload: str, path: Path) -> None:
    """Draw a bar for each contender, the fastest on top, with the best loop by hand as a line."""
    from matplotlib.figure import Figure

    names = [name for name in measured.names(workload) if name != "ceiling"]
    height = 0.36 * len(names) + 1.85  # inches, of which 1.1 above the bars and 0.75 below
    figure = Figure(figsize=(9, height), facecolor="white")
    axes = figure.add_axes((0.275, 0.75 / height, 0.625, 1 - 1.85 / height))
    _draw_bars(axes, measured, workload, names)
    _draw_ceiling(axes, measured.median(workload, "ceiling", _TIME), len(names))
    _tidy(axes, names)
    title = "What one training step costs"
    subtitle = (
        f"CPU microseconds per step of '{workload}', validation and everything else included; "
        "ratio to the best loop"
    )
    figure.text(0.02, 1 - 0.42 / height, title, fontsize=16, fontweight="bold", color=_INK)
    figure.text(0.02, 1 - 0.68 / height, subtitle, fontsize=9.5, color=_FAINT)
    figure.text(0.02, 0.1 / height, caption(measured), fontsize=6.5, color=_FAINT, va="bottom")
    figure.savefig(path, dpi=110)


def caption(measured: Measurements) -> str:
    """Return the small print: date, machine and versions."""
    packages: dict[str, str] = {}
    for name, version in measured.versions.items():
        if version:
            packages[PEERS[name].distribution] = version
    about = measured.about
    words = [f"{package} {version}" for package, version in packages.items()]
    half = len(words) // 2
    first = [f"{about['date']}, {about['cpu']}, one thread", f"Python {about['python']}"]
    lines = [[*first, f"torch {about['torch']}"], words[:half], words[half:]]
    return "\n".join(", ".join(line) for line in lines if line)


def _draw_bars(axes: Any, measured: Measurements, workload: str, names: list[str]) -> None:
    heights = [measured.median(workload, name, _TIME) for name in names]
    axes.barh(range(len(names)), heights, height=0.72, color=[_colour(PEERS[n]) for n in names])
    for place, (name, height) in enumerate(zip(names, heights, strict=True)):
        axes.annotate(
            f"{height:,.0f}   {_short(measured.ratio(workload, name, 'ceiling'))}x",
            (height, place), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=9, color=_INK,
            fontweight="bold" if PEERS[name].ours else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0}, zorder=3,
        )  # fmt: skip


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}"


def _colour(peer: Peer) -> str:
    if peer.ours:
        return _OURS
    return _OTHERS if peer.distribution else _BY_HAND


def _draw_ceiling(axes: Any, microseconds: float, bars: int) -> None:
    axes.axvline(microseconds, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"best loop by hand: {microseconds:,.0f}",
        (microseconds, -0.6), xytext=(0, 3), textcoords="offset points",
        ha="center", va="bottom", fontsize=8.5, color=_INK, annotation_clip=False,
    )  # fmt: skip
    axes.set_ylim(bars - 0.4, -0.6)


def _tidy(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [PEERS[name].label for name in names], fontsize=9.5)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(_INK)
        label.set_fontweight("bold" if PEERS[name].ours else "normal")
    axes.set_xlim(left=0)
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
