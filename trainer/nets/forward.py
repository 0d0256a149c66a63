"""Forward pass: the function from batches to predictions, chosen by the first batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

from torch import Tensor

from fitorch.errors import DataError
from fitorch.tree import describe

from .calls import choose_call, names_argument, takes_argument
from .precision import Cast, Net

FORMS = "(features, targets), (features, targets, sample_weight), or a mapping"

Hook = Callable[[Any, Any], tuple[Any, Any]]

Predicted = tuple[Any, Any, "Tensor | None"]  # the net's output, targets, a weight per sample

Forward = Callable[[Any], Predicted]

_NO_FEATURES = ("labels", "sample_weight")  # keys of a mapping batch

IGNORED_TARGET = -100  # torch's default for targets that a loss leaves out


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
    return _by_hook(net, cast, hook) if hook is not None else _by_form(net, cast(net), batch)


def features_of(batch: Any) -> Any:
    """Return the features of a batch, without targets and weights."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in _NO_FEATURES}
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 3:
        return batch[0]
    return batch


def has_graph_targets(batch: Any) -> bool:
    """Return whether a batch is one of torch_geometric, with the targets in its attribute `y`."""
    return hasattr(batch, "num_nodes") and isinstance(getattr(batch, "y", None), Tensor)


def check_batch(batch: object) -> None:
    """Check that a batch has one of the three forms, or is a batch of graphs.

    Raises:
        DataError: It has none of them.
    """
    if has_graph_targets(batch):
        return
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


def _by_form(module: Net, net: Net, batch: Any) -> Forward:
    check_batch(batch)
    if isinstance(batch, Mapping):
        # Length and form are decided by the first batch; others raise an error.
        return _mappings(module, net, batch)
    if has_graph_targets(batch):
        return lambda graphs: (net(graphs), graphs.y, None)
    call = choose_call(net, batch[0], module, batch[1])
    return _forward_of_pairs(call) if len(batch) == 2 else _triples(call)


def _mappings(module: Net, net: Net, batch: Mapping[str, Any]) -> Forward:
    """Return the forward pass of mappings, whose labels go to nets that compute their own loss."""
    inputs_of = _with_labels if takes_argument(module, "labels") else features_of
    if names_argument(module, "num_items_in_batch"):
        inputs_of = _with_count
    call = choose_call(net, inputs_of(batch), module)

    def forward(batch: Any) -> Predicted:
        return call(inputs_of(batch)), batch["labels"], batch.get("sample_weight")

    return forward


def _with_labels(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    if "sample_weight" not in batch:
        return batch
    return {key: value for key, value in batch.items() if key != "sample_weight"}


def _with_count(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a net that divides its loss by a number of targets that it is given."""
    labels = batch["labels"]
    count = (labels != IGNORED_TARGET).sum() if isinstance(labels, Tensor) else None
    return {**_with_labels(batch), "num_items_in_batch": count}


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
