"""From a batch to predictions and targets: how the net is called, settled on the first batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .data import FORMS
from .errors import DataError
from .structure import describe, map_tensors

Net = Callable[..., Any]
Hook = Callable[[Any, Any], tuple[Any, Any]]


Predicted = tuple[Any, Any, "Tensor | None"]  # the net's output, targets, a weight per sample
Forward = Callable[[Any], Predicted]
Cast = Callable[[Net], Net]

_NO_FEATURES = ("labels", "sample_weight")  # keys of a mapping batch


class ClassWeights:
    """The weight of each sample by its class, times its own.

    Args:
        weights: Class number to weight; classes that are not in it weigh 1.
        device: Where the targets lie.
        dtype: What the weights are counted in, as the net's.
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
            DataError: The targets are not class numbers, nor one-hot.
        """
        weights = self._look_up(self._classes(y_true))
        return weights if weight is None else weights * weight.reshape(-1)

    def _look_up(self, classes: Tensor) -> Tensor:
        last = len(self._table) - 1
        known = classes.clamp(0, last)
        return torch.where(classes == known, self._table[known], 1.0)

    def _classes(self, y_true: Any) -> Tensor:
        """Return class numbers, int64 of shape (N,), from (N,), (N, 1) or one-hot (N, C)."""
        if isinstance(y_true, Tensor) and y_true.dim():
            if y_true.numel() == y_true.shape[0]:
                return y_true.reshape(-1).long()
            if y_true.dim() == 2 and (self._seen_one_hot or _is_one_hot(y_true)):
                self._seen_one_hot = True
                return y_true.argmax(1)
        message = (
            f"class_weight needs targets that are one class per sample, of shape (N,), (N, 1) or "
            f"one-hot (N, C), but got {describe(y_true)}; pass a sample_weight instead"
        )
        raise DataError(message)


def _is_one_hot(y_true: Tensor) -> bool:
    """Say whether each row of (N, C) says how probable each class is; on a GPU this waits."""
    sums = y_true.sum(1, dtype=torch.float32)
    return bool((y_true >= 0).all() and (sums - 1).abs().max() < 1e-3)


def choose_forward(
    net: Net,
    batch: Any,
    cast: Cast,
    hook: Hook | None = None,
) -> Forward:
    """Return the function that turns batches like `batch` into predictions and targets.

    Args:
        net: The net to call.
        batch: The first batch of a stage.
        cast: Makes a function run in the chosen precision.
        hook: The user's `forward(net, batch) -> (predictions, targets)`.

    Raises:
        DataError: Nothing can be made of such a batch.
    """
    return _by_hook(net, cast, hook) if hook is not None else _by_form(cast(net), batch)


def choose_call(net: Net, features: Any) -> Net:
    """Return how the net takes features: `net(x)`; tuples as `net(*x)`, mappings as `net(**x)`."""
    if isinstance(features, Mapping):
        return lambda x: net(**x)
    if isinstance(features, (tuple, list)):
        return lambda x: net(*x)
    return net


def features_of(batch: Any) -> Any:
    """Return what a net should see of a batch when there is nothing to compare with."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in _NO_FEATURES}
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 3:
        return batch[0]
    return batch


def check_batch(batch: Any) -> None:
    """Refuse a batch that is none of the three forms.

    Raises:
        DataError: It says what was got and what a batch can be.
    """
    if isinstance(batch, Mapping):
        if "labels" not in batch:
            message = (
                f"a mapping batch needs a 'labels' key, but this one has {list(batch)}; rename the "
                "targets, or pass forward=lambda net, batch: (predictions, targets)"
            )
            raise DataError(message)
    elif not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        size = f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        message = (
            f"a batch must be {FORMS}, but got a {type(batch).__name__}{size}: {describe(batch)}; "
            "for any other batch pass forward=lambda net, batch: (predictions, targets)"
        )
        raise DataError(message)


def _by_hook(net: Net, cast: Cast, hook: Hook) -> Forward:
    call = cast(hook)

    def forward(batch: Any) -> Predicted:
        result = call(net, batch)
        if not isinstance(result, (tuple, list)) or len(result) not in (2, 3):
            message = (
                "forward(net, batch) must return (predictions, targets) or (predictions, targets, "
                f"sample_weight), but it returned a {type(result).__name__}: {describe(result)}"
            )
            raise DataError(message)
        return result[0], result[1], result[2] if len(result) == 3 else None

    return forward


def _by_form(net: Net, batch: Any) -> Forward:
    check_batch(batch)
    if isinstance(batch, Mapping):
        return _mappings(net, weighted="sample_weight" in batch)
    call = choose_call(net, batch[0])
    return _pairs(call) if len(batch) == 2 else _triples(call)


def _mappings(net: Net, *, weighted: bool) -> Forward:
    if not weighted:
        return lambda batch: (net(**batch), batch["labels"], None)

    def forward(batch: Any) -> Predicted:
        inputs = dict(batch)
        weight = inputs.pop("sample_weight")
        return net(**inputs), inputs["labels"], weight

    return forward


def taking_logits(forward: Forward) -> Forward:
    """Return `forward` with the `.logits` of its outputs, which a loss of one's own compares."""

    def logits(batch: Any) -> Predicted:
        y_pred, y_true, weight = forward(batch)
        return y_pred.logits, y_true, weight

    return logits


def _pairs(call: Net) -> Forward:
    def forward(batch: Any) -> Predicted:
        if len(batch) != 2:
            raise DataError(_changed(batch, 2))
        x, y = batch
        return call(x), y, None

    return forward


def _triples(call: Net) -> Forward:
    def forward(batch: Any) -> Predicted:
        if len(batch) != 3:
            raise DataError(_changed(batch, 3))
        x, y, weight = batch
        return call(x), y, weight

    return forward


def _changed(batch: Any, size: int) -> str:
    return f"the first batch had length {size}, but this one has {len(batch)}: {describe(batch)}"


def in_precision(net: Net, device: torch.device, dtype: torch.dtype | None) -> Net:
    """Return `net` run under autocast to `dtype`, its outputs in float32; `net` itself for None."""
    if dtype is None:
        return net

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype):
            output = net(*args, **kwargs)
        return map_tensors(_to_float32, output)

    return forward


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
