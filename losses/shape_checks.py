"""Checks of the shapes, dtypes and ranges of predictions and targets, one rule per function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LINEAR: tuple[type, ...] = (
    (nn.LinearCrossEntropyLoss,) if hasattr(nn, "LinearCrossEntropyLoss") else ()  # torch 2.13
)


class MisfitError(ValueError):
    """Predictions and targets do not fit the loss."""


def check_same_shape(name: str, y_pred: Tensor, y_true: Tensor) -> None:
    """Check that the shapes are equal; torch would broadcast or reject others."""
    if y_pred.shape != y_true.shape:
        message = (
            f"{name} got predictions of shape {tuple(y_pred.shape)} and targets of shape "
            f"{tuple(y_true.shape)}; they must be equal ({shape_hint(y_pred, y_true)})"
        )
        raise MisfitError(message)


def check_floating(name: str, y_true: Tensor) -> None:
    """Check that targets are floating-point or complex numbers."""
    if not y_true.is_floating_point() and not y_true.is_complex():
        message = f"{name} needs float targets, but got {y_true.dtype}; pass y.float()"
        raise MisfitError(message)


def check_probabilities(name: str, y_pred: Tensor, instead: str) -> None:
    """Check that predictions lie in [0, 1]; this reads two numbers from the device.

    Args:
        name: The name of the loss.
        y_pred: The predictions, of any shape.
        instead: What to do for logits, the last part of the message.
    """
    if not y_pred.numel():
        return
    # One pass over the predictions; the comparison reads both numbers from the device.
    low, high = y_pred.detach().aminmax()
    if low < 0 or high > 1:
        message = (
            f"{name} needs probabilities in [0, 1], but got predictions from {low:.4g} to "
            f"{high:.4g}; {instead}"
        )
        raise MisfitError(message)


def check_signs(name: str, y_true: Tensor) -> None:
    """Check that targets are -1 or 1, not the 0 and 1 of other losses."""
    # This waits for the device, in the first batch only.
    wrong = y_true[(y_true != 1) & (y_true != -1)]
    if wrong.numel():
        message = (
            f"{name} needs targets that are -1 or 1, but got {wrong[0].item():.4g}; for targets of "
            "0 and 1 pass 2 * y - 1"
        )
        raise MisfitError(message)


def check_long(name: str, y_true: Tensor) -> None:
    """Check that class numbers have the dtype int64."""
    if y_true.dtype != torch.int64:
        message = (
            f"{name} needs class numbers of dtype int64, but got targets of dtype {y_true.dtype} "
            f"and shape {tuple(y_true.shape)}; pass y.long()"
        )
        raise MisfitError(message)


def check_labels(name: str, y_pred: Tensor, y_true: Tensor) -> int | None:
    """Check that targets are class numbers for (N, C, ...), or floats of the predictions' shape.

    Returns:
        The number of classes, None if targets are floats.
    """
    if y_pred.dim() == y_true.dim() + 1 > 1 and y_pred.shape[1] > 1:
        check_class_numbers(name, y_pred, y_true)
        check_class_range(name, class_count(y_pred), y_true)
        return class_count(y_pred)
    check_same_shape(name, y_pred, y_true)
    check_floating(name, y_true)
    return None


def check_class_numbers(name: str, y_pred: Tensor, y_true: Tensor) -> None:
    """Check that targets (N, ...) are one class number for each prediction (N, C, ...)."""
    # torch's losses accept uint8 as well as int64.
    if y_true.dtype != torch.uint8:
        check_long(name, y_true)
    if tuple(y_true.shape) != class_shape(y_pred):
        one_hot = y_true.shape == y_pred.shape
        expected = "y.argmax(1)" if one_hot else f"targets of shape {class_shape(y_pred)}"
        message = (
            f"{name} got predictions of shape {tuple(y_pred.shape)} and targets of shape "
            f"{tuple(y_true.shape)}{', apparently one-hot' if one_hot else ''}; pass {expected}"
        )
        raise MisfitError(message)


def check_class_range(name: str, classes: int, y_true: Tensor, ignored: int | None = None) -> None:
    """Check that class numbers are in [0, classes), except for the ignored one."""
    outside = (y_true < 0) | (y_true >= classes)
    # This waits for the device.
    wrong = y_true[outside if ignored is None else outside & (y_true != ignored)]
    if wrong.numel():
        message = (
            f"{name} got class {int(wrong[0])}, but the net's output has "
            f"{classes} classes, numbered 0 to {classes - 1}; relabel the targets, or add outputs "
            "to the last layer"
        )
        raise MisfitError(message)


def class_shape(y_pred: Tensor) -> tuple[int, ...]:
    """Return the shape of class numbers for predictions (N, C, ...) or (C,)."""
    return (y_pred.shape[0], *y_pred.shape[2:]) if y_pred.dim() > 1 else ()


def class_count(y_pred: Tensor) -> int:
    """Return C of predictions (N, C, ...) or (C,)."""
    return y_pred.shape[1] if y_pred.dim() > 1 else y_pred.shape[0]


def broadcasts_by_accident(y_pred: Tensor, y_true: Tensor) -> bool:
    """Return whether one is (N, 1) and the other (N,), whose difference would be (N, N)."""
    column, flat = sorted((y_pred, y_true), key=Tensor.dim, reverse=True)
    # A batch of one sample broadcasts to itself.
    return column.dim() == flat.dim() + 1 and column.shape == (*flat.shape, 1) and flat.numel() > 1


def shape_hint(y_pred: Tensor, y_true: Tensor) -> str:
    """Return a hint on how to make two shapes equal, for messages."""
    if y_pred.dim() == y_true.dim() + 1 and y_pred.shape == (*y_true.shape, 1):
        return "y.unsqueeze(-1), or .squeeze(-1) at the end of the net"
    if y_true.dim() == y_pred.dim() + 1 and y_true.shape == (*y_pred.shape, 1):
        return "y.squeeze(-1)"
    return "the net's last layer determines the shape of its output"


def is_class_numbers(y_pred: Tensor, y_true: Tensor) -> bool:
    """Return whether targets are class numbers (N, ...) for predictions (N, C, ...)."""
    return not y_true.is_floating_point() and y_pred.dim() == y_true.dim() + 1 > 1


def ignored_class(loss_fn: Any) -> int | None:
    """Return the class number that a loss ignores, None if there is none."""
    if isinstance(loss_fn, nn.MultiLabelMarginLoss):
        return -1  # the padding of rows
    ignored: int | None = getattr(loss_fn, "ignore_index", None)
    return -100 if ignored is None and isinstance(loss_fn, LINEAR) else ignored
