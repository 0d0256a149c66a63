"""Train and eval modes of a net's modules, set by the methods that the net defines.

A net may override `train` and `eval`: to keep the statistics of a pretrained body, or to merge an
adapter into the weights. Modes are therefore changed by calling these methods, never by assigning
`training`, which such a net would not notice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Modes:
    """The modes of all modules of some nets, for their restoration."""

    def __init__(self, *nets: nn.Module) -> None:
        # A parent comes before its children, whose modes its own `train` sets too.
        self._modes = [(module, module.training) for net in nets for module in net.modules()]

    def restore(self) -> None:
        """Restore the mode of every module."""
        for module, training in self._modes:
            if module.training != training:
                module.train(training)


class TrainingModes:
    """The modes of a net in training: train mode, except for modules frozen with `.eval()`.

    In a net in train mode, modules in eval mode are frozen on purpose and stay frozen. A net that
    is in eval mode itself was last used for inference, and all its modules train.

    Args:
        net: The net, in the modes before training.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._frozen: list[nn.Module] = []
        self._find_frozen()

    def apply(self) -> None:
        """Call `net.train()`, as a loop does before an epoch; frozen modules stay in eval mode."""
        self._find_frozen()
        modules = list(self._net.modules())
        before = {module for module in modules if module.training}
        self._net.train()
        trained = [module for module in modules if module.training and module in before]
        for module in self._frozen:
            if module.training:
                module.eval()
        for module in trained:  # a part of a frozen module that trains nevertheless
            if not module.training:
                module.train()

    def _find_frozen(self) -> None:
        """Find the frozen modules again, since a callback may have frozen others.

        Without effect if the whole net is in eval mode, where no module stands out.
        """
        if self._net.training:
            self._frozen = [module for module in self._net.modules() if not module.training]


@contextmanager
def modes_restored(*nets: nn.Module) -> Iterator[None]:
    """Restore the current modes of all modules at the end of the context."""
    modes = Modes(*nets)
    try:
        yield
    finally:
        modes.restore()
