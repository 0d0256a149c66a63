"""A copy of an optimizer in a form that compiles well."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_SETTINGS = ("betas", "momentum", "weight_decay")  # what else schedules and callbacks change


class CannotCompileError(Exception):
    """A step that torch can't compile as a whole, or that is not worth it."""


class CompiledOptimizer:
    """A copy of an optimizer that shares its parameters and state, in a form that compiles well.

    Its learning rates are tensors: as numbers, each new one would compile the step anew. Its counts
    of steps have 64 bits, as what Python computes from them without compilation.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = copy.copy(optimizer)
        self._followed = optimizer
        self._state = optimizer.state
        self._steps: list[tuple[Tensor, Tensor]] = []  # the optimizer's counts, and our own
        self.optimizer.state = defaultdict(dict)
        for parameter, state in optimizer.state.items():
            self.optimizer.state[parameter] = self._shared(state, parameter.device)
        self._groups = optimizer.param_groups
        self.optimizer.param_groups = [self._compilable(group) for group in self._groups]
        self._rates = [float(group["lr"]) for group in self._groups]
        self._step: Any = inspect.unwrap(type(optimizer).step)  # without what breaks the graph

    def step(self) -> None:
        """Change the weights."""
        self._step(self.optimizer)
        for theirs, ours in self._steps:
            if theirs.device == ours.device:
                theirs.copy_(ours)

    def count(self) -> None:
        """Count the step in the optimizer, where its counts lie elsewhere than the weights."""
        for theirs, ours in self._steps:
            if theirs.device != ours.device:
                theirs.add_(1)

    def catch_up(self) -> None:
        """Take over the counts of steps, which the optimizer may have made itself."""
        for theirs, ours in self._steps:
            ours.copy_(theirs)

    def follow(self) -> None:
        """Take over the learning rates.

        Raises:
            CannotCompileError: Something else has changed, which would compile the step anew.
        """
        if len(self._groups) != len(self._rates):
            message = "the optimizer got another parameter group in the middle of an epoch"
            raise CannotCompileError(message)
        groups = zip(self._groups, self.optimizer.param_groups, strict=True)
        for i, (group, own) in enumerate(groups):
            if group["lr"] != self._rates[i]:
                self._rates[i] = float(group["lr"])
                own["lr"].fill_(self._rates[i])
            for key in _SETTINGS:
                if key in group and group[key] != own[key]:
                    message = f"the optimizer's {key!r} changed in the middle of an epoch"
                    raise CannotCompileError(message)

    @property
    def stale(self) -> bool:
        """Whether the optimizer has got another state, as when one is loaded."""
        followed = self._followed
        return self._state is not followed.state or self._groups is not followed.param_groups

    def _shared(self, state: dict[str, Any], device: torch.device) -> dict[str, Any]:
        step = state.get("step")
        if not isinstance(step, Tensor):
            return state
        ours = step.to(device, _wide(device), copy=True)
        self._steps.append((step, ours))
        return {**state, "step": ours}

    @staticmethod
    def _compilable(group: Mapping[str, Any]) -> dict[str, Any]:
        device = group["params"][0].device
        own = dict(group, lr=torch.tensor(float(group["lr"]), dtype=_wide(device), device=device))
        for flag in ("fused", "foreach"):
            if flag in own:
                own[flag] = None
        return own


def _wide(device: torch.device) -> torch.dtype:
    """Return the widest floating type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def compiled_constants(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Return what is compiled into a step as numbers."""
    return [group.get(key) for group in optimizer.param_groups for key in _SETTINGS]
