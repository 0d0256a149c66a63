"""Checks before the first update, so that errors surface immediately."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.errors import DataError
from fitorch.internals.torch import BatchNorm
from fitorch.tree import describe, leaves

_BATCH_NORM = (
    "the last training batch has 1 sample, which BatchNorm cannot normalize in training; choose "
    "another batch_size, or a DataLoader with drop_last=True"
)


def check_metrics_dict(metrics: object) -> dict[Any, Any]:
    """Return a copy of the metrics as a dict.

    Raises:
        TypeError: `metrics` is not a mapping.
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        message = (
            f"metrics_dict is a {type(metrics).__name__}; expected a dict of names to metrics, as "
            "{'acc': 'acc'}"
        )
        raise TypeError(message)
    return dict(metrics or {})


def check_distinct(names: list[str]) -> list[str]:
    """Return the names of the values of a fit if all of them differ.

    Raises:
        ValueError: A name occurs twice; the message contains the first such name.
    """
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        message = (
            f"two values would have the name {duplicate!r}; rename a metric or a validation set"
        )
        raise ValueError(message)
    return names


def check_trainable(
    net: nn.Module, optimizer: torch.optim.Optimizer | None, loss: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimizer if it has parameters to train.

    Raises:
        ValueError: Neither the net nor the loss has a parameter that requires a gradient, or the
            optimizer does not hold one; or the optimizer needs a closure.
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
    if isinstance(optimizer, torch.optim.LBFGS):
        message = (
            "LBFGS evaluates a closure several times per step, which fit does not do; use Adam"
        )
        raise ValueError(message)  # noqa: TRY004 - it is an optimizer, but of no use here
    return optimizer


def check_optimizer(
    optimizer: torch.optim.Optimizer, net: nn.Module, loss: Mapping[str, nn.Parameter]
) -> None:
    """Raise an error if the optimizer belongs to another net or lacks parameters of the loss.

    Args:
        optimizer: The optimizer.
        net: The net.
        loss: The parameters of the loss, by name.

    Raises:
        ValueError: The optimizer holds parameters of neither the net nor the loss, or lacks
            trainable parameters of the loss.
    """
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
    held_ids = {id(parameter) for parameter in held}
    missing = [name for name, p in loss.items() if p.requires_grad and id(p) not in held_ids]
    if missing:
        listed = ", ".join(missing[:3])
        message = (
            f"{optimizer_name} lacks {len(missing)} parameters of the loss ({listed}), which would "
            f"never be trained; build it from both, {optimizer_name}([*net.parameters(), "
            "*loss_fn.parameters()]), or freeze them: loss_fn.requires_grad_(False)"
        )
        raise ValueError(message)


def check_sample_weight(weight: object, *, by_output: bool) -> None:
    """Raise an error if sample weights have a form that no loss takes.

    Args:
        weight: One tensor, or one tensor for each output of the net, or None.
        by_output: Whether each output of the net has its own loss.

    Raises:
        DataError: The weights are not one tensor per loss, or not one number per sample.
    """
    is_tree = weight is not None and not isinstance(weight, Tensor)
    if is_tree and not by_output:
        message = f"sample_weight is {describe(weight)}; expected one tensor for the one loss"
        raise DataError(message)
    for leaf in leaves(weight):
        if not leaf.dim() or leaf.numel() != leaf.shape[0]:
            message = (
                f"sample_weight has shape {tuple(leaf.shape)}; expected one weight per sample, of "
                "shape (N,) or (N, 1)"
            )
            raise DataError(message)
        if len(leaf) > 2 and not leaf.is_floating_point() and len(leaf.unique()) == len(leaf):
            message = (
                f"sample_weight has {len(leaf)} different integers, as the numbers of samples; if "
                "they are weights, make them float, else remove the third part of (x, y, ...) or "
                "pass forward="
            )
            raise DataError(message)
        # This reads the first batch from a device, once per stage.
        if leaf.numel() and not bool((leaf >= 0).all()):
            worst = leaf.min().item()
            message = f"sample_weight has the value {worst}; expected weights >= 0"
            raise DataError(message)


@contextmanager
def batch_norm_guarded(net: nn.Module, smallest_batch: int | None) -> Iterator[None]:
    """Check on the first batch whether BatchNorm will be able to train on the smallest batch.

    BatchNorm in training needs more than one value per channel. A batch of one sample has that only
    if the layer receives (1, C, L, ...) with L > 1.

    Raises:
        DataError: The smallest batch has one sample, and a BatchNorm receives one value per
            channel.
    """

    def check(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        # A batch norm that is frozen in eval mode uses its running statistics.
        if layer.training and isinstance(x, Tensor) and x[0].numel() == x.shape[1]:
            raise DataError(_BATCH_NORM)

    # The hooks cost time in each call, so they exist only if the last batch has one sample.
    layers = [m for m in net.modules() if isinstance(m, BatchNorm)] if smallest_batch == 1 else []
    hooks = [layer.register_forward_pre_hook(check) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
