"""Optimizers with modes, as schedule-free ones: weights to descend from, and weights to measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from .several import members_of


def to_training(optimizer: Optimizer | None) -> None:
    """Put the weights in place from which an optimizer descends: call `optimizer.train()`."""
    for method in _methods(optimizer, "train"):
        method()


def to_measuring(optimizer: Optimizer | None) -> None:
    """Put the weights in place that are measured and kept: call `optimizer.eval()`."""
    for method in _methods(optimizer, "eval"):
        method()


@contextmanager
def measuring_within_training(optimizer: Optimizer | None) -> Iterator[None]:
    """Put the weights in place that are measured; afterwards the weights of training, bit for bit.

    A change of the mode and back would round the weights.
    """
    if optimizer is None or not _methods(optimizer, "eval"):
        yield
        return
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [weight.detach().clone() for weight in weights]
    to_measuring(optimizer)
    try:
        yield
    finally:
        to_training(optimizer)
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)


def _methods(optimizer: Optimizer | None, name: str) -> list[Callable[[], Any]]:
    members = [] if optimizer is None else members_of(optimizer).values()
    methods = [getattr(member, name, None) for member in members]
    return [method for method in methods if callable(method)]
