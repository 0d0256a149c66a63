"""Metrics of targets that may be several labels or a probability for each class."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .adapters import takes_weights
from .merge import merge, without_sync
from .probabilities import Probabilities
from .results import result_of
from .state import load_state, moved, state_of
from .targets import Prepared, has_label_columns, sums_to_one, update_counted
from .unread import Unread, together


class SoftTargets:
    """A metric of fitorch for a loss that is unknown, which decides what targets (N, C) are.

    Both readings are counted: labels, compared element by element, and classes, compared by the
    largest one. `compute` reads the latter if all rows of the epoch's targets sum to 1.

    Args:
        labels: The metric, for targets that are labels.
        metric: The metric itself, which is copied for targets that are classes.
    """

    def __init__(self, labels: Probabilities, metric: Any) -> None:
        self.labels = labels
        self.batchable = metric  # batches may be concatenated if the metric is additive
        self.higher_is_better = metric.higher_is_better
        self._classes = without_sync(copy.deepcopy(metric))
        self._weighted = takes_weights(metric)
        self._soft: Tensor | None = None  # whether all rows sum to 1; None for class numbers

    def update(
        self,
        preds: Any,
        target: Any,
        sample_weight: Tensor | None = None,
        counted: Tensor | None = None,
    ) -> None:
        """Add a batch, with sample weights if the metric supports them."""
        self.labels.update(preds, target, sample_weight, counted)
        if not has_label_columns(preds, target):
            return
        # Stays on the device: reading it in each update would synchronize.
        soft = sums_to_one(target)
        self._soft = soft if self._soft is None else self._soft & soft
        update_counted(
            self._classes, Prepared(preds, target.argmax(1)), sample_weight, weighted=self._weighted
        )

    def to(self, device: torch.device) -> SoftTargets:
        """Move the metric to a device."""
        self.labels = self.labels.to(device)
        self._classes = moved(self._classes, device)
        return self

    def compute(self) -> Any:
        """Return the value over all batches."""
        return self.unread().read()

    def unread(self) -> Unread[Any]:
        """Return what `compute` returns, without a synchronization with the device."""
        labels = self.labels.unread()
        if self._soft is None:
            return labels
        soft = Unread([self._soft], lambda rows: bool(rows[0][0]))
        all_three = together([soft, result_of(self._classes), labels])
        return all_three.then(lambda results: results[1] if results[0] else results[2])

    def reset(self) -> None:
        """Discard all batches."""
        self._soft = None
        self.labels.reset()
        self._classes.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both readings."""
        classes = state_of(self._classes)
        return {"labels": self.labels.state_dict(), "classes": classes, "soft": self._soft}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of both readings."""
        if "labels" not in state:  # of version 0.1, which read all targets as labels
            self.reset()
            self.labels.load_state_dict(state)
            return
        self.labels.load_state_dict(state["labels"])
        load_state(self._classes, state["classes"])
        self._soft = state["soft"]

    def merge(self, parts: Sequence[SoftTargets]) -> None:
        """Replace the state by the union of the states of `parts`."""
        self.labels.merge([part.labels for part in parts])
        merge(self._classes, [part._classes for part in parts])
        flags = [part._soft for part in parts if part._soft is not None]
        # One row in any process decides for all.
        self._soft = torch.stack(flags).all() if flags else None


def takes_class_numbers(metric: Any) -> bool:
    """Return whether a metric of fitorch compares classes, as `Accuracy`, but not `AUC`, does."""
    return not hasattr(metric, "thresholds")
