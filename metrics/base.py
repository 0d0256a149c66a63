"""A stage's metrics: fed batch by batch, computed over the epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .make import make_metric, takes_weights
from .task import Scale

_BATCHES = 64  # handed over at once to metrics where that is exact,
_NUMBERS = 1 << 21  # or sooner, once so many numbers are pending (8 MB of float32)
_ADDITIVE = ("torchmetrics.classification.", "torchmetrics.regression.", "fitorch.metrics.")
_HALVES = (torch.float16, torch.bfloat16)


class MetricError(ValueError):
    """A metric failed on what it was given."""


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
        scale: Callable[[tuple[Any, ...]], Scale] = lambda output: None,
    ) -> None:
        by_output: dict[tuple[Any, ...], dict[str, Any]] = {}
        for name, output, metric in flat(metrics):
            made = make_metric(name, metric, device, scale(output))
            by_output.setdefault(output, {})[name] = made
        self._fed = [_Fed(output, made) for output, made in by_output.items()]
        self._order = [name for name, _, _ in flat(metrics)]
        self._updated = False
        self._computed: dict[str, float] = {}
        self._warned: set[str] = set()

    def update(self, output: Any, y_true: Any, sample_weight: Any = None) -> None:
        """Count a batch in: the net's output (a Hugging Face output's `.logits`) and targets.

        Raises:
            MetricError: A metric can't take them.
        """
        if not self._fed:
            return
        self._updated = True
        y_pred = _detached(output)
        for fed in self._fed:
            fed.update(y_pred, y_true, sample_weight)

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
        for fed in self._fed:
            found |= fed.compute()
        values: dict[str, float] = {}
        for name in self._order:
            values |= _spread(name, found[name])
        self._computed = values
        return values

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
        for fed in self._fed:
            fed.reset()

    @property
    def tasks(self) -> dict[str, str]:
        """What metrics given by name turned out to measure, once they have seen a batch."""
        made = {name: metric for fed in self._fed for name, metric in fed.metrics.items()}
        tasks = {name: getattr(made[name], "task", None) for name in self._order}
        return {name: str(task) for name, task in tasks.items() if task is not None}


class _Fed:
    """The metrics of one output.

    Args:
        output: The keys that lead to it, () for all of the net's output.
        metrics: Name to metric.
    """

    def __init__(self, output: tuple[Any, ...], metrics: dict[str, Any]) -> None:
        self.metrics = metrics
        self._output = output
        self._weighted = {name for name, metric in metrics.items() if takes_weights(metric)}
        self._joined = [name for name, metric in metrics.items() if _is_additive(metric)]
        self._single = [name for name, metric in metrics.items() if not _is_additive(metric)]
        self._pending: list[tuple[Any, Any, Any]] = []
        self._numbers = 0
        self._limit = 1  # the first batch goes at once: what fails should fail early

    def update(self, y_pred: Any, y_true: Any, weight: Any) -> None:
        for key in self._output:
            y_pred = self._part(y_pred, key, "the net's output")
            y_true = self._part(y_true, key, "the targets")
            weight = weight[key] if isinstance(weight, (Mapping, list, tuple)) else weight
        if isinstance(y_true, Tensor) and y_true.dtype in _HALVES:
            y_true = y_true.float()
        for name in self._single:
            self._count(name, y_pred, y_true, weight)
        if self._joined:
            self._pending.append((y_pred, y_true, weight))
            self._numbers += y_pred.numel() if isinstance(y_pred, Tensor) else _NUMBERS
            if len(self._pending) >= self._limit or self._numbers >= _NUMBERS:
                self._hand_over()
                self._limit = _BATCHES

    def compute(self) -> dict[str, Any]:
        self._hand_over()
        return {name: self._compute(name) for name in self.metrics}

    def reset(self) -> None:
        self._pending.clear()
        self._numbers = 0
        for metric in self.metrics.values():
            metric.reset()

    def _part(self, tree: Any, key: Any, what: str) -> Any:
        if isinstance(key, str) and not isinstance(tree, (Tensor, Mapping)) and hasattr(tree, key):
            return _detached(getattr(tree, key))  # of a named tuple or a dataclass
        parts: Any = tree
        try:
            return parts[key]
        except (KeyError, IndexError, TypeError) as error:
            keys = list(tree) if isinstance(tree, Mapping) else _describe(tree)
            message = (
                f"metrics {list(self.metrics)} look at output {key!r}, which {what} has not; "
                f"there is {keys}"
            )
            raise MetricError(message) from error

    def _hand_over(self) -> None:
        for batch in _join(self._pending):
            for name in self._joined:
                self._count(name, *batch)
        self._pending.clear()
        self._numbers = 0

    def _count(self, name: str, y_pred: Any, y_true: Any, weight: Any) -> None:
        try:
            if weight is not None and name in self._weighted:
                self.metrics[name].update(y_pred, y_true, sample_weight=weight)
            else:
                self.metrics[name].update(y_pred, y_true)
        except Exception as error:
            message = (
                f"metric {name!r} failed on predictions {_describe(y_pred)} and targets "
                f"{_describe(y_true)}: {error}"
            )
            raise MetricError(message) from error

    def _compute(self, name: str) -> Any:
        try:
            return self.metrics[name].compute()
        except Exception as error:
            message = f"metric {name!r} can't be computed: {error}"
            raise MetricError(message) from error


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


def _is_additive(metric: Any) -> bool:
    """Say whether the figure of joined batches is that of the batches one by one."""
    inner = getattr(metric, "joins", metric)
    if isinstance(inner, bool):
        return inner
    if type(inner).__name__ == "MetricCollection":
        return all(map(_is_additive, inner.values()))
    return type(inner).__module__.startswith(_ADDITIVE)


def _join(pending: list[tuple[Any, Any, Any]]) -> list[tuple[Any, Any, Any]]:
    """Join the batches to one where they are tensors that differ in length alone."""
    tensors = all(isinstance(part, Tensor) for batch in pending for part in batch[:2])
    if len(pending) < 2 or not tensors:
        return pending
    if len({(y_pred.shape[1:], y_true.shape[1:]) for y_pred, y_true, _ in pending}) > 1:
        return pending
    y_pred, y_true, weight = zip(*pending, strict=True)
    weighed = all(isinstance(part, Tensor) for part in weight)
    if not weighed and any(part is not None for part in weight):
        return pending
    return [(torch.cat(y_pred), torch.cat(y_true), torch.cat(weight) if weighed else None)]


def _detached(output: Any) -> Any:
    """Cut an output off from its graph, in 32 bits at least; its `.logits` where it has them."""
    if isinstance(output, Tensor):
        tensor = output.detach()
        return tensor.float() if tensor.dtype in _HALVES else tensor
    logits = getattr(output, "logits", None)
    if logits is not None:
        return _detached(logits)
    if isinstance(output, Mapping):
        return {key: _detached(value) for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*map(_detached, output))
    if isinstance(output, (tuple, list)):
        return [_detached(value) for value in output]
    return output


def _describe(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')} {tuple(tree.shape)}"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key!r}: {_describe(part)}" for key, part in tree.items()) + "}"
    if isinstance(tree, (tuple, list)):
        return "(" + ", ".join(map(_describe, tree)) + ")"
    return type(tree).__name__


def _spread(name: str, value: Any) -> dict[str, float]:
    """Give each number of a metric's result a name."""
    if isinstance(value, Mapping):
        return {f"{name}_{key}": float(item) for key, item in value.items()}
    if isinstance(value, Tensor) and value.numel() > 1:
        return {f"{name}_{i}": number for i, number in enumerate(value.flatten().tolist())}
    return {name: float(value)}
