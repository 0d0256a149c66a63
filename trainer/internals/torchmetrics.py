"""Private names of torchmetrics: the states of a metric, and how processes reduce them.

torchmetrics merges states by collectives alone. fitorch merges them in one message per stage, and
stores them in checkpoints; for that it reads which states a metric has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def is_metric(module: object) -> bool:
    """Return whether an object is a metric of torchmetrics, or of a subclass."""
    if type(module).__name__ == "MetricCollection":
        return True
    return hasattr(module, "_reductions") and hasattr(module, "_defaults")


def has_states(module: object) -> bool:
    """Return whether a module declares states that processes reduce."""
    return hasattr(module, "_reductions")


def reductions_of(metric: Any) -> dict[str, Any]:
    """Return the reduction of each state, by the state's name."""
    reductions: dict[str, Any] = metric._reductions
    return reductions


def state_names(metric: Any) -> list[str]:
    """Return the attributes that hold what a metric has counted."""
    names = [*getattr(metric, "_defaults", ()), "_update_count"]
    return [name for name in names if hasattr(metric, name)]


def updates_of(metric: Any) -> int | None:
    """Return how often a metric, or one inside of it, was updated; None if it does not count."""
    modules = metric.modules() if hasattr(metric, "modules") else ()
    counts = [m._update_count for m in modules if hasattr(m, "_update_count")]
    return max(counts, default=None)


def set_merged(metric: Any, parts: Iterable[Any]) -> None:
    """Count the updates of all parts, and drop a result that was computed before the merge."""
    # torchmetrics warns if `compute` is called with a count of 0.
    metric._update_count = sum(part._update_count for part in parts)
    metric._computed = None


def missing() -> list[str]:
    """Return the private names above that the installed torchmetrics does not have."""
    from torchmetrics import SumMetric

    metric = SumMetric()
    return [
        f"Metric.{name}"
        for name in ("_reductions", "_defaults", "_update_count", "_computed")
        if not hasattr(metric, name)
    ]
