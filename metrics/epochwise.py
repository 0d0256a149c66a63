"""Metrics that are functions of all predictions of an epoch, as those of scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST

from .calls import call_of, is_sklearn, report_order
from .targets import with_batch_dimension


class WholeEpoch:
    """A function of all predictions and targets of the epoch.

    Predictions and targets are kept on the CPU until the metric is computed, which needs N times
    the memory of an output.

    Args:
        function: Maps `(y_pred, y_true)`, concatenated along dimension 0, to a number or a dict of
            numbers. Functions of scikit-learn get NumPy arrays, targets first; other functions get
            the targets first if their parameters are named `(y_true, y_pred)`.
        higher_is_better: Whether a higher value is better; None reads the function's attribute of
            that name.
    """

    def __init__(
        self, function: Callable[[Any, Any], Any], higher_is_better: bool | None = None
    ) -> None:
        self.function = function
        self.call = call_of(function)
        if self.call is not function and not is_sklearn(function):
            report_order(function)
        self.higher_is_better = higher_is_better
        if higher_is_better is None:
            self.higher_is_better = getattr(function, "higher_is_better", None)
        self._kept: list[tuple[Tensor, Tensor]] = []

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Add a batch; copying it to the CPU synchronizes with the device.

        Raises:
            TypeError: Predictions or targets are not tensors.
        """
        for part, what in ((y_pred, "predictions"), (y_true, "targets")):
            if not isinstance(part, Tensor):
                message = (
                    f"whole_epoch concatenates tensors, but {what} are a {type(part).__name__}; "
                    "pass the metric for one output: metrics_dict={'output': {'name': metric}}"
                )
                raise TypeError(message)
        y_pred = with_batch_dimension(y_pred, y_true)
        # Copies, because the net or the loader may use the same memory for the next batch.
        self._kept.append((y_pred.to(HOST, copy=True), y_true.to(HOST, copy=True)))

    def compute(self) -> Any:
        """Return the value of the function, NaN if there were no batches."""
        if not self._kept:
            return math.nan
        # The order is that of the batches; with several processes, it is that of the ranks.
        y_pred, y_true = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        return self.call(y_pred, y_true)

    def reset(self) -> None:
        """Discard all batches."""
        self._kept = []

    def state_dict(self) -> dict[str, Any]:
        """Return all predictions and targets."""
        # The batches become one tensor, because a checkpoint would otherwise have one for each of
        # them.
        return {"kept": [torch.cat(parts) for parts in zip(*self._kept, strict=True)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore predictions and targets."""
        kept = [part.to(HOST) for part in state["kept"]]
        self._kept = [(kept[0], kept[1])] if kept else []

    def merge(self, parts: Sequence[WholeEpoch]) -> None:
        """Replace the batches by those of `parts`, in their order."""
        self._kept = [batch for part in parts for batch in part._kept]


def whole_epoch(
    function: Callable[[Any, Any], Any], higher_is_better: bool | None = None
) -> WholeEpoch:
    """Return a metric that is a function of the whole epoch, instead of a mean over its batches.

    Args:
        function: Maps `(y_pred, y_true)`, concatenated along dimension 0, to a number or a dict of
            numbers. Functions of scikit-learn get NumPy arrays, targets first.
        higher_is_better: Whether a higher value is better, for `mode="auto"` of callbacks.

    Example:
        >>> import torch
        >>> from sklearn.metrics import average_precision_score
        >>> from fitorch.metrics import whole_epoch
        >>> metric = whole_epoch(average_precision_score, higher_is_better=True)
        >>> metric.update(torch.tensor([0.1, 0.9]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([0.4, 0.3]), torch.tensor([1, 0]))
        >>> float(metric.compute())
        1.0
    """
    return WholeEpoch(function, higher_is_better)
