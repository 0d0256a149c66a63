"""How a net is called with the features of a batch: `net(x)`, `net(*x)` or `net(**x)`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fitorch.internals.torch import original_module
from fitorch.signatures import parameters_of
from fitorch.tree import sample_count

Call = Callable[[Any], Any]


def choose_call(
    net: Callable[..., Any], features: Any, module: Any = None, targets: Any = None
) -> Call:
    """Return a function that calls the net with features like these.

    A tuple or list holds the arguments of a net of several inputs, and a mapping its keyword
    arguments. If the signature of `forward` rules that out, the net gets the collection as its one
    argument, or without the keys that it does not take; a warning says so.

    Args:
        net: The net, or a function around it.
        features: The features of a batch.
        module: The module whose `forward` decides; None for the net itself.
        targets: The targets of the batch, if there are some: a list of as many tensors as samples,
            such as images of different sizes, is one argument.
    """
    module = net if module is None else module
    if isinstance(features, Mapping):
        return _call_with_mapping(net, features, module)
    # A PackedSequence is a tuple, but one thing.
    if isinstance(features, (tuple, list)) and not isinstance(features, PackedSequence):
        return _call_with_sequence(net, features, module, targets)
    return net


def _call_with_sequence(net: Callable[..., Any], features: Any, module: Any, targets: Any) -> Call:
    texts = bool(features) and all(isinstance(part, str) for part in features)
    samples = texts or _are_samples(features, targets)
    if (samples or not _binds(module, *features)) and _binds(module, features):
        _tell_whole(module, f"all {len(features)} entries of the features")
        return net
    if _may_be_samples(features, targets) and _binds(module, features):
        warnings.warn(
            f"each entry of the features is taken for an argument of {type(module).__name__}, but "
            "there are as many entries as targets; if each is a sample, pass "
            "forward=lambda net, batch: (net(batch[0]), batch[1]), and if not, a tuple of inputs",
            stacklevel=2,
        )
    return lambda x: net(*x)


def _are_samples(features: Any, targets: Any) -> bool:
    """Return whether the parts of the features are the samples themselves, not several inputs."""
    count = len(features)
    if hasattr(features, "_fields") or sample_count(targets, 0) != count:
        return False
    # Each input has the samples along dimension 0, or 1 in sequences (T, N, C).
    tensors = all(isinstance(part, Tensor) for part in features)
    return tensors and any(count not in part.shape[:2] for part in features)


def _may_be_samples(features: Any, targets: Any) -> bool:
    """Return whether a list has a tensor for each target, all of which are that many, too."""
    tensors = isinstance(features, list) and all(isinstance(part, Tensor) for part in features)
    return tensors and 0 < len(features) == sample_count(targets, 0)


def _call_with_mapping(net: Callable[..., Any], features: Mapping[str, Any], module: Any) -> Call:
    if _binds(module, **features):
        return lambda x: net(**x)
    parameters = parameters_of(_signed(module))
    taken = [name for name in features if name in parameters]
    if not taken and _binds(module, features):
        _tell_whole(module, f"the features {list(features)}")
        return net
    if not _binds(module, **{name: features[name] for name in taken}):
        return lambda x: net(**x)  # the error names what is missing
    dropped = [name for name in features if name not in parameters]
    warnings.warn(
        f"{type(module).__name__}.forward does not take {', '.join(map(str, dropped))}, which the "
        "batch contains; the net is called without",
        stacklevel=2,
    )
    return lambda x: net(**{name: value for name, value in x.items() if name in parameters})


def takes_argument(module: Any, name: str) -> bool:
    """Return whether `forward` takes an argument of this name, by itself or among `**kwargs`."""
    parameters = parameters_of(_signed(module))
    kinds = [parameter.kind for parameter in parameters.values()]
    return not parameters or name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def names_argument(module: Any, name: str) -> bool:
    """Return whether `forward` has a parameter of this name."""
    return name in parameters_of(_signed(module))


def _tell_whole(module: Any, what: str) -> None:
    warnings.warn(
        f"{type(module).__name__}.forward does not take the parts of the features as arguments; it "
        f"is called with {what} as one",
        stacklevel=2,
    )


def _binds(module: Any, *args: Any, **kwargs: Any) -> bool:
    """Return whether `forward` can be called like this; True if its signature is not known."""
    parameters = parameters_of(_signed(module))
    try:
        if parameters:
            inspect.Signature(list(parameters.values())).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _signed(module: Any) -> Any:
    """Return the module with the signature that its author wrote, of a compiled one too."""
    return original_module(module) or module
