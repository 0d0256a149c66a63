"""The kind of predictions that a loss expects: probabilities or logits."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import nn
from torch.nn import functional

from .base import ReducedLoss
from .builtin import is_builtin

PredictionKind = Literal["probabilities", "logits", "class_logits"] | None

_KIND_OF_LOGITS: dict[bool | None, PredictionKind] = {
    True: "logits",
    False: "probabilities",
    None: None,
}

_LOGITS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss, nn.SoftMarginLoss)

_CLASS_LOGITS = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)


def prediction_kind_of(loss_fn: Any) -> PredictionKind:
    """Return the kind of predictions that a loss expects; None if it is unknown.

    Log-probabilities count as class logits, because their softmax is the probabilities. A subclass
    with its own `forward` may expect anything.
    """
    function = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    if function is functional.binary_cross_entropy or is_builtin(loss_fn, nn.BCELoss):
        return "probabilities"
    if function in (functional.cross_entropy, functional.nll_loss):
        return "class_logits"
    if isinstance(loss_fn, ReducedLoss) and is_builtin(loss_fn, ReducedLoss):
        return _KIND_OF_LOGITS[loss_fn.from_logits]
    if is_builtin(loss_fn, _CLASS_LOGITS):
        return "class_logits"
    is_logits = function is functional.binary_cross_entropy_with_logits
    return "logits" if is_logits or is_builtin(loss_fn, _LOGITS) else None
