"""Weighted means of losses over a stage, without a synchronization with the device per step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST, is_host
from fitorch.devices.capabilities import widest_float
from fitorch.devices.copies import sent

from .unread import Unread, known


class Mean:
    """Base class of weighted means: `sum(value * normalizer) / sum(normalizer)`.

    Args:
        summed: Whether values are sums over a batch instead of means, so that they are added
            without a multiplication by their normalizers.
    """

    def __init__(self, *, summed: bool = False) -> None:
        self.summed = summed
        self.reset()

    @property
    def empty(self) -> bool:
        """Whether the sum of the normalizers is 0."""
        return not self.sums()[1]

    def compute(self) -> float:
        """Return the mean so far, NaN if it is empty."""
        return ratio(*self.sums())

    def sums(self) -> tuple[float, float]:
        """Return the sum of the values times their normalizers, and the sum of the normalizers.

        On an accelerator, this synchronizes with the device.
        """
        return self.unread_sums().read()

    def add(self, value: Tensor, normalizer: int | Tensor) -> float:
        """Add a scalar; return it if that does not synchronize with a device, otherwise 0."""
        raise NotImplementedError

    def unread_sums(self) -> Unread[tuple[float, float]]:
        """Return what `sums` returns, without a synchronization with the device."""
        raise NotImplementedError

    def first_nonfinite(self) -> float:
        """Return the index of the first value that is not finite, infinity if there is none."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """The number of values, as far as `first_nonfinite` counts them."""
        return 0

    def first_nonfinite_index(self) -> Tensor | None:
        """Return `first_nonfinite` as a tensor, None if a device need not be read for it."""
        return None

    def condensed(self) -> Mean:
        """Return a mean of the same values that consists of few numbers, to send it elsewhere."""
        return self

    def reset(self) -> None:
        """Discard all values."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulated state."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the accumulated state, also that of a mean on another device."""
        raise NotImplementedError


class HostMean(Mean):
    """A mean in Python floats (64 bits), for values in host memory."""

    def add(self, value: Tensor, normalizer: int | Tensor) -> float:
        """Add a scalar and return it; the mean over an empty batch, which is NaN, counts as 0."""
        # On the CPU nothing waits.
        number, count = value.item(), float(normalizer)
        if not count and not self.summed:
            return 0.0
        self._total += number if self.summed else number * count
        self._count += count
        return number

    def unread_sums(self) -> Unread[tuple[float, float]]:
        """Return the two sums."""
        return known((self._total, self._count))

    def first_nonfinite(self) -> float:
        """Return infinity: callers see a value that is not finite in the result of `add`."""
        return math.inf

    def reset(self) -> None:
        """Discard all values."""
        self._total = 0.0
        self._count = 0.0

    def state_dict(self) -> dict[str, float]:
        """Return the two sums."""
        return {"total": self._total, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the two sums, also from the state of a `DeviceMean`."""
        if "total" not in state:
            mean = DeviceMean(summed=self.summed)
            mean.load_state_dict(state)
            state = dict(zip(("total", "count"), mean.sums(), strict=True))
        self._total, self._count = state["total"], state["count"]


class DeviceMean(Mean):
    """A mean that stays on an accelerator until it is read: `add` does not synchronize.

    Args:
        device: The device of the values.
        summed: As for `Mean`.
    """

    _MAX_PENDING = 1024  # values that are kept before they are folded into the sums

    def __init__(self, device: torch.device = HOST, *, summed: bool = False) -> None:
        self._device = device
        super().__init__(summed=summed)

    def add(self, value: Tensor, normalizer: int | Tensor) -> float:
        """Add a scalar; return 0, because reading the value would wait for the device."""
        # The value is detached, because the graph of the step would stay in memory. One without a
        # graph may be a buffer, which the next batch changes.
        detached = value.detach()
        self._values.append(detached.clone() if value.grad_fn is None else detached)
        self._normalizers.append(normalizer)
        # The sums are folded at a fixed number of values, so that their order is always the same.
        if len(self._values) == self._MAX_PENDING:
            self._fold()
        return 0.0

    def unread_sums(self) -> Unread[tuple[float, float]]:
        """Return the two sums."""
        state = self._folded_state()
        if state is None:
            return known((0.0, 0.0))
        return Unread([state], lambda rows: (rows[0][0], rows[0][1]))

    def first_nonfinite(self) -> float:
        """Return the index; this synchronizes with the device."""
        state = self._folded_state()
        return math.inf if state is None else state[2].item()

    def condensed(self) -> DeviceMean:
        """Return a mean with the sums alone, without a synchronization with the device."""
        mean = DeviceMean(self._device, summed=self.summed)
        mean._state, mean._folded = self._folded_state(), self._folded + len(self._values)
        return mean

    @property
    def count(self) -> int:
        """The number of values, as far as `first_nonfinite` counts them."""
        return self._folded + len(self._values)

    def first_nonfinite_index(self) -> Tensor | None:
        """Return the index as a tensor on the device, None if there are no values."""
        state = self._folded_state()
        return None if state is None else state[2]

    def reset(self) -> None:
        """Discard all values."""
        self._values: list[Tensor] = []
        self._normalizers: list[int | Tensor] = []
        self._folded = 0  # the number of values in the state
        self._state: Tensor | None = None  # the two sums, and the index of `first_nonfinite`

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and the pending values; folding these early would change the bits."""
        pending = {"values": list(self._values), "shares": list(self._normalizers)}
        return {"folded": self._folded, "state": self._state, **pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums and the pending values, also the sums of a `HostMean`."""
        wide = widest_float(self._device)
        if "total" in state:
            # Its values were looked at one by one, so all of them were finite.
            sums = [state["total"], state["count"], math.inf]
            state = {
                "values": [],
                "shares": [],
                "folded": 0,
                "state": torch.tensor(sums, dtype=wide, device=HOST),
            }
        self._values = [value.to(self._device) for value in state["values"]]
        self._normalizers = [
            share.to(self._device) if isinstance(share, Tensor) else share
            for share in state["shares"]
        ]
        saved = state["state"]
        self._folded = state["folded"]
        self._state = None if saved is None else saved.to(wide).to(self._device)

    def _fold(self) -> None:
        """Fold the pending values into the sums.

        When this happens depends on the number of values alone, not on when the mean is read, so
        that the order of summation, and thereby the bits, do not depend on readers.
        """
        state = self._folded_state()
        self._folded += len(self._values)
        self._state, self._values, self._normalizers = state, [], []

    def _folded_state(self) -> Tensor | None:
        """Return the sums including pending values, on the device, in its widest float dtype."""
        if not self._values:
            return self._state
        # One kernel adds all pending values, in float64, so that thousands of values do not round.
        values = torch.stack(self._values)
        wide = widest_float(values.device)
        values, normalizers = values.to(wide), self._stack_normalizers(values.device, wide)
        indices = torch.arange(self._folded, self._folded + len(values), device=values.device)
        # The mean over an empty batch is NaN and does not count. This is computed on the device
        # along with the sums, so that one read returns all.
        finite = values.isfinite() if self.summed else values.isfinite() | (normalizers == 0)
        first_nonfinite = torch.where(finite, math.inf, indices.to(wide)).min()
        if not self.summed:  # the mean over an empty batch is NaN, and counts as 0
            values = torch.where(normalizers != 0, values * normalizers, 0.0)
        state = torch.stack((values.sum(), normalizers.sum(), first_nonfinite))
        if self._state is None:
            return state
        sums, minima = self._state + state, torch.minimum(self._state, state)
        return torch.stack((sums[0], sums[1], minima[2]))

    def _stack_normalizers(self, device: torch.device, wide: torch.dtype) -> Tensor:
        if all(isinstance(normalizer, int) for normalizer in self._normalizers):
            # The host does not wait for the copy where the device stages it. Elsewhere it must: the
            # memory of this tensor is used again at once.
            return sent(torch.tensor(self._normalizers, dtype=wide, device=HOST), device)
        # A number is written on the device; a copy of it would wait.
        return torch.stack(
            [
                normalizer.to(device, wide)
                if isinstance(normalizer, Tensor)
                else torch.full((), normalizer, dtype=wide, device=device)
                for normalizer in self._normalizers
            ]
        )


def mean_on(device: torch.device, *, summed: bool = False) -> Mean:
    """Return an empty mean for values on `device`."""
    return HostMean(summed=summed) if is_host(device) else DeviceMean(device, summed=summed)


def ratio(total: float, count: float) -> float:
    """Return a mean by its two sums, NaN if it is empty."""
    return total / count if count else math.nan
