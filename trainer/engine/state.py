"""Training state: everything needed to continue with the same bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from fitorch.callbacks.callback_list import flatten_callbacks
from fitorch.data.epochs import EpochIterator
from fitorch.engine.steps.stage_values import StageValues
from fitorch.engine.steps.updating import UpdatingStep
from fitorch.history.history import History
from fitorch.losses.objective import Objective
from fitorch.nets.state import NetState, TrainedState
from fitorch.optim.state import align_state
from fitorch.optim.update import Update
from fitorch.randomness import random_state, set_random_state


@runtime_checkable
class Stateful(Protocol):
    """Something with a state of plain values and tensors."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> object:
        """Restore a state."""
        ...


@dataclass(slots=True)
class Progress:
    """The counters of training; each counts what is completed.

    Args:
        seed: The seed of all random numbers of the fit.
        epochs: Epochs, over all fits of the model.
        batches: Batches of the current epoch.
        updates: Optimizer updates, over all fits of the model.
        pass_index: Passes over the data.
        position: Batches of the current pass.
    """

    seed: int = 0
    epochs: int = 0
    batches: int = 0
    updates: int = 0
    pass_index: int = 0
    position: int = 0

    def state_dict(self) -> dict[str, int]:
        """Return the counters."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore the counters.

        Raises:
            ValueError: A counter is missing or unknown.
        """
        if set(state) != set(asdict(self)):
            message = f"progress has the counters {sorted(asdict(self))}, but got {sorted(state)}"
            raise ValueError(message)
        for name, value in state.items():
            setattr(self, name, int(value))


@dataclass(slots=True)
class FitState:
    """The parts of a fit whose states together determine all that follows.

    A fit that restores a state saved between two updates, and is otherwise set up alike, continues
    with the same bits.

    Args:
        progress: The counters.
        net: The net.
        objective: The loss, which may have parameters.
        update: Optimizer, scheduler and scaler.
        history: The values of the completed epochs.
        callbacks: The callbacks; those without a state are skipped.
        iterator: The position of the next batch in the data.
        sums: The sums of losses and metrics in the current epoch.
        device: The device of the net, the only one on which a fit draws random numbers.
        extra: Further modules and optimizers of the model by name.
    """

    progress: Progress
    net: nn.Module
    objective: Objective
    update: Update
    history: History
    callbacks: list[Any]
    iterator: EpochIterator
    sums: UpdatingStep[StageValues]
    device: torch.device
    extra: Mapping[str, Any] = field(default_factory=dict)
    trained: TrainedState = field(init=False)

    def __post_init__(self) -> None:
        self.trained = TrainedState({"": self.net, "loss.": self.objective.module})

    def parts(self) -> dict[str, Stateful]:
        """Return everything that has a state, by name, in the order in which it is restored."""
        # The names are part of the format of checkpoints: "feed" is the iterator, and a new name
        # would not exist in earlier checkpoints.
        parts: dict[str, Any] = {
            "net": NetState(self.net),
            "trained": self.trained,
            "loss": self.objective,
            "update": self.update,
            "optimizer": self.update.stored,
            "scheduler": self.update.scheduler,
            "scaler": self.update.scaler,
            "history": self.history,
            "progress": self.progress,
            "sums": self.sums,
            "feed": self.iterator,
            **self.extra,
        }
        counts: Counter[str] = Counter()  # of callbacks, by the names of their classes
        for callback in flatten_callbacks(self.callbacks):
            if callback is not self.history and isinstance(callback, Stateful):
                # Numbers count within a class: other callbacks may be added without renaming these.
                name = type(callback).__name__
                parts[f"callbacks.{name}.{counts[name]}"] = callback
                counts[name] += 1
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part, and of the random generators."""
        # The counters live in the update and the iterator until a state is read.
        self.count()
        states = {name: part.state_dict() for name, part in self.parts().items()}
        # The generators are read last: if a `state_dict` draws random numbers, the running fit
        # continues after them too.
        return {**states, "random": random_state(self.device)}

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Restore the state of each part, the random generators last.

        Loading a part may draw random numbers, so the generators must follow all others.

        Args:
            state: The state.
            strict: Whether the parts must be the same; otherwise missing ones stay as they are.

        Raises:
            ValueError: Parts are missing or unknown.
        """
        parts = self.parts()
        if strict and set(state) != {*parts, "random"}:
            missing, unknown = {*parts, "random"} - set(state), set(state) - {*parts, "random"}
            message = f"the state lacks {sorted(missing)} and has unknown {sorted(unknown)}"
            raise ValueError(message)
        for name, part in parts.items():
            if name == "feed":  # its state refers to the position, which `progress` holds
                self._set_position()
            if name in state:
                part.load_state_dict(state[name])
        # Tensors of a checkpoint are contiguous, but the weights may be channels-last.
        align_state(self.update.optimizer)
        set_random_state(state["random"], self.device)

    def roll_back(self, state: Mapping[str, Any]) -> list[str]:
        """Restore an earlier state of this fit after a checkpoint could not be restored.

        Returns:
            The parts that could not be restored; all others are.
        """
        failed = []
        for name, part in self.parts().items():
            if name == "feed":
                # The parts are restored in the same order as in `load_state_dict`.
                self._set_position()
            try:
                part.load_state_dict(state[name])
            except Exception:
                failed.append(name)
        align_state(self.update.optimizer)
        try:
            set_random_state(state["random"], self.device)
        except Exception:
            failed.append("random")
        return failed

    def _set_position(self) -> None:
        """Set the iterator to the batch that `progress` counts to."""
        progress = self.progress
        self.iterator.taken, self.iterator.pass_index = (
            progress.batches,
            progress.pass_index,
        )
        self.iterator.position = progress.position

    def count(self) -> None:
        """Copy the counts of the update and of the iterator to `progress`."""
        self.progress.updates = self.update.completed
        self.progress.batches, self.progress.pass_index = (
            self.iterator.taken,
            self.iterator.pass_index,
        )
        self.progress.position = self.iterator.position
