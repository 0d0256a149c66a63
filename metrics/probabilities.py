"""Metrics that want probabilities get them, whatever the net gives: decided once."""

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
    """A metric that is handed probabilities.

    Metrics of torchmetrics guess for each update whether predictions are logits. That is settled
    here for good: by what the objective says; where it says nothing, two copies count, one as if
    predictions were logits and one as if they were probabilities, and the whole epoch decides which
    of them is read.

    Args:
        metric: The metric.
        scale: What predictions are.
    """

    def __init__(self, metric: Any, scale: PredictionKind) -> None:
        self.metric = without_sync(metric)
        self.batchable = metric  # what decides whether batches may be joined
        self.higher_is_better = getattr(metric, "higher_is_better", None)
        self._scale: PredictionKind = scale or "logits"
        self._as_is = None if scale else copy.deepcopy(metric)
        self._outside: Tensor | None = None
        self._weighted = takes_weights(metric)

    def update(self, preds: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Count a batch in, weighted where the metric takes weights."""
        weights = {"sample_weight": sample_weight} if self._weighted else {}
        self.metric.update(to_probabilities(preds, target, self._scale), target, **weights)
        if self._as_is is not None:
            wrong = outside_unit_interval(preds)
            self._outside = wrong if self._outside is None else self._outside | wrong
            preds = preds.clamp(0, 1) if preds.is_floating_point() else preds
            self._as_is.update(preds, target, **weights)

    def compute(self) -> Any:
        """Return the figure."""
        if self._as_is is not None and self._outside is not None and not self._outside:
            return self._as_is.compute()
        return self.metric.compute()

    def reset(self) -> None:
        """Forget everything."""
        self._outside = None
        for metric in (self.metric, self._as_is):
            if metric is not None:
                metric.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted."""
        as_is = None if self._as_is is None else state_of(self._as_is)
        return {"metric": state_of(self.metric), "as_is": as_is, "outside": self._outside}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        load_state(self.metric, state["metric"])
        if self._as_is is not None:
            load_state(self._as_is, state["as_is"])
        self._outside = state["outside"]

    def merge(self, parts: Sequence[Probabilities]) -> None:
        """Count what `parts` did, and that alone."""
        merge(self.metric, [part.metric for part in parts])
        if self._as_is is not None:
            merge(self._as_is, [part._as_is for part in parts])
            found = [part._outside for part in parts if part._outside is not None]
            self._outside = torch.stack(found).any() if found else None


def wants_probabilities(metric: Any) -> bool:
    """Say whether a metric is one of torchmetrics' classification family, or a set of such."""
    if type(metric).__name__ == "MetricCollection":
        members = list(metric.values())
        return bool(members) and all(wants_probabilities(member) for member in members)
    kind = type(metric)
    return kind.__module__.startswith("torchmetrics.classification.") and kind.__name__.startswith(
        _TAKES_PROBABILITIES
    )
