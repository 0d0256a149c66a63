"""Which losses are torch's or fitorch's own, so that their form is known."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn


def takes_tensors(loss_fn: Any) -> bool:
    """Return whether a loss is torch's or fitorch's own, which take nothing but tensors.

    A subclass counts as the user's once it has its own `forward`.
    """
    function = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    called = type(function).forward if isinstance(function, nn.Module) else function
    return str(getattr(called, "__module__", "")).startswith(("torch.nn.", "fitorch.losses."))


def is_builtin(loss_fn: Any, types: Any) -> bool:
    """Return whether a loss is one of some types, with the `forward` that these define."""
    return isinstance(loss_fn, types) and takes_tensors(loss_fn)
