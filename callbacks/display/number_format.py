"""Short text for numbers, times and paces, and the choice of what fits on a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size


def number(value: Any) -> str:
    """Return `value` with four significant digits; NaN, which is not measured, as a dash.

    Example:
        >>> [number(value) for value in (0.25, 1234, 2.5e-5, float("nan"))]
        ['0.2500', '1234', '2.500e-05', '-']
    """
    try:
        figure = float(value)
    except (TypeError, ValueError, RuntimeError):  # not a number
        return " ".join(str(value).split())
    return "-" if math.isnan(figure) else f"{figure:#.4g}".rstrip(".")


def learning_rate(value: Any) -> str:
    """Return `value` with at most four significant digits.

    Example:
        >>> [learning_rate(value) for value in (0.001, 3e-4, 0.00012345)]
        ['0.001', '3e-04', '1.234e-04']
    """
    if not isinstance(value, float) or not 0 < abs(value) < 1e-3:
        return number(value) if value != value else f"{value:.4g}"
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"


def duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours.

    Example:
        >>> [duration(seconds) for seconds in (0.413, 12.34, 83, 3723)]
        ['0.41 s', '12.3 s', '1:23', '1:02:03']
    """
    # From 59.95 s on, rounding to a tenth would give 60.0 s.
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    return clock(seconds)


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, from one hour on with hours.

    Example:
        >>> clock(7.2)
        '0:07'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def pace(seconds: float) -> str:
    """Return the time per step.

    Example:
        >>> [pace(seconds) for seconds in (0.00035, 0.0421, 1.25)]
        ['0.35 ms/step', '42.1 ms/step', '1.2 s/step']
    """
    # From 0.9995 s on, rounding to three digits would give 1e+03 ms.
    return f"{1e3 * seconds:.3g} ms/step" if seconds < 0.9995 else f"{seconds:.1f} s/step"


def clip(text: str, width: int, ellipsis: str = "…") -> str:
    """Return `text`, cut to `width` columns of a terminal, with an ellipsis if it is cut."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - cell_len(ellipsis)) + ellipsis


def fold(widths: Sequence[int], ranks: Sequence[int], room: int) -> list[int]:
    """Choose the most important items that fit into `room` columns.

    Args:
        widths: The columns of each item, including the gap to its neighbour.
        ranks: The rank of each item: the lowest is the most important, 0 is always shown.
        room: The available columns.

    Returns:
        The positions of the chosen items, in ascending order.
    """
    chosen = []
    # The sort is stable: of equal ranks, the first item is chosen first.
    for position in sorted(range(len(widths)), key=ranks.__getitem__):
        if widths[position] <= room or ranks[position] == 0:
            chosen.append(position)
            room -= widths[position]
    return sorted(chosen)
