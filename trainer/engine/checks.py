"""Checks before the first update, so that errors surface immediately."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
