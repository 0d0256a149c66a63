"""The means of an objective's terms over a stage, read together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST

from .mean import HostMean, Mean, mean_on, ratio
from .unread import Unread, together

Sums = tuple[list[tuple[float, float]], dict[str, tuple[float, float]]]


class Means:
    """The means of an objective's terms over a stage.

    Args:
        device: The device of the values.
        summed: For each term, whether its values are sums over a batch instead of means.
    """

    def __init__(self, device: torch.device, summed: Iterable[bool]) -> None:
        self._device = device
        self._means = [mean_on(device, summed=is_sum) for is_sum in summed]
        self._parts: dict[str, Mean] = {}

    def settle(self, summed: Iterable[bool]) -> None:
        """Set for each term whether its values are sums, before the first batch is added."""
        for mean, is_sum in zip(self._means, summed, strict=True):
            mean.summed = is_sum

    @property
    def empty(self) -> bool:
        """Whether the means of all terms are empty."""
        return not any(count for _, count in self.sums()[0])

    def add(self, parts: Sequence[tuple[Tensor, int | Tensor]]) -> float:
        """Add a batch: a value and a normalizer for each term.

        Returns:
            The sum of the values if that does not synchronize with a device, otherwise 0.
        """
        if len(parts) == len(self._means) == 1:  # a fast path for every step of a single loss
            return self._means[0].add(*parts[0])
        pairs = zip(self._means, parts, strict=True)
        return sum(mean.add(value, normalizer) for mean, (value, normalizer) in pairs)

    def add_part(self, name: str, value: Tensor, normalizer: int | Tensor, *, summed: bool) -> None:
        """Add a part of a term, which the term's loss returned beside its value."""
        if name not in self._parts:
            self._parts[name] = mean_on(self._device, summed=summed)
        self._parts[name].add(value, normalizer)

    def compute(self) -> tuple[float, list[float]]:
        """Return the sum of the means, and the mean of each term, NaN if it is empty.

        Terms with an empty mean are left out of the sum, unless all are empty.
        """
        loss, terms, _ = self.unread().read()
        return loss, terms

    def unread(self) -> Unread[tuple[float, list[float], dict[str, float]]]:
        """Return what `compute` returns, and the mean of each part, over the batches that had it.

        This does not synchronize with a device.
        """
        return self._unread_sums().then(_means_of)

    def sums(self) -> Sums:
        """Return for each term, and by name for each part, what `Mean.sums` returns."""
        return self._unread_sums().read()

    def _unread_sums(self) -> Unread[Sums]:
        names, terms = list(self._parts), len(self._means)
        sums = together([mean.unread_sums() for mean in (*self._means, *self._parts.values())])
        return sums.then(
            lambda pairs: (pairs[:terms], dict(zip(names, pairs[terms:], strict=True)))
        )

    def joined(self, everywhere: Sequence[Sums]) -> Means:
        """Return the means over the values of several processes.

        Args:
            everywhere: What `sums` returned on each process.
        """
        # Gathered sums are Python numbers, whatever device they come from.
        union = Means(HOST, [mean.summed for mean in self._means])
        for number, mean in enumerate(union._means):
            _set_sums(mean, [sums[number] for sums, _ in everywhere])
        for name in dict.fromkeys(name for _, parts in everywhere for name in parts):
            union._parts[name] = HostMean()
            _set_sums(union._parts[name], [parts[name] for _, parts in everywhere if name in parts])
        return union

    def culprits(self) -> list[bool]:
        """Return for each term whether it was among the first to be NaN or infinite.

        Later values do not count: once the weights are NaN, all terms are.
        """
        indices = [mean.first_nonfinite() for mean in self._means]
        return [index == min(indices) for index in indices]

    def since_nonfinite(self) -> int | None:
        """Return how many values each mean has since the first one that is not finite, itself too.

        None if all values were finite, or were looked at one by one. This waits for a device.
        """
        later = [mean.count - mean.first_nonfinite() for mean in self._means]
        return int(max(later)) if math.isfinite(max(later)) else None

    def first_nonfinite_index(self) -> Tensor | None:
        """Return that index as a tensor on the device, None if it is known without a read."""
        found = [mean.first_nonfinite_index() for mean in self._means]
        indices = [index for index in found if index is not None]
        return torch.stack(indices).min() if indices else None

    def reset(self) -> None:
        """Discard all values."""
        for mean in self._means:
            mean.reset()
        self._parts.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the mean of each term and of each part."""
        parts = {
            name: {"summed": mean.summed, **mean.state_dict()} for name, mean in self._parts.items()
        }
        return {"means": [mean.state_dict() for mean in self._means], "parts": parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the mean of each term and of each part."""
        for mean, mean_state in zip(self._means, state["means"], strict=True):
            mean.load_state_dict(mean_state)
        self._parts.clear()
        for name, part_state in state.get("parts", {}).items():  # older checkpoints have none
            self._parts[name] = mean_on(self._device, summed=part_state["summed"])
            self._parts[name].load_state_dict(part_state)


def _set_sums(mean: Mean, sums: Sequence[tuple[float, float]]) -> None:
    """Set a mean to that of several processes."""
    # `fsum` is exact, so that the bits do not depend on the order of the processes.
    total = math.fsum(total for total, _ in sums)
    count = math.fsum(count for _, count in sums)
    mean.load_state_dict({"total": total, "count": count})


def _means_of(sums: Sums) -> tuple[float, list[float], dict[str, float]]:
    terms, parts = sums
    means = [total / count for total, count in terms if count]
    # Terms that no batch had targets for do not make the whole loss NaN.
    loss = sum(means) if means else math.nan
    parts_means = {name: ratio(*pair) for name, pair in parts.items()}
    return loss, [ratio(*pair) for pair in terms], parts_means
