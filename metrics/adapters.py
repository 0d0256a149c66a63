"""Metrics of other kinds, as ones with `update`, `compute` and `reset`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from .merge import merge
from .state import load_state, state_of


class ForwardMetric:
    """A module that counts a batch in when it is called, as torchkeras' do.

    Args:
        module: Has `compute` and `reset`; called with `(y_pred, y_true)`.
    """

    batchable = False  # a batch at a time, as the module expects

    def __init__(self, module: Any) -> None:
        self.module = module
        self.higher_is_better = getattr(module, "higher_is_better", None)

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Count a batch in; what the call returns is left alone."""
        self.module(y_pred, y_true)

    def compute(self) -> Any:
        """Return the figure."""
        return self.module.compute()

    def reset(self) -> None:
        """Forget everything."""
        self.module.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted."""
        return state_of(self.module)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        load_state(self.module, state)

    def merge(self, parts: Sequence[ForwardMetric]) -> None:
        """Count what `parts` did, and that alone."""
        merge(self.module, [part.module for part in parts])


def takes_weights(metric: Any) -> bool:
    """Say whether `update` takes a `sample_weight`."""
    try:
        return "sample_weight" in inspect.signature(metric.update).parameters
    except (TypeError, ValueError):  # a built-in that tells no signature
        return False
