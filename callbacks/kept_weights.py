"""A copy of a model's weights, to be put back at the end of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fitorch.nets.state import load_plain, plain_state

if TYPE_CHECKING:
    from .trained_model import TrainedModel

States = dict[str, dict[str, Any]]


class KeptWeights:
    """The weights of a model's net and of its loss, as they were when they were kept."""

    def __init__(self) -> None:
        self.states: States | None = None  # of "net" and "loss", None where nothing was kept

    def keep(self, model: TrainedModel) -> None:
        """Copy the weights, into the memory of the last copy where there is one."""
        found = {name: plain_state(module) for name, module in _modules(model).items()}
        if self.states is None or _names(self.states) != _names(found):
            self.states = _copies(found)
            return
        for name, state in found.items():
            _overwrite(self.states[name], state)

    def put_back(self, model: TrainedModel) -> None:
        """Give the model the weights that were kept, where some were."""
        if self.states is not None:
            for name, module in _modules(model).items():
                load_plain(module, self.states[name])

    def forget(self) -> None:
        """Keep nothing any more."""
        self.states = None

    def load(self, states: Mapping[str, Mapping[str, Any]] | None) -> None:
        """Keep a copy of `states`, which an earlier fit kept."""
        self.states = None if states is None else _copies(states)


def _modules(model: TrainedModel) -> dict[str, nn.Module]:
    return {"net": model.net, "loss": model.objective.module}


def _names(states: States) -> dict[str, list[str]]:
    return {name: list(state) for name, state in states.items()}


def _copies(states: Mapping[str, Mapping[str, Any]]) -> States:
    return {
        name: {key: _copy(value) for key, value in state.items()} for name, state in states.items()
    }


@torch.no_grad()
def _overwrite(kept: dict[str, Any], state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor):
            kept[name].copy_(value)
        else:
            kept[name] = value


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
