"""Targets that are class numbers: which of them a loss ignores, and where its classes lie."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fitorch.nets.forward import IGNORED_TARGET

from .builtin import takes_tensors
from .call_adapters import averages_over_classes, call_of, class_options
from .net_loss import NetLoss
from .user_loss import undisturbed_call


def ignored_class_of(loss_fn: Any) -> int | None:
    """Return the class number of targets that a loss leaves out; None if all targets count.

    The losses of nets and of users leave out -100, unless they have another `ignore_index`: it is
    not a class number, so nothing else can be meant by it.
    """
    if averages_over_classes(loss_fn):
        return class_options(loss_fn)[0]
    index = getattr(loss_fn, "ignore_index", None)
    if isinstance(index, int):
        return index
    leaves_out = isinstance(loss_fn, NetLoss) or not takes_tensors(loss_fn)
    return IGNORED_TARGET if leaves_out else None


def are_classes_last(loss_fn: Any, y_pred: Tensor, y_true: Tensor) -> bool | None:
    """Return whether a loss takes the last dimension of (N, T, T) as classes, None if unknown."""
    if isinstance(loss_fn, NetLoss):
        return True
    if takes_tensors(loss_fn):
        return False
    calls = _ClassCalls()
    # The loss is called once more, without a trace, in a batch that is in doubt; if it fails, the
    # question stays open.
    with suppress(Exception), torch.no_grad(), undisturbed_call(loss_fn), calls:
        call_of(loss_fn)(loss_fn, y_pred, y_true)
    if calls.first is None or calls.first.dim() < 2:
        return None
    # The largest class is the same before and after a softmax, and the order that of the targets.
    called = calls.first.argmax(1).flatten()
    if called.equal(y_pred.argmax(-1).flatten()):
        return True
    return False if called.equal(y_pred.argmax(1).flatten()) else calls.first.dim() < y_pred.dim()


class _ClassCalls(TorchFunctionMode):
    """Records the predictions of the first cross entropy that is called.

    Attributes:
        first: The predictions, None if there was no call.
    """

    _FUNCTIONS = (functional.cross_entropy, functional.nll_loss)

    def __init__(self) -> None:
        super().__init__()
        self.first: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        options = kwargs or {}
        if func in self._FUNCTIONS and self.first is None:
            self.first = args[0] if args else options["input"]
        return func(*args, **options)
