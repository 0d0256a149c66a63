"""Subclasses of Tensor that consist of plain tensors, as quantized states of optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor


def is_flattened(kind: type[Any]) -> bool:
    """Return whether a class is a subclass of Tensor with torch's protocol for its parts.

    Sharded tensors are left out: they are saved by shards.
    """
    if not issubclass(kind, Tensor) or issubclass(kind, DTensor):
        return False
    return hasattr(kind, "__tensor_flatten__") and hasattr(kind, "__tensor_unflatten__")


def flattened(tensor: Any) -> tuple[dict[str, Any], Any]:
    """Return the parts of such a tensor by name, and what else it takes to make it again."""
    names, context = tensor.__tensor_flatten__()
    return {name: attrgetter(name)(tensor) for name in names}, context


def class_name(kind: type[Any]) -> str:
    """Return the name by which `loaded_subclass` finds a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


def loaded_subclass(name: str) -> type[Any]:
    """Return the class of a name, one of the subclasses of Tensor that this process has loaded.

    A file may contain any name, so nothing is imported and no attribute is looked up by it.

    Raises:
        LookupError: There is no such class.
    """
    known = {class_name(kind): kind for kind in _subclasses(Tensor) if is_flattened(kind)}
    if name not in known:
        message = f"{name} is not loaded; import the library of this tensor before resuming"
        raise LookupError(message)
    return known[name]


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
