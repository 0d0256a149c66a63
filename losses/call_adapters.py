"""Call adapters for the losses of torch.nn whose arguments are not `(y_pred, y_true)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fitorch.signatures import takes_targets_first

from .builtin import is_builtin
from .shape_checks import MisfitError, ignored_class

Call = Callable[[Any, Any, Any], Tensor]

_OVER_CLASSES = tuple(
    getattr(nn, name).forward
    for name in ("CrossEntropyLoss", "NLLLoss", "LinearCrossEntropyLoss")
    if hasattr(nn, name)  # the last one since torch 2.13
)


def call_of(loss_fn: Any) -> Call:
    """Return how a loss is called: `(loss_fn, y_pred, y_true) -> Tensor`."""
    # The type decides, once per fit: a step calls the adapter without a look at the loss.
    adapters = (call for loss_type, call in _CALLS.items() if is_builtin(loss_fn, loss_type))
    return next(adapters, _call_swapped if takes_targets_first(loss_fn) else call_plain)


def averages_over_classes(loss_fn: Any) -> bool:
    """Return whether a loss averages over class numbers as torch's cross entropies do.

    The method decides, so that subclasses with another `forward` are not taken for torch's.
    """
    function = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    is_function = function in (functional.cross_entropy, functional.nll_loss)
    return is_function or getattr(type(loss_fn), "forward", None) in _OVER_CLASSES


def class_options(loss_fn: Any) -> tuple[int | None, Tensor | None]:
    """Return the ignored class and the class weights of a loss that averages over classes."""
    if isinstance(loss_fn, nn.Module):
        weight: Tensor | None = loss_fn.weight  # type: ignore[assignment]
        return ignored_class(loss_fn), weight
    keywords = loss_fn.keywords if isinstance(loss_fn, partial) else {}
    return keywords.get("ignore_index", -100), keywords.get("weight")


def reduction_of(loss_fn: Any) -> str | None:
    """Return the reduction of a loss, from its attribute or its keyword; None if it has none."""
    keyword = parameter_of(loss_fn, "reduction")
    reduction = getattr(loss_fn, "reduction", None) if keyword is None else keyword.default
    return reduction if isinstance(reduction, str) else None


def parameter_of(function: Any, name: str) -> inspect.Parameter | None:
    """Return a parameter of a function by its name, None if the function does not have it."""
    try:
        return inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):  # a built-in without a signature
        return None


def call_plain(loss_fn: Any, y_pred: Any, y_true: Any) -> Tensor:
    """Call a loss in torch's order."""
    return loss_fn(y_pred, y_true)  # type: ignore[no-any-return]


def _call_swapped(loss_fn: Any, y_pred: Any, y_true: Any) -> Tensor:
    """Call a loss in the order of Keras and scikit-learn, which its parameters' names tell."""
    return loss_fn(y_true, y_pred)  # type: ignore[no-any-return]


def _call_on_pair(loss_fn: Any, y_pred: Any, y_true: Any) -> Tensor:
    """Compare two outputs, `(x1, x2)`, whose relation is the target."""
    first, second = _outputs(loss_fn, y_pred, "(x1, x2)", 2)
    return loss_fn(first, second, y_true)  # type: ignore[no-any-return]


def _call_on_triplet(loss_fn: Any, y_pred: Any, _y_true: Any) -> Tensor:
    """Compare three outputs, `(anchor, positive, negative)`; targets are ignored."""
    return loss_fn(*_outputs(loss_fn, y_pred, "(anchor, positive, negative)", 3))  # type: ignore[no-any-return]


def _call_gaussian(loss_fn: Any, y_pred: Any, y_true: Any) -> Tensor:
    """Call with a variance from the net, `(mean, variance)`, or the targets, `(y, variance)`."""
    if not isinstance(y_true, (tuple, list)):
        mean, variance = _outputs(loss_fn, y_pred, "(mean, variance)", 2)
        return loss_fn(mean, y_true, variance)  # type: ignore[no-any-return]
    if isinstance(y_pred, (tuple, list)) or len(y_true) != 2:
        message = (
            f"{type(loss_fn).__name__} needs a variance from the net, (mean, variance), or from "
            f"the targets, (y, variance), but the net returned a {type(y_pred).__name__}, and the "
            f"targets have length {len(y_true)}"
        )
        raise MisfitError(message)
    target, variance = y_true
    return loss_fn(y_pred, target, variance)  # type: ignore[no-any-return]


def _call_ctc(loss_fn: Any, y_pred: Any, y_true: Any) -> Tensor:
    """Call with log-probabilities (T, N, C), their lengths (N,), labels and label lengths (N,)."""
    log_probabilities, lengths, labels, label_lengths = _ctc_arguments(loss_fn, y_pred, y_true)
    # Lists of Python numbers are allowed too.
    lengths, label_lengths = torch.as_tensor(lengths), torch.as_tensor(label_lengths)
    return loss_fn(log_probabilities, labels, lengths, label_lengths)  # type: ignore[no-any-return]


def per_label(losses: Tensor, y_true: Any) -> Tensor:
    """Divide the losses of a CTCLoss by the number of labels, as torch's own mean does."""
    return losses / torch.as_tensor(y_true[-1], device=losses.device).clamp_min(1)


def _ctc_arguments(loss_fn: Any, y_pred: Any, y_true: Any) -> tuple[Any, Any, Any, Any]:
    if not isinstance(y_true, (tuple, list)) or len(y_true) not in (2, 3):
        message = (
            f"{type(loss_fn).__name__} needs targets (labels, label_lengths) or (labels, "
            f"input_lengths, label_lengths), but got a {type(y_true).__name__}"
        )
        raise MisfitError(message)
    labels, *input_lengths, label_lengths = y_true
    # Input lengths come from the net, else from the targets; without both, all are T.
    if isinstance(y_pred, (tuple, list)):
        log_probabilities, *input_lengths = y_pred
    else:
        log_probabilities = y_pred
    if input_lengths:
        return log_probabilities, input_lengths[0], labels, label_lengths
    longest, samples = log_probabilities.shape[:2]
    # The lengths are on the device of the net's output, so that no copy is needed.
    lengths = torch.full((samples,), longest, dtype=torch.int64, device=log_probabilities.device)
    return log_probabilities, lengths, labels, label_lengths


def _call_adaptive(loss_fn: Any, y_pred: Any, y_true: Any) -> Tensor:
    """Return the `.loss` of the named tuple that the module returns."""
    return loss_fn(y_pred, y_true).loss  # type: ignore[no-any-return]


def _outputs(loss_fn: Any, y_pred: Any, form: str, count: int) -> list[Any]:
    if not isinstance(y_pred, (tuple, list)) or len(y_pred) != count:
        got = f"{len(y_pred)} outputs" if isinstance(y_pred, (tuple, list)) else "one output"
        message = (
            f"{type(loss_fn).__name__} compares {count} outputs, but the net returned {got}; "
            f"return {form} from the net"
        )
        raise MisfitError(message)
    return list(y_pred)


_CALLS: dict[type, Call] = {
    nn.AdaptiveLogSoftmaxWithLoss: _call_adaptive,
    nn.CTCLoss: _call_ctc,
    nn.CosineEmbeddingLoss: _call_on_pair,
    nn.GaussianNLLLoss: _call_gaussian,
    nn.MarginRankingLoss: _call_on_pair,
    nn.TripletMarginLoss: _call_on_triplet,
    nn.TripletMarginWithDistanceLoss: _call_on_triplet,
}
