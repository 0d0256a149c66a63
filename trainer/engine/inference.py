"""Inference: modules in eval mode, without gradients unless the net computes some itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fitorch.distributed.fsdp import release_gathered
from fitorch.nets.modes import modes_restored
from fitorch.randomness import random_state, set_random_state

from .diagnostics import lacks_gradients
from .stage import Step


@contextmanager
def inference(*modules: nn.Module) -> Iterator[None]:
    """Run modules in eval mode and without gradients; restore their modes."""
    with modes_restored(*modules), torch.no_grad():
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for module in modules:
                # FSDP2 frees gathered weights in the backward pass, which inference does not have.
                release_gathered(module)


class GradientsOnDemand:
    """A step that enables gradients if its first batch shows that the net differentiates.

    Nets that return forces, or solve differential equations, call `torch.autograd.grad` in their
    forward pass. The first batch runs without gradients; if it fails because there are none, it
    runs again with them, from the same state of the random generators, and so do all later ones.

    Args:
        step: The step for a batch.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self.logs, self.user_batch = step.logs, step.user_batch
        self._run: Callable[[Any], None] = self._first

    def __call__(self, batch: Any) -> None:
        """Process a batch."""
        self._run(batch)

    @property
    def done(self) -> bool:
        """Whether the stage should end before its batches do."""
        return self._step.done

    def _first(self, batch: Any) -> None:
        state = random_state()
        try:
            self._step(batch)
        except RuntimeError as error:
            if not lacks_gradients(error):
                raise
            set_random_state(state)
            self._with_gradients(batch)
            self._run = self._with_gradients
        else:
            self._run = self._step

    def _with_gradients(self, batch: Any) -> None:
        with torch.enable_grad():
            self._step(batch)
