"""Checks of optimizers before training: which parameters they hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .several import Optimizers, members_of, name_of


def check_trainable(
    net: nn.Module, optimizer: torch.optim.Optimizer | None, loss: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimizer if it has parameters to train.

    Raises:
        ValueError: Neither the net nor the loss has a parameter that requires a gradient, or the
            optimizer does not hold one.
    """
    net_name, parameters = type(net).__name__, [*net.parameters(), *loss.values()]
    if optimizer is None:
        message = f"{net_name} has no parameters to train"
        raise ValueError(message)
    if not any(parameter.requires_grad for parameter in parameters):
        message = (
            f"{net_name} has no trainable parameter: all of its {len(parameters)} are frozen "
            "(requires_grad=False); call requires_grad_(True) on those to train"
        )
        raise ValueError(message)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(parameter.requires_grad for parameter in held):
        message = (
            f"none of the {len(held)} parameters of {type(optimizer).__name__} has "
            "requires_grad=True; build it from parameters that do"
        )
        raise ValueError(message)
    return optimizer


def check_optimizer(
    optimizer: torch.optim.Optimizer, net: nn.Module, loss: Mapping[str, nn.Parameter]
) -> None:
    """Raise an error if the optimizer belongs to another net or lacks parameters of the loss.

    Args:
        optimizer: The optimizer, or several as one.
        net: The net.
        loss: The parameters of the loss, by name.

    Raises:
        ValueError: The optimizer holds parameters of neither the net nor the loss, or lacks
            trainable parameters of the loss; or several optimizers hold a parameter twice, or lack
            one that is trainable.
    """
    for member in members_of(optimizer).values():
        _check_own(member, net, loss)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held_ids = {id(parameter) for parameter in held}
    missing = [name for name, p in loss.items() if p.requires_grad and id(p) not in held_ids]
    if missing:
        listed, optimizer_name = ", ".join(missing[:3]), name_of(optimizer)
        message = (
            f"{optimizer_name} lacks {len(missing)} parameters of the loss ({listed}), which would "
            "never be trained; build it from both, [*net.parameters(), *loss_fn.parameters()], or "
            "freeze them: loss_fn.requires_grad_(False)"
        )
        raise ValueError(message)
    if isinstance(optimizer, Optimizers):
        _check_partition(optimizer, net)


def _check_own(
    optimizer: torch.optim.Optimizer, net: nn.Module, loss: Mapping[str, nn.Parameter]
) -> None:
    """Raise an error if an optimizer holds parameters of neither the net nor the loss."""
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Parameters are compared by id: `==` would compare their elements.
    known = {id(parameter) for parameter in (*net.parameters(), *loss.values())}
    foreign = sum(id(parameter) not in known for parameter in held)
    optimizer_name = type(optimizer).__name__
    if foreign:
        missing = [name for name, p in net.named_parameters() if not any(p is h for h in held)]
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        message = (
            f"{foreign} of the {len(held)} parameters of {optimizer_name} are not the net's"
            f"{f', and it lacks {len(missing)} that are ({listed})' if missing else ''}; build the "
            f"optimizer from this net: {optimizer_name}(net.parameters(), ...)"
        )
        raise ValueError(message)


def _check_partition(optimizer: Optimizers, net: nn.Module) -> None:
    """Raise an error unless each trainable parameter belongs to exactly one of several optimizers.

    Raises:
        ValueError: A parameter belongs to two or to none; the message contains the names.
    """
    owners: dict[int, str] = {}
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    for member_name, member in optimizer.members.items():
        for parameter in (p for group in member.param_groups for p in group["params"]):
            owner = owners.setdefault(id(parameter), member_name)
            if owner != member_name:
                name = names.get(id(parameter), "a parameter of the loss")
                message = (
                    f"the optimizers {owner!r} and {member_name!r} both train {name}; each "
                    "parameter belongs to one: remove it from the other's groups"
                )
                raise ValueError(message)
    missing = [n for n, p in net.named_parameters() if p.requires_grad and id(p) not in owners]
    if missing:
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        message = (
            f"none of the {len(optimizer.members)} optimizers trains {len(missing)} parameters "
            f"({listed}); pass them to one of these, or freeze them with requires_grad_(False)"
        )
        raise ValueError(message)
