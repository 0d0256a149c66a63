"""Optimizers from what users pass: instances, a factory or a name; fused if possible."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from torch import nn, optim

from fitorch.devices.capabilities import has_fused_optimizers

from .muon import muon_with_adamw
from .several import Optimizers, named

OptimizerLike = (
    optim.Optimizer
    | Callable[[list[nn.Parameter]], Any]
    | Sequence[optim.Optimizer]
    | Mapping[str, optim.Optimizer]
    | str
    | None
)

# The classes of torch.optim by name; "muon" is a recipe, since Muon takes no biases.
OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in sorted(vars(optim).items())
    if isinstance(kind, type)
    and issubclass(kind, optim.Optimizer)
    and name not in ("Optimizer", "Muon")
}
_MUON = "muon"


def make_optimizer(
    optimizer: OptimizerLike, net: nn.Module, extra: Iterable[nn.Parameter] = ()
) -> optim.Optimizer | None:
    """Return an optimizer, None if there are no parameters to optimize.

    Args:
        optimizer: An instance, which is returned as it is; several in a list or by name, each with
            parameters of its own; a factory from parameters to one of these; a name of torch.optim
            in any case, with torch's defaults; "muon" for `muon_with_adamw`; or None for
            `Adam(lr=3e-4)`.
        net: The net whose parameters to optimize.
        extra: Further parameters, those of the loss.

    Raises:
        ValueError: The name is unknown, or several optimizers are not told apart.
        TypeError: `optimizer` is none of these.
    """
    if isinstance(optimizer, optim.Optimizer):
        return optimizer
    # Frozen parameters are included: a callback may unfreeze them later.
    parameters = [*net.parameters(), *extra]
    if not parameters:
        return None
    if isinstance(optimizer, str) and optimizer.lower() == _MUON:
        return _combined(muon_with_adamw(net, extra), optimizer)
    if optimizer is None or isinstance(optimizer, str):
        optimizer_type = optim.Adam if optimizer is None else optimizer_named(optimizer)
        options: dict[str, Any] = {"lr": 3e-4} if optimizer is None else {}
        # The fused variant updates all parameters by one kernel.
        if can_fuse(optimizer_type, net, parameters):
            options["fused"] = True
        return optimizer_type(parameters, **options)
    factory: Any = optimizer
    # Objects that are not callable lead to the error of `_combined`, which names them.
    return _combined(factory(parameters) if callable(factory) else factory, optimizer)


def _combined(result: Any, given: Any) -> optim.Optimizer:
    """Return one optimizer, or several as one."""
    if isinstance(result, optim.Optimizer):
        return result
    members: Any = result
    if isinstance(members, (list, tuple)) and all(isinstance(m, optim.Optimizer) for m in members):
        if len(members) == 1:
            return cast("optim.Optimizer", members[0])
        members = named(members)
    # The names become those of columns.
    fits = isinstance(members, Mapping) and all(
        isinstance(name, str) and name.isidentifier() and isinstance(member, optim.Optimizer)
        for name, member in members.items()
    )
    if not fits or not members:
        message = (
            f"optimizer is {given!r}; expected a torch.optim.Optimizer, several in a list or a "
            "dict by name, a function from parameters to one, a name such as 'adamw', or None"
        )
        raise TypeError(message)
    return Optimizers(cast("Mapping[str, optim.Optimizer]", members))


def can_fuse(
    optimizer_type: type[optim.Optimizer], net: nn.Module, parameters: list[nn.Parameter]
) -> bool:
    """Return whether an optimizer has a fused variant that can update all of `parameters`."""
    if "fused" not in inspect.signature(optimizer_type).parameters or not parameters:
        return False
    if any(getattr(module, "sparse", False) is True for module in net.modules()):
        return False  # fused variants do not support the sparse gradients of embeddings
    return all(
        parameter.is_floating_point()
        and has_fused_optimizers(parameter.device)
        # Lazy parameters get their size with the first batch.
        and not isinstance(parameter, nn.parameter.UninitializedParameter)
        for parameter in parameters
    )


def settle_fused(optimizer: optim.Optimizer) -> None:
    """Let an optimizer update parameters one by one if their device has no fused kernels.

    An optimizer is built before its net is placed: on the CPU, which has them.
    """
    for group in optimizer.param_groups:
        if group.get("fused") and not all(has_fused_optimizers(p.device) for p in group["params"]):
            group["fused"] = False


def optimizer_named(name: str) -> type[optim.Optimizer]:
    """Return the optimizer class of a name, such as "adamw", in any case.

    Raises:
        ValueError: The name is unknown, or that of several optimizers.
    """
    if name.lower() in OPTIMIZERS:
        return OPTIMIZERS[name.lower()]
    if name.lower() == _MUON:
        message = (
            "optimizer='muon' is two optimizers, Muon and AdamW, and takes no options; pass a "
            "function from parameters to a list of both"
        )
        raise ValueError(message)
    known = sorted([*OPTIMIZERS, _MUON])
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    message = f"unknown optimizer {name!r}{hint}; expected one of {', '.join(known)}"
    raise ValueError(message)
