"""Readers of torchdata: its StatefulDataLoader, and the Loader of its nodes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_RESTARTS = "restart_on_stop_iteration"  # an argument and public attribute of torchdata's Loader


def stateful_loader_class(kind: type[Any]) -> type[Any] | None:
    """Return torchdata's StatefulDataLoader if a class is it or a subclass of it, else None."""
    return _base(kind, "StatefulDataLoader")


def has_loaded(loader: object) -> bool:
    """Return whether a StatefulDataLoader was given a state, or asked for one, before its pass."""
    asked = getattr(loader, "_initial_iter_for_state_dict", False)
    return bool(asked) or getattr(loader, "next_iter_state", None) is not None


def is_node_loader(thing: object) -> bool:
    """Return whether an object is the Loader of torchdata's nodes."""
    return _base(type(thing), "Loader") is not None


@contextmanager
def stays_ended(loader: object) -> Iterator[None]:
    """Let a Loader of nodes that gets the state of its end stay there, instead of starting again.

    Other objects are not changed.
    """
    if not (is_node_loader(loader) and getattr(loader, _RESTARTS, False)):
        yield
        return
    setattr(loader, _RESTARTS, False)
    try:
        yield
    finally:
        setattr(loader, _RESTARTS, True)


def _base(kind: type[Any], name: str) -> type[Any] | None:
    bases = (base for base in kind.__mro__ if base.__module__.partition(".")[0] == "torchdata")
    return next((base for base in bases if base.__name__ == name), None)


def missing() -> list[str]:
    """Return the names above that the installed torchdata does not have."""
    from torchdata.nodes import IterableWrapper, Loader
    from torchdata.stateful_dataloader import StatefulDataLoader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about what torchdata calls
        numbers: Any = [0]
        nodes, loader = Loader(IterableWrapper(numbers)), StatefulDataLoader(numbers)
    names = {_RESTARTS: nodes, "next_iter_state": loader, "_initial_iter_for_state_dict": loader}
    found = stateful_loader_class(StatefulDataLoader) and is_node_loader(nodes)
    classes = [] if found else ["StatefulDataLoader", "Loader"]
    return classes + [name for name, owner in names.items() if not hasattr(owner, name)]
