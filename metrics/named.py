"""Metrics by name, built for the task that is inferred from the first batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .adapters import takes_weights
from .merge import merge, without_sync
from .probabilities import Probabilities
from .registry import MetricEntry, entry_of
from .results import result_of
from .state import load_state, moved, state_of
from .targets import Prepared, element_weights, has_label_columns, sums_to_one, update_counted
from .task import PredictionKind, Task, infer_task, reshape_for_task
from .unread import Rows, Unread, together


@dataclass(slots=True)
class _Variant:
    """The metric for one task."""

    task: Task
    metric: Any
    weighted: bool


class NamedMetric:
    """A metric that is built for the task of its first batch.

    If the loss is unknown, targets with columns may be several labels or a probability for each
    class. Both are counted, and the classes are taken if each row of the epoch's targets sums to 1.

    Args:
        entry: The registry's entry for the name.
        scale: The kind of predictions, None if it is unknown.
        device: The device of the predictions; None is that of the first batch.
    """

    def __init__(
        self, entry: MetricEntry, scale: PredictionKind, device: torch.device | None = None
    ) -> None:
        self.entry = entry
        self.higher_is_better = entry.higher_is_better
        self._scale: PredictionKind = scale
        self._variants: list[_Variant] = []
        self._device = device
        self._sums_to_one: Tensor | None = None  # whether all rows of targets do
        self._outside: Tensor | None = None  # whether a target is not in [0, 1], as labels are
        self._decided: Task | None = None  # the task of the value that was computed last

    @property
    def task(self) -> Task | None:
        """The task of the batches so far, None before the first one."""
        if len(self._variants) < 2:
            return self._variants[0].task if self._variants else None
        # The value that was computed last decides, because later batches may be pending.
        return self._decided or self._variants[0 if self._sums_to_one is None else -1].task

    def update(
        self, preds: Any, target: Any, sample_weight: Any = None, counted: Tensor | None = None
    ) -> None:
        """Add a batch, with sample weights if the metric supports them.

        Args:
            preds: The predictions.
            target: The targets.
            sample_weight: A weight for each sample, or None.
            counted: Which targets count; None if all of them do.

        Raises:
            ValueError: The metric is not defined for the task, or the task cannot be inferred.
        """
        if not self._variants:
            # The first batch decides; later ones are reshaped to its task.
            filled = target if counted is None else target.where(counted, 0)
            self._device = preds.device
            self._make(self._tasks(preds, filled))
        # The evidence stays on the device until the metric is computed.
        if self._variants[-1].task.soft:
            if has_label_columns(preds, target):
                valid = sums_to_one(target).to(self._device)
            else:
                valid = torch.zeros((), dtype=torch.bool, device=self._device)
            before = self._sums_to_one
            self._sums_to_one = valid if before is None else before & valid
        if self._variants[0].task.kind in ("binary", "multilabel"):
            outside = (target < 0) | (target > 1)
            outside = (outside if counted is None else outside & counted).any().to(self._device)
            self._outside = outside if self._outside is None else self._outside | outside
        for variant in self._variants:
            _update(variant, preds, target, sample_weight, counted)

    def compute(self) -> Any:
        """Return the value over all batches.

        Raises:
            ValueError: Targets of a later batch do not belong to the task of the first one.
        """
        return self.unread().read()

    def unread(self) -> Unread[Any]:
        """Return what `compute` returns; metrics of torchmetrics may read when it is computed."""
        chosen = self._chosen()
        self._decided = chosen.task
        outside = [] if self._outside is None else [self._outside]
        evidence = Unread(outside, self._refuse_outside)
        try:
            results = together([evidence, result_of(chosen.metric)])
        except Exception:
            evidence.read()  # its error is clearer
            raise
        return results.then(lambda both: both[1])

    def _refuse_outside(self, rows: Rows) -> None:
        """Raise an error if a target is outside of [0, 1], as labels are not.

        Raises:
            ValueError: Targets of a later batch do not belong to the task of the first one.
        """
        if any(row[0] for row in rows):
            message = (
                f"the first batch has the task {self._variants[0].task}, but later targets are "
                "outside of [0, 1]; pass a metric of torchmetrics for the task instead of a name"
            )
            raise ValueError(message)

    def reset(self) -> None:
        """Discard all batches, but keep the task."""
        self._sums_to_one = self._outside = None
        for variant in self._variants:
            variant.metric.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the tasks and the metrics' states; empty before the first batch."""
        if not self._variants:
            return {}
        first, *others = self._variants
        state: dict[str, Any] = {
            "task": _plain(first.task),
            "metric": state_of(first.metric),
        }
        if others:
            state["others"] = [[_plain(v.task), state_of(v.metric)] for v in others]
        if self._variants[-1].task.soft:
            state["sums_to_one"] = self._sums_to_one
        if self._outside is not None:
            state["outside"] = self._outside
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state, and build the metric if necessary."""
        self._sums_to_one, self._outside = state.get("sums_to_one"), state.get("outside")
        if not state:
            self._variants = []
            return
        saved = [(state["task"], state["metric"]), *state.get("others", ())]
        tasks = [Task(*task) for task, _ in saved]
        # A resumed epoch continues before its first batch has shown the task.
        if [variant.task for variant in self._variants] != tasks:
            # The device that the state was saved on need not exist here.
            self._make(tasks)
        for variant, (_, metric_state) in zip(self._variants, saved, strict=True):
            load_state(variant.metric, metric_state)

    def _tasks(self, preds: Any, target: Any) -> list[Task]:
        """Return the tasks that a batch may belong to, the one of its shapes first."""
        if self.entry.task is not None:
            return [self.entry.task]
        task = infer_task(preds, target, self._scale)
        may_be_classes = task.kind in ("binary", "multilabel") and self._scale is None
        # One row that does not sum to 1 decides. Synchronizes with the device, in the first batch
        # only, as `infer_task` does.
        if may_be_classes and has_label_columns(preds, target) and bool(sums_to_one(target)):
            return [task, Task("multiclass", preds.shape[1], soft=True)]
        return [task]

    def _make(self, tasks: list[Task]) -> None:
        """Build the metric for each task that it is defined for.

        Raises:
            ValueError: The metric is not defined for any of the tasks.
        """
        variants, errors = list[_Variant](), list[ValueError]()
        for task in tasks:
            try:
                metric = without_sync(self.entry.make(task, self._scale))
            except ValueError as error:
                errors.append(error)
                continue
            metric = metric if self._device is None else moved(metric, self._device)
            variants.append(_Variant(task, metric, takes_weights(metric)))
        if not variants:
            raise errors[0]
        self._variants = variants

    def _chosen(self) -> _Variant:
        """Return the metric for the task that the targets so far belong to.

        Raises:
            ValueError: The metric is defined for classes only, and the targets are labels.
        """
        last = self._variants[-1]
        # This waits for the device, when the metric is computed or its task is printed.
        if not last.task.soft or self._sums_to_one is None or bool(self._sums_to_one):
            return last
        if len(self._variants) == 1:
            message = (
                "it is defined for classes, and the rows of some targets do not sum to 1; pass a "
                "metric of torchmetrics, or a function (y_pred, y_true)"
            )
            raise ValueError(message)
        return self._variants[0]

    def adopt_task(self, merged: NamedMetric) -> None:
        """Adopt the task that the targets of all processes decide."""
        if len(self._variants) > 1:
            self._decided = merged._chosen().task

    def merge(self, parts: Sequence[NamedMetric]) -> None:
        """Replace the state by the union of the states of `parts`.

        Raises:
            ValueError: The parts inferred different tasks.
        """
        tasks = {part._variants[0].task for part in parts}
        if len(tasks) > 1:
            listed = ", ".join(sorted(map(str, tasks)))
            message = (
                f"the first batches of the processes belong to different tasks ({listed}); pass a "
                "metric object for one task instead of a name"
            )
            raise ValueError(message)
        if not self._variants:
            # This process has had no batch, but another one has inferred the task.
            self._variants = copy.deepcopy(parts[0]._variants)
            if self._device is not None:
                for variant in self._variants:
                    variant.metric = moved(variant.metric, self._device)
        # A process whose first batch had rows of labels has decided the task for all.
        del self._variants[min(len(part._variants) for part in parts) :]
        for number, variant in enumerate(self._variants):
            merge(variant.metric, [part._variants[number].metric for part in parts])
        flags = [part._sums_to_one for part in parts if part._sums_to_one is not None]
        # One row in any process decides for all.
        self._sums_to_one = torch.stack(flags).all() if flags else None
        outside = [part._outside for part in parts if part._outside is not None]
        self._outside = torch.stack(outside).any() if outside else None


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


def _update(
    variant: _Variant, preds: Tensor, target: Tensor, weight: Any, counted: Tensor | None
) -> None:
    """Update the metric for one task with a batch."""
    task = variant.task
    if task.kind == "regression":  # its targets are numbers, all of which count
        counted = None
    weight = weight if variant.weighted else None
    if task.kind == "binary":
        # Predictions and targets become flat, and so do the weights.
        counted = None if counted is None else counted.reshape(-1)
        weights = element_weights(target, None, weight)
        weight = None if weights is None else weights.reshape(-1)
    prepared = Prepared(*reshape_for_task(task, preds, target), counted)
    if isinstance(variant.metric, Probabilities):
        variant.metric.update(prepared.y_pred, prepared.y_true, weight, prepared.counted)
    else:
        update_counted(variant.metric, prepared, weight, weighted=variant.weighted)


def _plain(task: Task) -> list[Any]:
    return [task.kind, task.size, *([True] if task.soft else [])]
