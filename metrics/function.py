"""Metrics that are the mean of a function over the batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .mean import HostMean, mean_on


class FunctionMetric:
    """The sample-weighted mean of a function's values over the batches.

    Args:
        function: Maps `(y_pred, y_true)` to a scalar.
        device: The device of the predictions.
    """

    batchable = False  # the mean over batches differs from the value of a concatenated batch

    def __init__(self, function: Callable[[Any, Any], Any], device: torch.device) -> None:
        self.function = function
        self.higher_is_better = getattr(function, "higher_is_better", None)
        self._mean = mean_on(device)

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Add a batch."""
        # The value may stay on the device.
        value = torch.as_tensor(self.function(y_pred, y_true))
        self._mean.add(value, _sample_count(y_pred if y_true is None else y_true))

    def compute(self) -> float:
        """Return the mean."""
        return self._mean.compute()

    def reset(self) -> None:
        """Discard all batches."""
        self._mean.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulated state."""
        return self._mean.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the accumulated state."""
        self._mean.load_state_dict(state)

    def merge(self, parts: Sequence[FunctionMetric]) -> None:
        """Replace the mean by that over the batches of `parts`."""
        self._mean = HostMean()
        for part in parts:  # in float64, in rank order, so that all ranks get the same bits
            # This waits for the device, once per process and stage.
            sums = torch.tensor(part._mean.sums(), dtype=torch.float64)
            self._mean.add(sums[0] / sums[1], sums[1])


def _sample_count(tree: Any) -> int:
    while isinstance(tree, (Mapping, list, tuple)):
        parts = tree.values() if isinstance(tree, Mapping) else tree
        tree = next(
            part for part in parts if part is not None
        )  # None marks an output without targets
    samples: int = tree.shape[0] if isinstance(tree, Tensor) else len(tree)
    return samples
