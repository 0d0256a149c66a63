"""Losses by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

Loss = Callable[[Any, Any], Tensor]

LOSSES: dict[str, Callable[[], Loss]] = {
    "bce": nn.BCELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "binary_cross_entropy": nn.BCELoss,
    "binary_cross_entropy_with_logits": nn.BCEWithLogitsLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "ctc": nn.CTCLoss,
    "hinge_embedding": nn.HingeEmbeddingLoss,
    "huber": nn.HuberLoss,
    "kl_div": lambda: nn.KLDivLoss(reduction="batchmean"),
    "l1": nn.L1Loss,
    "mae": nn.L1Loss,
    "mse": nn.MSELoss,
    "multi_margin": nn.MultiMarginLoss,
    "multilabel_margin": nn.MultiLabelMarginLoss,
    "multilabel_soft_margin": nn.MultiLabelSoftMarginLoss,
    "nll": nn.NLLLoss,
    "poisson_nll": nn.PoissonNLLLoss,
    "smooth_l1": nn.SmoothL1Loss,
    "soft_margin": nn.SoftMarginLoss,
}


def get(loss: Any) -> Loss:
    """Return the loss called `loss`, or `loss` itself where it is callable.

    Raises:
        ValueError: No loss has that name.
        TypeError: `loss` is neither a name nor callable.
    """
    if isinstance(loss, str):
        if loss in LOSSES:
            return LOSSES[loss]()
        close = difflib.get_close_matches(loss, LOSSES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        message = f"unknown loss {loss!r}{hint}; expected one of {', '.join(LOSSES)}"
        raise ValueError(message)
    if isinstance(loss, type):
        message = f"loss_fn is the class {loss.__name__}; pass {loss.__name__}()"
        raise TypeError(message)
    if not callable(loss):
        message = (
            f"loss_fn is a {type(loss).__name__}; expected a callable (y_pred, y_true) -> scalar, "
            "as nn.MSELoss(), or a name, as 'cross_entropy'"
        )
        raise TypeError(message)
    return cast("Loss", loss)
