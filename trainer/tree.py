"""Trees of tensors: nested tuples, lists, mappings, dataclasses and distributions."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.distributions import Distribution
from torch.nn.parameter import is_lazy

# Arguments of constructors that are stored under another name.
_STORED_AS = {"base_distribution": "base_dist"}

# Parameters that determine each other; constructors take one of them.
_EXCLUSIVE = (("logits", "probs"), ("scale_tril", "covariance_matrix", "precision_matrix"))


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Return `tree` with `function` applied to every tensor; other leaves stay as they are."""
    return map_leaves(function, tree, Tensor)


def map_leaves(function: Callable[[Any], Any], tree: Any, types: Any) -> Any:
    """Return `tree` with `function` applied to every leaf of some types, as tensors or arrays."""
    if isinstance(tree, types):
        return function(tree)
    if isinstance(tree, Mapping):
        mapped = {key: map_leaves(function, value, types) for key, value in tree.items()}
        return mapped if type(tree) is dict else rebuild_mapping(tree, mapped)
    if isinstance(tree, (tuple, list)):
        return rebuild_sequence(tree, [map_leaves(function, value, types) for value in tree])
    if is_record(tree):
        return rebuild_record(tree, map_leaves(function, fields_of(tree), types))
    if isinstance(tree, Distribution):
        parameters = map_leaves(function, parameters_of_distribution(tree), types)
        with suppress(TypeError, ValueError):  # a class of the user's with other arguments
            return rebuild_distribution(tree, parameters)
    return tree


def join(function: Callable[[list[Tensor]], Any], trees: list[Any]) -> Any:
    """Return a tree with `function` applied to the tensors at each position of `trees`.

    The trees have the same structure.
    """
    first = trees[0]
    if isinstance(first, Tensor):
        return function(trees)
    if isinstance(first, Mapping):
        joined = {key: join(function, [tree[key] for tree in trees]) for key in first}
        return joined if type(first) is dict else rebuild_mapping(first, joined)
    if isinstance(first, (tuple, list)):
        parts = [join(function, list(leaves)) for leaves in zip(*trees, strict=True)]
        return rebuild_sequence(first, parts)
    if is_record(first):
        return rebuild_record(first, join(function, [fields_of(tree) for tree in trees]))
    return first


def leaves(tree: object) -> Iterator[Tensor]:
    """Yield the tensors of `tree`, depth first."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from leaves(value)
    elif is_record(tree):
        yield from leaves(fields_of(tree))


def sample_count(tree: object, default: int | None = None) -> int:
    """Return the length of the first dimension of the first tensor of `tree` that has one.

    Args:
        tree: A batch, or features.
        default: The result if no tensor has a dimension, None to raise an error.

    Raises:
        ValueError: No tensor has a dimension, and there is no default.
    """
    # The first one stands for all: features come first, and have one entry per sample.
    for leaf in leaves(tree):
        if leaf.dim():
            return leaf.size(0)  # nested tensors do not have a shape
    if default is not None:
        return default
    message = f"no tensor with a batch dimension in {describe(tree)}"
    raise ValueError(message)


def byte_count(tree: object) -> int:
    """Return the bytes of all tensors of `tree`; tensors of lazy layers have none yet."""
    return sum(x.numel() * x.element_size() for x in leaves(tree) if not is_lazy(x))


def describe(tree: object) -> str:
    """Return types and shapes of `tree` on one line, as `(float32 (32, 2), int64 (32,))`."""
    if isinstance(tree, Tensor):
        sizes = f"nested ({tree.size(0)}, ...)" if tree.is_nested else f"{tuple(tree.shape)}"
        return f"{str(tree.dtype).removeprefix('torch.')} {sizes}"
    if isinstance(tree, Mapping):
        inner = ", ".join(f"{key!r}: {describe(value)}" for key, value in tree.items())
        return f"{{{inner}}}"
    if isinstance(tree, (tuple, list)):
        inner = ", ".join([*map(describe, tree[:8]), *(["..."] if len(tree) > 8 else [])])
        return f"[{inner}]" if isinstance(tree, list) else f"({inner})"
    if is_record(tree):
        return f"{type(tree).__name__} {describe(fields_of(tree))}"
    return type(tree).__name__


def rebuild_sequence(like: Any, values: list[Any]) -> Any:
    """Return `values` in the type of `like`: a list, a tuple or a named tuple."""
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)


def rebuild_mapping(like: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """Return `values` in the type of `like`, as a plain dict if its constructor differs."""
    try:
        return type(like)(values)  # type: ignore[call-arg]
    except TypeError:
        return values


def is_record(tree: Any) -> bool:
    """Return whether `tree` is an instance of a dataclass, as some nets return."""
    return is_dataclass(tree) and not isinstance(tree, type)


def fields_of(record: Any) -> dict[str, Any]:
    """Return the fields of an instance of a dataclass by name."""
    names = (field.name for field in fields(record))
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


def rebuild_record(like: Any, values: dict[str, Any]) -> Any:
    """Return a copy of `like` with these values."""
    # The constructor may compute or check other things, so it is not called.
    record = copy.copy(like)
    for name, value in values.items():
        object.__setattr__(record, name, value)  # the dataclass may be frozen
    return record


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
