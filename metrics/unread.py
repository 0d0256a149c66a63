"""Results whose numbers are still on a device, so that those of a whole stage are read together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fitorch.devices.capabilities import widest_float

T = TypeVar("T")
U = TypeVar("U")

Rows = Sequence[list[float]]


@dataclass(frozen=True, slots=True)
class Unread(Generic[T]):
    """A result that is made of numbers which have not been read from their device.

    Args:
        tensors: The numbers.
        finish: Returns the result, given the elements of each tensor.
    """

    tensors: list[Tensor]
    finish: Callable[[Rows], T]

    def then(self, function: Callable[[T], U]) -> Unread[U]:
        """Return the result of a function of this one."""
        return Unread(self.tensors, lambda rows: function(self.finish(rows)))

    def read(self) -> T:
        """Return the result; this waits for the device once."""
        return self.finish(_rows(self.tensors))


def known(value: T) -> Unread[T]:
    """Return a result whose numbers have been read, or never were on a device."""
    return Unread([], lambda _: value)


def together(parts: Sequence[Unread[Any]]) -> Unread[list[Any]]:
    """Return several results as one, in their order."""

    def finish(rows: Rows) -> list[Any]:
        results, start = [], 0
        for part in parts:
            end = start + len(part.tensors)
            results.append(part.finish(rows[start:end]))
            start = end
        return results

    return Unread([tensor for part in parts for tensor in part.tensors], finish)


def _rows(tensors: Sequence[Tensor]) -> list[list[float]]:
    """Return the elements of each tensor as floats, in one read for all tensors of a device."""
    rows: list[list[float]] = [[] for _ in tensors]
    for device in dict.fromkeys(tensor.device for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if tensor.device == device]
        wide = widest_float(device)
        parts = [tensors[place].detach().reshape(-1).to(wide) for place in places]
        # `tolist` waits for the device, once for all that were joined.
        numbers = iter(torch.cat(parts).tolist())
        for place, part in zip(places, parts, strict=True):
            rows[place] = list(islice(numbers, len(part)))
    return rows
