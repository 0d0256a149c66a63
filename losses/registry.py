"""Registry of losses: names and the losses that they stand for."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Any, Any], Tensor]

# The losses of torch.nn. The package's `__init__` adds fitorch's own: they are composable, and
# `compose` imports this module.
LOSSES: dict[str, Callable[[], Loss]] = {
    "bce": nn.BCELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "binary_cross_entropy": nn.BCELoss,
    "binary_cross_entropy_with_logits": nn.BCEWithLogitsLoss,
    "cosine_embedding": nn.CosineEmbeddingLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "ctc": nn.CTCLoss,
    "gaussian_nll": nn.GaussianNLLLoss,
    "hinge_embedding": nn.HingeEmbeddingLoss,
    "huber": nn.HuberLoss,
    # torch's default divides by the number of elements, which does not give the divergence.
    "kl_div": lambda: nn.KLDivLoss(reduction="batchmean"),
    "l1": nn.L1Loss,
    "mae": nn.L1Loss,
    "margin_ranking": nn.MarginRankingLoss,
    "mse": nn.MSELoss,
    "multi_margin": nn.MultiMarginLoss,
    "multilabel_margin": nn.MultiLabelMarginLoss,
    "multilabel_soft_margin": nn.MultiLabelSoftMarginLoss,
    "nll": nn.NLLLoss,
    "poisson_nll": nn.PoissonNLLLoss,
    "smooth_l1": nn.SmoothL1Loss,
    "soft_margin": nn.SoftMarginLoss,
    "triplet_margin": nn.TripletMarginLoss,
    "triplet_margin_with_distance": nn.TripletMarginWithDistanceLoss,
}

# Modules equivalent to functions of torch.nn.functional; unlike these, they have a `reduction`.
_MODULES: dict[Any, Callable[..., Loss]] = {
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.cosine_embedding_loss: nn.CosineEmbeddingLoss,
    F.cross_entropy: nn.CrossEntropyLoss,
    F.ctc_loss: nn.CTCLoss,
    F.gaussian_nll_loss: nn.GaussianNLLLoss,
    F.hinge_embedding_loss: nn.HingeEmbeddingLoss,
    F.huber_loss: nn.HuberLoss,
    F.kl_div: nn.KLDivLoss,
    F.l1_loss: nn.L1Loss,
    F.margin_ranking_loss: nn.MarginRankingLoss,
    F.mse_loss: nn.MSELoss,
    F.multi_margin_loss: nn.MultiMarginLoss,
    F.multilabel_margin_loss: nn.MultiLabelMarginLoss,
    F.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
    F.nll_loss: nn.NLLLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.triplet_margin_loss: nn.TripletMarginLoss,
    F.triplet_margin_with_distance_loss: nn.TripletMarginWithDistanceLoss,
}


def get(loss: Any) -> Loss:
    """Return the loss with the name `loss`, or `loss` itself if it is callable.

    Names are those of torch.nn.functional without `_loss`, the usual short forms, or class names
    such as `"CrossEntropyLoss"`. Functions of torch.nn.functional become the equivalent modules.

    Args:
        loss: A name, a loss module, or a function `(y_pred, y_true) -> scalar`.

    Raises:
        ValueError: The name is unknown.
        TypeError: `loss` is neither a name nor a loss.
    """
    if isinstance(loss, str):
        return _by_name(loss)
    if isinstance(loss, type):
        message = f"loss_fn is the class {loss.__name__}; pass {loss.__name__}()"
        raise TypeError(message)
    if isinstance(loss, nn.CosineSimilarity):  # minimizing it would train in the wrong direction
        message = (
            "CosineSimilarity increases as predictions improve; use fitorch.losses.CosineLoss(), "
            "which is 1 - similarity"
        )
        raise TypeError(message)
    if not callable(loss):
        message = (
            f"loss_fn is a {type(loss).__name__}; expected a callable (y_pred, y_true) -> scalar, "
            "as nn.MSELoss(), or a name, as 'cross_entropy'"
        )
        raise TypeError(message)
    loss = _as_module(loss)
    if isinstance(loss, nn.KLDivLoss) and loss.reduction == "mean":
        warnings.warn(
            "KLDivLoss(reduction='mean') divides by the number of elements, which does not give "
            "the divergence; use reduction='batchmean'",
            stacklevel=2,
        )
    return cast("Loss", loss)


def _by_name(name: str) -> Loss:
    if name in LOSSES:
        return LOSSES[name]()
    classes = {make.__name__: make for make in LOSSES.values() if isinstance(make, type)}
    if name in classes:
        loss: Loss = classes[name]()
        return loss
    # This one is made by a function, so that it has no class name.
    if name in ("KLDivLoss", "KLDiv"):
        return LOSSES["kl_div"]()
    close = difflib.get_close_matches(name.lower(), LOSSES, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    message = f"unknown loss {name!r}{hint}; expected one of {', '.join(sorted(LOSSES))}"
    raise ValueError(message)


def _as_module(loss: Any) -> Any:
    """Return the module equivalent to a function of torch.nn.functional; other losses as is."""
    function, keywords = loss, {}
    # Positional arguments are left alone: those of a module have another order.
    if isinstance(loss, partial) and not loss.args:
        function, keywords = loss.func, loss.keywords
    try:
        module = _MODULES.get(function)
        return loss if module is None else module(**keywords)
    except (
        TypeError
    ):  # not hashable, hence not a function of torch; or a keyword of the function only
        return loss
