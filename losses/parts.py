"""Losses that return their parts: a mapping of losses, or the loss and such a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fitorch.tree import describe

_FORMS = (
    "a scalar tensor, a mapping of scalar tensors (their sum, or its 'loss', is trained on), or "
    "(loss, mapping)"
)


def split_parts(name: str, result: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return the loss to train on, and the parts of it that become columns.

    Args:
        name: The name of the loss, for messages.
        result: What a loss, or a net that computes its losses, returned. In a mapping with a key
            "loss", this is the loss, and the other scalars are its parts; otherwise the loss is the
            sum of all values.

    Raises:
        ValueError: The result has none of the supported forms.
    """
    if isinstance(result, Mapping) and result:
        if "loss" in result:
            parts = {key: part for key, part in result.items() if key != "loss"}
            return result["loss"], _scalars(parts)
        parts = _scalars(result)
        if len(parts) == len(result):
            first, *others = parts.values()
            return sum(others, start=first), parts
    elif isinstance(result, (tuple, list)) and len(result) == 2 and isinstance(result[1], Mapping):
        return result[0], _scalars(result[1])
    message = f"{name} returned {describe(result)}; expected {_FORMS}"
    raise ValueError(message)


def is_scalar(value: Any) -> bool:
    """Return whether a value is a tensor with one element."""
    return isinstance(value, Tensor) and value.numel() == 1


def _scalars(parts: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): part for key, part in parts.items() if is_scalar(part)}
