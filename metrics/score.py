"""Base class of fitorch's torchmetrics metrics: a score in [0, 1], the higher the better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric


class Score(Metric):
    """A value in [0, 1], the higher the better.

    Args:
        from_logits: Whether binary predictions are logits; None follows the model's loss, and is
            True outside of a model.
        **kwargs: Arguments of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    # `forward` of torchmetrics then updates once instead of twice.
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, from_logits: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.from_logits = from_logits

    @property
    def needs_prediction_kind(self) -> bool:
        """Whether the value depends on the kind of predictions."""
        return True

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Draw the value, or several of them over time.

        Args:
            val: The result of `compute`, or a sequence of results; None computes it.
            ax: matplotlib's axes, or None for new ones.

        Returns:
            matplotlib's figure and axes.
        """
        return self._plot(val, ax)
