"""What a user's loss is a mean over, found by computing it for two parts of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fitorch.devices.accelerators import HOST
from fitorch.nets.state import buffers_restored
from fitorch.randomness import undisturbed_randomness

SUM = "sum"

_TOLERANCE = 1e-3  # relative; explanations that differ by less are not told apart


@torch.no_grad()
def explain_mean(
    loss: Callable[[Any, Any], Any], y_pred: Any, y_true: Any, counts: Mapping[str, Tensor | None]
) -> str | None:
    """Return which explanation makes the loss of a batch from those of two parts of it.

    The loss of the batch is `sum(count * loss) / sum(count)` over the parts if it is a mean over
    what is counted, and the sum of their losses if it is a sum. The generators are left alone.

    Args:
        loss: Maps `(y_pred, y_true)` to the loss of a batch.
        y_pred: Predictions of shape (N, ...).
        y_true: Targets of shape (N, ...).
        counts: By the name of an explanation, what each sample counts, of shape (N,); None for a
            sum.

    Returns:
        The name; None if the loss cannot be computed for parts, or if none explains it.
    """
    samples = len(y_true)
    if samples < 2 or not isinstance(y_pred, Tensor) or len(y_pred) != samples:
        return None
    # Samples that count much and samples that count little, so that explanations differ.
    # The counts are compared on the CPU; their indices select from tensors on any device.
    counts = {name: None if count is None else count.cpu() for name, count in counts.items()}
    counted = next(
        (count for count in counts.values() if count is not None), torch.ones(samples, device=HOST)
    )
    order = counted.argsort()
    halves = order[: samples // 2], order[samples // 2 :]
    try:
        with undisturbed_call(loss):
            whole, *parts = (float(loss(y_pred[at], y_true[at])) for at in (order, *halves))
    except Exception:  # a loss that takes whole batches only is not explained by parts
        return None
    errors = {name: abs(_combined(parts, count, halves) - whole) for name, count in counts.items()}
    finite = {name: error for name, error in errors.items() if error <= _TOLERANCE * abs(whole)}
    return min(finite, key=finite.__getitem__, default=None)


@contextmanager
def undisturbed_call(loss: Any) -> Iterator[None]:
    """Restore the random generators, and the buffers of a loss, at the end of the context.

    A look at a loss must leave no trace: it may draw numbers, and keep running means.
    """
    function = loss.args[0] if isinstance(loss, partial) and loss.args else loss
    modules = [function] if isinstance(function, nn.Module) else []
    with undisturbed_randomness(), buffers_restored(*modules):
        yield


def _combined(losses: list[float], count: Tensor | None, halves: tuple[Tensor, Tensor]) -> float:
    """Return the loss of a batch as its parts explain it."""
    if count is None:
        return sum(losses)
    shares = [float(count[at].sum()) for at in halves]
    # The mean over nothing is NaN, and weighs nothing.
    weighed = [value * share for value, share in zip(losses, shares, strict=True) if share]
    return sum(weighed) / (sum(shares) or math.nan)
