"""What predictions are, as a loss takes them: probabilities or logits."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from .base import ReducedLoss

PredictionKind = Literal["probabilities", "logits", "class_logits"] | None

_KIND_OF_LOGITS: dict[bool | None, PredictionKind] = {
    True: "logits",
    False: "probabilities",
    None: None,
}

_LOGITS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss, nn.SoftMarginLoss)

_CLASS_LOGITS = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)


def prediction_kind_of(loss_fn: Any) -> PredictionKind:
    """Return what a loss takes predictions for; None where it does not tell.

    The softmax of log-probabilities is the probabilities, so that they pass for logits of classes.
    """
    if isinstance(loss_fn, nn.BCELoss):
        return "probabilities"
    if isinstance(loss_fn, ReducedLoss):
        return _KIND_OF_LOGITS[loss_fn.from_logits]
    if isinstance(loss_fn, _CLASS_LOGITS):
        return "class_logits"
    return "logits" if isinstance(loss_fn, _LOGITS) else None
