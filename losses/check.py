"""Checks of predictions and targets against a loss, before the first update."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .base import ReducedLoss
from .builtin import is_builtin
from .names import loss_name
from .prediction_kind import prediction_kind_of
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
    """Check that `loss_fn` neither rejects predictions and targets nor silently misreads them.

    Losses of torch.nn and fitorch are checked in full, others only for shapes that broadcast by
    accident.

    Args:
        loss_fn: The loss.
        y_pred: Predictions of one batch.
        y_true: Targets of the same batch.

    Raises:
        MisfitError: They do not fit the loss.
    """
    # Their predictions are several outputs, whose shapes the targets do not have.
    if is_builtin(loss_fn, _COMPARISONS) and isinstance(y_true, Tensor):
        check_signs(loss_name(loss_fn), y_true)
        return
    if is_builtin(loss_fn, nn.GaussianNLLLoss):
        # The mean and the values; the variance is the other part of the pair.
        y_pred, y_true = _first_tensor(y_pred), _first_tensor(y_true)
    if not (isinstance(y_pred, Tensor) and isinstance(y_true, Tensor)):
        return
    if prediction_kind_of(loss_fn) == "logits" and y_pred.shape == y_true.shape:
        _expect_no_sigmoid(loss_fn, y_pred)
    # Losses of fitorch bring their own check.
    if is_builtin(loss_fn, ReducedLoss):
        loss_fn.check(y_pred, y_true)
        return
    rules = (rule for loss_type, rule in _RULES.items() if is_builtin(loss_fn, loss_type))
    rule = next(rules, None)
    if rule is not None:
        rule(loss_fn, y_pred, y_true)
    # This is a warning, not an error: a function of the user's may want all pairs.
    elif broadcasts_by_accident(y_pred, y_true):
        warnings.warn(
            f"predictions of shape {tuple(y_pred.shape)} and targets of shape "
            f"{tuple(y_true.shape)} broadcast to a matrix of all pairs in {loss_name(loss_fn)}; "
            f"make the shapes equal ({shape_hint(y_pred, y_true)})",
            stacklevel=2,
        )


def check_targets(loss_fn: Any, y_pred: Any, y_true: Any) -> None:
    """Check that all class numbers in `y_true` are below the number of classes of `y_pred`.

    Args:
        loss_fn: The loss; only losses over classes are checked.
        y_pred: Predictions of any batch, (N, C, ...).
        y_true: Targets of any number of batches.

    Raises:
        MisfitError: A class number is out of range.
    """
    # Floats are class probabilities, whose columns the shape check compares.
    integers = isinstance(y_true, Tensor) and not y_true.is_floating_point()
    if not (integers and isinstance(y_pred, Tensor)):
        return
    classes = _class_limit(loss_fn, y_pred, y_true)
    if classes is not None:
        check_class_range(loss_name(loss_fn), classes, y_true, ignored_class(loss_fn))


def _class_limit(loss_fn: Any, y_pred: Tensor, y_true: Tensor) -> int | None:
    """Return the number of classes for the integers in `y_true`, None if they are not classes."""
    if is_builtin(loss_fn, nn.AdaptiveLogSoftmaxWithLoss):
        count: int = loss_fn.n_classes
        return count
    if is_builtin(loss_fn, LINEAR):
        classes: int = loss_fn.num_classes
        return classes
    if is_builtin(loss_fn, (*_OVER_CLASSES, nn.MultiLabelMarginLoss)):
        return class_count(y_pred)
    multi_class = is_builtin(loss_fn, ReducedLoss) and is_class_numbers(y_pred, y_true)
    return class_count(y_pred) if multi_class else None


def _check_elements(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    check_same_shape(loss_name(loss_fn), y_pred, y_true)
    check_floating(loss_name(loss_fn), y_true)


def _check_bce(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    _check_elements(loss_fn, y_pred, y_true)
    check_probabilities("BCELoss", y_pred, _BCE)


def _check_counts(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    check_same_shape(loss_name(loss_fn), y_pred, y_true)


def _check_column(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    if broadcasts_by_accident(y_pred, y_true):
        check_same_shape(loss_name(loss_fn), y_pred, y_true)


def _check_signed(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    check_same_shape(loss_name(loss_fn), y_pred, y_true)
    check_signs(loss_name(loss_fn), y_true)


def _check_kl_div(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    _check_elements(loss_fn, y_pred, y_true)
    _expect_logarithms(loss_fn, y_pred)


def _check_classes(loss_fn: Any, y_pred: Tensor, y_true: Tensor) -> None:
    name = loss_name(loss_fn)
    # One-hot targets fit CrossEntropyLoss alone, which takes class probabilities.
    if y_true.shape == y_pred.shape and y_true.is_floating_point():
        if not isinstance(loss_fn, nn.CrossEntropyLoss):
            message = (
                f"{name} needs class numbers of shape {class_shape(y_pred)}, but got targets of "
                f"shape {tuple(y_true.shape)}, apparently one-hot; pass y.argmax(1)"
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
    """Check the targets of a loss that has a layer of its own between features and classes."""
    if isinstance(loss_fn, LINEAR) and y_true.is_floating_point() and y_true.dim() > 1:
        return  # targets are class probabilities
    check_long(loss_name(loss_fn), y_true)
    check_targets(loss_fn, y_pred, y_true)


def _check_class_lists(loss_fn: Any, y_pred: Tensor, y_true: Tensor) -> None:
    """Check rows of class numbers, padded with -1."""
    check_same_shape(loss_name(loss_fn), y_pred, y_true)
    check_long(loss_name(loss_fn), y_true)
    check_targets(loss_fn, y_pred, y_true)


def _expect_logarithms(loss_fn: nn.Module, y_pred: Tensor) -> None:
    # This waits for the device, in the first batch only.
    if y_pred.numel() and y_pred.detach().max() > 1e-4:
        instead = " or use nn.CrossEntropyLoss" if isinstance(loss_fn, nn.NLLLoss) else ""
        warnings.warn(
            f"{loss_name(loss_fn)} expects logarithms of probabilities, at most 0, but predictions "
            f"reach {y_pred.detach().max():.4g}; end the net with nn.LogSoftmax(dim=1){instead}",
            stacklevel=2,
        )


def _expect_logits(loss_fn: nn.Module, y_pred: Tensor) -> None:
    if y_pred.dim() < 2 or y_pred.shape[1] < 2 or not y_pred.numel():
        return
    p = y_pred.detach()
    # Probabilities that go through a second softmax train badly, without any error. This waits for
    # the device, in the first batch only.
    if bool((p >= 0).all()) and bool((p.sum(1) - 1).abs().max() < 1e-4):
        warnings.warn(
            f"{loss_name(loss_fn)} expects logits, but predictions look like probabilities (none "
            "is negative, and they sum to 1); remove the nn.Softmax at the end of the net",
            stacklevel=2,
        )


def _expect_no_sigmoid(loss_fn: Any, y_pred: Tensor) -> None:
    """Warn if predictions for a loss of logits are probabilities."""
    if y_pred.dtype.is_complex or not _looks_like_sigmoid(y_pred):
        return
    warnings.warn(
        f"{loss_name(loss_fn)} expects logits, but predictions are probabilities; remove the "
        "sigmoid at the end of the net, or metrics will count a probability of 0.4 as positive",
        stacklevel=2,
    )


def _looks_like_sigmoid(y_pred: Tensor) -> bool:
    """Return whether predictions come from a sigmoid, by their graph or else by their values."""
    node = y_pred.grad_fn
    while node is not None and node.name().rstrip("0123456789") in _KEEPS_VALUES:
        node = node.next_functions[0][0] if node.next_functions else None
    if node is not None and not node.name().startswith("Compiled"):
        return node.name() == "SigmoidBackward0"
    # Without a graph, as in validation, or with a compiled one, the values decide. Small batches,
    # and those with a small range of values, may be logits. This waits for the device, in the first
    # batch only.
    if y_pred.numel() < _LEAST:
        return False
    low, high = (float(bound) for bound in y_pred.detach().aminmax())
    return 0 <= low <= 0.1 and 0.9 <= high <= 1


_LEAST = 32  # predictions of which some are near 0, some near 1, and none outside of [0, 1]

# Names of the nodes of a graph that change shapes, dtypes or the layout alone.
_KEEPS_VALUES = {
    f"{name}Backward"
    for name in ("Alias", "Clone", "Permute", "ReshapeAlias", "Select", "Slice", "Squeeze", "T")
}
_KEEPS_VALUES |= {
    f"{name}Backward" for name in ("ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View")
}

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
