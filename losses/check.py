"""Whether predictions and targets fit a loss: said before the first update."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_BINARY = (nn.BCELoss, nn.BCEWithLogitsLoss)
_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)


class MisfitError(ValueError):
    """Predictions and targets do not fit the loss."""


def check(loss_fn: Any, y_pred: Any, y_true: Any) -> None:
    """Refuse predictions and targets that `loss_fn` would reject or silently misread.

    Losses of torch.nn are checked in full, others only for shapes that broadcast by accident.

    Raises:
        MisfitError: It says what was got, what was expected and the way out.
    """
    if not (isinstance(y_pred, Tensor) and isinstance(y_true, Tensor)):
        return
    name = type(loss_fn).__name__
    if isinstance(loss_fn, (*_ELEMENTWISE, *_BINARY)):
        _check_same_shape(name, y_pred, y_true)
        _check_floating(name, y_true)
        if isinstance(loss_fn, nn.BCELoss):
            _check_probabilities(y_pred)
    elif isinstance(loss_fn, _CLASSES):
        _check_classes(loss_fn, y_pred, y_true)
    elif _broadcasts_by_accident(y_pred, y_true):
        warnings.warn(
            f"predictions of shape {tuple(y_pred.shape)} and targets of shape "
            f"{tuple(y_true.shape)} broadcast to a matrix of all pairs in {_name(loss_fn)}; give "
            f"them one shape ({_way_out(y_pred, y_true)})",
            stacklevel=2,
        )


def _check_same_shape(name: str, y_pred: Tensor, y_true: Tensor) -> None:
    if y_pred.shape != y_true.shape:
        message = (
            f"{name} got predictions of shape {tuple(y_pred.shape)} and targets of shape "
            f"{tuple(y_true.shape)}; they must be equal ({_way_out(y_pred, y_true)})"
        )
        raise MisfitError(message)


def _check_floating(name: str, y_true: Tensor) -> None:
    if not y_true.is_floating_point() and not y_true.is_complex():
        message = f"{name} needs float targets, but got {y_true.dtype}; pass y.float()"
        raise MisfitError(message)


def _check_probabilities(y_pred: Tensor) -> None:
    if not y_pred.numel():
        return
    low, high = y_pred.detach().aminmax()
    if low < 0 or high > 1:
        message = (
            f"BCELoss needs probabilities in [0, 1], but got predictions from {low:.4g} to "
            f"{high:.4g}; use nn.BCEWithLogitsLoss, or end the net with nn.Sigmoid"
        )
        raise MisfitError(message)


def _check_classes(loss_fn: nn.Module, y_pred: Tensor, y_true: Tensor) -> None:
    name = type(loss_fn).__name__
    if y_true.shape == y_pred.shape and y_true.is_floating_point():
        if isinstance(loss_fn, nn.NLLLoss):
            message = (
                f"NLLLoss needs class numbers of shape {_class_shape(y_pred)}, but got targets of "
                f"shape {tuple(y_true.shape)}, one-hot it seems; pass y.argmax(1)"
            )
            raise MisfitError(message)
        return  # class probabilities
    if y_true.dtype not in (torch.int64, torch.uint8):
        message = (
            f"{name} needs class numbers of dtype int64, but got targets of dtype {y_true.dtype} "
            f"and shape {tuple(y_true.shape)}; pass y.long()"
        )
        raise MisfitError(message)
    if tuple(y_true.shape) != _class_shape(y_pred):
        one_hot = y_true.shape == y_pred.shape
        way_out = "y.argmax(1)" if one_hot else f"targets of shape {_class_shape(y_pred)}"
        message = (
            f"{name} got predictions of shape {tuple(y_pred.shape)} and targets of shape "
            f"{tuple(y_true.shape)}{', one-hot it seems' if one_hot else ''}; pass {way_out}"
        )
        raise MisfitError(message)
    check_targets(loss_fn, y_pred, y_true)


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
    if not (numbers and isinstance(y_pred, Tensor) and isinstance(loss_fn, _CLASSES)):
        return
    classes = y_pred.shape[1] if y_pred.dim() > 1 else y_pred.shape[0]
    wrong = y_true[((y_true < 0) | (y_true >= classes)) & (y_true != loss_fn.ignore_index)]
    if wrong.numel():
        message = (
            f"{type(loss_fn).__name__} got class {int(wrong[0])}, but the net's output has "
            f"{classes} classes, numbered 0 to {classes - 1}; relabel the targets or give the last "
            "layer more outputs"
        )
        raise MisfitError(message)


def _class_shape(y_pred: Tensor) -> tuple[int, ...]:
    return (y_pred.shape[0], *y_pred.shape[2:]) if y_pred.dim() > 1 else ()


def _broadcasts_by_accident(y_pred: Tensor, y_true: Tensor) -> bool:
    """Say whether one is (N, 1) and the other (N,), whose difference would be (N, N)."""
    column, flat = sorted((y_pred, y_true), key=Tensor.dim, reverse=True)
    return column.dim() == flat.dim() + 1 and column.shape == (*flat.shape, 1) and len(flat) > 1


def _way_out(y_pred: Tensor, y_true: Tensor) -> str:
    if y_pred.dim() == y_true.dim() + 1 and y_pred.shape == (*y_true.shape, 1):
        return "y.unsqueeze(-1), or .squeeze(-1) at the end of the net"
    if y_true.dim() == y_pred.dim() + 1 and y_true.shape == (*y_pred.shape, 1):
        return "y.squeeze(-1)"
    return "the net's last layer decides the shape of its output"


def _name(loss_fn: Any) -> str:
    return getattr(loss_fn, "__name__", type(loss_fn).__name__)
