"""An optimizer that DeepSpeed spreads over the processes, and its state as of one process."""

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

State = dict[str, Any]  # what an optimizer keeps of one parameter


@dataclass(frozen=True, slots=True)
class _Group:
    """Parameters that DeepSpeed joins to one vector.

    Args:
        told: The user's group, whose learning rate and other settings hold.
        parameters: The parameters.
        state: What the optimizer keeps of the first of them; all have kept it for as many updates.
    """

    told: dict[str, Any]
    parameters: list[nn.Parameter]
    state: State


class ZeroOptimizer:
    """The user's optimizer, run by DeepSpeed while a fit trains.

    DeepSpeed gets a copy of it, whose state is spread. Schedules change the learning rates of the
    user's own, which are taken over before each update. In files, and after the fit, the state is
    the ordinary one: of each parameter, whole, in the main process, on the CPU.

    Args:
        zero: How to spread it.
        optimizer: The user's.
        module: What holds all that is trained.
        clip: Largest norm of the gradients, or None.
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
        self._marks: dict[nn.Parameter, set[str]] = {}

    def follow(self) -> None:
        """Have DeepSpeed train what is to be trained, which callbacks may have changed."""
        trained = [parameter for parameter in self._parameters() if parameter.requires_grad]
        unchanged = len(trained) == len(self._trained) and all(
            a is b for a, b in zip(trained, self._trained, strict=True)
        )
        if self.engine is None or not unchanged:
            self.collect()
            self._spread()
            self._trained = trained
            for parameter in trained:  # DeepSpeed has it now
                self.optimizer.state.pop(parameter, None)

    def step(self, divisor: float) -> None:
        """Change the weights by the gradients, divided.

        Raises:
            NonFiniteError: The gradients are not finite; nothing is changed.
        """
        zero = self.engine.optimizer
        zero.refresh_fp32_params()  # what others did to the weights holds
        for own, group in zip(self._own_groups(), self._groups, strict=True):
            own |= {name: value for name, value in group.told.items() if name != "params"}
        zero.loss_scale = divisor
        self.engine.step()
        zero.loss_scale = 1.0
        if zero.overflow:
            message = f"the gradients' norm is {gradient_norm(zero)}"
            raise NonFiniteError(message)

    def collect(self) -> None:
        """Take the state back from DeepSpeed, and let go of it."""
        if self.engine is not None:
            for parameter, state in self._whole().items():
                self.optimizer.state[parameter] = state
            self.close()

    def close(self) -> None:
        """Let go of DeepSpeed, and of a state that was not collected before."""
        if self.engine is None:
            return
        self.engine.destroy()
        self.engine, self._trained = None, []
        for parameter, before in self._marks.items():  # what DeepSpeed hung on them can't be copied
            for name in set(vars(parameter)) - before:
                delattr(parameter, name)

    def state_dict(self) -> dict[str, Any]:
        """Return the ordinary state, in the main process; all must call this."""
        held: dict[Any, State] = dict(self.optimizer.state)
        if self.engine is not None:
            held |= self._whole()
        parameters = enumerate(self._parameters())
        state = {number: held[parameter] for number, parameter in parameters if parameter in held}
        return {**self.optimizer.state_dict(), "state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put an ordinary state back; what the main process is given holds."""
        self.close()
        self.optimizer.load_state_dict({**state, "state": {}})
        parameters = self._parameters()
        for number, each in state["state"].items():  # as it is, not on the device
            self.optimizer.state[parameters[number]] = dict(each)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _own_groups(self) -> list[dict[str, Any]]:
        """Return the groups that DeepSpeed made of ours."""
        groups: list[dict[str, Any]] = self.engine.optimizer.optimizer.param_groups
        return groups

    @property
    def holds(self) -> bool:
        """Whether DeepSpeed has a state that nobody else has."""
        return self.engine is not None and bool(self.engine.optimizer.optimizer.state)

    def _spread(self) -> None:
        """Give DeepSpeed a copy of the optimizer, and each process its part of the state."""
        self._groups = self._grouped()
        own = object.__new__(type(self.optimizer))
        own.__dict__.update(self.optimizer.__dict__)
        own.__dict__.pop("step", None)  # a schedule counts the user's own steps
        own.state = defaultdict(dict)
        own.param_groups = [{**each.told, "params": each.parameters} for each in self._groups]
        self._marks = {p: set(vars(p)) for p in self.module.parameters()}
        self.engine = self._zero.engine(self.module, own, self._clip)
        for made, group in zip(self._own_groups(), self._groups, strict=True):
            (vector,) = made["params"]
            if group.state:
                own_state = self.engine.optimizer.optimizer.state
                own_state[vector] = self._parts(vector, group)

    def _grouped(self) -> list[_Group]:
        """Return the trained parameters by their groups, and by what is kept of them.

        One that was freed later than others has been updated less often, which an optimizer counts
        for its group.
        """
        held: Any = self.optimizer.state
        main = self._zero.processes.is_main
        groups: list[_Group] = []
        for told in self.optimizer.param_groups:
            trained = [p for p in told["params"] if p.requires_grad]
            kept = [_without_tensors(held.get(p, {}), p) for p in trained] if main else None
            alike: dict[str, _Group] = {}
            for parameter, state in zip(
                trained, self._zero.processes.broadcast(kept) or [], strict=True
            ):
                key = repr({name: _as_number(state[name]) for name in sorted(state)})
                group = alike.setdefault(key, _Group(told, [], state))
                group.parameters.append(parameter)
            groups += alike.values()
        return groups

    def _parts(self, vector: Tensor, group: _Group) -> State:
        """Return this process' part of a group's state, out of the main process' whole one."""
        parts: State = {}
        on_device = group.told.get("fused") or group.told.get("capturable")
        for name, value in group.state.items():
            if not isinstance(value, _Spread):
                parts[name] = value
                if isinstance(value, Tensor):  # counts of updates
                    parts[name] = value.to(vector.device if on_device else "cpu", copy=True)
                continue
            part = parts[name] = torch.zeros_like(vector, dtype=value.dtype, requires_grad=False)
            for parameter in group.parameters:
                whole = torch.empty(parameter.numel(), dtype=value.dtype, device=parameter.device)
                if self._zero.processes.is_main:
                    whole.copy_(self.optimizer.state[parameter][name].reshape(-1))
                distributed.broadcast(whole, 0)
                if fragment := fragment_of(parameter):
                    found = whole.narrow(0, fragment.offset, fragment.size)
                    part.narrow(0, fragment.start, fragment.size).copy_(found)
        return parts

    def _whole(self) -> dict[nn.Parameter, State]:
        """Return the ordinary state, in the main process; elsewhere nothing."""
        state: dict[nn.Parameter, State] = {}
        held = self.engine.optimizer.optimizer.state
        for made, group in zip(self._own_groups(), self._groups, strict=True):
            (vector,) = made["params"]
            for parameter in group.parameters if vector in held else ():
                state[parameter] = {
                    name: self._joined(value, parameter)
                    if isinstance(value, Tensor) and value.shape == vector.shape
                    else _copied_to_cpu(value)
                    for name, value in held[vector].items()
                }
        return state if self._zero.processes.is_main else {}

    def _joined(self, vector: Tensor, parameter: nn.Parameter) -> Tensor | None:
        """Return what the processes have of a parameter, put together on the main one's CPU."""
        whole = torch.zeros(parameter.numel(), dtype=vector.dtype, device=parameter.device)
        if fragment := fragment_of(parameter):
            found = vector.narrow(0, fragment.start, fragment.size)
            whole.narrow(0, fragment.offset, fragment.size).copy_(found)
        distributed.reduce(whole, 0)
        return whole.reshape(parameter.shape).cpu() if self._zero.processes.is_main else None


@dataclass(frozen=True)
class _Spread:
    """A tensor of an optimizer's state that has a number for each of a parameter.

    Args:
        dtype: Its type.
    """

    dtype: torch.dtype


def _without_tensors(state: Mapping[str, Any], parameter: nn.Parameter) -> State:
    """Return an optimizer's state of a parameter, with only a word for what is to be spread."""
    return {
        name: _Spread(value.dtype)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in state.items()
    }


def _copied_to_cpu(value: Any) -> Any:
    return value.to("cpu", copy=True) if isinstance(value, Tensor) else value


def _as_number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
