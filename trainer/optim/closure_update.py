"""The update of optimizers that evaluate the loss again within a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fitorch.errors import NonFiniteError
from fitorch.internals.torch import version_of

from .update import Update


class ClosureUpdate(Update):
    """An update whose optimizer gets a closure that evaluates the loss of all its batches.

    The gradients of the first evaluation exist before the step. So the closure returns the loss of
    that evaluation as long as neither the weights nor the gradients have changed, as in the first
    call of L-BFGS; SAM moves the weights before it calls the closure. Penalties are part of the
    loss, and each evaluation clips its gradients.

    Args:
        *args: As for `Update`, without a gradient scaler.
        **options: As for `Update`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._evaluate: Callable[[], Tensor] | None = None
        self._loss: Tensor | None = None
        self._versions: list[int] = []
        self._step = self._closure_step

    def provide(self, loss: Tensor, evaluate: Callable[[], Tensor]) -> None:
        """Set what the next update evaluates.

        Args:
            loss: The loss of the first evaluation, without penalties, whose gradients exist.
            evaluate: Clears the gradients, computes them again, and returns the loss.
        """
        self._loss, self._evaluate = loss, evaluate

    def _closure_step(self) -> None:
        self.check_norm(self._shaped())
        self._versions = self._seen()
        try:
            # Optimizers call `float` on what a closure returns, which a scalar tensor has.
            self.optimizer.step(self._closure)  # type: ignore[arg-type]
        finally:
            # The batches of the update are released.
            self._evaluate = self._loss = None
        self._check_weights()

    def _check_weights(self) -> None:
        """Check that the weights are finite, if that does not wait for a device.

        An evaluation within the step may diverge although the first one was finite.

        Raises:
            NonFiniteError: A weight is NaN or infinite.
        """
        weights = [parameter.detach() for parameter in self.parameters]
        if self._all_finite is not None and not self._all_finite(weights):
            message = (
                f"a step of {type(self.optimizer).__name__} has diverged: its weights are not "
                "finite"
            )
            raise NonFiniteError(message)

    def _closure(self) -> Tensor:
        assert self._loss is not None, "the step gives a loss"
        assert self._evaluate is not None, "the step gives its evaluation"
        if self._seen() != self._versions:
            self._loss = self._evaluate()
            self._penalize()
            self._clip()
            self._versions = self._seen()
        with torch.no_grad():
            return sum((penalty() for penalty in self._penalties), start=self._loss)

    def _shaped(self) -> Tensor | None:
        self._penalize()
        # This comes before clipping, which spreads a NaN from one parameter to all.
        self.check_gradients()
        return self._clip()

    def _seen(self) -> list[int]:
        """Return numbers that differ once a weight or a gradient was changed or removed."""
        seen = []
        for parameter in self.parameters:
            gradient = parameter.grad
            version = -1 if gradient is None else version_of(gradient)
            seen += [version_of(parameter), version, id(gradient)]
        return seen
