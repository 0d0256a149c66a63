"""An optimizer whose state DeepSpeed partitions (ZeRO), with a state dict as of one process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from fitorch.errors import NonFiniteError
from fitorch.internals.deepspeed import fragment_of, gradient_norm

from .loss_module import LossModule
from .settings import Zero

State = dict[str, Any]  # the optimizer state of one parameter


@dataclass(frozen=True, slots=True)
class _Group:
    """Parameters that DeepSpeed flattens into one vector.

    Args:
        user_group: The parameter group of the user's optimizer, with learning rate and settings.
        parameters: The parameters.
        state: The optimizer state of the first parameter; all have had as many updates.
    """

    user_group: dict[str, Any]
    parameters: list[nn.Parameter]
    state: State


@dataclass(frozen=True)
class _Partitioned:
    """Stands for a tensor of the optimizer state that has the shape of its parameter.

    Args:
        dtype: The type of the tensor.
    """

    dtype: torch.dtype


class ZeroOptimizer:
    """The user's optimizer, run by DeepSpeed during a fit.

    DeepSpeed receives a copy, whose state it partitions. Schedules change the learning rates of the
    user's optimizer, which are copied before each update. In checkpoints, and after the fit, the
    state has torch's usual form: whole tensors for each parameter, on rank 0, on the CPU.

    Args:
        zero: Creates DeepSpeed's engine.
        optimizer: The user's optimizer.
        module: The module with all parameters that are trained.
        clip: The largest norm of the gradients, or None.
    """

    def __init__(
        self, zero: Zero, optimizer: Optimizer, module: LossModule, clip: float | None
    ) -> None:
        self.optimizer = optimizer
        self.engine: Any = None
        self.module = module
        self._zero, self._clip = zero, clip
        self._trained: list[nn.Parameter] = []
        self._groups: list[_Group] = []
        self._attributes: dict[nn.Parameter, set[str]] = {}  # before DeepSpeed added its own

    def follow(self) -> None:
        """Create a new engine if callbacks have frozen or unfrozen parameters."""
        trained = [parameter for parameter in self._parameters() if parameter.requires_grad]
        # Parameters are compared by identity: `==` compares their elements.
        unchanged = len(trained) == len(self._trained) and all(
            a is b for a, b in zip(trained, self._trained, strict=True)
        )
        if self.engine is None or not unchanged:
            # This comes before the new engine: the state of the old one would be lost with it.
            self.collect()
            self._partition()
            self._trained = trained
            for parameter in trained:  # DeepSpeed holds the state; a second copy costs memory
                self.optimizer.state.pop(parameter, None)

    def step(self, divisor: float) -> None:
        """Update the weights by the gradients, divided by `divisor`.

        Raises:
            NonFiniteError: The gradients are not finite; nothing is changed.
        """
        zero = self.engine.optimizer
        zero.refresh_fp32_params()  # callbacks may have changed the weights
        # Schedules change the groups of the user's optimizer only.
        for zero_group, group in zip(self._zero_groups(), self._groups, strict=True):
            settings = group.user_group.items()
            zero_group |= {name: value for name, value in settings if name != "params"}
        # DeepSpeed divides gradients by its loss scale, which serves as the divisor here.
        zero.loss_scale = divisor
        self.engine.step()
        zero.loss_scale = 1.0
        # DeepSpeed has checked the gradients of all processes, so all of them raise.
        if zero.overflow:
            message = f"the gradients' norm is {gradient_norm(zero)}"
            raise NonFiniteError(message)

    def collect(self) -> None:
        """Gather the state from DeepSpeed into the user's optimizer, and close the engine."""
        if self.engine is not None:
            # This is a collective: all processes wait for each other, once per tensor of the state.
            for parameter, state in self._gathered().items():
                self.optimizer.state[parameter] = state
            self.close()

    def close(self) -> None:
        """Close the engine; a state that was not collected before is lost."""
        if self.engine is None:
            return
        self.engine.destroy()
        self.engine, self._trained = None, []
        # Attributes that DeepSpeed has added to parameters would make them impossible to copy.
        for parameter, before in self._attributes.items():
            for name in set(vars(parameter)) - before:
                delattr(parameter, name)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in torch's form on rank 0; all processes must call this."""
        states: dict[Any, State] = dict(self.optimizer.state)
        if self.engine is not None:
            # This is a collective, also in processes that do not use the result.
            states |= self._gathered()
        parameters = enumerate(self._parameters())
        by_number = {number: states[p] for number, p in parameters if p in states}
        return {**self.optimizer.state_dict(), "state": by_number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state in torch's form; only that of rank 0 is used."""
        self.close()
        # The state is left out, because torch would move it to the device of the weights.
        self.optimizer.load_state_dict({**state, "state": {}})
        parameters = self._parameters()
        # Assigned directly: torch's method would move the whole state to the device.
        for number, parameter_state in state["state"].items():
            self.optimizer.state[parameters[number]] = dict(parameter_state)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _zero_groups(self) -> list[dict[str, Any]]:
        """Return DeepSpeed's parameter groups, in the order of `self._groups`."""
        groups: list[dict[str, Any]] = self.engine.optimizer.optimizer.param_groups
        return groups

    @property
    def holds(self) -> bool:
        """Whether DeepSpeed holds optimizer state that was not collected."""
        return self.engine is not None and bool(self.engine.optimizer.optimizer.state)

    def _partition(self) -> None:
        """Create an engine with a copy of the optimizer, and fill this process' part of the state.

        All processes must call this.
        """
        self._groups = self._grouped()
        # `copy.copy` would keep only what `Optimizer.__getstate__` returns.
        copied = object.__new__(type(self.optimizer))
        copied.__dict__.update(self.optimizer.__dict__)
        copied.__dict__.pop("step", None)  # a schedule wraps it to count the user's steps
        copied.state = defaultdict(dict)
        copied.param_groups = [{**g.user_group, "params": g.parameters} for g in self._groups]
        self._attributes = {p: set(vars(p)) for p in self.module.parameters()}
        self.engine = self._zero.engine(self.module, copied, self._clip)
        for zero_group, group in zip(self._zero_groups(), self._groups, strict=True):
            (vector,) = zero_group["params"]
            if group.state:
                zero_state = self.engine.optimizer.optimizer.state
                zero_state[vector] = self._parts(vector, group)

    def _grouped(self) -> list[_Group]:
        """Return the trained parameters by parameter group and by number of updates.

        DeepSpeed keeps one count of updates for each of its groups. Parameters that were unfrozen
        later have had fewer updates, so they need a group of their own.
        """
        states: Any = self.optimizer.state
        is_main = self._zero.processes.is_main
        groups: list[_Group] = []
        for user_group in self.optimizer.param_groups:
            trained = [p for p in user_group["params"] if p.requires_grad]
            # Only rank 0 has the state; all processes must group parameters in the same way.
            outlines = [_outline(states.get(p, {}), p) for p in trained] if is_main else None
            by_counts: dict[str, _Group] = {}
            for parameter, outline in zip(
                trained, self._zero.processes.broadcast(outlines) or [], strict=True
            ):
                key = repr({name: _as_number(outline[name]) for name in sorted(outline)})
                group = by_counts.setdefault(key, _Group(user_group, [], outline))
                group.parameters.append(parameter)
            groups += by_counts.values()
        return groups

    def _parts(self, vector: Tensor, group: _Group) -> State:
        """Return this process' part of the state of a group, from the whole state of rank 0."""
        parts: State = {}
        on_device = group.user_group.get("fused") or group.user_group.get("capturable")
        for name, value in group.state.items():
            if not isinstance(value, _Partitioned):
                parts[name] = value
                if isinstance(value, Tensor):  # counts of updates
                    parts[name] = value.to(vector.device if on_device else "cpu", copy=True)
                continue
            # This process fills only the parts that it updates.
            part = parts[name] = torch.zeros_like(vector, dtype=value.dtype, requires_grad=False)
            for parameter in group.parameters:
                # One parameter at a time: the whole state might not fit on the device.
                whole = torch.empty(parameter.numel(), dtype=value.dtype, device=parameter.device)
                if self._zero.processes.is_main:
                    whole.copy_(self.optimizer.state[parameter][name].reshape(-1))
                # All processes wait for rank 0, once per parameter and name.
                distributed.broadcast(whole, 0)
                if fragment := fragment_of(parameter):
                    local = whole.narrow(0, fragment.offset, fragment.size)
                    part.narrow(0, fragment.start, fragment.size).copy_(local)
        return parts

    def _gathered(self) -> dict[nn.Parameter, State]:
        """Return the whole state on rank 0, an empty one in the others; all must call this."""
        states: dict[nn.Parameter, State] = {}
        zero_state = self.engine.optimizer.optimizer.state
        for zero_group, group in zip(self._zero_groups(), self._groups, strict=True):
            (vector,) = zero_group["params"]
            for parameter in group.parameters if vector in zero_state else ():
                states[parameter] = {
                    name: self._joined(value, parameter)
                    if isinstance(value, Tensor) and value.shape == vector.shape
                    else _copied_to_cpu(value)
                    for name, value in zero_state[vector].items()
                }
        return states if self._zero.processes.is_main else {}

    def _joined(self, vector: Tensor, parameter: nn.Parameter) -> Tensor | None:
        """Join the parts of a parameter's state from all processes, on the CPU of rank 0."""
        whole = torch.zeros(parameter.numel(), dtype=vector.dtype, device=parameter.device)
        if fragment := fragment_of(parameter):
            local = vector.narrow(0, fragment.start, fragment.size)
            whole.narrow(0, fragment.offset, fragment.size).copy_(local)
        # Each number is nonzero in one process only, so the sum has the same bits.
        distributed.reduce(whole, 0)
        # This waits for the device.
        return whole.reshape(parameter.shape).cpu() if self._zero.processes.is_main else None


def _outline(state: Mapping[str, Any], parameter: nn.Parameter) -> State:
    """Return the optimizer state of a parameter with placeholders for its large tensors."""
    return {
        name: _Partitioned(value.dtype)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in state.items()
    }


def _copied_to_cpu(value: object) -> object:
    return value.to("cpu", copy=True) if isinstance(value, Tensor) else value


def _as_number(value: object) -> object:
    # For a count on a device this waits.
    return value.item() if isinstance(value, Tensor) else value
