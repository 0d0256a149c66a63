"""Whether predictions and targets fit a loss: said before the first update."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .base import ReducedLoss
from .names import name_of
from .shape_checks import (
    LINEAR,
    MisfitError,
    broadcasts_by_accident,
    check_class_numbers,
    check_class_range,
    check_floating,
    check_long,
    check_probabilities,
    check_same_shape,
    check_signs,
    class_count,
    class_shape,
    ignored_class,
    is_class_numbers,
    shape_hint,
)

_BCE = "use nn.BCEWithLogitsLoss, or end the net with nn.Sigmoid"


def check(loss_fn: Any, y_pred: Any, y_true: Any) -> None:
    """Refuse predictions and targets that `loss_fn` would reject or silently misread.

    Losses of torch.nn and ours are checked in full, others only for shapes that broadcast by
    accident.

    Raises:
        MisfitError: It says what was got, what was expected and the way out.
    """
    if isinstance(loss_fn, _COMPARISONS) and isinstance(y_true, Tensor):
        check_signs(name_of(loss_fn), y_true)
        return
    if isinstance(loss_fn, nn.GaussianNLLLoss):
        y_pred, y_true = _first_tensor(y_pred), _first_tensor(y_true)
    if not (isinstance(y_pred, Tensor) and isinstance(y_true, Tensor)):
        return
    if isinstance(loss_fn, ReducedLoss):
        loss_fn.check(y_pred, y_true)
        return
    rule = next((rule for kind, rule in _RULES.items() if isinstance(loss_fn, kind)), None)
    if rule is not None:
        rule(loss_fn, y_pred, y_true)
    elif broadcasts_by_accident(y_pred, y_true):
        warnings.warn(
            f"predictions of shape {tuple(y_pred.shape)} and targets of shape "
            f"{tuple(y_true.shape)} broadcast to a matrix of all pairs in {name_of(loss_fn)}; give "
            f"them one shape ({shape_hint(y_pred, y_true)})",
            stacklevel=2,
        )


def check_targets(loss_fn: Any, y_pred: Any, y_true: Any) -> None:
    """Refuse class numbers, anywhere in `y_true`, that are not below the classes of `y_pred`.

    Args:
        loss_fn: The loss; only those over classes are checked.
        y_pred: Predictions of any batch, (N, C, ...).
        y_true: Targets of any number of batches.

    Raises:
        MisfitError: It names the number and how many classes there are.
    """
    numbers = isinstance(y_true, Tensor) and not y_true.is_floating_point()
    if not (numbers and isinstance(y_pred, Tensor)):
        return
    classes = _class_limit(loss_fn, y_pred, y_true)
    if classes is not None:
        check_class_range(name_of(loss_fn), classes, y_true, ignored_class(loss_fn))


def _class_limit(loss_fn: Any, y_pred: Tensor, y_true: Tensor) -> int | None:
    """Return how many classes the numbers in `y_true` may name, None where they name none."""
    if isinstance(loss_fn, nn.AdaptiveLogSoftmaxWithLoss):
        return loss_fn.n_classes
    if isinstance(loss_fn, LINEAR):
        return loss_fn.num_classes  # type: ignore[attr-defined,no-any-return]
    if isinstance(loss_fn, (*_OVER_CLASSES, nn.MultiLabelMarginLoss)):
        return class_count(y_pred)
    multi_class = isinstance(loss_fn, ReducedLoss) and is_class_numbers(y_pred, y_true)
    return class_count(y_pred) if multi_class else None


def _check_elements(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    check_same_shape(name_of(loss_fn), y_pred, y_true)
    check_floating(name_of(loss_fn), y_true)


def _check_bce(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    _check_elements(loss_fn, y_pred, y_true)
    check_probabilities("BCELoss", y_pred, _BCE)


def _check_counts(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    check_same_shape(name_of(loss_fn), y_pred, y_true)


def _check_column(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    if broadcasts_by_accident(y_pred, y_true):
        check_same_shape(name_of(loss_fn), y_pred, y_true)


def _check_signed(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    check_same_shape(name_of(loss_fn), y_pred, y_true)
    check_signs(name_of(loss_fn), y_true)


def _check_kl_div(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    _check_elements(loss_fn, y_pred, y_true)
    _expect_logarithms(loss_fn, y_pred)


def _check_classes(loss_fn: Any, y_pred: Tensor, y_true: Tensor) -> None:
    name = name_of(loss_fn)
    if y_true.shape == y_pred.shape and y_true.is_floating_point():
        if not isinstance(loss_fn, nn.CrossEntropyLoss):
            message = (
                f"{name} needs class numbers of shape {class_shape(y_pred)}, but got targets of "
                f"shape {tuple(y_true.shape)}, one-hot it seems; pass y.argmax(1)"
            )
            raise MisfitError(message)
    else:
        if isinstance(loss_fn, nn.MultiMarginLoss):
            check_long(name, y_true)
        check_class_numbers(name, y_pred, y_true)
        check_targets(loss_fn, y_pred, y_true)
    if isinstance(loss_fn, nn.NLLLoss):
        _expect_logarithms(loss_fn, y_pred)
    elif isinstance(loss_fn, nn.CrossEntropyLoss):
        _expect_logits(loss_fn, y_pred)


def _check_hidden_classes(loss_fn: Any, y_pred: Tensor, y_true: Tensor) -> None:
    """Check the targets of a loss that turns the net's output into classes itself."""
    if isinstance(loss_fn, LINEAR) and y_true.is_floating_point() and y_true.dim() > 1:
        return  # probabilities
    check_long(name_of(loss_fn), y_true)
    check_targets(loss_fn, y_pred, y_true)


def _check_class_lists(loss_fn: Any, y_pred: Tensor, y_true: Tensor) -> None:
    """Check rows of class numbers, filled up with -1."""
    check_same_shape(name_of(loss_fn), y_pred, y_true)
    check_long(name_of(loss_fn), y_true)
    check_targets(loss_fn, y_pred, y_true)


def _expect_logarithms(loss_fn: nn.Module, y_pred: Tensor) -> None:
    if y_pred.numel() and y_pred.detach().max() > 1e-4:
        instead = " or use nn.CrossEntropyLoss" if isinstance(loss_fn, nn.NLLLoss) else ""
        warnings.warn(
            f"{name_of(loss_fn)} takes logarithms of probabilities, 0 at most, but predictions "
            f"reach {y_pred.detach().max():.4g}; end the net with nn.LogSoftmax(dim=1){instead}",
            stacklevel=2,
        )


def _expect_logits(loss_fn: nn.Module, y_pred: Tensor) -> None:
    if y_pred.dim() < 2 or y_pred.shape[1] < 2 or not y_pred.numel():
        return
    p = y_pred.detach()
    if bool((p >= 0).all()) and bool((p.sum(1) - 1).abs().max() < 1e-4):
        warnings.warn(
            f"{name_of(loss_fn)} takes logits, but predictions are probabilities it seems (none is "
            "negative, and they sum to 1); leave out the nn.Softmax at the end of the net",
            stacklevel=2,
        )


_COMPARISONS = (nn.CosineEmbeddingLoss, nn.MarginRankingLoss)

_OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)

_RULES: dict[type | tuple[type, ...], Callable[[Any, Tensor, Tensor], None]] = {
    nn.BCELoss: _check_bce,
    nn.GaussianNLLLoss: _check_column,
    nn.KLDivLoss: _check_kl_div,
    nn.MultiLabelMarginLoss: _check_class_lists,
    nn.PoissonNLLLoss: _check_counts,
    (nn.AdaptiveLogSoftmaxWithLoss, *LINEAR): _check_hidden_classes,
    (nn.HingeEmbeddingLoss, nn.SoftMarginLoss): _check_signed,
    _OVER_CLASSES: _check_classes,
    (
        nn.BCEWithLogitsLoss,
        nn.HuberLoss,
        nn.L1Loss,
        nn.MSELoss,
        nn.MultiLabelSoftMarginLoss,
        nn.SmoothL1Loss,
    ): _check_elements,
}


def _first_tensor(tree: Any) -> Any:
    return tree[0] if isinstance(tree, (tuple, list)) and tree else tree
