"""Plain attributes of an object and of the objects in it: their digests, and those that change.

An attribute is plain if it holds numbers or texts: a scalar, an array, a tensor in host memory, or
a list, tuple, dict or set of them.
"""

from __future__ import annotations

import copy
import hashlib
import marshal
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn, optim

from fitorch.devices.accelerators import is_host
from fitorch.errors import NotBitExactWarning

Path: TypeAlias = tuple[str | int, ...]  # names of attributes, and positions in lists of objects

_SCALARS = {bool, int, float, complex, str, bytes, type(None)}

_STORED_SCALARS = _SCALARS - {complex}

_CONTAINERS = (list, tuple, dict, set, frozenset, deque, bytearray)

_MAX_OBJECTS = 1_000

_MAX_ITEMS = 100_000  # of nested containers; flat ones, which are faster, cost a tenth

_MAX_BYTES = 2**26  # of arrays; of those beyond it, some elements count

_MAX_STORED_BYTES = 2**27  # of an array in a checkpoint

_SAMPLED = 256  # elements of an array


class ChangedAttributes:
    """The plain attributes of a user's object that differ from those at the beginning of a fit.

    What reading changes, such as an epoch that a dataset counts or the order that it keeps, is
    state; what it leaves as it is belongs to the user alone.

    Args:
        thing: The object.
        looks: Whether to look for changes whenever the state is asked for, besides `look`.
    """

    def __init__(self, thing: object, *, looks: bool = True) -> None:
        self.thing = thing
        self._looks = looks
        self._first = self._digests()
        self._changed: set[Path] = set()
        self.lost: set[str] = set()  # changed attributes that a checkpoint does not hold

    def _digests(self) -> dict[Path, str]:
        # What is looked at for each checkpoint has to take little time.
        return _digests(self.thing, _Limit(10_000, 2**22) if self._looks else _Limit())

    def look(self) -> None:
        """Note which attributes have changed."""
        for path, digest in self._digests().items():
            if self._first.get(path) != digest:
                self._changed.add(path)

    def state_dict(self) -> dict[str, Any]:
        """Return the values of the changed attributes, and the names of those without a value."""
        if self._looks:
            self.look()
        values: list[list[Any]] = []
        lost = set(self.lost)
        for path, value in plain_attributes(self.thing) if self._changed else ():
            if path not in self._changed:
                continue
            if (stored := _stored(value)) is not None:
                values.append([list(path), stored])
            else:
                lost.add(str(path[0]))
        return {"values": values, "lost": sorted(lost)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the changed attributes; those of an object of other construction are left out."""
        for path, stored in state["values"]:
            *parents, name = path
            owner = self.thing
            for part in parents:
                owner = _part(owner, part)
            attributes = getattr(owner, "__dict__", None)
            if isinstance(attributes, dict) and name in attributes:
                # Not in place: the user may hold the array that the dataset was made with.
                attributes[name] = _restored(stored)
                self._changed.add(tuple(path))
        if lost := set(state["lost"]) - self.lost:
            self.lost |= lost
            warnings.warn(
                f"{', '.join(sorted(lost))} of a {type(self.thing).__name__} changed from epoch to "
                "epoch before the interruption, and a checkpoint does not hold it, so that the "
                "order of the samples may be another one; keep the order in an array of indices",
                NotBitExactWarning,
                stacklevel=2,
            )


def content_digest(thing: object) -> str:
    """Return a digest of the plain attributes of an object and of the objects in it."""
    total = hashlib.blake2b(digest_size=16)
    for path, digest in _digests(thing, _Limit()).items():
        total.update(f"{path}{digest}".encode())
    return total.hexdigest()


def plain_attributes(thing: object) -> Iterator[tuple[Path, Any]]:
    """Yield the plain attributes of an object, and of the objects in it, with their paths."""
    pending: list[tuple[Path, Any]] = [((), thing)]
    seen: set[int] = set()
    while pending and len(seen) < _MAX_OBJECTS:
        path, owner = pending.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        for key, value in _parts(owner):
            if is_plain(value):
                yield (*path, key), value
            elif not _is_opaque(value):
                pending.append(((*path, key), value))


def _is_opaque(value: object) -> bool:
    """Return whether an object is code, or has its own place in a fit, as a net has."""
    if isinstance(value, (type, ModuleType, FunctionType, Tensor, nn.Module, optim.Optimizer)):
        return True
    return any(base.__module__.partition(".")[0] == "fitorch" for base in type(value).__mro__)


def _parts(owner: Any) -> list[tuple[str | int, Any]]:
    """Return the attributes of an object, or the items of a short list of objects."""
    if isinstance(owner, (list, tuple)):
        return list(enumerate(owner)) if len(owner) < 100 else []
    attributes = getattr(owner, "__dict__", None)
    return list(attributes.items()) if isinstance(attributes, dict) else []


def _part(owner: Any, key: str | int) -> Any:
    if isinstance(key, int):
        is_item = isinstance(owner, (list, tuple)) and key < len(owner)
        return owner[key] if is_item else None
    return getattr(owner, "__dict__", {}).get(key)


@dataclass(slots=True)
class _Limit:
    """How much of an object's content is still looked at.

    Args:
        items: The number of items in containers.
        size: The number of bytes in arrays.
    """

    items: int = _MAX_ITEMS
    size: int = _MAX_BYTES

    def takes_items(self, items: Sequence[Any], *, flat: bool) -> bool:
        """Return whether to look at some items, which then count."""
        self.items -= len(items) // 10 if flat else len(items)
        return self.items >= 0

    def takes_array(self, array: np.ndarray[Any, Any]) -> bool:
        """Return whether to look at a whole array, which then counts."""
        self.size -= array.nbytes
        return self.size >= 0


def is_plain(value: Any, limit: _Limit | None = None) -> bool:
    """Return whether a value consists of numbers and texts."""
    if isinstance(value, (np.ndarray, np.generic)):
        return not value.dtype.hasobject
    if isinstance(value, Tensor):
        return is_host(value) and value.layout is torch.strided and not value.is_nested
    if type(value) in _SCALARS or not isinstance(value, _CONTAINERS):
        return type(value) in _SCALARS
    limit = limit or _Limit()
    # Beyond the limit, only the lengths count, which are plain.
    if isinstance(value, bytearray) or len(value) > 10 * _MAX_ITEMS:
        return True
    items = _items(value)
    if (flat := _is_flat(items)) or not limit.takes_items(items, flat=flat):
        return True
    return all(is_plain(item, limit) for item in items)


def _items(value: Any) -> list[Any]:
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    return [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)


def _some(value: Any) -> list[Any]:
    """Return some items of a large list, none of other containers."""
    step = max(1, len(value) // _SAMPLED)
    return list(value[::step]) if isinstance(value, (list, tuple)) else []


def _is_flat(items: Sequence[Any]) -> bool:
    return set(map(type, items)) <= _SCALARS


def _digests(thing: object, limit: _Limit) -> dict[Path, str]:
    if is_plain(thing):
        return {(): _digest(thing, limit)}
    return {path: _digest(value, limit) for path, value in plain_attributes(thing)}


def _digest(value: Any, limit: _Limit) -> str:
    total = hashlib.blake2b(digest_size=16)
    _feed(total, value, limit)
    return total.hexdigest()


def _feed(total: Any, value: Any, limit: _Limit) -> None:
    """Add the content of a plain value to a digest."""
    total.update(type(value).__name__.encode())
    if isinstance(value, Tensor):
        flat = value.detach().resolve_conj().resolve_neg().reshape(-1).contiguous()
        value = flat.view(torch.uint8).numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        total.update(f"{array.dtype}{array.shape}".encode())
        if not limit.takes_array(array):
            array = array.ravel(order="K")[:: max(1, array.size // _SAMPLED)]
        total.update(array.tobytes())
    elif isinstance(value, _CONTAINERS):
        _feed_items(total, value, limit)
    else:
        total.update(repr(value).encode(errors="replace"))


def _feed_items(total: Any, value: Any, limit: _Limit) -> None:
    total.update(str(len(value)).encode())
    items = _some(value) if len(value) > 10 * _MAX_ITEMS else _items(value)
    flat = _is_flat(items)
    if not limit.takes_items(items, flat=flat):
        items = [item for item in _some(value) if type(item) in _SCALARS]
        flat = True
    if flat:
        # Version 2 has no references, so that equal values have equal bytes.
        total.update(marshal.dumps(items, 2))
        return
    for item in items:
        _feed(total, item, limit)


def _stored(value: Any) -> list[Any] | None:
    """Return a plain value in a form that a checkpoint stores, None if there is none."""
    if isinstance(value, Tensor):
        return ["value", value.detach().clone()] if value.nbytes <= _MAX_STORED_BYTES else None
    if isinstance(value, (np.ndarray, np.generic)):
        numbers = value.dtype.kind in "biuf" and value.dtype.itemsize <= 8
        if not numbers or value.nbytes > _MAX_STORED_BYTES:
            return None
        return ["value", np.array(value) if isinstance(value, np.ndarray) else value]
    if isinstance(value, deque):
        return ["deque", list(value), value.maxlen] if _can_store(list(value)) else None
    return ["value", copy.deepcopy(value)] if _can_store(value) else None


def _can_store(value: Any) -> bool:
    """Return whether a value consists of scalars in plain containers."""
    if type(value) not in (list, tuple, dict, set, frozenset):
        return type(value) in _STORED_SCALARS
    items = _items(value)
    if set(map(type, items)) <= _STORED_SCALARS:
        return len(items) <= 10 * _MAX_ITEMS
    return len(items) <= _MAX_ITEMS and all(map(_can_store, items))


def _restored(stored: list[Any]) -> Any:
    kind, value, *rest = stored
    return deque(value, *rest) if kind == "deque" else value
