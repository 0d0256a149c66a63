"""Weight update: unscale and clip the gradients, then step optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fitorch.devices.accelerators import is_host
from fitorch.distributed.dtensor import full_tensor, is_split, local_tensor
from fitorch.errors import NonFiniteError
from fitorch.internals.torch import (
    FiniteCheck,
    bare_step,
    foreach_norm,
    hook_step,
    mark_stepped,
    skips_by_itself,
)
from fitorch.losses.penalty_term import PenaltyTerm

from .modes import to_measuring, to_training
from .rates import learning_rates, rate_name
from .scheduling import Scheduling
from .several import members_of

_NOT_FINITE = "the loss is finite, but its gradient is not"

_MAX_SKIPPED = 100  # consecutive updates that a gradient scaler may skip


class Update:
    """One update of the weights: penalties, clipping, optimizer step and schedule.

    Args:
        optimizer: The optimizer.
        scaler: accelerate's gradient scaler (fp16), or None.
        clip_grad_norm: The total 2-norm to which gradients are scaled down, or None.
        clip_grad_value: Each gradient is clamped to [-value, value]; None does not clamp.
        scheduler: A learning rate scheduler, or None.
        scheduler_step: When the schedule takes a step; see `Scheduling`.
        penalties: Penalties whose gradients are added once per update, before clipping.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        scheduler: Any = None,
        scheduler_step: str = "update",
        penalties: Sequence[PenaltyTerm] = (),
    ) -> None:
        self.optimizer = optimizer
        self.stored: Any = optimizer  # the object whose state is saved
        self.completed = 0
        # Of several updates by one backward pass, only the last may change the scale.
        self.renews_scale = True
        self.training = False  # whether the weights are those from which the optimizer descends
        self.scaler = scaler
        self.clipping = clip_grad_norm, clip_grad_value
        self.scheduler = scheduler
        self.scheduling = Scheduling(scheduler, scheduler_step)
        members = members_of(optimizer).values()
        plain_zero = torch.optim.Optimizer.zero_grad
        self._plain_zero = all(type(member).zero_grad is plain_zero for member in members)
        self._schedules = self.scheduling.per_update
        self._used_rates: dict[str, float] | None = None
        self._penalties = penalties
        self._norms: torch.Tensor | None = None  # whether all of an epoch were finite
        self._scale: float | None = None  # of the scaler, if it was read after the last update
        self._stepped = True  # whether the scaler has made the last update
        self._hook: Any = None
        if self._schedules and scaler is not None and not skips_by_itself(optimizer):
            # The scaler calls the optimizer's step only if all gradients are finite.
            self._hook = hook_step(optimizer, self._note_step)
        # This reads from the device, once per fit.
        self._last_scale = 0.0 if scaler is None else scaler.get_scale()
        clips = clip_grad_norm is not None or clip_grad_value is not None
        plain = scaler is None and not clips and not penalties
        # A gradient scaler skips updates itself; elsewhere than on the CPU the check would wait.
        checks = scaler is None and all(_in_host_memory(p) for p in self.parameters)
        self._all_finite = FiniteCheck() if checks else None
        # The step is chosen once.
        self._change = bare_step(optimizer)
        self._step: Callable[[], Any] = self._checked_step if plain else self._guarded_step
        if plain and not checks:
            self._step = self._change

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the optimizer, read anew: a callback may add a group at any time."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Discard all gradients; until the next batch, callbacks can read them."""
        if self._plain_zero:
            # None is better than zeros: the next backward pass writes its gradients instead of
            # adding them.
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        else:
            self.optimizer.zero_grad()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss` to the accumulated ones."""
        # Gradients in fp16 would underflow without the factor; `unscale_` divides by it.
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()

    def __call__(self) -> None:
        """Update the weights."""
        self._step()
        self.advance()

    def advance(self) -> None:
        """Count an update, and take a step of the schedule if it is due in every update."""
        self.completed += 1
        if self._schedules:
            # This comes before the step of the schedule: these rates made the update.
            self._used_rates = self._rates()
            self._schedule()

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rates of the last update by name: "lr", "lr_1", "lr_muon".

        Optimizers that find their own rate, and have None, are left out.
        """
        return self._used_rates or self._rates()

    def state_dict(self) -> dict[str, Any]:
        """Return the number of completed updates, and the learning rates of the last one."""
        rates = self._used_rates
        return {"completed": self.completed, "rates": rates, "training": self.training}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the number of updates and the learning rates."""
        self.completed, rates = state["completed"], state["rates"]
        self.training = state.get("training", False)  # earlier checkpoints do not have it
        # Earlier checkpoints have a list, of a single optimizer.
        self._used_rates = (
            {rate_name("", i): rate for i, rate in enumerate(rates)}
            if isinstance(rates, list)
            else rates
        )
        self._scale = None  # the scaler may have another one now
        if self.completed:  # otherwise, torch warns in the next step of a schedule
            mark_stepped(self.optimizer)

    def shape_gradients(self) -> torch.Tensor | None:
        """Add the gradients of the penalties, and clip.

        Returns:
            The norm before the clipping, None without clipping by the norm.
        """
        # Penalties come after unscaling, because they are not scaled, and before clipping, which
        # limits the whole gradient.
        self._penalize()
        return self._clip()

    def check_gradients(self) -> None:
        """Check that all gradients are finite, if that does not wait for a device.

        Raises:
            NonFiniteError: A gradient has a NaN or an infinite element.
        """
        if self._all_finite is None:
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients and not self._all_finite(gradients):
            raise NonFiniteError(_NOT_FINITE)

    def _penalize(self) -> None:
        for penalty in self._penalties:
            penalty.add_gradients()

    def _clip(self) -> torch.Tensor | None:
        max_norm, max_value = self.clipping
        norm = None
        if max_norm is not None:
            # With a sharded net this is a collective, in which all processes wait.
            norm = full_tensor(nn.utils.clip_grad_norm_(self.parameters, max_norm))
        if max_value is not None:
            nn.utils.clip_grad_value_(self.parameters, max_value)
        return norm

    def check_norm(self, norm: torch.Tensor | None) -> None:
        """Check that the norm is finite; on a device this is noted for `check_epoch`.

        Raises:
            NonFiniteError: The norm is NaN or infinite.
        """
        if norm is None or self.scaler is not None:
            return
        if not is_host(norm):
            finite = norm.isfinite()
            self._norms = finite if self._norms is None else self._norms & finite
        elif not norm.isfinite():
            message = f"the gradients' norm is {norm.item()}"
            raise NonFiniteError(message)

    def begin_training(self) -> None:
        """Put the weights in place from which the optimizer descends, if it has two kinds."""
        self.training = True
        to_training(self.optimizer)

    def end_training(self) -> None:
        """Put the weights in place that are measured and saved, if the optimizer has two kinds."""
        if self.training:
            self.training = False
            to_measuring(self.optimizer)

    def check_epoch(self) -> None:
        """Check what only the host looks at in each update: gradients that are not finite.

        On a device they show at the end of an epoch, in the weights and in the norms that were
        clipped. This waits for the device once.

        Raises:
            NonFiniteError: A weight, or the norm of a gradient, was NaN or infinite.
        """
        norms, self._norms = self._norms, None
        if self._all_finite is not None or not self.parameters:
            return
        weights = [local_tensor(p.detach()) for p in self.parameters if p.numel()]
        weights = [w for w in weights if not is_host(w) and w.is_floating_point() and w.numel()]
        if not weights:
            return
        largest = torch.stack([each.float() for each in foreach_norm(weights, math.inf)])
        found = [largest.isfinite().all(), *([] if norms is None else [norms])]
        finite, *norms_finite = torch.stack(found).tolist()
        if not all(norms_finite):
            message = "the norm of the gradients was not finite, so that clipping has made them 0"
            raise NonFiniteError(message)
        if not finite:
            raise NonFiniteError(_NOT_FINITE)

    def collect(self) -> None:
        """Collect the optimizer's state at the regular end of a fit; subclasses override this."""

    def close(self) -> None:
        """Discard all gradients at the end of a fit, also after an error."""
        self.zero_grad()
        if self._hook is not None:
            self._hook.remove()

    def _rates(self) -> dict[str, float]:
        return learning_rates(self.optimizer)

    def _checked_step(self) -> None:
        # The check comes before the weights change: an update by NaN cannot be undone. It is
        # written out, because each call counts in the step of a small net.
        groups = self.optimizer.param_groups
        gradients = [g for group in groups for p in group["params"] if (g := p.grad) is not None]
        if gradients and not self._all_finite(gradients):  # type: ignore[misc]
            raise NonFiniteError(_NOT_FINITE)
        self._change()

    def _guarded_step(self) -> None:
        # The order matters: first unscale, then add penalties and clip, then step, and only then
        # change the scale.
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self._penalize()
        # This comes before clipping, which spreads a NaN from one parameter to all.
        self.check_gradients()
        self.check_norm(self._clip())
        if self.scaler is None:
            self._change()
        else:
            self._scaled_step(self.scaler)
            if not (self.completed + 1) % _MAX_SKIPPED:
                self._check_scale()

    def _scaled_step(self, scaler: torch.amp.GradScaler) -> None:
        """Update the weights, unless gradients are not finite; then change the scale."""
        reads_scale = self._schedules and self._hook is None
        if reads_scale and self._scale is None:
            self._scale = scaler.get_scale()  # once; it waits for the device
        self._stepped = self._hook is None
        # The scaler reads from the device whether all gradients are finite. Fused optimizers find
        # out there, so nothing is read.
        scaler.step(self.optimizer)
        if self.renews_scale:
            scaler.update()
        if reads_scale:
            # The scale falls after a skipped update. With a fused optimizer, this read is the only
            # one of the step.
            before, self._scale = self._scale, scaler.get_scale()
            self._stepped = before is None or self._scale >= before

    def _note_step(self, *_: Any) -> None:
        self._stepped = True

    def _check_scale(self) -> None:
        """Check that the scaler has not skipped all updates since the last check.

        This synchronizes with the device, once in `_MAX_SKIPPED` updates.

        Raises:
            NonFiniteError: It has skipped all of them: the gradients overflow at any scale.
        """
        assert self.scaler is not None
        before, self._last_scale = self._last_scale, self.scaler.get_scale()
        if self._last_scale <= before * self.scaler.get_backoff_factor() ** _MAX_SKIPPED:
            message = (
                f"{_MAX_SKIPPED} consecutive updates were skipped because the gradients are not "
                f"finite in fp16 with a scale of {self._last_scale:g}; use mixed_precision='bf16' "
                "or a lower learning rate, and check weights and data for NaN"
            )
            raise NonFiniteError(message)

    def _schedule(self) -> None:
        """Take a step of the schedule, unless the scaler skipped the update."""
        if self._stepped:
            self.scheduling.after_update(self.completed)


def _in_host_memory(parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a plain tensor on the CPU, not a part of a sharded one."""
    return is_host(parameter) and not is_split(parameter)
