"""Pickled values: tensors travel through the host's memory, whatever device they come from."""

from __future__ import annotations

import io
import pickle
from functools import partial
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from .accelerators import HOST, is_host
from .capabilities import widest_float
from .copies import to_host


def packed(value: object) -> bytes:
    """Pickle a value, including classes and functions of a notebook.

    Tensors on devices are copied to the host, which waits once for all of them. torch's own pickles
    name the device of the sender: the receiver has another one, or none of that name.
    """
    pickler = _Pickler()
    data = pickler.pickled(value)
    copies = to_host([tensor.detach() for tensor in pickler.remote])
    # A copy is a part of a larger tensor, which would be pickled with each of its parts.
    return pickle.dumps([copy.clone() for copy in copies]) + data


def unpacked(data: bytes, device: torch.device = HOST) -> Any:
    """Return the value that `packed` was called with.

    Args:
        data: The pickled value.
        device: Where to put the tensors that were on a device; those that were in the host's memory
            remain there.
    """
    file = io.BytesIO(data)
    return _Unpickler(file, _sent(pickle.load(file), device)).load()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc] # untyped
    """Pickles tensors on devices as their numbers in a list.

    Attributes:
        remote: The list.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        super().__init__(self._file)
        self.remote: list[Tensor] = []

    def pickled(self, value: object) -> bytes:
        """Return the pickled value."""
        self.dump(value)
        return self._file.getvalue()

    def reducer_override(self, obj: Any) -> Any:
        """Return how to restore a tensor on a device; other objects are pickled as ever."""
        if not isinstance(obj, Tensor) or is_host(obj):
            return super().reducer_override(obj)
        self.remote.append(obj)
        trained = obj.requires_grad if isinstance(obj, nn.Parameter) else None
        return _restored, (len(self.remote) - 1, trained)


class _Unpickler(pickle.Unpickler):
    """Restores the tensors that a `_Pickler` has replaced by their numbers.

    Args:
        file: The pickled value.
        tensors: The tensors.
    """

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._restored = partial(_restored, tensors=tensors)

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what a name of the pickle stands for."""
        found = super().find_class(module, name)
        return self._restored if found is _restored else found


def _restored(number: int, trained: bool | None, tensors: list[Tensor]) -> Tensor:
    """Return a tensor; it was a parameter if `trained`, whether it has a gradient, is known."""
    tensor = tensors[number]
    return tensor if trained is None else nn.Parameter(tensor, requires_grad=trained)


def _sent(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Return the tensors on a device, to which those of a dtype are copied together."""
    if is_host(device):
        return tensors
    results = [tensor.to(device) if not _is_plain(tensor) else tensor for tensor in tensors]
    plain = [place for place, tensor in enumerate(tensors) if _is_plain(tensor)]
    for dtype in dict.fromkeys(tensors[place].dtype for place in plain):
        places = [place for place in plain if tensors[place].dtype == dtype]
        flat = torch.cat([tensors[place].reshape(-1) for place in places])
        flat = flat.to(widest_float(device)) if dtype is torch.float64 else flat
        pieces = flat.to(device).split([tensors[place].numel() for place in places])
        for place, piece in zip(places, pieces, strict=True):
            results[place] = piece.reshape(tensors[place].shape)
    return results


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
