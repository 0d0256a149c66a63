"""A stage's metrics: fed batch by batch, computed over the epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .function import FunctionMetric

_BATCHES = 64  # handed over at once to metrics where that is exact,
_NUMBERS = 1 << 21  # or sooner, once so many numbers are pending (8 MB of float32)
_ADDITIVE = (
    "torchmetrics.classification.",
    "torchmetrics.regression.",
    "fitorch.metrics.accuracy",
    "fitorch.metrics.auc",
    "fitorch.metrics.hits",
)


class MetricSet:
    """The metrics of one stage, with a state of their own.

    Metrics of torchmetrics' classification and regression families, and ours, add up or keep
    samples: they get up to 64 batches joined to one, which gives the same figure for a fraction of
    the cost. All others get each batch by itself.

    Args:
        metrics: Name to metric: a torchmetrics object, a function `(y_pred, y_true) -> scalar`
            (averaged by samples), a registered name, or anything with `update`, `compute` and
            `reset`. They are copied; the originals are never touched.
        device: Where predictions and targets lie.
        from_logits: Whether binary predictions are logits, for metrics made from a name.

    Raises:
        TypeError: A metric is none of these.
        ValueError: A name is unknown.
    """

    def __init__(
        self, metrics: Mapping[str, Any], device: torch.device, *, from_logits: bool = True
    ) -> None:
        self._metrics = {
            name: make_metric(name, metric, device, from_logits=from_logits)
            for name, metric in metrics.items()
        }
        self._joined = [metric for metric in self._metrics.values() if _is_additive(metric)]
        self._single = [metric for metric in self._metrics.values() if not _is_additive(metric)]
        self._pending: list[tuple[Any, Any]] = []
        self._numbers = 0
        self._updated = False

    def update(self, output: Any, y_true: Any) -> None:
        """Count a batch in: the net's output (a Hugging Face output's `.logits`) and targets."""
        if not self._metrics:
            return
        self._updated = True
        y_pred = output.detach() if isinstance(output, Tensor) else _detached(output)
        for metric in self._single:
            metric.update(y_pred, y_true)
        if self._joined:
            self._pending.append((y_pred, y_true))
            self._numbers += y_pred.numel() if isinstance(y_pred, Tensor) else _NUMBERS
            if len(self._pending) == _BATCHES or self._numbers >= _NUMBERS:
                self._hand_over()

    def compute(self) -> dict[str, float]:
        """Return each metric over what was counted in, NaN where that is nothing.

        A metric that gives a dict gives a figure for each key, `<metric>_<key>`; one that gives
        several values, `<metric>_0`, `<metric>_1`, ...
        """
        if not self._updated:
            return dict.fromkeys(self._metrics, math.nan)
        self._hand_over()
        values: dict[str, float] = {}
        for name, metric in self._metrics.items():
            values |= _spread(name, metric.compute())
        return values

    def reset(self) -> None:
        """Forget everything."""
        self._pending.clear()
        self._numbers = 0
        self._updated = False
        for metric in self._metrics.values():
            metric.reset()

    def _hand_over(self) -> None:
        for y_pred, y_true in _join(self._pending):
            for metric in self._joined:
                metric.update(y_pred, y_true)
        self._pending.clear()
        self._numbers = 0


def make_metric(name: str, metric: Any, device: torch.device, *, from_logits: bool = True) -> Any:
    """Return a fresh metric with `update`, `compute` and `reset`, on `device`.

    Raises:
        TypeError: `metric` is no metric.
        ValueError: `metric` is a name that is not known.
    """
    if isinstance(metric, str):
        from .registry import get

        metric = get(metric, from_logits=from_logits)
    if isinstance(metric, type):
        message = f"metric {name!r} is the class {metric.__name__}; pass {metric.__name__}()"
        raise TypeError(message)
    if all(callable(getattr(metric, verb, None)) for verb in ("update", "compute", "reset")):
        fresh = copy.deepcopy(metric)
        fresh = fresh.to(device) if hasattr(fresh, "to") else fresh
        fresh.reset()
        return fresh
    if callable(metric):
        return FunctionMetric(metric, device)
    message = (
        f"metric {name!r} is a {type(metric).__name__}; expected a torchmetrics object, a function "
        "(y_pred, y_true) -> scalar, a name, or an object with update, compute and reset"
    )
    raise TypeError(message)


def higher_is_better(metric: Any) -> bool | None:
    """Say in which direction a metric improves, None where it does not tell."""
    if isinstance(metric, str):
        from .registry import get

        metric = get(metric)
    return getattr(metric, "higher_is_better", None)


def _is_additive(metric: Any) -> bool:
    """Say whether the figure of joined batches is that of the batches one by one."""
    return type(metric).__module__.startswith(_ADDITIVE)


def _join(pending: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Join the batches to one where they are tensors that differ in length alone."""
    tensors = all(isinstance(part, Tensor) for pair in pending for part in pair)
    if len(pending) < 2 or not tensors:
        return pending
    if len({(y_pred.shape[1:], y_true.shape[1:]) for y_pred, y_true in pending}) > 1:
        return pending
    y_pred, y_true = zip(*pending, strict=True)
    return [(torch.cat(y_pred), torch.cat(y_true))]


def _detached(output: Any) -> Any:
    """Cut an output of several tensors off from its graph, taking `.logits` where it has them."""
    logits = getattr(output, "logits", None)
    if logits is not None:
        return logits.detach()
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, Mapping):
        return {key: _detached(value) for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return [_detached(value) for value in output]
    return output


def _spread(name: str, value: Any) -> dict[str, float]:
    """Give each number of a metric's result a name."""
    if isinstance(value, Mapping):
        return {f"{name}_{key}": float(item) for key, item in value.items()}
    if isinstance(value, Tensor) and value.numel() > 1:
        return {f"{name}_{i}": number for i, number in enumerate(value.flatten().tolist())}
    return {name: float(value)}
