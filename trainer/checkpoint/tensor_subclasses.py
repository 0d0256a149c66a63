"""Subclasses of Tensor that consist of plain tensors, as quantized states of optimizers."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

_PROTOCOL = ("__tensor_flatten__", "__tensor_unflatten__")


def is_flattened(kind: type[Any]) -> bool:
    """Return whether a class is a subclass of Tensor with torch's protocol for its parts.

    Sharded tensors are left out: they are saved by shards.
    """
    if not issubclass(kind, Tensor) or issubclass(kind, DTensor):
        return False
    return all(callable(getattr(kind, name, None)) for name in _PROTOCOL)


def class_name(kind: type[Any]) -> str:
    """Return the name by which `loaded_subclass` finds a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


def loaded_subclass(name: str) -> type[Any]:
    """Return a class that this process has loaded already; nothing is imported.

    A file may contain any name. So only what a script has imported itself counts, and of that only
    subclasses of Tensor with torch's protocol.

    Raises:
        LookupError: There is no such class.
    """
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not is_flattened(found):
        message = f"{name} is not loaded; import the library of this tensor before resuming"
        raise LookupError(message)
    return found
