"""Metrics by name, built for the task that is inferred from the first batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .adapters import takes_weights
from .merge import merge, without_sync
from .registry import MetricEntry, entry_of
from .state import load_state, state_of
from .task import PredictionKind, Task, infer_task, reshape_for_task


class NamedMetric:
    """A metric that is built for the task of its first batch.

    Args:
        entry: The registry's entry for the name.
        scale: The kind of predictions, None if it is unknown.

    Attributes:
        task: The task of the first batch, None before.
    """

    def __init__(self, entry: MetricEntry, scale: PredictionKind) -> None:
        self.entry = entry
        self.higher_is_better = entry.higher_is_better
        self.task: Task | None = None
        self._scale: PredictionKind = scale
        self._metric: Any = None
        self._weighted = False
        self._device = torch.device("cpu")

    def update(self, preds: Any, target: Any, sample_weight: Any = None) -> None:
        """Add a batch, with sample weights if the metric supports them.

        Raises:
            ValueError: The metric is not defined for the task, or the task cannot be inferred.
        """
        if self.task is None:
            # The first batch decides; later ones are reshaped to its task.
            self._make(self.entry.task or infer_task(preds, target, self._scale), preds.device)
        weights = {"sample_weight": sample_weight} if self._weighted else {}
        assert self.task is not None
        self._metric.update(*reshape_for_task(self.task, preds, target), **weights)

    def compute(self) -> Any:
        """Return the value over all batches."""
        return self._metric.compute()

    def reset(self) -> None:
        """Discard all batches, but keep the task."""
        if self._metric is not None:
            self._metric.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the task, the device and the metric's state; empty before the first batch."""
        if self.task is None:
            return {}
        task, device = [self.task.kind, self.task.size], str(self._device)
        return {"task": task, "device": device, "metric": state_of(self._metric)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state, and build the metric if necessary."""
        if not state:
            self.task = self._metric = None
            return
        # A resumed epoch continues before its first batch has shown the task.
        if self.task != Task(*state["task"]):
            self._make(Task(*state["task"]), torch.device(state["device"]))
        load_state(self._metric, state["metric"])

    def _make(self, task: Task, device: torch.device) -> None:
        """Build the metric for a task."""
        self._metric = without_sync(self.entry.make(task, self._scale))
        if hasattr(self._metric, "to"):
            self._metric = self._metric.to(device)
        self._weighted = takes_weights(self._metric)
        self.task, self._device = task, device

    def merge(self, parts: Sequence[NamedMetric]) -> None:
        """Replace the state by the union of the states of `parts`.

        Raises:
            ValueError: The parts inferred different tasks.
        """
        tasks = {part.task for part in parts}
        if len(tasks) > 1:
            listed = ", ".join(sorted(map(str, tasks)))
            message = (
                f"the first batches of the processes belong to different tasks ({listed}); pass a "
                "metric object for one task instead of a name"
            )
            raise ValueError(message)
        if self.task is None:
            # This process has had no batch, but another one has inferred the task.
            self.task, self._metric = parts[0].task, copy.deepcopy(parts[0]._metric)
            self._weighted, self._device = parts[0]._weighted, parts[0]._device
        merge(self._metric, [part._metric for part in parts])


def get(name: str, scale: PredictionKind = None) -> NamedMetric:
    """Return a new metric by its name; it is built for the task of its first batch.

    Args:
        name: `"acc"`, `"auc"`, `"f1"`, `"mae"` and the like.
        scale: The kind of predictions: "probabilities", "logits" or "class_logits"; None infers it
            from all predictions of the epoch.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> import torch
        >>> from fitorch.metrics import get
        >>> metric = get("f1", scale="logits")
        >>> metric.update(torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 0, 0]))
        >>> metric.compute(), str(metric.task)
        (tensor(0.6667), 'binary')
    """
    return NamedMetric(entry_of(name), scale)
