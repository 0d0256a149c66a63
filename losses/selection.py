"""Selection of parameters by name, and of weights as opposed to biases and normalization."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from fitorch.internals.torch import NormBase
from fitorch.nets.state import plain_name

_NORMS = (NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_NAMED_NORM = re.compile(r"Norm(\dd)?$")  # of other libraries: LlamaRMSNorm, LayerNorm2d

_BIAS = re.compile(r"(^|_)bias(es)?\d*(_|$)")  # bias, bias_ih_l0 of an LSTM, in_proj_bias, bias1


def no_decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups for an optimizer: weights with decay, the rest without.

    The rest are biases and the parameters of normalization layers. Every parameter is in exactly
    one group; shared parameters occur once.

    Args:
        net: The net.
        weight_decay: The weight decay of the first group; the second has 0.

    Raises:
        ValueError: `weight_decay` is negative.

    Example:
        >>> import torch
        >>> from fitorch.losses import no_decay_groups
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
        >>> groups = no_decay_groups(net, weight_decay=0.01)
        >>> [len(group["params"]) for group in groups]
        [1, 3]
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
    """
    if not weight_decay >= 0:
        message = f"weight_decay must be 0 or more, got {weight_decay!r}"
        raise ValueError(message)
    decayed, rest = list[nn.Parameter](), list[nn.Parameter]()
    # Frozen parameters are included: a callback may unfreeze them.
    for _, parameter, is_weight in _parameters(net):
        (decayed if is_weight else rest).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def select_parameters(
    net: nn.Module, include: Any = None, exclude: Any = None
) -> list[nn.Parameter]:
    """Return the trainable parameters to penalize, each once.

    Args:
        net: The net.
        include: Patterns or a predicate; None selects all weights.
        exclude: Patterns or a predicate; None excludes nothing.
    """
    included = None if include is None else predicate(include, "include")
    excluded = None if exclude is None else predicate(exclude, "exclude")
    return [
        parameter
        for name, parameter, is_weight in _parameters(net)
        if parameter.requires_grad
        and (is_weight if included is None else included(name, parameter))
        and not (excluded and excluded(name, parameter))
    ]


def nothing_to_penalize(penalty: str, net: nn.Module) -> str:
    """Return the error message for a penalty that does not match any parameter of a net."""
    names = [plain_name(name) for name, p in net.named_parameters() if p.requires_grad]
    listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return (
        f"{penalty} finds no parameter to penalize in {type(net).__name__}, whose trainable "
        f"parameters are {listed or 'none'}; biases and normalization are left out unless "
        "include= matches their names, as include='*' does"
    )


def _parameters(net: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Yield every parameter once: its name, the parameter, and whether it is a weight."""
    seen: set[int] = set()
    for path, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            # A shared parameter has the name of its first place.
            if id(parameter) not in seen:
                seen.add(id(parameter))
                full_name = f"{path}.{name}" if path else name
                yield plain_name(full_name), parameter, _is_weight(module, path, name)


def _is_weight(module: nn.Module, path: str, name: str) -> bool:
    if isinstance(module, _NORMS) or _NAMED_NORM.search(type(module).__name__):
        return False
    if isinstance(module, (ParametrizationList, nn.ParameterList)):  # named by their path
        name = path.rpartition(".")[2]
    return not _BIAS.search(name)


def predicate(selection: Any, argument: str) -> Callable[[str, nn.Parameter], bool]:
    """Return a function of name and parameter that returns whether the parameter is selected.

    Args:
        selection: A name of a parameter or module, a glob pattern, a list of these, or a predicate.
        argument: The name of the argument, for messages.

    Raises:
        TypeError: `selection` is none of these.
    """
    if callable(selection):
        return selection  # type: ignore[no-any-return]
    patterns = [selection] if isinstance(selection, str) else selection
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
        message = (
            f"{argument} is {selection!r}; expected a pattern such as 'encoder.*', a list of "
            "them, or a predicate (name, parameter) -> bool"
        )
        raise TypeError(message)

    def matches(name: str, _parameter: nn.Parameter) -> bool:
        # The name of a module stands for all parameters in it.
        return any(fnmatchcase(name, p) or name.startswith(f"{p}.") for p in patterns)

    return matches
