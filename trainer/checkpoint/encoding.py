"""Encode states as JSON and tensors, without pickle: reading them cannot run code."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitorch.errors import CheckpointCorruptedError, CheckpointError

from .serialization import is_supported
from .shards import Shard
from .tensor_subclasses import class_name, flattened, is_flattened, loaded_subclass

_WEIGHTS = "model"  # the part with the net's state dict

_TAG = "$"  # marks a JSON object that encodes another type than dict

_PLAIN = (bool, int, str, type(None))

_ALLOWED = (
    "None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict, Counter, torch.dtype, "
    "dense tensors, NumPy arrays and numbers"
)

_TEXTS: dict[type[Any], Callable[[Any], str]] = {
    bytes: lambda value: base64.b64encode(value).decode(),
    torch.dtype: lambda value: str(value).removeprefix("torch."),
}

_MAX_DEPTH = 100  # far below Python's recursion limit

_MAX_BITS = 4096  # of an int in decimal: Python limits decimal numbers to 4,300 digits


class Encoder:
    """Splits states into JSON values and tensors.

    `decode` returns the same types and bits, except that subclasses of dict other than Counter
    become dict, Parameters Tensor, torch.Size tuple, and NumPy's foreign byte orders native. Shared
    tensors and views become copies. Subclasses of Tensor that torch can flatten stay what they are.

    Attributes:
        tensors: The tensors of the states encoded so far, not copied, by their path, as
            "state.0.exp_avg".
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def encode(self, value: object, where: str) -> Any:
        """Return a state as JSON values, with names in place of tensors.

        Args:
            value: The state.
            where: The path of the state, for messages.

        Raises:
            CheckpointError: A value has a type that is not supported; the message names its path.
        """
        return self._encode(value, (where,))

    def _encode(self, value: Any, path: tuple[str, ...]) -> Any:
        kind = type(value)
        # This test comes before the plain types: JSON writes decimals, which Python limits.
        if kind is int and value.bit_length() > _MAX_BITS:
            return _tagged("int", hex(value))
        if kind in _PLAIN:  # exact types: a subclass would be restored as its base
            return value
        if kind is float:
            return value if math.isfinite(value) else _tagged("float", repr(value))
        if len(path) > _MAX_DEPTH:
            raise CheckpointError(f"{_spell(path[:5])}... is nested more than {_MAX_DEPTH} deep")
        if isinstance(value, dict):
            return self._mapping(value, path)
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        return self._other(value, path)

    def _other(self, value: Any, path: tuple[str, ...]) -> list[Any] | dict[str, Any]:
        kind = type(value)
        if kind is list:
            return self._items(value, path)
        if kind is Shard:
            return _tagged("shard", value.name)
        if kind in (np.ndarray, np.memmap) or isinstance(value, np.generic):
            return self._array(value, path)
        if kind in (tuple, torch.Size):
            return _tagged("tuple", self._items(value, path))
        if kind in _TEXTS:
            return _tagged(kind.__name__, _TEXTS[kind](value))
        # The items are sorted, because the order of a set depends on the hash seed of the process.
        if kind in (set, frozenset):
            return _tagged(kind.__name__, self._items(sorted(value, key=repr), path))
        message = (
            f"{_spell(path)} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot "
            f"store; expected {_ALLOWED}"
        )
        raise CheckpointError(message)

    def _items(self, values: Iterable[Any], path: tuple[str, ...]) -> list[Any]:
        return [self._encode(value, (*path, str(i))) for i, value in enumerate(values)]

    def _mapping(self, value: Mapping[Any, Any], path: tuple[str, ...]) -> dict[str, Any]:
        # JSON keys are strings, and `_TAG` marks other types: all other dicts become pairs.
        if all(type(key) is str for key in value) and _TAG not in value:
            encoded = {key: self._encode(value[key], (*path, key)) for key in value}
            return _tagged("counter", list(encoded.items())) if _is_counter(value) else encoded
        pairs = [
            [
                self._encode(key, (*path, f"key {_label(key)}")),
                self._encode(value[key], (*path, _label(key))),
            ]
            for key in value
        ]
        return _tagged("counter" if _is_counter(value) else "dict", pairs)

    def _tensor(self, tensor: Tensor, path: tuple[str, ...]) -> dict[str, Any]:
        if is_flattened(type(tensor)):
            return self._subclass(tensor, path)
        unsupported = _unsupported(tensor)
        if unsupported:
            message = (
                f"{_spell(path)} is a {unsupported}, which a checkpoint cannot store; expected a "
                "plain, dense tensor of numbers"
            )
            raise CheckpointError(message)
        # Lazy conjugation and negation are flags of a view, which the bytes do not contain.
        tensor = tensor.detach().resolve_conj().resolve_neg()
        if tensor.is_complex():
            return _tagged("complex", self._keep(torch.view_as_real(tensor), path))
        order = _permutation(tensor)
        # Weights keep the layout of the net that loads them; other states keep their own, because
        # the bits of a product depend on it.
        if order is not None and path[0] != _WEIGHTS:
            return _tagged("permuted", [self._keep(tensor.permute(order), path), order])
        return as_tensor(self._keep(tensor, path))

    def _subclass(self, tensor: Any, path: tuple[str, ...]) -> dict[str, Any]:
        """Encode a subclass of Tensor by its own protocol, as 8-bit states of optimizers."""
        parts, context = flattened(tensor)
        inner = {name: self._encode(part, (*path, name)) for name, part in parts.items()}
        about = self._encode(context, (*path, "context"))
        layout = [list(tensor.shape), list(tensor.stride())]
        return _tagged("subclass", [class_name(type(tensor)), inner, about, layout])

    def _array(self, value: np.ndarray | np.generic, path: tuple[str, ...]) -> dict[str, Any]:
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            message = (
                f"{_spell(path)} is NumPy data of type {value.dtype}, which a checkpoint cannot "
                "store; expected real numbers of at most 64 bits"
            )
            raise CheckpointError(message)
        native = np.dtype(f"{value.dtype.kind}{value.dtype.itemsize}")  # torch has no "longlong"
        # The array is copied in native byte order, and a scalar gets a dimension.
        tensor = torch.from_numpy(np.array(value, native, ndmin=1, order="C").view(native))
        shape = list(np.shape(value)) if isinstance(value, np.ndarray) else None
        return _tagged("array", [self._keep(tensor, path), shape])

    def _keep(self, tensor: Tensor, path: tuple[str, ...]) -> str:
        name = ".".join(path[1:]) or path[0]
        name = name.encode(errors="replace").decode()  # safetensors refuses lone surrogates
        while name in self.tensors or name == "__metadata__":  # {"a": {"b": ...}, "a.b": ...}
            name += "'"
        self.tensors[name] = tensor
        return name


def decode(plain: object, tensors: Mapping[str, Tensor]) -> Any:
    """Return the state that `Encoder.encode` encoded.

    Args:
        plain: The JSON values.
        tensors: The tensors of the encoder.

    Raises:
        CheckpointCorruptedError: `Encoder` does not produce such values.
    """
    # Files come from anywhere: whatever they contain, the error is that the checkpoint is damaged.
    try:
        return _decode(plain, tensors)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        message = f"cannot decode a state: {type(error).__name__}: {error}"
        raise CheckpointCorruptedError(message) from error


def _decode(plain: object, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_decode(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if _TAG not in plain:
        return {key: _decode(value, tensors) for key, value in plain.items()}
    # The table holds all known tags. A file can name a class only if it is a subclass of Tensor
    # that this process has loaded already, see `loaded_subclass`.
    return _DECODERS[plain[_TAG]](plain["value"], tensors)


def _pairs(value: Any, tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    return {_decode(key, tensors): _decode(item, tensors) for key, item in value}


def _nonfinite_float(value: Any, _tensors: Mapping[str, Tensor]) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value]


def _numpy(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    name, shape = value
    array = tensors[name].numpy()
    return array[0] if shape is None else array.reshape(shape)


_DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if type(d) is torch.dtype}


def _dtype(value: Any, _tensors: Mapping[str, Tensor]) -> torch.dtype:
    return _DTYPES[value]


def _subclass(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    name, inner, context, (shape, stride) = value
    parts = {key: _decode(part, tensors) for key, part in inner.items()}
    kind: Any = loaded_subclass(name)
    return kind.__tensor_unflatten__(
        parts, _decode(context, tensors), torch.Size(shape), tuple(stride)
    )


def _permuted(value: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    name, order = value
    back = sorted(range(len(order)), key=order.__getitem__)
    return tensors[name].permute(back)


_DECODERS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "array": _numpy,
    "bytes": lambda value, _: base64.b64decode(value, validate=True),
    "complex": lambda value, tensors: torch.view_as_complex(tensors[value]),
    "counter": lambda value, tensors: Counter(_pairs(value, tensors)),
    "dict": _pairs,
    "dtype": _dtype,
    "float": _nonfinite_float,
    "frozenset": lambda value, tensors: frozenset(_decode(value, tensors)),
    "int": lambda value, _: int(value, 16),
    "shard": lambda value, _: Shard(str(value)),
    "permuted": _permuted,
    "set": lambda value, tensors: set(_decode(value, tensors)),
    "subclass": _subclass,
    "tensor": lambda value, tensors: tensors[value],
    "tuple": lambda value, tensors: tuple(_decode(value, tensors)),
}


def _permutation(tensor: Tensor) -> list[int] | None:
    """Return the order of dimensions in which a tensor lies in memory; None if it is that order."""
    if tensor.is_contiguous() or tensor.dim() < 2:
        return None
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dimension: -strides[dimension])
    return order if tensor.permute(order).is_contiguous() else None


def _unsupported(tensor: Tensor) -> str:
    """Return what kind of tensor safetensors does not support, "" if it supports this one."""
    kind = type(tensor)
    if kind not in (Tensor, torch.nn.Parameter):
        return f"{kind.__module__}.{kind.__qualname__}"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return f"tensor of layout {tensor.layout}{' (nested)' if tensor.is_nested else ''}"
    if tensor.is_meta:
        return "tensor without data (device meta)"
    real = tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
    return "" if is_supported(real) else f"tensor of {tensor.dtype}"


def _tagged(kind: str, value: object) -> dict[str, Any]:
    return {_TAG: kind, "value": value}


def as_tensor(name: str) -> dict[str, Any]:
    """Return the JSON value that refers to the tensor called `name`."""
    return _tagged("tensor", name)


def _is_counter(value: object) -> bool:
    return type(value) is Counter


def _label(key: Any) -> str:
    too_long = type(key) is int and key.bit_length() > _MAX_BITS
    return hex(key)[:20] if too_long else str(key)


def _spell(path: tuple[str, ...]) -> str:
    return path[0] + "".join(f"[{key!r}]" for key in path[1:])
