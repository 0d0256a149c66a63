"""The train and eval modes of a net's modules, each as the user set it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Modes:
    """The modes of all modules of nets, to be put back later."""

    def __init__(self, *nets: nn.Module) -> None:
        self._modes = [(module, module.training) for net in nets for module in net.modules()]

    def restore(self) -> None:
        """Put every module back into its mode."""
        for module, training in self._modes:
            module.training = training


def training_modes(net: nn.Module) -> Modes:
    """Return the modes to train in: all train, but for what a user froze with `.eval()`.

    A part in eval mode of a net in train mode was frozen on purpose and stays so; a net that is in
    eval mode as a whole was last used for inference, and trains in full.
    """
    before = Modes(net)
    if not net.training:
        net.train()
    modes = Modes(net)
    before.restore()
    return modes


@contextmanager
def modes_restored(*nets: nn.Module) -> Iterator[None]:
    """Put all modules back into the modes they are in now."""
    modes = Modes(*nets)
    try:
        yield
    finally:
        modes.restore()
