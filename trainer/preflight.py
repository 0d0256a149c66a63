"""What is looked at before the first update: nothing knowable is found out an hour later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import DataError


def check_module(net: object) -> None:
    """Refuse what is no module, as a class that was not called.

    Raises:
        TypeError: It is none.
    """
    if isinstance(net, type):
        message = f"net is the class {net.__name__}; pass {net.__name__}(...)"
        raise TypeError(message)
    if not isinstance(net, nn.Module):
        message = f"net is a {type(net).__name__}; expected a torch.nn.Module"
        raise TypeError(message)


def check_trainable(net: nn.Module, extra: Iterable[nn.Parameter] = ()) -> None:
    """Refuse a net in which nothing can be trained.

    Raises:
        ValueError: No parameter of the net, nor of `extra`, requires a gradient.
    """
    parameters = [*net.parameters(), *extra]
    if not any(parameter.requires_grad for parameter in parameters):
        message = (
            f"{type(net).__name__} has no trainable parameter: all of its {len(parameters)} are "
            "frozen; set requires_grad_(True) on those to train"
            if parameters
            else f"{type(net).__name__} has no parameters to train"
        )
        raise ValueError(message)


def check_optimizer(
    optimizer: torch.optim.Optimizer, net: nn.Module, extra: Iterable[nn.Parameter] = ()
) -> None:
    """Refuse an optimizer of another net.

    Raises:
        ValueError: It holds parameters that are neither the net's nor in `extra`, or has no
            parameter that requires a gradient.
    """
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = {id(parameter) for parameter in (*net.parameters(), *extra)}
    foreign = sum(id(parameter) not in known for parameter in held)
    kind = type(optimizer).__name__
    if foreign:
        missing = [name for name, p in net.named_parameters() if not any(p is h for h in held)]
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        message = (
            f"{foreign} of the {len(held)} parameters of {kind} are not the net's"
            f"{f', and it lacks {len(missing)} that are ({listed})' if missing else ''}; build the "
            f"optimizer from this net: {kind}(net.parameters(), ...)"
        )
        raise ValueError(message)
    if not any(parameter.requires_grad for parameter in held):
        message = f"none of the {len(held)} parameters of {kind} has requires_grad=True"
        raise ValueError(message)


@contextmanager
def batch_norm_guarded(net: nn.Module, smallest_batch: int | None) -> Iterator[None]:
    """Refuse, on the first batch, a net whose BatchNorm can't take the epoch's last batch.

    BatchNorm in training needs more than one value per channel; a batch of one sample has that only
    where the layer sees (1, C, L, ...) with L > 1.

    Raises:
        DataError: The last batch has one sample, and some BatchNorm sees one value per channel.
    """

    def check(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if layer.training and isinstance(x, Tensor) and x[0].numel() == x.shape[1]:
            raise DataError(_BATCH_NORM)

    layers = [m for m in net.modules() if isinstance(m, _BatchNorm)] if smallest_batch == 1 else []
    hooks = [layer.register_forward_pre_hook(check) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


_BATCH_NORM = (
    "the last training batch has 1 sample, which BatchNorm can't normalize in training; choose "
    "another batch_size, or a DataLoader with drop_last=True"
)
