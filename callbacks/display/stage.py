"""The live line of a stage: its title, progress, pace, time left and metrics."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from rich.cells import cell_len

from . import number_format
from .screen import Screen

_RECENT = 30  # refreshes for the pace, so that a slow first step does not count for long

Part = list[tuple[str, str]]  # texts and their styles


class Stage:
    """An epoch's training or validation, an evaluation or a prediction.

    Args:
        title: The epoch of the stage, such as "epoch 3/20", or "".
        verb: The activity, such as "validating", or "".
        steps: The number of batches, None if it is not known.
        now: The time, in seconds.
        note: A note at the end, such as "patience 2/3".

    Attributes:
        verb: The activity, or "".
    """

    def __init__(
        self, title: str, verb: str, steps: int | None, now: float, note: str = ""
    ) -> None:
        self._title = title
        self.verb = verb
        self._note = note
        self._steps = steps
        self._recent = deque([(now, 0)], maxlen=_RECENT)

    def line(
        self, done: int, count: int, now: float, logs: Mapping[str, float], screen: Screen
    ) -> str:
        """Return the live line.

        Args:
            done: The number of finished batches.
            count: Those since the start of the stage; fewer than `done` in a resumed epoch.
            now: The time, in seconds.
            logs: The running metrics, which are read here.
            screen: The output.
        """
        seconds = self._seconds_per_step(count, now)
        values: list[Part] = [
            [(f"{name} ", "dim"), (number_format.number(value), "")] for name, value in logs.items()
        ]
        ranked: list[tuple[int, Part]] = [
            (0, [(self._title, "bold")]),
            (4, self._bar(done, screen)),
            (0, [(self._progress(done), "")]),
            (5, [(number_format.pace(seconds), "dim")] if seconds else []),
            (3, [(self._remaining(done, seconds), "dim")]),
            *((2 if position == 0 else 6, part) for position, part in enumerate(values)),
            (4, [(self._note, "yellow")]),
        ]
        ranked = [(rank, part) for rank, part in ranked if _width(part)]
        widths = [_width(part) + 2 for _, part in ranked]
        shown = number_format.fold(widths, [rank for rank, _ in ranked], screen.width + 2)
        return "  ".join(
            "".join(screen.paint(text, style) for text, style in ranked[position][1])
            for position in shown
        )

    def _seconds_per_step(self, count: int, now: float) -> float:
        """Return the recent pace, 0 if it is not known yet."""
        # A refresh without a new batch, as at the beginning of a stage, has no pace.
        if count > self._recent[-1][1]:
            self._recent.append((now, count))
        (start, before), (end, after) = self._recent[0], self._recent[-1]
        # The pace is that of the last refreshes: the first step may take far longer.
        return (end - start) / max(after - before, 1)

    def _progress(self, done: int) -> str:
        if self._steps is None:
            return f"{self.verb or 'batch'} {done}"
        counts = f"{done:>{len(str(self._steps))}}/{self._steps}"
        return f"{self.verb} {counts}" if self.verb else counts

    def _remaining(self, done: int, seconds: float) -> str:
        if self._steps is None or not seconds:
            return ""
        return f"ETA {number_format.clock(math.ceil(max(self._steps - done, 0) * seconds))}"

    def _bar(self, done: int, screen: Screen) -> Part:
        if not self._steps:
            return []
        full, half, empty = ("#", "", ".") if screen.ascii_only else ("━", "╸", "─")
        width = 30 if screen.width >= 120 else 10
        halves = min(2 * width * done // self._steps, 2 * width)
        filled = full * (halves // 2) + half * (halves % 2)
        return [(filled, "cyan"), (empty * (width - len(filled)), "dim")]


def _width(part: Part) -> int:
    return sum(cell_len(text) for text, _ in part)
