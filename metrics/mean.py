"""The weighted mean of a stage's losses: exact, and cheap enough for every step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Mean(Protocol):
    """The mean of scalars, each with its share."""

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""
        ...

    def add(self, value: Tensor, share: int | Tensor) -> float:
        """Count a scalar in; return it where that costs nothing, else 0."""
        ...

    def compute(self) -> float:
        """Return `sum(value * share) / sum(share)`, NaN where nothing was added."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...


class HostMean:
    """A mean in Python floats (64 bits), for values that lie in the host's memory.

    Args:
        summed: The values are sums over their share already, instead of means.
    """

    def __init__(self, *, summed: bool = False) -> None:
        self._summed = summed
        self.reset()

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""
        return self._count == 0

    def add(self, value: Tensor, share: int | Tensor) -> float:
        """Count a scalar in and return it."""
        number = value.item()
        count = float(share)
        if count or self._summed:  # a mean over nothing is NaN, and counts nothing
            self._total += number if self._summed else number * count
        self._count += count
        return number

    def compute(self) -> float:
        """Return the mean so far, NaN where nothing was added."""
        return self._total / self._count if self._count else math.nan

    def reset(self) -> None:
        """Forget everything."""
        self._total = 0.0
        self._count = 0.0


class DeviceMean:
    """A mean that stays on an accelerator until somebody asks: `add` waits for nothing.

    Args:
        summed: The values are sums over their share already, instead of means.
    """

    _PENDING = 1024

    def __init__(self, *, summed: bool = False) -> None:
        self._summed = summed
        self.reset()

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""
        return not self._values and self._count is None

    def add(self, value: Tensor, share: int | Tensor) -> float:
        """Count a scalar in; return 0, since reading it would wait for the device."""
        self._values.append(value.detach())
        self._shares.append(share)
        if len(self._values) == self._PENDING:
            self._fold()
        return 0.0

    def compute(self) -> float:
        """Read the mean so far from the device, NaN where nothing was added."""
        self._fold()
        if self._total is None or self._count is None:
            return math.nan
        count = float(self._count)
        return float(self._total) / count if count else math.nan

    def reset(self) -> None:
        """Forget everything."""
        self._values: list[Tensor] = []
        self._shares: list[int | Tensor] = []
        self._total: Tensor | None = None
        self._count: Tensor | None = None

    def _fold(self) -> None:
        """Add up what is pending, on the device and in its widest floating type."""
        if not self._values:
            return
        values = torch.stack(self._values)
        wide = torch.float32 if values.device.type == "mps" else torch.float64
        values, shares = values.to(wide), self._stack_shares(values.device, wide)
        if not self._summed:  # a mean over nothing is NaN, and counts nothing
            values = torch.where(shares != 0, values * shares, 0.0)
        total, count = values.sum(), shares.sum()
        self._total = total if self._total is None else self._total + total
        self._count = count if self._count is None else self._count + count
        self._values, self._shares = [], []

    def _stack_shares(self, device: torch.device, wide: torch.dtype) -> Tensor:
        if all(isinstance(share, int) for share in self._shares):
            return torch.tensor(self._shares, dtype=wide).to(device, non_blocking=True)
        if all(isinstance(share, Tensor) and share.device == device for share in self._shares):
            return torch.stack(self._shares).to(wide)  # type: ignore[arg-type]
        return torch.stack(
            [torch.as_tensor(share, dtype=wide, device=device) for share in self._shares]
        )


def mean_on(device: torch.device, *, summed: bool = False) -> Mean:
    """Return the mean for values that lie on `device`."""
    return HostMean(summed=summed) if device.type == "cpu" else DeviceMean(summed=summed)


class Means:
    """The means of an objective's terms over a stage.

    Args:
        device: Where the values lie.
        summed: For each term, whether its values are sums over their share already.
    """

    def __init__(self, device: torch.device, summed: Iterable[bool]) -> None:
        self._means = [mean_on(device, summed=each) for each in summed]

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""
        return self._means[0].empty

    def add(self, parts: Sequence[tuple[Tensor, int | Tensor]]) -> float:
        """Count a batch in: a value and a share for each term.

        Returns:
            The sum of the values where that costs nothing, else 0.
        """
        total = 0.0
        for mean, (value, share) in zip(self._means, parts, strict=True):
            total += mean.add(value, share)
        return total

    def compute(self) -> list[float]:
        """Return the mean of each term, NaN where nothing was added."""
        return [mean.compute() for mean in self._means]

    def reset(self) -> None:
        """Forget everything."""
        for mean in self._means:
            mean.reset()
