"""Forward pass: the function from batches to predictions, chosen by the first batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

from torch import Tensor

from fitorch.errors import DataError
from fitorch.tree import describe

from .precision import Cast, Net

FORMS = "(features, targets), (features, targets, sample_weight), or a mapping"

Hook = Callable[[Any, Any], tuple[Any, Any]]

Predicted = tuple[Any, Any, "Tensor | None"]  # the net's output, targets, a weight per sample

Forward = Callable[[Any], Predicted]

_NO_FEATURES = ("labels", "sample_weight")  # keys of a mapping batch


def choose_forward(
    net: Net,
    batch: Any,
    cast: Cast,
    hook: Hook | None = None,
) -> Forward:
    """Return a function from batches like `batch` to predictions, targets and weights.

    Args:
        net: The net to call.
        batch: The first batch of a stage.
        cast: Wraps a function so that it runs in the chosen precision.
        hook: The user's `forward(net, batch) -> (predictions, targets)`.

    Raises:
        DataError: The batch has an unsupported form.
    """
    return _by_hook(net, cast, hook) if hook is not None else _by_form(cast(net), batch)


def choose_call(net: Net, features: object) -> Net:
    """Return a function that calls the net: `net(x)`, `net(*x)` for tuples, or `net(**x)`."""
    if isinstance(features, Mapping):
        return lambda x: net(**x)
    if isinstance(features, (tuple, list)):
        return lambda x: net(*x)
    return net


def features_of(batch: Any) -> Any:
    """Return the features of a batch, without targets and weights."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in _NO_FEATURES}
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 3:
        return batch[0]
    return batch


def check_batch(batch: object) -> None:
    """Check that a batch has one of the three forms.

    Raises:
        DataError: It has none of them.
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
            "for other forms pass forward=lambda net, batch: (predictions, targets)"
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
    return _forward_of_pairs(call) if len(batch) == 2 else _triples(call)


def _mappings(net: Net, *, weighted: bool) -> Forward:
    if not weighted:
        return lambda batch: (net(**batch), batch["labels"], None)

    def forward(batch: Any) -> Predicted:
        inputs = dict(batch)
        weight = inputs.pop("sample_weight")
        return net(**inputs), inputs["labels"], weight

    return forward


def taking_logits(forward: Forward) -> Forward:
    """Return `forward` with the `.logits` of its outputs, for losses other than the net's own."""

    def logits(batch: Any) -> Predicted:
        y_pred, y_true, weight = forward(batch)
        return y_pred.logits, y_true, weight

    return logits


def _forward_of_pairs(call: Net) -> Forward:
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


def _changed(batch: Sized, size: int) -> str:
    return f"the first batch had length {size}, but this one has {len(batch)}: {describe(batch)}"
