"""From gradients to new weights: unscale, clip, step, schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fitorch.distributed.dtensor import full_tensor
from fitorch.errors import NonFiniteError
from fitorch.internals.torch import bare_step, mark_stepped
from fitorch.losses.penalty_term import PenaltyTerm

_SKIPS = 100  # updates in a row that a gradient scaler may skip


class Update:
    """One optimizer step, with what belongs to it.

    Args:
        optimizer: Changes the weights.
        scaler: accelerate's gradient scaler (fp16), or None.
        clip_grad_norm: Scale gradients down to this total 2-norm, or None.
        clip_grad_value: Clamp each gradient to [-value, value], or None.
        scheduler: A learning-rate schedule, or None.
        scheduler_step: When the schedule goes on: with each "update", or elsewhere.
        penalties: What adds to the gradients of the losses, once an update and before clipping.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: Any = None,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        scheduler: Any = None,
        scheduler_step: str = "update",
        penalties: Sequence[PenaltyTerm] = (),
    ) -> None:
        self.optimizer = optimizer
        self.stored: Any = optimizer  # what has its state
        self.completed = 0
        self.scaler = scaler
        self.clipping = clip_grad_norm, clip_grad_value
        self.scheduler = scheduler
        self.scheduler_step = scheduler_step
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._plain_zero = type(optimizer).zero_grad is torch.optim.Optimizer.zero_grad
        self._schedules = scheduler is not None and scheduler_step == "update"
        self._used_rates: list[float] | None = None
        self._penalties = penalties
        self._looked_at = 0.0 if scaler is None else scaler.get_scale()
        clips = clip_grad_norm is not None or clip_grad_value is not None
        plain = scaler is None and not clips and not penalties
        self._change = bare_step(optimizer)
        self._step: Callable[[], Any] = self._change if plain else self._guarded_step

    def zero_grad(self) -> None:
        """Forget all gradients; they stay readable between an update and the next batch."""
        if self._plain_zero:
            for parameter in self.parameters:
                parameter.grad = None
        else:
            self.optimizer.zero_grad()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss` to those that are there."""
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()

    def __call__(self) -> None:
        """Change the weights."""
        self._step()
        self.advance()

    def advance(self) -> None:
        """Count an update as made, and go on with the schedule where it moves it."""
        self.completed += 1
        if self._schedules:
            self._used_rates = self._rates()
            self._schedule()

    def learning_rates(self) -> list[float]:
        """Return the learning rate of each parameter group in the last update."""
        return self._used_rates or self._rates()

    def state_dict(self) -> dict[str, Any]:
        """Return how many updates were completed, and the rates of the last."""
        return {"completed": self.completed, "rates": self._used_rates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self.completed, self._used_rates = state["completed"], state["rates"]
        if self.completed:  # else torch warns at the next step of a schedule
            mark_stepped(self.optimizer)

    def shape_gradients(self) -> torch.Tensor | None:
        """Add the penalties' gradients and clip; return the norm before, where it is clipped."""
        for penalty in self._penalties:
            penalty.add_gradients()
        largest_norm, largest = self.clipping
        norm = None
        if largest_norm is not None:
            norm = full_tensor(nn.utils.clip_grad_norm_(self.parameters, largest_norm))
        if largest is not None:
            nn.utils.clip_grad_value_(self.parameters, largest)
        return norm

    def check_norm(self, norm: torch.Tensor | None) -> None:
        """Refuse gradients whose norm is not finite, where that costs nothing to know.

        Raises:
            NonFiniteError: It tells the norm.
        """
        if norm is None or self.scaler is not None or norm.device.type != "cpu":
            return
        if not norm.isfinite():
            message = f"the gradients' norm is {norm.item()}"
            raise NonFiniteError(message)

    def collect(self) -> None:
        """Take back what others hold of the optimizer's state, at a fit's regular end."""

    def close(self) -> None:
        """Let go of all gradients, at any end."""
        self.zero_grad()

    def _rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _guarded_step(self) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self.check_norm(self.shape_gradients())
        if self.scaler is None:
            self._change()
        else:
            self.scaler.step(self.optimizer)
            if self._schedules:
                self._scale = self.scaler.get_scale()
            self.scaler.update()
            if not (self.completed + 1) % _SKIPS:
                self._check_scale()

    def _check_scale(self) -> None:
        """Look whether the scaler has skipped all updates since the last look.

        Raises:
            NonFiniteError: It has: gradients overflow however small their scale.
        """
        before, self._looked_at = self._looked_at, self.scaler.get_scale()
        if self._looked_at <= before * self.scaler.get_backoff_factor() ** _SKIPS:
            message = (
                f"{_SKIPS} updates in a row were skipped, since the gradients are not finite in "
                f"fp16 with a scale of {self._looked_at:g}; weights or data may be NaN: try "
                "mixed_precision='bf16' or a lower learning rate"
            )
            raise NonFiniteError(message)

    def _schedule(self) -> None:
        """Go on with the schedule, unless the scaler skipped the step (its scale went down)."""
        if self.scaler is None or self.scaler.get_scale() >= self._scale:
            self.scheduler.step()
