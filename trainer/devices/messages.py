"""Pickled values: tensors travel through the host's memory, whatever device they come from."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from .accelerators import HOST, is_host
from .copies import to_host


def packed(value: object) -> bytes:
    """Pickle a value, including classes and functions of a notebook.

    Tensors on devices are copied to the host, which waits once for all of them. torch's own pickles
    name the device of the sender: the receiver has another one, or none of that name.
    """
    first = _Pickler({})
    data = first.pickled(value)
    if not first.found:
        return data
    tensors = list(first.found.values())
    copies = to_host([tensor.detach() for tensor in tensors])
    # The copies are known now, and a second pass writes them.
    return _Pickler(dict(zip(map(id, tensors), copies, strict=True))).pickled(value)


def unpacked(data: bytes, device: torch.device = HOST) -> Any:
    """Return the value that `packed` was called with.

    Args:
        data: The pickled value.
        device: Where to put the tensors that were on a device; those that were in the host's memory
            remain there.
    """
    return _Unpickler(data, device).load()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc] # untyped
    """Pickles tensors on devices as their copies in the host's memory.

    Args:
        copies: The copies by the ids of the tensors.

    Attributes:
        found: The tensors without a copy by their ids; these are written without their data.
    """

    def __init__(self, copies: dict[int, Tensor]) -> None:
        self._file = io.BytesIO()
        super().__init__(self._file)
        self._copies = copies
        self.found: dict[int, Tensor] = {}

    def pickled(self, value: object) -> bytes:
        """Return the pickled value."""
        self.dump(value)
        return self._file.getvalue()

    def reducer_override(self, obj: Any) -> Any:
        """Return how to restore a tensor on a device; other objects are pickled as ever."""
        if not isinstance(obj, Tensor) or is_host(obj):
            return super().reducer_override(obj)
        copy = self._copies.get(id(obj))
        if copy is None and not self._copies:
            self.found[id(obj)] = obj
            return _arrived, ()
        # An object that makes new tensors whenever it is pickled has them copied one by one.
        copy = obj.detach().to(HOST) if copy is None else copy
        if isinstance(obj, nn.Parameter):
            return _arrived, (copy, obj.requires_grad)
        return _arrived, (copy,)


class _Unpickler(pickle.Unpickler):
    """Restores tensors that were on a device on another one."""

    def __init__(self, data: bytes, device: torch.device) -> None:
        super().__init__(io.BytesIO(data))
        self._device = device

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what a name of the pickle stands for."""
        found: Callable[..., Any] = super().find_class(module, name)
        return partial(_arrived, device=self._device) if found is _arrived else found


def _arrived(
    copy: Tensor, requires_grad: bool | None = None, device: torch.device = HOST
) -> Tensor:
    """Return a tensor that was on a device; it was a parameter if `requires_grad` is not None."""
    tensor = copy.to(device)
    return tensor if requires_grad is None else nn.Parameter(tensor, requires_grad)
