"""What the user's step calls on the model: `backward`, `update`, `measure` and `compute_loss`."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from fitorch.losses.objective import Objective


class StepCalls:
    """The methods of a model that its own step calls."""

    net: nn.Module
    objective: Objective
    step: Any = None
    train_step: Any = None  # methods that a subclass may define, of (self, batch)
    test_step: Any = None
    predict_step: Any = None
    StepRunner: ClassVar[Any] = None
    active_step: Any = None  # the step that runs

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss; call it in a step, before `update`.

        The first call after an update discards all earlier gradients, those of several calls add
        up. In validation it does nothing.

        Args:
            loss: A scalar, the mean over the samples of the batch.

        Raises:
            RuntimeError: No step of yours is running.
        """
        self._running_step("backward").backward(loss)

    def update(self, optimizer: str | None = None) -> bool:
        """Update the weights of an optimizer by the gradients; call it in a step.

        Gradients are clipped and scaled as `fit` is told to. With several batches an update, the
        weights change with the last of them. With several processes, gradients are means over the
        samples of all. In validation it does nothing.

        Args:
            optimizer: Its name; None if there is one optimizer.

        Returns:
            Whether the weights have changed.

        Raises:
            ValueError: There is no such optimizer.
            RuntimeError: No step of yours is running.
        """
        changed: bool = self._running_step("update").make_update(optimizer)
        return changed

    def measure(self, y_pred: Any, y_true: Any, sample_weight: Any = None) -> None:
        """Update the metrics of `metrics_dict` with a batch; call it in a step.

        Args:
            y_pred: Predictions, with a row for each sample.
            y_true: The targets.
            sample_weight: A weight for each sample, shape (N,), or None.

        Raises:
            RuntimeError: No step of yours is running.
        """
        self._running_step("measure").measure(y_pred, y_true, sample_weight)

    def compute_loss(self, y_pred: Any, y_true: Any) -> Tensor:
        """Return the value of `loss_fn` with its penalties, a scalar with a gradient."""
        value: Tensor = self.objective.module(y_pred, y_true, net=self.net)
        return value

    @property
    def has_own_step(self) -> bool:
        """Whether code of the user processes the batches: a step function, or a StepRunner."""
        functions = (self.step, type(self).train_step, type(self).StepRunner)
        return any(function is not None for function in functions)

    def _running_step(self, name: str) -> Any:
        if self.active_step is None:
            message = (
                f"model.{name} works within a step: pass KerasModel(..., step=function), or define "
                "train_step(self, batch) in a subclass"
            )
            raise RuntimeError(message)
        return self.active_step
