"""Where training stands: everything that decides what happens next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from fitorch.callbacks.callback_list import one_by_one
from fitorch.data.epochs import EpochIterator
from fitorch.engine.steps.stage_values import StageValues
from fitorch.engine.steps.updating import UpdatingStep
from fitorch.history.history import History
from fitorch.losses.objective import Objective
from fitorch.nets.state import NetState
from fitorch.optim.state import align_state
from fitorch.optim.update import Update
from fitorch.randomness import random_state, set_random_state


@runtime_checkable
class Stateful(Protocol):
    """Something with a state of plain values and tensors."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Put a state back."""
        ...


@dataclass(slots=True)
class Progress:
    """How far training has come; every number counts what is completed.

    Args:
        seed: What everything random in the fit follows from.
        epochs: Epochs, over all fits of the model.
        batches: Batches of the epoch that is under way.
        updates: Optimizer updates, over all fits of the model.
        pass_index: Passes over the data.
        position: Batches of the pass that is under way.
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
        """Put counters back.

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
    """The parts of a fit whose states, together, make the next step what it will be.

    Taken between two updates and put back into a fit that was set up alike, it goes on with the
    same bits.

    Args:
        progress: The counters.
        net: The net.
        objective: The loss, which may have parameters of its own.
        update: Optimizer, scheduler and scaler.
        history: The figures of the completed epochs.
        callbacks: The callbacks; those without a state are left out.
        iterator: Where in the data the next batch is.
        sums: What was counted in the epoch that is under way.
    """

    progress: Progress
    net: nn.Module
    objective: Objective
    update: Update
    history: History
    callbacks: list[Any]
    iterator: EpochIterator
    sums: UpdatingStep[StageValues]

    def parts(self) -> dict[str, Stateful]:
        """Return everything that has a state, by name, in the order in which it is put back."""
        parts: dict[str, Any] = {
            "net": NetState(self.net),
            "loss": self.objective,
            "update": self.update,
            "optimizer": self.update.stored,
            "scheduler": self.update.scheduler,
            "scaler": self.update.scaler,
            "history": self.history,
            "progress": self.progress,
            "sums": self.sums,
            "feed": self.iterator,
        }
        kinds: Counter[str] = Counter()
        for callback in one_by_one(self.callbacks):
            if callback is not self.history and isinstance(callback, Stateful):
                kind = type(callback).__name__
                parts[f"callbacks.{kind}.{kinds[kind]}"] = callback
                kinds[kind] += 1
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part, and of the random generators."""
        self.count()
        states = {name: part.state_dict() for name, part in self.parts().items()}
        return {**states, "random": random_state()}

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Put a state back into every part, the random generators last.

        Args:
            state: The state.
            strict: Refuse a state of other parts; else those that it lacks stay as they are.

        Raises:
            ValueError: Parts are missing or unknown.
        """
        parts = self.parts()
        if strict and set(state) != {*parts, "random"}:
            missing, unknown = {*parts, "random"} - set(state), set(state) - {*parts, "random"}
            message = f"the state lacks {sorted(missing)} and has unknown {sorted(unknown)}"
            raise ValueError(message)
        for name, part in parts.items():
            if name == "feed":
                self._place()
            if name in state:
                part.load_state_dict(state[name])
        align_state(self.update.optimizer)
        set_random_state(state["random"])

    def roll_back(self, state: Mapping[str, Any]) -> list[str]:
        """Put a state back that was taken out of this fit, after one that it could not take.

        Returns:
            The parts that did not take even that; all others have it.
        """
        lost = []
        for name, part in self.parts().items():
            if name == "feed":
                self._place()
            try:
                part.load_state_dict(state[name])
            except Exception:
                lost.append(name)
        align_state(self.update.optimizer)
        try:
            set_random_state(state["random"])
        except Exception:
            lost.append("random")
        return lost

    def _place(self) -> None:
        """Tell the iterator where in the data it is."""
        progress = self.progress
        self.iterator.taken, self.iterator.pass_index = (
            progress.batches,
            progress.pass_index,
        )
        self.iterator.position = progress.position

    def count(self) -> None:
        """Ask those who count as they go."""
        self.progress.updates = self.update.completed
        self.progress.batches, self.progress.pass_index = (
            self.iterator.taken,
            self.iterator.pass_index,
        )
        self.progress.position = self.iterator.position
