"""Snapshot of a model's weights, restored at the end of training."""

from __future__ import annotations

import warnings
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
        """Load the copy into the model, if there is one.

        If parameters were renamed since, as by pruning, the copy follows the new names. If that is
        not possible, the model keeps its weights, and a warning says so.
        """
        if self.states is None:
            return
        present = {name: plain_state(module) for name, module in _modules(model).items()}
        states, unknown = dict[str, dict[str, Any]](), list[str]()
        for name, names in present.items():
            states[name], missing = follow_pruning(self.states[name], names)
            unknown += missing
        if unknown:
            warnings.warn(
                f"parameters were renamed since the best epoch ({', '.join(unknown[:3])}), so its "
                "weights cannot be restored; the net keeps those of the last epoch",
                stacklevel=2,
            )
            return
        if any(states[name] is not self.states[name] for name in states):
            warnings.warn(
                "the net was pruned since the best epoch; its weights are restored with the "
                "present masks, so that the net differs from that of the best epoch",
                stacklevel=2,
            )
        for name, module in _modules(model).items():
            # The weights are loaded in place: optimizers and compiled steps hold the parameters.
            load_plain(module, states[name])

    def clear(self) -> None:
        """Discard the copy."""
        self.states = None

    def load(self, states: Mapping[str, Mapping[str, Any]] | None) -> None:
        """Replace the copy by a copy of `states`, the state of an earlier snapshot."""
        # This copies, because later snapshots overwrite the tensors in place.
        self.states = None if states is None else _copy_states(states)


def follow_pruning(
    state: dict[str, Any], present: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return a state with the names of the present one, and the names that it does not have.

    `torch.nn.utils.prune` replaces `weight` by `weight_orig` and a buffer `weight_mask`;
    `prune.remove` makes their product permanent.

    Args:
        state: The state; it is returned itself if its names are the present ones.
        present: The state of the net, which may have been pruned since.
    """
    if state.keys() == present.keys():
        return state, []
    followed, unknown = dict[str, Any](), list[str]()
    for name, value in present.items():
        original, mask = f"{name}_orig", f"{name}_mask"
        if name in state:
            followed[name] = state[name]
        elif name.endswith("_orig") and name.removesuffix("_orig") in state:
            followed[name] = state[name.removesuffix("_orig")]
        elif name.endswith("_mask") and name.removesuffix("_mask") in state:
            followed[name] = value
        elif original in state and mask in state:
            followed[name] = state[original] * state[mask]
        else:
            unknown.append(name)
    return followed, unknown


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
