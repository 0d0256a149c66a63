"""Metric sets: the metrics of a stage, updated batch by batch and computed over the epoch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from fitorch.devices.accelerators import is_host
from fitorch.devices.messages import packed, unpacked

from .batching import MetricError, OutputMetrics, ResultError, detached
from .factory import make_metric
from .merge import portable
from .named import NamedMetric
from .results import named_values
from .state import lies_on_host, move_state
from .targets import TargetForm
from .task import PredictionKind
from .unread import Unread, known, together

__all__ = ["MetricError", "MetricSet", "flat"]


class MetricSet:
    """The metrics of one stage, with their own state.

    Metrics of fitorch and of torchmetrics' classification and regression packages are additive:
    they get up to 64 batches concatenated to one, which gives the same value at a fraction of the
    cost. All other metrics get the batches one by one.

    Args:
        metrics: Maps names to metrics. A metric is a torchmetrics object, a function
            `(y_pred, y_true) -> scalar` (averaged by samples), a registered name, or an object with
            `update` (or `forward`), `compute` and `reset`. For a net of several outputs, outputs
            map to such mappings. Metrics are copied; the originals are never changed.
        device: The device of predictions and targets.
        scale: Returns the kind of predictions of an output; () is the whole output.
        ignored: Returns the class number of an output's targets that do not count, or None.
        classes_last: Returns for an output, its predictions (N, T, T) and targets (N, T) whether
            the last dimension has the classes; None if it is unknown.
        shifted: Returns whether an output's predictions for token t belong to the target t + 1.

    Raises:
        TypeError: A metric is none of these.
        ValueError: A name is unknown.
    """

    def __init__(
        self,
        metrics: Mapping[str, Any],
        device: torch.device,
        scale: Callable[[tuple[Any, ...]], PredictionKind] = lambda output: None,
        ignored: Callable[[tuple[Any, ...]], int | None] = lambda output: None,
        classes_last: Callable[..., bool | None] = lambda output, y_pred, y_true: None,
        shifted: Callable[[tuple[Any, ...]], bool] = lambda output: False,
    ) -> None:
        by_output: dict[tuple[Any, ...], dict[str, Any]] = {}
        for name, output, metric in flat(metrics):
            # Each stage has new metrics, with the kind of predictions that the loss expects.
            made = make_metric(name, metric, device, scale(output))
            by_output.setdefault(output, {})[name] = made
        self._device = device
        self._outputs = [
            OutputMetrics(
                output,
                made,
                TargetForm(
                    scale(output),
                    ignored(output),
                    partial(classes_last, output),
                    partial(shifted, output),
                ),
            )
            for output, made in by_output.items()
        ]
        self._order = [name for name, _, _ in flat(metrics)]
        self._updated = False
        self._computed: dict[str, float] = {}
        self._warned: set[str] = set()

    def update(self, output: Any, y_true: Any, sample_weight: Any = None) -> None:
        """Add a batch.

        Args:
            output: The net's output. Metrics by name, and those of fitorch and torchmetrics, get
                its `.logits` if it has them; metrics of users get it unchanged.
            y_true: The targets.
            sample_weight: A weight for each sample, of shape (N,) or (N, 1), or None.

        Raises:
            MetricError: A metric fails on the batch.
        """
        if not self._outputs:
            return
        self._updated = True
        # The output is detached once for all metrics: the graph must not outlive the step.
        y_pred = detached(output)
        for output_metrics in self._outputs:
            output_metrics.update(y_pred, y_true, sample_weight)

    def compute(self) -> dict[str, float]:
        """Return the value of each metric over all batches, NaN if there were none.

        A metric that returns a mapping has a value for each key, `<metric>_<key>`; keys that start
        with the metric's name are columns as they are. A metric that returns a tuple, a list or a
        tensor of several elements has the values `<metric>_0`, `<metric>_1`, ...

        Raises:
            MetricError: A metric fails, or its result is not made of numbers.
        """
        return self.unread().read()

    def unread(self) -> Unread[dict[str, float]]:
        """Return what `compute` returns; metrics of torchmetrics may read when it is computed.

        Raises:
            MetricError: A metric fails.
        """
        # Most metrics raise an error if they are computed without a batch.
        if not self._updated:
            return known(dict.fromkeys(self._order, math.nan))
        results: dict[str, Unread[Any]] = {}
        for output_metrics in self._outputs:
            results |= output_metrics.unread()
        return together([results[name] for name in self._order]).then(self._columns)

    def _columns(self, results: Sequence[Any]) -> dict[str, float]:
        """Return the values by column.

        Args:
            results: The results of the metrics, in the order of the user's mapping.
        """
        values: dict[str, float] = {}
        for name, result in zip(self._order, results, strict=True):
            for column, value in _named_values(name, result).items():
                if column in values:
                    message = (
                        f"metric {name!r} has a value {column!r}, as another metric does; rename "
                        "one of them"
                    )
                    raise MetricError(message)
                values[column] = value
        self._computed = values
        return values

    def gathered(self, gather: Callable[[Any], Sequence[Any]]) -> MetricSet:
        """Return the metrics over the batches of all processes, each sample counted once.

        States are merged, not values, so that processes may have different numbers of samples, or
        none. This is a collective call: every process must make it. It does not change this set.

        Args:
            gather: A collective function that returns what each process passed to it, in rank
                order. It is called with bytes, or None.

        Raises:
            MetricError: A metric cannot be merged.

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
            # Pending batches are part of the state that is merged.
            output_metrics.flush()
        local = [
            {name: portable(metric) for name, metric in output_metrics.metrics.items()}
            for output_metrics in self._outputs
        ]
        # This is a collective: all processes take part, with None if they had no batch. Tensors
        # from the devices of the others arrive on that of this process.
        packets = gather(packed(local) if self._updated else None)
        parts = [unpacked(packet, self._device) for packet in packets if packet is not None]
        # The sums of this process are kept, because the stage may continue.
        union = copy.deepcopy(self)
        union._updated = bool(parts)
        for number, output_metrics in enumerate(union._outputs if parts else ()):
            output_metrics.merge([part[number] for part in parts])
            for name, metric in self._outputs[number].metrics.items():
                if isinstance(metric, NamedMetric):
                    metric.adopt_task(output_metrics.metrics[name])
        return union

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulated state of the metrics."""
        fed = [output_metrics.state_dict() for output_metrics in self._outputs]
        state: dict[str, Any] = {"updated": self._updated, "fed": fed}
        if not is_host(self._device):
            # Metrics of users may keep their tensors in the host's memory.
            state["host"] = [
                [name for name, part in each["metrics"].items() if lies_on_host(part)]
                for each in fed
            ]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the accumulated state."""
        self._updated = state["updated"]
        on_host = state.get("host", [[] for _ in self._outputs])
        for output_metrics, output_state, names in zip(
            self._outputs, state["fed"], on_host, strict=True
        ):
            # Checkpoints are read on the CPU.
            on_device = move_state(output_state, self._device)
            on_device["metrics"] |= {name: output_state["metrics"][name] for name in names}
            output_metrics.load_state_dict(on_device)

    def warn_of_nan(self, stage: str) -> None:
        """Warn about metrics whose last computed value is NaN, once for each metric.

        Args:
            stage: The prefix of the metrics' columns, as in `val_auc`.
        """
        computed = self._computed.items() if self._updated else ()
        nan_names = [name for name, v in computed if math.isnan(v) and name not in self._warned]
        if not nan_names:
            return
        self._warned.update(nan_names)
        columns = ", ".join(f"{stage}{name}" for name in nan_names)
        warnings.warn(
            f"{columns} is NaN because a class is missing from the targets, or because a "
            "prediction is NaN; larger or stratified data may help",
            stacklevel=2,
        )

    def reset(self) -> None:
        """Discard all batches."""
        self._updated = False
        for output_metrics in self._outputs:
            output_metrics.reset()

    @property
    def tasks(self) -> dict[str, str]:
        """The task of each metric passed by name, known after the first batch."""
        by_name = {
            name: metric
            for output_metrics in self._outputs
            for name, metric in output_metrics.metrics.items()
        }
        tasks = {name: getattr(by_name[name], "task", None) for name in self._order}
        return {name: str(task) for name, task in tasks.items() if task is not None}


def flat(
    metrics: Mapping[Any, Any], output: tuple[Any, ...] = ()
) -> list[tuple[str, tuple[Any, ...], Any]]:
    """Return the column name, the output and the metric of each entry of a nested mapping.

    The column of metric `auc` of output `sex` is `sex_auc`.
    """
    entries = []
    for key, metric in metrics.items():
        if isinstance(metric, Mapping):
            entries += flat(metric, (*output, key))
        else:
            keys = [f"output_{k}" if isinstance(k, int) else str(k) for k in output]
            entries.append(("_".join([*keys, str(key)]), output, metric))
    return entries


def _named_values(name: str, result: Any) -> dict[str, float]:
    """Return the numbers of a metric's result by column name."""
    try:
        return named_values(name, result)
    except (TypeError, ValueError) as error:
        message = f"metric {name!r} has no value: {error}"
        raise ResultError(message) from error
