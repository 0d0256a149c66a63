"""Backward passes and updates that the user's step asks for by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fitorch.distributed.processes import Processes
from fitorch.internals.torch import foreach_div_, foreach_mul
from fitorch.optim.several import members_of
from fitorch.optim.update import Update


class StepGradients:
    """The gradients of a step, and the updates that it makes of them.

    The first `backward` after an update discards all gradients; those of further calls add up, and
    each `update` takes those of its own parameters. Within a window of several batches an update is
    put off to the last batch: its gradients are the mean over all samples of the window. With
    several processes it is the mean over the samples of all, by one collective for each update.

    Args:
        updates: An update for each optimizer, by name; "" is the only one.
        processes: The processes that train together.

    Attributes:
        made: The updates that were made so far.
        updating: Whether an update is being made.
        requests: Whether a process has asked the others for a synchronization in this batch.
    """

    def __init__(self, updates: Mapping[str, Update], processes: Processes) -> None:
        self.updates = dict(updates)
        self.made = 0
        self.requests = False
        self.updating = False
        self._processes = processes
        self._fresh = True  # whether the next backward pass discards the gradients
        self._weight = 0  # samples of the batches whose gradients are there
        self._counted = False  # whether those of this batch are among them
        self._kept: dict[str, list[Tensor | None]] = {}  # of the earlier batches of a window
        self._counts: dict[str, float] = {}
        self._updated: set[str] = set()  # in this batch
        self._samples, self._closes, self._request, self._whole = 1, True, False, True
        self._scaler = next(iter(self.updates.values())).scaler
        self._scale_due = False  # whether updates were made by the current scale

    @property
    def pending(self) -> bool:
        """Whether there are gradients that no update has taken yet."""
        return not self._fresh

    def begin(self, samples: int, *, closes: bool, whole: bool, request: bool = False) -> None:
        """Begin a batch.

        Args:
            samples: Its samples; 0 for one that stands in for a batch that a process does not have.
            closes: Whether it is the last of its window.
            whole: Whether it is the only one of its window.
            request: Whether this process asks the others for a synchronization.
        """
        self._samples, self._closes, self._request = samples, closes, request
        self._whole, self.requests, self._counted = whole, False, False
        self._updated.clear()

    def end(self) -> None:
        """End a batch; at the end of a window, gradients that no update has taken are discarded."""
        self._renew_scale()
        if self._closes:
            self._kept, self._counts = {}, {}

    def discard(self) -> None:
        """Let the next backward pass begin anew, as at the beginning of an epoch."""
        self._fresh = True

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, the mean over the samples of the batch."""
        if self._fresh:
            self._renew_scale()
            for update in self.updates.values():
                update.zero_grad()
            self._fresh, self._weight, self._counted = False, 0, False
        if not self._counted:
            self._weight, self._counted = self._weight + self._samples, True
        next(iter(self.updates.values())).backward(loss)

    def update(self, name: str | None) -> bool:
        """Update the weights of an optimizer; return whether the window has ended.

        Raises:
            ValueError: There is no such optimizer, the name is missing, there are no gradients, or
                an update is made twice in a batch of a window.
        """
        name = self._known(name)
        update = self.updates[name]
        self._check(name, update)
        self._updated.add(name)
        self._fresh = True
        if not self._whole or self._processes.is_distributed:
            self._weigh(name, update)
            if not self._closes:
                return False
            self._divide(name, update)
        self.updating = True
        try:
            update()
        finally:
            self.updating = False
        self._scale_due = self._scaler is not None
        self.made += 1
        return True

    def _check(self, name: str, update: Update) -> None:
        if not self._whole and name in self._updated:
            message = (
                f"the step updates {name or 'the optimizer'!r} several times in a batch, which "
                "does not work with gradient_accumulation_steps; call model.backward several times "
                "and model.update once"
            )
            raise ValueError(message)
        without = all(parameter.grad is None for parameter in update.parameters)
        if without and not self._processes.is_distributed:
            message = (
                f"model.update({repr(name) if name else ''}) found no gradient; call "
                "model.backward(loss) before, with a loss that depends on its parameters"
            )
            raise ValueError(message)

    def _renew_scale(self) -> None:
        """Change the scale of fp16, once for all updates by one backward pass."""
        if self._scale_due and self._scaler is not None:
            self._scaler.update()
        self._scale_due = False

    def _known(self, name: str | None) -> str:
        if name is None and len(self.updates) == 1:
            return next(iter(self.updates))
        if name not in self.updates:
            listed = ", ".join(map(repr, self.updates))
            if "" in self.updates:
                message = f"no optimizer {name!r}; the model has one: call model.update()"
            elif name is None:
                message = f"model.update() needs the name of an optimizer, one of {listed}"
            else:
                message = f"no optimizer {name!r}; expected one of {listed}"
            raise ValueError(message)
        return name

    def _weigh(self, name: str, update: Update) -> None:
        """Multiply the gradients of this batch by its samples; add those of earlier batches."""
        parameters = update.parameters
        gradients: list[Tensor | None] = [parameter.grad for parameter in parameters]
        present = [gradient for gradient in gradients if gradient is not None]
        weighted = iter(foreach_mul(present, self._weight) if present else [])
        sums = [None if gradient is None else next(weighted) for gradient in gradients]
        before = self._kept.get(name) or [None] * len(sums)
        sums = [_added(a, b) for a, b in zip(before, sums, strict=True)]
        self._kept[name] = sums
        self._counts[name] = self._counts.get(name, 0.0) + self._weight

    def _divide(self, name: str, update: Update) -> None:
        """Set the gradients of a window: the mean over its samples, in all processes."""
        sums, count = self._kept.pop(name), self._counts.pop(name)
        total: float | Tensor = count
        if self._processes.is_distributed:
            sums, total = self._over_processes(update.parameters, sums, count)
        present = [each for each in sums if each is not None]
        if present:
            foreach_div_(present, total)
        for parameter, gradient in zip(update.parameters, sums, strict=True):
            parameter.grad = gradient

    def _over_processes(
        self, parameters: list[nn.Parameter], sums: list[Tensor | None], count: float
    ) -> tuple[list[Tensor | None], float | Tensor]:
        """Return the sums over all processes, and the samples of all."""
        host_facts = [count, float(self._request), *(float(each is not None) for each in sums)]
        facts = torch.tensor(host_facts, dtype=torch.float64, device=parameters[0].device)
        torch.distributed.all_reduce(facts)
        # On an accelerator this waits for the device.
        total, requests, *having = facts.tolist()
        self.requests |= requests > 0
        known = [
            (place, torch.zeros_like(parameters[place]) if sums[place] is None else sums[place])
            for place, processes in enumerate(having)
            if processes
        ]
        shared: list[Tensor | None] = [None] * len(sums)
        for dtype in dict.fromkeys(each.dtype for _, each in known if each is not None):
            some = [(p, each) for p, each in known if each is not None and each.dtype == dtype]
            flat = torch.cat([each.reshape(-1) for _, each in some])
            torch.distributed.all_reduce(flat)
            parts = flat.split([each.numel() for _, each in some])
            for (place, each), part in zip(some, parts, strict=True):
                # In the memory layout of the parameter, which fused optimizers need.
                shared[place] = torch.empty_like(parameters[place], dtype=dtype).copy_(
                    part.view_as(each)
                )
        return shared, max(total, 1.0)


def updates_of(update: Update) -> dict[str, Update]:
    """Return an update for each of several optimizers, with the settings of one for all."""
    updates = {
        name: Update(member, update.scaler, *update.clipping)
        for name, member in members_of(update.optimizer).items()
    }
    for each in updates.values():
        each.renews_scale = False
    return updates


def _added(before: Tensor | None, now: Tensor | None) -> Tensor | None:
    if before is None or now is None:
        return now if before is None else before
    return before.add_(now)
