"""Several optimizers that train one net together, each with parameters of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, optim


class Optimizers(optim.Optimizer):
    """Several optimizers as one: a step is a step of each, in their order.

    Groups and states are those of the members, read anew each time, so that it does not matter
    whether they are changed here or there.

    Args:
        members: The optimizers by name; the names are those of the learning rates' columns.

    Attributes:
        members: The optimizers by name.
    """

    members: dict[str, optim.Optimizer]

    def __init__(self, members: Mapping[str, optim.Optimizer]) -> None:
        # The constructor of torch would make groups of its own. This prepares hooks, as after
        # unpickling.
        super().__setstate__({"members": dict(members), "defaults": {}})

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: the members."""
        return {"members": self.members, "defaults": {}}

    def __getitem__(self, name: str) -> optim.Optimizer:
        """Return a member by its name."""
        return self.members[name]

    def __repr__(self) -> str:
        """Return the members' representations by name."""
        listed = ", ".join(f"{name!r}: {member!r}" for name, member in self.members.items())
        return f"{type(self).__name__}({{{listed}}})"

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of all members, in a new list."""
        return [group for member in self.members.values() for group in member.param_groups]

    @property
    def state(self) -> MutableMapping[Tensor, Any]:  # type: ignore[override]
        """The state of each parameter, in that of the member that trains it."""
        return _States(list(self.members.values()))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a group: a member must be chosen.

        Raises:
            ValueError: Always.
        """
        names = ", ".join(map(repr, self.members))
        message = (
            "several optimizers train this net; add the group to one of them, as in "
            f"model.optimizer[{next(iter(self.members))!r}].add_param_group(...); there are {names}"
        )
        raise ValueError(message)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Discard the gradients of all members."""
        for member in self.members.values():
            member.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let each member take a step.

        Args:
            closure: Evaluates the loss; it is called once, before the first step.

        Returns:
            The value of the closure, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self.members.values():
            member.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the members by name."""
        return {name: member.state_dict() for name, member in self.members.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the states of the members.

        Raises:
            ValueError: The members are others.
        """
        if list(state_dict) != list(self.members):
            message = (
                f"the optimizers are {list(self.members)}, but the state is of {list(state_dict)}; "
                "give them the same names"
            )
            raise ValueError(message)
        for name, member in self.members.items():
            member.load_state_dict(state_dict[name])


class _States(MutableMapping[Tensor, Any]):
    """The states of several optimizers as one mapping, which changes theirs.

    Args:
        members: The optimizers.
    """

    def __init__(self, members: list[optim.Optimizer]) -> None:
        self._members = members

    def __getitem__(self, parameter: Tensor) -> Any:
        """Return the state of a parameter."""
        return self._owner(parameter).state[parameter]

    def __setitem__(self, parameter: Tensor, state: Any) -> None:
        """Set the state of a parameter."""
        self._owner(parameter).state[parameter] = state

    def __delitem__(self, parameter: Tensor) -> None:
        """Forget the state of a parameter."""
        del self._owner(parameter).state[parameter]

    def __contains__(self, parameter: object) -> bool:
        """Return whether there is a state of a parameter."""
        return any(parameter in member.state for member in self._members)

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over the parameters that have a state."""
        return itertools.chain.from_iterable(member.state for member in self._members)

    def __len__(self) -> int:
        """Return the number of parameters that have a state."""
        return sum(len(member.state) for member in self._members)

    def __bool__(self) -> bool:
        """Return whether a parameter has a state."""
        return len(self) > 0

    def _owner(self, parameter: Tensor) -> optim.Optimizer:
        for member in self._members:
            if parameter in member.state:
                return member
        for member in self._members:
            if any(parameter is held for g in member.param_groups for held in g["params"]):
                return member
        message = f"none of the optimizers trains this parameter of shape {tuple(parameter.shape)}"
        raise KeyError(message)


def members_of(optimizer: optim.Optimizer) -> dict[str, optim.Optimizer]:
    """Return the optimizers by name; a single one has the name ""."""
    return optimizer.members if isinstance(optimizer, Optimizers) else {"": optimizer}


def name_of(optimizer: optim.Optimizer | None) -> str:
    """Return the class of an optimizer, of several as "Muon + AdamW", of None "None"."""
    if isinstance(optimizer, Optimizers):
        return " + ".join(type(member).__name__ for member in optimizer.members.values())
    return "None" if optimizer is None else type(optimizer).__name__


def named(several: Iterable[optim.Optimizer]) -> dict[str, optim.Optimizer]:
    """Return optimizers by the names of their classes, numbered from the second of a class on."""
    members: dict[str, optim.Optimizer] = {}
    for optimizer in several:
        name = type(optimizer).__name__.lower()
        number = sum(type(member) is type(optimizer) for member in members.values())
        members[f"{name}_{number + 1}" if number else name] = optimizer
    return members
