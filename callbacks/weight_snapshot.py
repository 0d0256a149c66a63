"""Snapshot of a model's weights, restored at the end of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fitorch.nets.state import load_plain, plain_state

if TYPE_CHECKING:
    from .trained_model import TrainedModel

States = dict[str, dict[str, Any]]


class WeightSnapshot:
    """A copy of the weights of a model's net and loss."""

    def __init__(self) -> None:
        self.states: States | None = None  # of "net" and "loss"; None before the first snapshot

    def take(self, model: TrainedModel) -> None:
        """Copy the weights, into the memory of the previous copy if there is one."""
        states = {name: plain_state(module) for name, module in _modules(model).items()}
        # The memory of the previous copy fits only a state with the same names.
        if self.states is None or _state_keys(self.states) != _state_keys(states):
            self.states = _copy_states(states)
            return
        for name, state in states.items():
            _overwrite(self.states[name], state)

    def restore(self, model: TrainedModel) -> None:
        """Load the copy into the model, if there is one."""
        if self.states is not None:
            for name, module in _modules(model).items():
                # The weights are loaded in place: optimizers and compiled steps hold the
                # parameters.
                load_plain(module, self.states[name])

    def clear(self) -> None:
        """Discard the copy."""
        self.states = None

    def load(self, states: Mapping[str, Mapping[str, Any]] | None) -> None:
        # This copies, because later snapshots overwrite the tensors in place.
        """Replace the copy by a copy of `states`, the state of an earlier snapshot."""
        self.states = None if states is None else _copy_states(states)


def _modules(model: TrainedModel) -> dict[str, nn.Module]:
    return {"net": model.net, "loss": model.objective.module}


def _state_keys(states: States) -> dict[str, list[str]]:
    return {name: list(state) for name, state in states.items()}


def _copy_states(states: Mapping[str, Mapping[str, Any]]) -> States:
    return {
        name: {key: _copy_value(value) for key, value in state.items()}
        for name, state in states.items()
    }


@torch.no_grad()
def _overwrite(target: dict[str, Any], state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor):
            # Both tensors are on one device, so nothing waits.
            target[name].copy_(value)
        else:
            target[name] = value


def _copy_value(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
