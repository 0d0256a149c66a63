"""Class weights: the weight of each sample in the training loss, by its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fitorch.errors import DataError
from fitorch.tree import describe


class ClassWeights:
    """Computes the weight of each sample: the weight of its class times its sample weight.

    Args:
        weights: Class number to weight; the weight of other classes is 1.
        device: The device of the targets.
        dtype: The floating type of the weights, that of the net.
    """

    def __init__(
        self,
        weights: Mapping[int, float],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.weights = dict(weights)
        table = torch.ones(max(weights) + 1, dtype=dtype)
        for number, weight in weights.items():
            table[number] = weight
        self._table = table.to(device)
        self._seen_one_hot = False

    def __call__(self, y_true: Any, weight: Tensor | None) -> Tensor:
        """Return the weights of a batch, of shape (N,).

        Raises:
            DataError: The targets are neither class numbers nor one-hot.
        """
        weights = self._look_up(self._classes(y_true))
        return weights if weight is None else weights * weight.reshape(-1)

    def _look_up(self, classes: Tensor) -> Tensor:
        last = len(self._table) - 1
        # A comparison with the clamped index finds unknown classes without a read from the device.
        known = classes.clamp(0, last)
        return torch.where(classes == known, self._table[known], 1.0)

    def _classes(self, y_true: Any) -> Tensor:
        """Return class numbers, int64 of shape (N,), from (N,), (N, 1) or one-hot (N, C)."""
        if isinstance(y_true, Tensor) and y_true.dim():
            if y_true.numel() == y_true.shape[0]:
                return y_true.reshape(-1).long()
            # The first batch stands for all, because looking at the values waits for the device.
            if y_true.dim() == 2 and (self._seen_one_hot or _is_one_hot(y_true)):
                self._seen_one_hot = True
                return y_true.argmax(1)
        message = (
            f"class_weight needs targets that are one class per sample, of shape (N,), (N, 1) or "
            f"one-hot (N, C), but got {describe(y_true)}; pass a sample_weight instead"
        )
        raise DataError(message)


def _is_one_hot(y_true: Tensor) -> bool:
    """Return whether the rows of (N, C) are class probabilities; on a GPU this synchronizes."""
    sums = y_true.sum(1, dtype=torch.float32)
    return bool((y_true >= 0).all() and (sums - 1).abs().max() < 1e-3)
