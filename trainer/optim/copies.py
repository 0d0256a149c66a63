"""Deep copies of optimizers with all of their attributes."""

from __future__ import annotations

import copy
from typing import Any

from torch.optim import Optimizer

from .several import members_of

_REBUILT = ("step", "zero_grad")  # methods that schedules and profilers replace on an instance


def complete_copy(
    original: Optimizer | None, copied: Optimizer | None, memo: dict[int, Any]
) -> None:
    """Give a deep copy of an optimizer the attributes that torch leaves out, as those of L-BFGS.

    Args:
        original: The optimizer.
        copied: Its copy by `copy.deepcopy`.
        memo: What `copy.deepcopy` has noted of that copy.
    """
    if original is None or copied is None:
        return
    pairs = zip(members_of(original).values(), members_of(copied).values(), strict=True)
    for member, twin in pairs:
        left_out = vars(member).keys() - vars(twin).keys() - set(_REBUILT)
        for name in left_out:
            value = vars(member)[name]
            setattr(twin, name, copy.deepcopy(value, memo))
            if isinstance(value, Optimizer):
                complete_copy(value, vars(twin)[name], memo)
