"""Groups that a callback added to an optimizer before a checkpoint was saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fitorch.optim.several import members_of


@contextmanager
def with_saved_groups(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Any]
) -> Iterator[None]:
    """Add the groups to an optimizer that only the checkpoint has; remove them after an error.

    Nothing is added if the first groups differ, or if a parameter is unknown or has a group
    already: the comparison of the settings then says what is different.

    Args:
        optimizer: The optimizer, with the groups that the script gives it.
        parameters: The parameters of net and loss by name.
        saved: The settings of the saved run: the names of each group's "parameters", and the number
            of "groups" of each of several optimizers.
    """
    counts = [len(member.param_groups) for member in members_of(optimizer).values()]
    names = saved.get("parameters") or []
    saved_counts = saved.get("groups") or [len(names)]
    if len(saved_counts) == len(counts):
        _add(optimizer, parameters, names, saved_counts)
    try:
        yield
    except BaseException:
        for member, count in zip(members_of(optimizer).values(), counts, strict=True):
            del member.param_groups[count:]
        raise


def group_counts(optimizer: Optimizer) -> list[int] | None:
    """Return the number of groups of each of several optimizers, None of a single one."""
    members = members_of(optimizer)
    return None if "" in members else [len(member.param_groups) for member in members.values()]


def _add(
    optimizer: Optimizer,
    parameters: Mapping[str, nn.Parameter],
    names: list[list[str]],
    counts: list[int],
) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    rest = iter(names)
    for member, count in zip(members_of(optimizer).values(), counts, strict=True):
        groups = [next(rest) for _ in range(count)]
        for group in groups[len(member.param_groups) :]:
            found = [parameters.get(name) for name in group]
            if any(each is None or id(each) in held for each in found):
                return
            held.update(map(id, found))
            member.add_param_group({"params": found})
