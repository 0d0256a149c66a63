"""The weighted mean of a stage's losses: exact, and cheap enough for every step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Mean:
    """The mean of scalars, each with its normalizer: `sum(value * normalizer) / sum(normalizer)`.

    Args:
        summed: The values are sums over their normalizer already, instead of means.
    """

    def __init__(self, *, summed: bool = False) -> None:
        self.summed = summed
        self.reset()

    @property
    def empty(self) -> bool:
        """Whether nothing was counted: no value was added, or none had a normalizer."""
        return not self.sums()[1]

    def compute(self) -> float:
        """Return the mean so far, NaN where nothing was counted."""
        return _ratio(*self.sums())

    def add(self, value: Tensor, normalizer: int | Tensor) -> float:
        """Count a scalar in; return it where that costs nothing, else 0."""
        raise NotImplementedError

    def sums(self) -> tuple[float, float]:
        """Return the sum of the values times their normalizers, and the sum of the normalizers."""
        raise NotImplementedError

    def first_nonfinite(self) -> float:
        """Return how many values came before the first that is not finite, infinity for none."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        raise NotImplementedError


class HostMean(Mean):
    """A mean in Python floats (64 bits), for values that lie in the host's memory."""

    def add(self, value: Tensor, normalizer: int | Tensor) -> float:
        """Count a scalar in and return it; a mean over nothing, which is NaN, counts as 0."""
        number, count = value.item(), float(normalizer)
        if not count and not self.summed:
            return 0.0
        self._total += number if self.summed else number * count
        self._count += count
        return number

    def sums(self) -> tuple[float, float]:
        """Return them."""
        return self._total, self._count

    def first_nonfinite(self) -> float:
        """Return infinity: here `add` tells at once."""
        return math.inf

    def reset(self) -> None:
        """Forget everything."""
        self._total = 0.0
        self._count = 0.0

    def state_dict(self) -> dict[str, float]:
        """Return the two sums."""
        return {"total": self._total, "count": self._count}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Put them back."""
        self._total, self._count = state["total"], state["count"]


class DeviceMean(Mean):
    """A mean that stays on an accelerator until somebody asks: `add` waits for nothing."""

    _PENDING = 1024

    def add(self, value: Tensor, normalizer: int | Tensor) -> float:
        """Count a scalar in; return 0, since reading it would wait for the device."""
        self._values.append(value.detach())
        self._normalizers.append(normalizer)
        if len(self._values) == self._PENDING:
            self._fold()
        return 0.0

    def sums(self) -> tuple[float, float]:
        """Read them from the device."""
        total, count, _ = self._read()
        return total, count

    def first_nonfinite(self) -> float:
        """Read it from the device."""
        return self._read()[2]

    def reset(self) -> None:
        """Forget everything."""
        self._values: list[Tensor] = []
        self._normalizers: list[int | Tensor] = []
        self._folded = 0  # values that are in the state
        self._state: Tensor | None = None  # the two sums, and what came before a wrong value

    def state_dict(self) -> dict[str, Any]:
        """Return what was folded, and what is pending, as it is: folding early would round anew."""
        pending = {"values": list(self._values), "shares": list(self._normalizers)}
        return {"folded": self._folded, "state": self._state, **pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self._values, self._normalizers = list(state["values"]), list(state["shares"])
        self._folded, self._state = state["folded"], state["state"]

    def _read(self) -> list[float]:
        state = self._folded_state()
        return [0.0, 0.0, math.inf] if state is None else state.tolist()

    def _fold(self) -> None:
        """Add up what is pending; when that happens depends on the number of values alone."""
        state = self._folded_state()
        self._folded += len(self._values)
        self._state, self._values, self._normalizers = state, [], []

    def _folded_state(self) -> Tensor | None:
        """Return the sums with what is pending, on the device and in its widest floating type."""
        if not self._values:
            return self._state
        values = torch.stack(self._values)
        wide = torch.float32 if values.device.type == "mps" else torch.float64
        values, normalizers = values.to(wide), self._stack_normalizers(values.device, wide)
        places = torch.arange(self._folded, self._folded + len(values), device=values.device)
        first_nonfinite = torch.where(values.isfinite(), math.inf, places.to(wide)).min()
        if not self.summed:  # a mean over nothing is NaN, and counts nothing
            values = torch.where(normalizers != 0, values * normalizers, 0.0)
        state = torch.stack((values.sum(), normalizers.sum(), first_nonfinite))
        if self._state is None:
            return state
        added, earlier = self._state + state, torch.minimum(self._state, state)
        return torch.stack((added[0], added[1], earlier[2]))

    def _stack_normalizers(self, device: torch.device, wide: torch.dtype) -> Tensor:
        if all(isinstance(normalizer, int) for normalizer in self._normalizers):
            return torch.tensor(self._normalizers, dtype=wide).to(device, non_blocking=True)
        if all(
            isinstance(normalizer, Tensor) and normalizer.device == device
            for normalizer in self._normalizers
        ):
            return torch.stack(self._normalizers).to(wide)  # type: ignore[arg-type]
        return torch.stack(
            [
                torch.as_tensor(normalizer, dtype=wide, device=device)
                for normalizer in self._normalizers
            ]
        )


def mean_on(device: torch.device, *, summed: bool = False) -> Mean:
    """Return the mean for values that lie on `device`."""
    return HostMean(summed=summed) if device.type == "cpu" else DeviceMean(summed=summed)


class Means:
    """The means of an objective's terms over a stage.

    Args:
        device: Where the values lie.
        summed: For each term, whether its values are sums over their normalizer already.
    """

    def __init__(self, device: torch.device, summed: Iterable[bool]) -> None:
        self._means = [mean_on(device, summed=each) for each in summed]

    @property
    def empty(self) -> bool:
        """Whether nothing was counted for any term."""
        return all(mean.empty for mean in self._means)

    def add(self, parts: Sequence[tuple[Tensor, int | Tensor]]) -> float:
        """Count a batch in: a value and a normalizer for each term.

        Returns:
            The sum of the values where that costs nothing, else 0.
        """
        if len(parts) == len(self._means) == 1:  # the most frequent case, in every step
            return self._means[0].add(*parts[0])
        added = zip(self._means, parts, strict=True)
        return sum(mean.add(value, normalizer) for mean, (value, normalizer) in added)

    def compute(self) -> tuple[float, list[float]]:
        """Return the sum of the means, and the mean of each term, NaN where nothing was counted.

        A term that counted nothing is no part of the sum, unless that is so for all.
        """
        sums = [mean.sums() for mean in self._means]
        counted = [total / count for total, count in sums if count]
        return sum(counted) if counted else math.nan, [_ratio(*each) for each in sums]

    def sums(self) -> list[tuple[float, float]]:
        """Return for each term what `Mean.sums` returns."""
        return [mean.sums() for mean in self._means]

    def joined(self, everywhere: Sequence[Sequence[tuple[float, float]]]) -> Means:
        """Return the means over what several processes counted.

        Args:
            everywhere: The sums of each of them.
        """
        union = Means(torch.device("cpu"), [mean.summed for mean in self._means])
        for number, mean in enumerate(union._means):
            total = math.fsum(sums[number][0] for sums in everywhere)
            count = math.fsum(sums[number][1] for sums in everywhere)
            mean.load_state_dict({"total": total, "count": count})
        return union

    def culprits(self) -> list[bool]:
        """Say for each term whether it was among the first to be NaN or infinite, as far as known.

        Once the weights are NaN, everything is.
        """
        places = [mean.first_nonfinite() for mean in self._means]
        return [place == min(places) for place in places]

    def reset(self) -> None:
        """Forget everything."""
        for mean in self._means:
            mean.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted, for each term."""
        return {"means": [mean.state_dict() for mean in self._means]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        for mean, each in zip(self._means, state["means"], strict=True):
            mean.load_state_dict(each)


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
