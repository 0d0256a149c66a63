"""Class weights: the weight of each sample in the training loss, by its class."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor

from fitorch.checks import plain
from fitorch.devices.accelerators import HOST, is_host
from fitorch.errors import DataError
from fitorch.metrics.task import PredictionKind, infer_task
from fitorch.tree import describe


def class_weights_of(weights: Any) -> dict[int, float] | None:
    """Return the weights as a dict of class number to weight, None if there are none.

    Args:
        weights: A mapping, or a sequence or array with a weight for each class; or None.

    Raises:
        TypeError: `weights` is none of these.
        ValueError: A class number or a weight is out of range.
    """
    if weights is None:
        return None
    if hasattr(weights, "to_dict"):  # a Series, whose index has the class numbers
        weights = weights.to_dict()
    if hasattr(weights, "tolist"):  # an array or a tensor
        weights = weights.tolist()
    if isinstance(weights, (tuple, list)):
        return ForEachClass({_class_number(n, w): float(w) for n, w in enumerate(weights)}) or None
    if not isinstance(weights, Mapping):
        message = (
            f"class_weight is {weights!r}; expected a dict of class number to weight, or a "
            "sequence with a weight for each class"
        )
        raise TypeError(message)
    return {_class_number(n, w): float(w) for n, w in weights.items()} or None


def _class_number(number: Any, weight: Any) -> int:
    value: Any = plain(number)
    # scikit-learn's idiom, np.unique(y), has floats if the targets are floats.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or value != int(value) or value < 0 or not 0 <= weight < inf:
        message = (
            f"class_weight has {number!r}: {weight!r}; expected class numbers >= 0 and weights >= 0"
        )
        raise ValueError(message)
    return int(value)


class ForEachClass(dict[int, float]):
    """The weights of all classes, which were passed without their numbers."""


class ClassWeights:
    """Computes the weight of each sample: the weight of its class times its sample weight.

    Args:
        weights: Class number to weight; the weight of other classes is 1.
        device: The device of the targets.
        dtype: The floating type of the weights, that of the net.
        kind: The kind of predictions that the loss expects, None if it is unknown. It decides
            what targets of shape (N, C) are: class probabilities, or labels of their own.
    """

    def __init__(
        self,
        weights: Mapping[int, float],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        kind: PredictionKind = None,
    ) -> None:
        self.weights = dict(weights)
        self._for_each = isinstance(weights, ForEachClass)
        table = torch.ones(max(weights) + 1, dtype=dtype, device=HOST)
        for number, weight in weights.items():
            table[number] = weight
        self._table = table.to(device)
        self._kind: PredictionKind = kind
        self._seen_one_hot = False

    def check(self, y_pred: Any, y_true: Any) -> None:
        """Check that the net has the classes, as far as the task tells.

        Raises:
            DataError: There is a weight for a class that the net does not have.
        """
        try:
            task = infer_task(getattr(y_pred, "logits", y_pred), y_true, self._kind)
        except ValueError:  # a task of another form
            return
        sizes = {"multiclass": task.size, "multilabel": task.size}
        if self._kind is not None:  # without it, targets of 0 and 1 may be numbers
            sizes["binary"] = 2
        classes = sizes.get(task.kind)
        if classes is not None and max(self.weights) >= classes:
            message = (
                f"class_weight has the class {max(self.weights)}, but the task is {task}: classes "
                f"are 0 to {classes - 1}"
            )
            raise DataError(message)
        if classes is not None and self._for_each and len(self.weights) < classes:
            message = (
                f"class_weight has {len(self.weights)} weights, but the task is {task}; pass a "
                "weight for each class, or a dict of class number to weight"
            )
            raise DataError(message)

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
                # A smoothed target of 0.9 is of class 1.
                flat = y_true.reshape(-1)
                return (flat.round() if flat.is_floating_point() else flat).long()
            if y_true.dim() == 2 and self._are_probabilities(y_true):
                return y_true.argmax(1)
        message = (
            "class_weight needs targets that are one class per sample, of shape (N,), (N, 1) or "
            f"class probabilities (N, C), but got {describe(y_true)}; pass a sample_weight "
            "instead, or for several labels BCEWithLogitsLoss(pos_weight=...)"
        )
        raise DataError(message)

    def _are_probabilities(self, y_true: Tensor) -> bool:
        """Return whether targets (N, C) are class probabilities, as one-hot ones are."""
        if self._kind is not None:
            return self._kind == "class_logits" and y_true.is_floating_point()
        # The loss does not tell. Looking at the values waits for an accelerator, where the first
        # batch stands for all.
        looks = is_host(y_true) and not torch.compiler.is_compiling()
        if looks or not self._seen_one_hot:
            self._seen_one_hot = _is_one_hot(y_true)
        return self._seen_one_hot


def _is_one_hot(y_true: Tensor) -> bool:
    """Return whether the rows of (N, C) are class probabilities; on a GPU this synchronizes."""
    sums = y_true.sum(1, dtype=torch.float32)
    return bool((y_true >= 0).all() and (sums - 1).abs().max() < 1e-3)
