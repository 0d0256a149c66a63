"""Notice the steps of optimizers that somebody else makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer


@contextmanager
def noted_steps(optimizers: Iterable[Optimizer], note: Callable[[], Any]) -> Iterator[None]:
    """Call a function before each step of some optimizers; it may raise an error."""

    def hook(*_: Any) -> None:
        note()

    hooks = [optimizer.register_step_pre_hook(hook) for optimizer in optimizers]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
