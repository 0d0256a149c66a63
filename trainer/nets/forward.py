"""From a batch to predictions and targets: how the net is called, settled on the first batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """Return `forward` with the `.logits` of its outputs, which a loss of one's own compares."""

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


def _changed(batch: Any, size: int) -> str:
    return f"the first batch had length {size}, but this one has {len(batch)}: {describe(batch)}"
