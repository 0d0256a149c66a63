"""Adapters for metrics that lack `update`, and the check whether `update` takes sample weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from fitorch.signatures import takes_targets_first

from .calls import report_order
from .merge import merge
from .state import load_state, state_of


class ForwardMetric:
    """Adapter for a module that adds a batch in its call, as torchkeras' metrics do.

    Args:
        module: The module, called with `(y_pred, y_true)`; it has `compute` and `reset`.
    """

    batchable = False  # the module may average over its calls

    def __init__(self, module: Any) -> None:
        self.module = module
        self._swapped = takes_targets_first(module)
        if self._swapped:
            report_order(module)
        # Callbacks read the direction from the adapter.
        self.higher_is_better = getattr(module, "higher_is_better", None)

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Add a batch; the return value of the call is ignored."""
        # The call updates the state; what it returns is the value of the batch.
        self.module(*(y_true, y_pred) if self._swapped else (y_pred, y_true))

    def compute(self) -> Any:
        """Return the value over all batches."""
        return self.module.compute()

    def reset(self) -> None:
        """Discard all batches."""
        self.module.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulated state."""
        return state_of(self.module)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the accumulated state."""
        load_state(self.module, state)

    def merge(self, parts: Sequence[ForwardMetric]) -> None:
        """Replace the state by the union of the states of `parts`."""
        merge(self.module, [part.module for part in parts])


def update_module(metric: Any) -> str:
    """Return the module in which the `update` of a metric's class is defined, "" if unknown."""
    classes = (kind for kind in type(metric).__mro__ if "update" in vars(kind))
    return next((kind.__module__ for kind in classes), "")


def takes_weights(metric: Any) -> bool:
    """Return whether `update` takes a `sample_weight`."""
    try:
        return "sample_weight" in inspect.signature(metric.update).parameters
    except (TypeError, ValueError):  # a built-in without a signature
        return False
