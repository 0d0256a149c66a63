"""State of readers: which loaders and datasets hold their position in a pass, and how it loads."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fitorch.internals.datasets import has_shuffle_buffer
from fitorch.internals.torchdata import is_node_loader, stateful_loader_class, stays_ended
from fitorch.randomness import undisturbed_randomness

from .workers import attributes_of


def stateful(loader: object) -> Any:
    """Return the loader or dataset that has its position in a pass as state, or None.

    With worker processes, the dataset in this process does not have the position: they read copies.
    The state of torchdata's StatefulDataLoader holds neither the random numbers of its workers nor
    what the state of its dataset lacks.
    """
    dataset = getattr(loader, "dataset", None) if not getattr(loader, "num_workers", 0) else None
    if stateful_loader_class(type(loader)) and not has_state(dataset):
        return None
    return next(filter(has_state, (loader, dataset)), None)


def has_state(thing: object) -> bool:
    """Return whether an object has `load_state_dict`, and a `state_dict` without arguments.

    One that needs arguments, as those of litdata and mosaicml-streaming, belongs to their loaders.
    A shuffle buffer is not part of the state of a stream of Hugging Face: it is read again.
    """
    methods = [getattr(thing, name, None) for name in ("state_dict", "load_state_dict")]
    if not all(map(callable, methods)) or has_shuffle_buffer(thing):
        return False
    if is_node_loader(thing) and any(has_shuffle_buffer(part) for part, _ in attributes_of(thing)):
        return False
    try:
        inspect.signature(methods[0]).bind()  # type: ignore[arg-type]
    except TypeError:
        return False
    except ValueError:  # a method without a signature
        return True
    return True


def load_reader(reader: Any, state: Any) -> None:
    """Load the state of a reader between two passes.

    A Loader of torchdata's nodes begins a pass at its next iterator if the state is that of its
    end, after its samplers were iterated for the state. It is brought to its end here, so that they
    draw for the new pass alone.
    """
    reader.load_state_dict(state)
    if not is_node_loader(reader):
        return
    with undisturbed_randomness(), stays_ended(reader):
        if list(islice(reader, 1)):
            reader.load_state_dict(state)  # of the beginning of a pass, not of its end


def same_state(first: Any, second: Any) -> bool:
    """Return whether two states are equal."""
    if type(first) is not type(second):
        return False
    if isinstance(first, Mapping):
        keys = first.keys() == second.keys()
        return keys and all(same_state(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same_state, first, second))
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    same = first == second
    return bool(same if isinstance(same, bool) else getattr(same, "all", lambda: False)())
