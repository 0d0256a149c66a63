"""Metrics that are the mean of a function over the batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitorch.devices.accelerators import HOST, is_host
from fitorch.devices.capabilities import widest_float

from .calls import call_of, report_order
from .mean import HostMean, Mean, mean_on, ratio
from .results import named_parts
from .unread import Unread, together


class FunctionMetric:
    """The sample-weighted mean of a function's values over the batches.

    Args:
        function: Maps `(y_pred, y_true)` to a number, or to a mapping, tuple or vector of numbers.
            Functions whose parameters are named `(y_true, y_pred)` are called that way round.
        device: The device of the predictions.
        name: The name of the metric.
    """

    batchable = False  # the mean over batches differs from the value of a concatenated batch

    def __init__(
        self, function: Callable[[Any, Any], Any], device: torch.device, name: str = "metric"
    ) -> None:
        self.function = function
        self.call = call_of(function)
        if self.call is not function:
            report_order(function)
        self.higher_is_better = getattr(function, "higher_is_better", None)
        self._name, self._device, self._on_host = name, device, is_host(device)
        self._means: dict[str, Mean] = {}
        self._length = 0  # of the vectors that the function returns

    def update(self, y_pred: Any, y_true: Any) -> None:
        """Add a batch."""
        value = self.call(y_pred, y_true)
        samples = _sample_count(y_pred if y_true is None else y_true)
        # The value may stay on the device.
        if isinstance(value, Tensor) and value.numel() == 1:
            self._mean_of(self._name).add(self._placed(value.reshape(())), samples)
            return
        self._check_length(value)
        for name, part in named_parts(self._name, value):
            self._mean_of(name).add(self._placed(part), samples)

    def _placed(self, number: Any) -> Tensor:
        """Return a number as a tensor on the device, where the others are."""
        if isinstance(number, Tensor) and (self._on_host or not is_host(number)):
            return number
        # The number is written on the device; a copy of it would wait.
        return torch.full((), float(number), dtype=widest_float(self._device), device=self._device)

    def _check_length(self, value: Any) -> None:
        """Check that a vector has a number for each of the same columns in every batch.

        Raises:
            ValueError: Its length changes, so that it has a number for each sample.
        """
        if not isinstance(value, (Tensor, np.ndarray)) or not value.ndim:
            return
        self._length = self._length or len(value)
        if len(value) != self._length:
            message = (
                f"it returned {self._length} numbers for one batch and {len(value)} for another; "
                "return their mean, with .mean()"
            )
            raise ValueError(message)

    def compute(self) -> Any:
        """Return the mean, or the mean of each number by its column."""
        return self.unread().read()

    def unread(self) -> Unread[Any]:
        """Return what `compute` returns, without a synchronization with the device."""
        names = list(self._means)
        sums = together([mean.unread_sums() for mean in self._means.values()])
        return sums.then(
            lambda pairs: self._named({n: ratio(*p) for n, p in zip(names, pairs, strict=True)})
        )

    def _named(self, values: dict[str, float]) -> Any:
        return values if set(values) - {self._name} else values.get(self._name, math.nan)

    def portable(self) -> FunctionMetric:
        """Return a copy without its function, and with few tensors, to send to other processes."""
        sent = copy.copy(self)
        sent.function = sent.call = None  # type: ignore[assignment]
        sent._means = {name: mean.condensed() for name, mean in self._means.items()}
        return sent

    def reset(self) -> None:
        """Discard all batches."""
        self._means.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the accumulated state."""
        return {name: mean.state_dict() for name, mean in self._means.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the accumulated state."""
        self._means.clear()
        if not all(isinstance(part, Mapping) for part in state.values()):
            state = {self._name: state}  # of version 0.1, in which a function had one mean
        for name, mean_state in state.items():
            self._mean_of(name).load_state_dict(mean_state)

    def merge(self, parts: Sequence[FunctionMetric]) -> None:
        """Replace the mean by that over the batches of `parts`."""
        named = [(name, mean) for part in parts for name, mean in part._means.items()]
        self._means.clear()
        # This waits for the device, once per stage. The sums are in float64 and in rank order, so
        # that all ranks get the same bits.
        pairs = together([mean.unread_sums() for _, mean in named]).read()
        for (name, _), pair in zip(named, pairs, strict=True):
            sums = torch.tensor(pair, dtype=torch.float64, device=HOST)
            self._means.setdefault(name, HostMean()).add(sums[0] / sums[1], sums[1])

    def _mean_of(self, name: str) -> Mean:
        if name not in self._means:
            self._means[name] = mean_on(self._device)
        return self._means[name]


def _sample_count(tree: Any) -> int:
    while isinstance(tree, (Mapping, list, tuple)):
        parts = tree.values() if isinstance(tree, Mapping) else tree
        tree = next(
            part for part in parts if part is not None
        )  # None marks an output without targets
    samples: int = tree.shape[0] if isinstance(tree, Tensor) else len(tree)
    return samples
