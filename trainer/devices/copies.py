"""Copies between the host and a device: none blocks the host longer than it must."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fitorch.tree import map_leaves

from .accelerators import is_host, module_of
from .capabilities import pins

_PACKED = 2**26  # bytes that `to_host` copies at once

_SMALL = 2**20  # bytes of a tensor that is packed together with others


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor in pinned memory if that makes its copy to `device` asynchronous.

    Tensors that lie on a device already, and sparse ones, are returned as they are.
    """
    dense = tensor.layout is torch.strided and not tensor.is_nested
    return tensor.pin_memory() if dense and is_host(tensor) and pins(device) else tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the host does not wait if it lies in pinned memory."""
    # From memory that is not pinned, only backends that stage such copies may go on at once.
    return tensor.to(device, non_blocking=pins(device))


@runtime_checkable
class Movable(Protocol):
    """A tensor, or another object that moves itself, as a batch of torch_geometric."""

    def to(self, device: torch.device) -> Any:
        """Return it on a device."""


class Sender:
    """Copies batches to a device on a stream of their own, beside its computations.

    Args:
        device: The device.

    Attributes:
        waits: Whether to wait for each copy before the next batch is read: a loader may fill the
            same pinned memory again. The copy does not depend on computations, so it is short.
    """

    waits = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module = module_of(device)
        self._stream = _side_stream(device)

    def batches(self, batches: Iterable[Any], *, ahead: bool = False) -> Iterator[Any]:
        """Yield the batches on the device.

        Args:
            batches: The batches.
            ahead: Whether the copy of the next batch starts before one is yielded. The next batch
                is read that much earlier.
        """
        last: tuple[Any, Any] | None = None
        for batch in batches:
            copied = self._copied(batch)
            if not ahead:
                yield self._arrived(*copied)
                if self.waits and copied[1] is not None:
                    copied[1].synchronize()
                continue
            if last is not None:
                yield self._arrived(*last)
            last = copied
        if last is not None:
            yield self._arrived(*last)

    def _copied(self, batch: Any) -> tuple[Any, Any]:
        """Start the copy of a batch; return it with the event of its end."""
        parts: list[Any] = []
        map_leaves(parts.append, batch, Movable)
        # An object whose tensors are not known is copied among the computations.
        stream = self._stream if all(map(_knows_streams, parts)) else None
        with nullcontext() if stream is None else self._module.stream(stream):
            moved = map_leaves(self._moved, batch, Movable)
            return moved, None if stream is None else stream.record_event()

    def _moved(self, part: Any) -> Any:
        if isinstance(part, Tensor):
            return sent(part, self._device)
        try:
            return part.to(self._device, non_blocking=pins(self._device))
        except TypeError:  # its method has no such argument
            return part.to(self._device)

    def _arrived(self, batch: Any, event: Any) -> Any:
        """Return a batch that the computations from now on may use."""
        if event is not None:
            present = self._module.current_stream(self._device)
            present.wait_event(event)
            # Their memory must not be used again before these computations have ended.
            map_leaves(lambda part: part.record_stream(present), batch, Movable)
        return batch


def _knows_streams(part: Any) -> bool:
    """Return whether the memory of a part of a batch can be kept until a stream has used it."""
    if isinstance(part, Tensor):  # torch has `record_stream` for dense ones alone
        return part.layout is torch.strided and not part.is_nested
    return hasattr(part, "record_stream")


def _side_stream(device: torch.device) -> Any:
    """Return a new stream of a device, None if copies cannot run beside computations."""
    module = module_of(device)
    has_streams = all(hasattr(module, name) for name in ("Stream", "stream", "current_stream"))
    return module.Stream(device) if pins(device) and has_streams else None


def to_host(tensors: list[Tensor]) -> list[Tensor]:
    """Return the tensors in host memory, waiting for the device once for many of them.

    Tensors of a kind are packed into one copy of at most 64 MiB; the results are views of it.
    """
    results = list(tensors)
    for places in _packs(tensors):
        parts = [tensors[place] for place in places]
        if len(parts) == 1:
            results[places[0]] = parts[0].to("cpu")
            continue
        packed = torch.cat([part.reshape(-1) for part in parts]).to("cpu")
        pieces = packed.split([part.numel() for part in parts])
        for place, part, piece in zip(places, parts, pieces, strict=True):
            results[place] = piece.reshape(part.shape)
    return results


def _packs(tensors: list[Tensor]) -> list[list[int]]:
    """Return the positions of the tensors on devices, those that are copied together in a list."""
    packs: list[list[int]] = []
    latest: dict[Any, tuple[list[int], int]] = {}  # the open pack of a kind, and its bytes
    for place, tensor in enumerate(tensors):
        if is_host(tensor):
            continue
        size = tensor.numel() * tensor.element_size()
        plain = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
        kind = (type(tensor), tensor.device, tensor.dtype) if plain else place
        pack, taken = latest.get(kind, ([], _PACKED))
        if taken + size > _PACKED:
            pack, taken = [], 0
            packs.append(pack)
        pack.append(place)
        latest[kind] = pack, taken + size
    return packs


def copies_in_host_memory(tensors: list[Tensor]) -> list[Tensor]:
    """Return copies of the tensors in host memory, which no later change reaches.

    Copies from a device go to pinned memory where it has that, all of them at once, and the host
    waits for the last one.
    """
    copies = [tensor.detach() for tensor in tensors]
    waiting: set[torch.device] = set()
    small: list[int] = []
    for place, tensor in enumerate(copies):
        if not is_host(tensor) and tensor.numel() * tensor.element_size() < _SMALL:
            small.append(place)
        elif not is_host(tensor) and tensor.layout is torch.strided and pins(tensor.device):
            target = torch.empty_like(tensor, device="cpu", pin_memory=True)
            copies[place] = target.copy_(tensor, non_blocking=True)
            waiting.add(tensor.device)
        else:
            copies[place] = tensor.to("cpu", copy=True)
    # Small tensors are packed: each copy has a price of its own.
    for place, copied in zip(small, to_host([copies[place] for place in small]), strict=True):
        copies[place] = copied
    for device in waiting:
        module_of(device).current_stream(device).synchronize()
    return copies


class Glance:
    """A number of a device that the host reads once its copy has arrived, without waiting.

    Args:
        number: A tensor of one element.
    """

    def __init__(self, number: Tensor) -> None:
        device = number.device
        self._event: Any = None
        if pins(device) and hasattr(module_of(device), "current_stream"):
            target = torch.empty_like(number, device="cpu", pin_memory=True)
            self._copy = target.copy_(number, non_blocking=True)
            self._event = module_of(device).current_stream(device).record_event()
        else:
            self._copy = number.to("cpu")  # waits

    @property
    def arrived(self) -> bool:
        """Whether the number can be read."""
        return self._event is None or bool(self._event.query())

    @property
    def value(self) -> float:
        """The number."""
        return float(self._copy)
