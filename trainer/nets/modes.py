"""Train and eval modes of a net's modules, and their restoration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Modes:
    """The modes of all modules of some nets, for their restoration."""

    def __init__(self, *nets: nn.Module) -> None:
        self._modes = [(module, module.training) for net in nets for module in net.modules()]

    def restore(self) -> None:
        """Restore the mode of every module."""
        for module, training in self._modes:
            # The attribute is set itself, because `train()` would set all modules inside, too.
            module.training = training


def training_modes(net: nn.Module) -> Modes:
    """Return the modes for training: train mode, except for modules frozen with `.eval()`.

    In a net in train mode, modules in eval mode are frozen on purpose and stay frozen. A net that
    is in eval mode itself was last used for inference, and all its modules train.
    """
    before = Modes(net)
    if not net.training:
        # This shows which modes it sets; `before.restore` undoes it.
        net.train()
    modes = Modes(net)
    before.restore()
    return modes


@contextmanager
def modes_restored(*nets: nn.Module) -> Iterator[None]:
    """Restore the current modes of all modules at the end of the context."""
    modes = Modes(*nets)
    try:
        yield
    finally:
        modes.restore()
