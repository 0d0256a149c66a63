"""States as JSON and tensors, and back, without pickle: nothing that is read can run code."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitorch.errors import CheckpointCorruptedError, CheckpointError

from .serialization import holds
from .shards import Shard

_TAG = "$"  # marks an object of JSON that stands for something else than a dict

_PLAIN = (bool, int, str, type(None))

_ALLOWED = (
    "None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict, Counter, dense "
    "tensors, NumPy arrays and numbers"
)

_DEEPEST = 100  # levels, far below what Python's own recursion takes

_LONGEST = 4096  # bits of an int in decimal; Python reads 4,300 digits at most, hexadecimal any


class Encoder:
    """Takes the tensors out of a state.

    What comes back has the same types and bits, but for subclasses of dict other than Counter (a
    dict), Parameters (a Tensor), torch.Size (a tuple), and NumPy's foreign byte orders (native).
    What was shared or a view becomes a copy of its own.

    Attributes:
        tensors: Those found so far, by the path that leads to them, as "state.0.exp_avg". They are
            the state's own, not copies.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def encode(self, value: Any, where: str) -> Any:
        """Return a state as what JSON holds, with names in the place of tensors.

        Args:
            value: The state.
            where: What leads to it, for messages.

        Raises:
            CheckpointError: Something in it is of a type that can't be stored; it names the path.
        """
        return self._encode(value, (where,))

    def _encode(self, value: Any, path: tuple[str, ...]) -> Any:
        kind = type(value)
        if kind is int and value.bit_length() > _LONGEST:
            return _tagged("int", hex(value))
        if kind in _PLAIN:
            return value
        if kind is float:
            return value if math.isfinite(value) else _tagged("float", repr(value))
        if len(path) > _DEEPEST:
            raise CheckpointError(f"{_spell(path[:5])}... is nested more than {_DEEPEST} deep")
        if isinstance(value, dict):
            return self._mapping(value, path)
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        return self._other(value, path)

    def _other(self, value: Any, path: tuple[str, ...]) -> Any:
        kind = type(value)
        if kind is list:
            return self._items(value, path)
        if kind is Shard:
            return _tagged("shard", value.name)
        if kind in (np.ndarray, np.memmap) or isinstance(value, np.generic):
            return self._array(value, path)
        if kind in (tuple, torch.Size):
            return _tagged("tuple", self._items(value, path))
        if kind is bytes:
            return _tagged("bytes", base64.b64encode(value).decode())
        if kind in (set, frozenset):
            return _tagged(kind.__name__, self._items(sorted(value, key=repr), path))
        message = (
            f"{_spell(path)} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint can't "
            f"hold; expected {_ALLOWED}"
        )
        raise CheckpointError(message)

    def _items(self, values: Any, path: tuple[str, ...]) -> list[Any]:
        return [self._encode(value, (*path, str(i))) for i, value in enumerate(values)]

    def _mapping(self, value: Mapping[Any, Any], path: tuple[str, ...]) -> Any:
        if all(type(key) is str for key in value) and _TAG not in value:
            encoded = {key: self._encode(value[key], (*path, key)) for key in value}
            return _tagged("counter", list(encoded.items())) if _counts(value) else encoded
        pairs = [
            [
                self._encode(key, (*path, f"key {_label(key)}")),
                self._encode(value[key], (*path, _label(key))),
            ]
            for key in value
        ]
        return _tagged("counter" if _counts(value) else "dict", pairs)

    def _tensor(self, tensor: Tensor, path: tuple[str, ...]) -> Any:
        kind = _unfit(tensor)
        if kind:
            message = (
                f"{_spell(path)} is a {kind}, which a checkpoint can't hold; expected a plain, "
                "dense tensor of numbers"
            )
            raise CheckpointError(message)
        tensor = tensor.detach().resolve_conj().resolve_neg()
        if tensor.is_complex():
            return _tagged("complex", self._keep(torch.view_as_real(tensor), path))
        return as_tensor(self._keep(tensor, path))

    def _array(self, value: Any, path: tuple[str, ...]) -> Any:
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            message = (
                f"{_spell(path)} is NumPy data of type {value.dtype}, which a checkpoint can't "
                "hold; expected real numbers of at most 64 bits"
            )
            raise CheckpointError(message)
        native = np.dtype(f"{value.dtype.kind}{value.dtype.itemsize}")  # torch knows no "longlong"
        tensor = torch.from_numpy(np.array(value, native, ndmin=1, order="C").view(native))
        shape = list(np.shape(value)) if isinstance(value, np.ndarray) else None
        return _tagged("array", [self._keep(tensor, path), shape])

    def _keep(self, tensor: Tensor, path: tuple[str, ...]) -> str:
        name = ".".join(path[1:]) or path[0]
        name = name.encode(errors="replace").decode()  # safetensors takes no half surrogates
        while name in self.tensors or name == "__metadata__":  # {"a": {"b": ...}, "a.b": ...}
            name += "'"
        self.tensors[name] = tensor
        return name


def decode(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the state that `Encoder.encode` got.

    Args:
        plain: What it returned.
        tensors: The tensors that it found.

    Raises:
        CheckpointCorruptedError: It is nothing that `Encoder` makes.
    """
    try:
        return _decode(plain, tensors)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        message = f"a state can't be decoded: {type(error).__name__}: {error}"
        raise CheckpointCorruptedError(message) from error


def _decode(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_decode(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if _TAG not in plain:
        return {key: _decode(value, tensors) for key, value in plain.items()}
    return _DECODERS[plain[_TAG]](plain["value"], tensors)


def _pairs(value: Any, tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    return {_decode(key, tensors): _decode(item, tensors) for key, item in value}


def _number(value: Any, _tensors: Mapping[str, Tensor]) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value]


def _numpy(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    name, shape = value
    array = tensors[name].numpy()
    return array[0] if shape is None else array.reshape(shape)


_DECODERS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "array": _numpy,
    "bytes": lambda value, _: base64.b64decode(value, validate=True),
    "complex": lambda value, tensors: torch.view_as_complex(tensors[value]),
    "counter": lambda value, tensors: Counter(_pairs(value, tensors)),
    "dict": _pairs,
    "float": _number,
    "frozenset": lambda value, tensors: frozenset(_decode(value, tensors)),
    "int": lambda value, _: int(value, 16),
    "shard": lambda value, _: Shard(str(value)),
    "set": lambda value, tensors: set(_decode(value, tensors)),
    "tensor": lambda value, tensors: tensors[value],
    "tuple": lambda value, tensors: tuple(_decode(value, tensors)),
}


def _unfit(tensor: Tensor) -> str:
    """Return what makes a tensor one that can't be stored, "" for nothing."""
    kind = type(tensor)
    if kind not in (Tensor, torch.nn.Parameter):
        return f"{kind.__module__}.{kind.__qualname__}"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return f"tensor of layout {tensor.layout}{' (nested)' if tensor.is_nested else ''}"
    if tensor.is_meta:
        return "tensor without data (device meta)"
    real = tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
    return "" if holds(real) else f"tensor of {tensor.dtype}"


def _tagged(kind: str, value: Any) -> dict[str, Any]:
    return {_TAG: kind, "value": value}


def as_tensor(name: str) -> dict[str, Any]:
    """Return what stands for the tensor called `name`."""
    return _tagged("tensor", name)


def _counts(value: Any) -> bool:
    return type(value) is Counter


def _label(key: Any) -> str:
    too_long = type(key) is int and key.bit_length() > _LONGEST
    return hex(key)[:20] if too_long else str(key)


def _spell(path: tuple[str, ...]) -> str:
    return path[0] + "".join(f"[{key!r}]" for key in path[1:])
