"""An optimizer in a form that torch.compile compiles once."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.devices.capabilities import widest_float
from fitorch.internals.torch import keep_address
from fitorch.optim.several import members_of

_SETTINGS = ("betas", "momentum", "weight_decay")  # which schedules and callbacks may change


class CannotCompileError(Exception):
    """A step cannot be compiled as a whole, or compiling it is not worth the time."""


class CompiledOptimizer:
    """A copy of an optimizer, with the same parameters and state, that is compiled only once.

    Its learning rates are tensors, because a new number would compile the step again. Its step
    counts have 64 bits, because Python computes bias corrections from them in 64 bits if the step
    is not compiled: with 32 bits the results would differ.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        # A shallow copy: it updates the same parameters, with the same tensors of state.
        self.optimizer = copy.copy(optimizer)
        self._original = optimizer
        # `stale` compares these by identity: load_state_dict replaces the dict and the groups.
        self._state = optimizer.state
        self._steps: list[tuple[Tensor, Tensor]] = []  # step counts: the original's, the copy's
        self.optimizer.state = defaultdict(dict)
        for parameter, state in optimizer.state.items():
            self.optimizer.state[parameter] = self._shared(state, parameter.device)
        self._groups = optimizer.param_groups
        self.optimizer.param_groups = [self._compilable(group) for group in self._groups]
        self._rates = [float(group["lr"]) for group in self._groups]
        # Without torch's wrappers, for hooks and the profiler, which would break the graph.
        self._step: Any = inspect.unwrap(type(optimizer).step)

    def step(self) -> None:
        """Update the weights."""
        self._step(self.optimizer)
        # Checkpoints and uncompiled steps read the step counts of the original.
        for original, copied in self._steps:
            # Step counts on the CPU, the default of most optimizers, beside weights on a GPU are
            # incremented by `count`, outside of the region.
            if original.device == copied.device:
                original.copy_(copied)

    def count(self) -> None:
        """Increment the original's step counts if they lie on another device than the weights."""
        for original, copied in self._steps:
            if original.device != copied.device:
                original.add_(1)

    def copy_step_counts(self) -> None:
        """Copy the original's step counts, which uncompiled steps may have incremented."""
        for original, copied in self._steps:
            copied.copy_(original)

    def copy_rates(self) -> None:
        """Copy the original's learning rates.

        Raises:
            CannotCompileError: Another setting has changed, which would compile the step again.
        """
        if len(self._groups) != len(self._rates):
            message = "the optimizer got another parameter group in the middle of an epoch"
            raise CannotCompileError(message)
        groups = zip(self._groups, self.optimizer.param_groups, strict=True)
        for i, (original, copied) in enumerate(groups):
            # The rate is compared with a number: comparing with the tensor would wait for the
            # device.
            if original["lr"] != self._rates[i]:
                self._rates[i] = float(original["lr"])
                copied["lr"].fill_(self._rates[i])
            for key in _SETTINGS:
                if key in original and original[key] != copied[key]:
                    message = f"the optimizer's {key!r} changed in the middle of an epoch"
                    raise CannotCompileError(message)

    @property
    def stale(self) -> bool:
        """Whether the state of the original was replaced, as `load_state_dict` does."""
        original = self._original
        return self._state is not original.state or self._groups is not original.param_groups

    def _shared(self, state: dict[str, Any], device: torch.device) -> dict[str, Any]:
        step = state.get("step")
        if not isinstance(step, Tensor):
            return state
        copied = step.to(device, widest_float(device), copy=True)
        # Compiled code changes both counts in place.
        keep_address(step)
        keep_address(copied)
        self._steps.append((step, copied))
        return {**state, "step": copied}

    @staticmethod
    def _compilable(group: Mapping[str, Any]) -> dict[str, Any]:
        device = group["params"][0].device
        rate = torch.tensor(float(group["lr"]), dtype=widest_float(device), device=device)
        compilable = dict(group, lr=rate)
        for flag in ("fused", "foreach"):
            if flag in compilable:
                compilable[flag] = None
        return compilable


class CompiledOptimizers:
    """Several optimizers in the form of `CompiledOptimizer`.

    Args:
        optimizer: One optimizer, or several as one.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._members = [CompiledOptimizer(member) for member in members_of(optimizer).values()]

    def step(self) -> None:
        """Update the weights."""
        for member in self._members:
            member.step()

    def count(self) -> None:
        """Increment step counts; see `CompiledOptimizer`."""
        for member in self._members:
            member.count()

    def copy_step_counts(self) -> None:
        """Copy the originals' step counts."""
        for member in self._members:
            member.copy_step_counts()

    def copy_rates(self) -> None:
        """Copy the originals' learning rates.

        Raises:
            CannotCompileError: Another setting has changed, which would compile the step again.
        """
        for member in self._members:
            member.copy_rates()

    @property
    def stale(self) -> bool:
        """Whether the state of an original was replaced."""
        return any(member.stale for member in self._members)


def compiled_constants(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Return the settings that are constants of the compiled step."""
    return [group.get(key) for group in optimizer.param_groups for key in _SETTINGS]
