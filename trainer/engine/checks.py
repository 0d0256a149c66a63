"""What is looked at before the first update: nothing knowable is found out an hour later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.errors import DataError
from fitorch.internals.torch import BatchNorm
from fitorch.tree import describe, leaves


def check_metrics_dict(metrics: Any) -> dict[Any, Any]:
    """Return the metrics as a dict of their own.

    Raises:
        TypeError: They are no mapping.
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        message = (
            f"metrics_dict is a {type(metrics).__name__}; expected a dict of names to metrics, as "
            "{'acc': 'acc'}"
        )
        raise TypeError(message)
    return dict(metrics or {})


def check_distinct(figures: list[str]) -> list[str]:
    """Return the names of the figures, unless two are alike.

    Raises:
        ValueError: It names the first that is there twice.
    """
    twice = next((name for name in figures if figures.count(name) > 1), None)
    if twice is not None:
        message = f"two figures would be called {twice!r}; rename a metric or a validation set"
        raise ValueError(message)
    return figures


def check_trainable(
    net: nn.Module, optimizer: torch.optim.Optimizer | None, loss: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimizer, unless there is nothing that it could train.

    Raises:
        ValueError: No parameter of the net, nor of the loss, requires a gradient; or the optimizer
            holds none that does, or asks for a closure.
    """
    kind, parameters = type(net).__name__, [*net.parameters(), *loss.values()]
    if optimizer is None:
        message = f"{kind} has no parameters to train"
        raise ValueError(message)
    if not any(parameter.requires_grad for parameter in parameters):
        message = (
            f"{kind} has no trainable parameter: all of its {len(parameters)} are frozen "
            "(requires_grad=False); call requires_grad_(True) on those to train"
        )
        raise ValueError(message)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(parameter.requires_grad for parameter in held):
        message = (
            f"none of the {len(held)} parameters of {type(optimizer).__name__} has "
            "requires_grad=True; build it from those that have"
        )
        raise ValueError(message)
    if isinstance(optimizer, torch.optim.LBFGS):
        message = (
            "LBFGS evaluates a closure several times per step, which fit does not do; use Adam"
        )
        raise ValueError(message)  # noqa: TRY004 - it is an optimizer, but of no use here
    return optimizer


def check_optimizer(
    optimizer: torch.optim.Optimizer, net: nn.Module, loss: Mapping[str, nn.Parameter]
) -> None:
    """Refuse an optimizer of another net, and one that leaves out what the loss has to learn.

    Args:
        optimizer: The optimizer.
        net: The net.
        loss: The loss' own parameters, by name.

    Raises:
        ValueError: It holds parameters that are neither the net's nor the loss', or lacks
            trainable ones of the loss.
    """
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = {id(parameter) for parameter in (*net.parameters(), *loss.values())}
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
    has = {id(parameter) for parameter in held}
    left_out = [name for name, p in loss.items() if p.requires_grad and id(p) not in has]
    if left_out:
        message = (
            f"{kind} lacks {len(left_out)} parameters of the loss ({', '.join(left_out[:3])}), "
            f"which would never be trained; build it from both, {kind}([*net.parameters(), "
            "*loss_fn.parameters()]), or freeze them: loss_fn.requires_grad_(False)"
        )
        raise ValueError(message)


def check_sample_weight(weight: Any, *, by_output: bool) -> None:
    """Refuse sample weights of a form that no loss takes.

    Args:
        weight: One tensor, or one for each output of the net, or None.
        by_output: Whether outputs have losses of their own.

    Raises:
        DataError: It says what was got and what was expected.
    """
    several = weight is not None and not isinstance(weight, Tensor)
    if several and not by_output:
        message = f"sample_weight is {describe(weight)}; expected one tensor for the one loss"
        raise DataError(message)
    for leaf in leaves(weight):
        if not leaf.dim() or leaf.numel() != leaf.shape[0]:
            message = (
                f"sample_weight has shape {tuple(leaf.shape)}; expected one weight per sample, of "
                "shape (N,) or (N, 1)"
            )
            raise DataError(message)


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

    layers = [m for m in net.modules() if isinstance(m, BatchNorm)] if smallest_batch == 1 else []
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
