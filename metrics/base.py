"""A stage's metrics: output_metrics batch by batch, computed over the epoch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .batching import MetricError, OutputMetrics, detached
from .factory import make_metric
from .merge import portable
from .state import move_state
from .task import PredictionKind

__all__ = ["MetricError", "MetricSet", "flat"]


class MetricSet:
    """The metrics of one stage, with a state of their own.

    Metrics of torchmetrics' classification and regression families, and ours, add up or keep
    samples: they get up to 64 batches joined to one, which gives the same figure for a fraction of
    the cost. All others get each batch by itself.

    Args:
        metrics: Name to metric: a torchmetrics object, a function `(y_pred, y_true) -> scalar`
            (averaged by samples), a registered name, or anything with `update` (or `forward`),
            `compute` and `reset`; or output to such a mapping, for a net of several outputs. They
            are copied; the originals are never touched.
        device: Where predictions and targets lie.
        scale: Tells for an output, () being all of it, what its predictions are.

    Raises:
        TypeError: A metric is none of these.
        ValueError: A name is unknown.
    """

    def __init__(
        self,
        metrics: Mapping[str, Any],
        device: torch.device,
        scale: Callable[[tuple[Any, ...]], PredictionKind] = lambda output: None,
    ) -> None:
        by_output: dict[tuple[Any, ...], dict[str, Any]] = {}
        for name, output, metric in flat(metrics):
            made = make_metric(name, metric, device, scale(output))
            by_output.setdefault(output, {})[name] = made
        self._device = device
        self._outputs = [OutputMetrics(output, made) for output, made in by_output.items()]
        self._order = [name for name, _, _ in flat(metrics)]
        self._updated = False
        self._computed: dict[str, float] = {}
        self._warned: set[str] = set()

    def update(self, output: Any, y_true: Any, sample_weight: Any = None) -> None:
        """Count a batch in: the net's output (a Hugging Face output's `.logits`) and targets.

        Raises:
            MetricError: A metric can't take them.
        """
        if not self._outputs:
            return
        self._updated = True
        y_pred = detached(output)
        for output_metrics in self._outputs:
            output_metrics.update(y_pred, y_true, sample_weight)

    def compute(self) -> dict[str, float]:
        """Return each metric over what was counted in, NaN where that is nothing.

        A metric that gives a dict gives a figure for each key, `<metric>_<key>`; one that gives
        several values, `<metric>_0`, `<metric>_1`, ...

        Raises:
            MetricError: A metric can't be computed.
        """
        if not self._updated:
            return dict.fromkeys(self._order, math.nan)
        found: dict[str, Any] = {}
        for output_metrics in self._outputs:
            found |= output_metrics.compute()
        values: dict[str, float] = {}
        for name in self._order:
            values |= _named_values(name, found[name])
        self._computed = values
        return values

    def gathered(self, gather: Callable[[Any], Sequence[Any]]) -> MetricSet:
        """Return the metrics over what all processes counted, each sample once.

        States are merged, never figures: samples need not divide by processes, and a process may
        have none. Every process must call this, at the same time; what they counted stays.

        Args:
            gather: Gives what each process passed to it, in their order; what is passed can be
                pickled.

        Raises:
            MetricError: A metric can't be merged.

        Example:
            >>> import torch
            >>> from torch import distributed
            >>> from fitorch.metrics import MetricSet
            >>> def gather(part):
            ...     parts = [None] * distributed.get_world_size()
            ...     distributed.all_gather_object(parts, part)
            ...     return parts
            >>> metrics = MetricSet({"acc": "acc"}, torch.device("cpu"))
            >>> metrics.gathered(gather).compute()  # doctest: +SKIP
        """
        for output_metrics in self._outputs:
            output_metrics.flush()
        own = [
            {name: portable(metric) for name, metric in output_metrics.metrics.items()}
            for output_metrics in self._outputs
        ]
        parts = [part for part in gather(own if self._updated else None) if part is not None]
        union = copy.deepcopy(self)
        union._updated = bool(parts)
        for number, output_metrics in enumerate(union._outputs if parts else ()):
            output_metrics.merge([part[number] for part in parts])
        return union

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted in."""
        return {
            "updated": self._updated,
            "fed": [output_metrics.state_dict() for output_metrics in self._outputs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self._updated = state["updated"]
        for output_metrics, counted in zip(self._outputs, state["fed"], strict=True):
            output_metrics.load_state_dict(move_state(counted, self._device))

    def warn_of_nan(self, stage: str) -> None:
        """Warn once of each metric that was NaN when it was last computed, at a stage's end.

        Args:
            stage: What the figures' names begin with.
        """
        computed = self._computed.items() if self._updated else ()
        found = [name for name, v in computed if math.isnan(v) and name not in self._warned]
        if not found:
            return
        self._warned.update(found)
        names = ", ".join(f"{stage}{name}" for name in found)
        warnings.warn(
            f"{names} can't be told: it is nan where a class is missing from the targets, or a "
            "prediction is nan; larger or stratified data may help",
            stacklevel=2,
        )

    def reset(self) -> None:
        """Forget everything."""
        self._updated = False
        for output_metrics in self._outputs:
            output_metrics.reset()

    @property
    def tasks(self) -> dict[str, str]:
        """What metrics given by name turned out to measure, once they have seen a batch."""
        made = {
            name: metric
            for output_metrics in self._outputs
            for name, metric in output_metrics.metrics.items()
        }
        tasks = {name: getattr(made[name], "task", None) for name in self._order}
        return {name: str(task) for name, task in tasks.items() if task is not None}


def flat(
    metrics: Mapping[Any, Any], output: tuple[Any, ...] = ()
) -> list[tuple[str, tuple[Any, ...], Any]]:
    """Return the name of each figure, the output that it looks at, and its metric.

    The figure of metric `auc` of output `sex` is called `sex_auc`.
    """
    found = []
    for key, metric in metrics.items():
        if isinstance(metric, Mapping):
            found += flat(metric, (*output, key))
        else:
            keys = [f"output_{k}" if isinstance(k, int) else str(k) for k in output]
            found.append(("_".join([*keys, str(key)]), output, metric))
    return found


def _named_values(name: str, value: Any) -> dict[str, float]:
    """Give each number of a metric's result a name."""
    if isinstance(value, Mapping):
        return {f"{name}_{key}": float(item) for key, item in value.items()}
    if isinstance(value, Tensor) and value.numel() > 1:
        return {f"{name}_{i}": number for i, number in enumerate(value.flatten().tolist())}
    return {name: float(value)}
