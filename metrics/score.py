"""What our torchmetrics metrics have in common: a score in [0, 1], the higher the better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric


class Score(Metric):
    """A figure in [0, 1], the higher the better.

    Args:
        from_logits: Whether binary predictions are logits; None is what the loss of the model
            tells, and logits outside of one.
        **kwargs: What `torchmetrics.Metric` takes.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, from_logits: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.from_logits = from_logits

    @property
    def needs_prediction_kind(self) -> bool:
        """Whether it matters that predictions are logits or probabilities."""
        return True

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Draw the figure, or several of them over time.

        Args:
            val: What `compute` returned, once or several times; None computes it.
            ax: matplotlib's axes, or None for new ones.

        Returns:
            matplotlib's figure and axes.
        """
        return self._plot(val, ax)
