"""Parameters that a net gets after its optimizer was built, as those of an added layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import nn, optim


class NewParameters:
    """Gives an optimizer the parameters that its net did not have when it was built.

    Parameters that the net had, and that the optimizer does not train, stay out: whoever trains
    only the head of a net does so on purpose.

    Args:
        optimizer: The optimizer, None if there is nothing to train.
        net: Its net.
        built: Whether fitorch built the optimizer, and may change it. An instance of the user's
            stays as it is, and a warning counts what it lacks.
    """

    def __init__(self, optimizer: optim.Optimizer | None, net: nn.Module, *, built: bool) -> None:
        self._built = built
        self._reported: set[str] = set()
        # Names, because sharding replaces the parameters.
        self._left_out = set() if optimizer is None else {n for n, _ in _missing(optimizer, net)}

    def add(
        self, optimizer: optim.Optimizer | None, net: nn.Module, loss: Iterable[nn.Parameter]
    ) -> None:
        """Let the optimizer train the net's new parameters, or warn that it does not.

        Args:
            optimizer: The optimizer.
            net: The net as it is now.
            loss: The parameters of the loss.
        """
        if optimizer is None:
            return
        new = [(name, p) for name, p in _missing(optimizer, net) if name not in self._left_out]
        if self._built and new:
            _train(optimizer, [parameter for _, parameter in new], [*net.parameters(), *loss])
            what = f"{type(optimizer).__name__} trains them from now on"
        else:
            new = [(name, parameter) for name, parameter in new if parameter.requires_grad]
            what = (
                f"{type(optimizer).__name__} does not train them: add them with "
                "optimizer.add_param_group, or make a new KerasModel"
            )
        self._reported.update(name for name, _ in new)
        if new:
            listed = ", ".join(name for name, _ in new[:3]) + (", ..." if len(new) > 3 else "")
            warnings.warn(f"the net has {len(new)} new parameters ({listed}); {what}", stacklevel=2)

    def report(self, optimizer: optim.Optimizer | None, net: nn.Module) -> None:
        """Warn about new parameters that a running fit does not train, once for each of them."""
        if optimizer is None:
            return
        known = self._left_out | self._reported
        new = [n for n, p in _missing(optimizer, net) if n not in known and p.requires_grad]
        if not new:
            return
        self._reported.update(new)
        listed = ", ".join(new[:3]) + (", ..." if len(new) > 3 else "")
        warnings.warn(
            f"the net got {len(new)} new parameters ({listed}) within a fit, which does not train "
            "them; change the net between two fits",
            stacklevel=2,
        )


def _missing(optimizer: optim.Optimizer, net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [(name, p) for name, p in net.named_parameters() if id(p) not in held]


def _train(optimizer: optim.Optimizer, new: list[nn.Parameter], known: list[nn.Parameter]) -> None:
    """Add parameters to an optimizer, and remove those that neither net nor loss has any more."""
    groups, ids = optimizer.param_groups, {id(parameter) for parameter in known}
    for group in groups:
        for parameter in group["params"]:
            if id(parameter) not in ids:
                optimizer.state.pop(parameter, None)
        group["params"] = [parameter for parameter in group["params"] if id(parameter) in ids]
    if len(groups) > 1:
        optimizer.add_param_group({"params": new})
        return
    # A schedule has a rate for each group, so the number of groups stays. The order is that of an
    # optimizer that is built now, so that a checkpoint fits both.
    held = {id(parameter) for parameter in (*groups[0]["params"], *new)}
    groups[0]["params"] = [parameter for parameter in known if id(parameter) in held]
