"""Parameters of torch's distributions, and distributions of the same type from other parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch.distributions import Distribution

# Arguments of constructors that are stored under another name.
_STORED_AS = {"base_distribution": "base_dist"}

# Parameters that determine each other; constructors take one of them.
_EXCLUSIVE = (("logits", "probs"), ("scale_tril", "covariance_matrix", "precision_matrix"))


def parameters_of_distribution(distribution: Distribution) -> dict[str, Any]:
    """Return the arguments from which the class of a distribution makes the same one.

    Example:
        >>> import torch
        >>> parameters_of_distribution(torch.distributions.Normal(torch.zeros(2), 1.0))
        {'loc': tensor([0., 0.]), 'scale': tensor([1., 1.])}
    """
    names = list(inspect.signature(type(distribution)).parameters)
    for kept, *others in _EXCLUSIVE:
        names = [name for name in names if kept not in names or name not in others]
    stored = {name: _STORED_AS.get(name, name) for name in names if name != "validate_args"}
    return {
        name: getattr(distribution, attribute)
        for name, attribute in stored.items()
        if hasattr(distribution, attribute)
    }


def rebuild_distribution(like: Distribution, parameters: Mapping[str, Any]) -> Distribution:
    """Return a distribution of the type of `like` with other parameters.

    Raises:
        TypeError, ValueError: The class does not take these parameters.
    """
    return type(like)(**parameters, validate_args=False)
