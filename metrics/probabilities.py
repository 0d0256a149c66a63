"""Metrics of probabilities, for nets that return logits or probabilities."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .adapters import takes_weights
from .merge import merge, without_sync
from .state import load_state, state_of
from .task import PredictionKind, outside_unit_interval, to_probabilities

_TAKES_PROBABILITIES = ("Binary", "Multiclass", "Multilabel")


class Probabilities:
    """A metric that gets its predictions converted to probabilities.

    Metrics of torchmetrics guess in each update whether predictions are logits, so that their value
    can depend on how samples are batched. This class decides it once, by the objective. If the
    objective does not know, two copies of the metric are updated, one for logits and one for
    probabilities; `compute` reads the latter if all predictions of the epoch lie in [0, 1].

    Args:
        metric: The metric.
        scale: The kind of predictions, None if it is unknown.
    """

    def __init__(self, metric: Any, scale: PredictionKind) -> None:
        self.metric = without_sync(metric)
        self.batchable = metric  # batches may be concatenated if the metric is additive
        self.higher_is_better = getattr(metric, "higher_is_better", None)
        self._scale: PredictionKind = scale or "logits"
        # A second copy is updated in the same way, because the kind shows only at the end.
        self._as_is = None if scale else copy.deepcopy(metric)
        self._outside: Tensor | None = None
        self._weighted = takes_weights(metric)

    def update(self, preds: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch, with sample weights if the metric supports them."""
        weights = {"sample_weight": sample_weight} if self._weighted else {}
        self.metric.update(to_probabilities(preds, target, self._scale), target, **weights)
        if self._as_is is not None:
            # Stays on the device: reading it in each update would synchronize.
            outside = outside_unit_interval(preds)
            self._outside = outside if self._outside is None else self._outside | outside
            # The copy must accept logits too, until they have shown that it is not needed.
            preds = preds.clamp(0, 1) if preds.is_floating_point() else preds
            self._as_is.update(preds, target, **weights)

    def compute(self) -> Any:
        """Return the value over all batches."""
        # This waits for the device.
        if self._as_is is not None and self._outside is not None and not self._outside:
            return self._as_is.compute()
        return self.metric.compute()

    def reset(self) -> None:
        """Discard all batches."""
        self._outside = None
        for metric in (self.metric, self._as_is):
            if metric is not None:
                metric.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both copies."""
        as_is = None if self._as_is is None else state_of(self._as_is)
        return {"metric": state_of(self.metric), "as_is": as_is, "outside": self._outside}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of both copies."""
        load_state(self.metric, state["metric"])
        if self._as_is is not None:
            load_state(self._as_is, state["as_is"])
        self._outside = state["outside"]

    def merge(self, parts: Sequence[Probabilities]) -> None:
        """Replace the state by the union of the states of `parts`."""
        merge(self.metric, [part.metric for part in parts])
        if self._as_is is not None:
            merge(self._as_is, [part._as_is for part in parts])
            flags = [part._outside for part in parts if part._outside is not None]
            # One logit in any process decides for all.
            self._outside = torch.stack(flags).any() if flags else None


def wants_probabilities(metric: Any) -> bool:
    """Return whether a metric, or each member of it, is of torchmetrics' classification package."""
    if type(metric).__name__ == "MetricCollection":
        members = list(metric.values())
        return bool(members) and all(wants_probabilities(member) for member in members)
    metric_type = type(metric)
    return metric_type.__module__.startswith(
        "torchmetrics.classification."
    ) and metric_type.__name__.startswith(_TAKES_PROBABILITIES)
