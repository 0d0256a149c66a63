"""Checks of the shapes of later batches, which may differ from those of the first one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fitorch.losses.check import check
from fitorch.losses.objective import Objective
from fitorch.losses.shape_checks import broadcasts_by_accident
from fitorch.tree import leaves


class ShapeWatch:
    """Checks predictions and targets against the losses again if their shapes have changed.

    A first batch of one sample broadcasts to itself, and a later batch may have targets of another
    shape. Comparing the shapes costs less than a microsecond a batch.

    Args:
        objective: The losses.
        y_pred: The predictions of the first batch, which has been checked.
        y_true: Its targets.
    """

    def __init__(self, objective: Objective, y_pred: Any, y_true: Any) -> None:
        self._losses = [] if objective.uses_net_loss else list(objective.losses)
        tensors = isinstance(y_pred, Tensor) and isinstance(y_true, Tensor)
        nested = any(leaf.is_nested for leaf in leaves((y_pred, y_true)))
        # Losses of the whole of several outputs are not checked at all.
        self._is_active = bool(self._losses) and not nested and (tensors or objective.by_output)
        self._shapes = _shapes_of(y_pred, y_true) if self._is_active else None
        self._find(y_pred, y_true)  # the check of the first batch has warned of these

    def __call__(self, y_pred: Any, y_true: Any) -> None:
        """Check the predictions and targets of a batch.

        Raises:
            MisfitError: They do not fit a loss.
        """
        if not self._is_active:
            return
        shapes = _shapes_of(y_pred, y_true)
        if shapes == self._shapes:
            return
        self._shapes = shapes
        for loss_fn, output, targets in self._find(y_pred, y_true):
            check(loss_fn, output, targets)

    def _find(self, y_pred: Any, y_true: Any) -> list[tuple[Any, Tensor, Tensor]]:
        """Return the losses that would compare all pairs, which are watched no longer."""
        if not self._is_active:
            return []
        selected = [(loss, *loss.select(y_pred, y_true)[:2]) for loss in self._losses]
        accidents = [
            (loss, output, targets)
            for loss, output, targets in selected
            if isinstance(output, Tensor)
            and isinstance(targets, Tensor)
            and broadcasts_by_accident(output, targets)
        ]
        for loss, *_ in accidents:
            self._losses.remove(loss)
        return [(loss.loss_fn, output, targets) for loss, output, targets in accidents]


def _shapes_of(y_pred: Any, y_true: Any) -> Any:
    if isinstance(y_pred, Tensor) and isinstance(y_true, Tensor):
        return y_pred.shape, y_true.shape
    return [leaf.shape for leaf in leaves((y_pred, y_true))]
