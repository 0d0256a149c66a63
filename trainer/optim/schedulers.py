"""Schedules from what users pass: instances, functions, one for each of several optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import optim

from .several import Optimizers, members_of


class Schedulers:
    """The schedules of several optimizers as one.

    Args:
        members: The schedules by the names of their optimizers.

    Attributes:
        members: The schedules by name.
    """

    def __init__(self, members: Mapping[str, Any]) -> None:
        self.members = dict(members)

    def __getitem__(self, name: str) -> Any:
        """Return the schedule of an optimizer."""
        return self.members[name]

    def step(self) -> None:
        """Take a step of each schedule."""
        for member in self.members.values():
            member.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the schedules by name."""
        return {name: member.state_dict() for name, member in self.members.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of the schedules."""
        for name, member in self.members.items():
            member.load_state_dict(state[name])


def make_scheduler(scheduler: Any, optimizer: optim.Optimizer) -> Any:
    """Return a learning rate scheduler, or None.

    Args:
        scheduler: An instance; a function `optimizer -> scheduler`, which is called for each of
            several optimizers; for several optimizers also a list, or a dict by their names, of
            instances and functions; or None.
        optimizer: The optimizer whose rates the scheduler sets, or several.

    Raises:
        ValueError: An instance was built for a different optimizer, or a list or dict does not fit
            the optimizers.
        TypeError: `scheduler` is none of these.
    """
    if scheduler is None:
        return None
    if isinstance(scheduler, Schedulers):
        scheduler = scheduler.members
    if not isinstance(optimizer, Optimizers):
        return _make_one(scheduler, optimizer)
    members = optimizer.members
    if isinstance(scheduler, (list, tuple)):
        scheduler = _by_name(list(scheduler), optimizer)
    elif not isinstance(scheduler, Mapping):
        if _is_instance(scheduler):
            return _make_one(scheduler, optimizer)
        scheduler = dict.fromkeys(members, scheduler)
    unknown = [name for name in scheduler if name not in members]
    if unknown:
        message = f"lr_scheduler names {unknown}, but the optimizers are {list(members)}"
        raise ValueError(message)
    given = {name: each for name, each in scheduler.items() if each is not None}
    return Schedulers({name: _make_one(each, members[name]) for name, each in given.items()})


def schedules_of(scheduler: Any) -> list[Any]:
    """Return the schedules that one object stands for."""
    if scheduler is None:
        return []
    return list(scheduler.members.values()) if isinstance(scheduler, Schedulers) else [scheduler]


def scheduler_name(scheduler: Any) -> str:
    """Return the class of a schedule, of several as "StepLR + OneCycleLR"."""
    return " + ".join(type(each).__name__ for each in schedules_of(scheduler))


def _is_instance(scheduler: Any) -> bool:
    return hasattr(scheduler, "step") and not isinstance(scheduler, type)


def _by_name(schedulers: list[Any], optimizer: Optimizers) -> dict[str, Any]:
    """Return a list of schedules by the names of their optimizers."""
    owners = {id(member): name for name, member in optimizer.members.items()}
    if len(schedulers) != len(owners):
        message = (
            f"lr_scheduler has {len(schedulers)} entries for {len(owners)} optimizers "
            f"({', '.join(owners.values())}); pass one for each, or None for a constant rate"
        )
        raise ValueError(message)
    named: dict[str, Any] = {}
    for name, scheduler in zip(owners.values(), schedulers, strict=True):
        # An instance knows its optimizer, whatever its place in the list is.
        owner = owners.get(id(getattr(scheduler, "optimizer", None)), name)
        named[owner] = scheduler
    return named


def _make_one(scheduler: Any, optimizer: optim.Optimizer) -> Any:
    if not _is_instance(scheduler):
        result = scheduler(optimizer) if callable(scheduler) else None
        if not hasattr(result, "step"):
            message = (
                f"lr_scheduler is {scheduler!r}; expected a scheduler of torch.optim.lr_scheduler, "
                "a function from an optimizer to one, one of these for each of several optimizers, "
                "or None"
            )
            raise TypeError(message)
        return result
    known = [optimizer, *members_of(optimizer).values()]
    if not any(getattr(scheduler, "optimizer", optimizer) is each for each in known):
        message = (
            f"{type(scheduler).__name__} was built for a different optimizer; pass that optimizer "
            "too, or a function: lr_scheduler=lambda optimizer: StepLR(optimizer, 10)"
        )
        raise ValueError(message)
    return scheduler
