"""The learning rates of an optimizer by the names of their columns."""

from __future__ import annotations

from torch.optim import Optimizer

from .several import members_of


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the learning rates of an optimizer's groups by the names of their columns."""
    return {
        rate_name(name, number): float(group["lr"])
        for name, member in members_of(optimizer).items()
        for number, group in enumerate(member.param_groups)
        if group.get("lr") is not None
    }


def rate_name(optimizer: str, group: int) -> str:
    """Return the name of the learning rate of a group: "lr", "lr_1", "lr_adamw", "lr_adamw_1"."""
    return "_".join(["lr", *([optimizer] if optimizer else []), *([str(group)] if group else [])])
