"""The loss that a net computes itself, and the number of targets that it is a mean over."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fitorch.nets.forward import IGNORED_TARGET

from .parts import is_scalar, split_parts

_TOLERANCE = 1e-2  # relative; a loss in bfloat16 has 8 bits

_MARGIN = 4.0  # how many times closer the better one of two explanations must be


class NetLoss:
    """The loss that the net computes itself, in any form in which nets return it.

    It is the `.loss` of the output or its key "loss" (Hugging Face), the first entry of a tuple
    `(loss, ...)`, or the sum of a mapping of losses (torchvision's detectors).
    """

    def __call__(self, y_pred: Any, _y_true: Any) -> Any:
        """Return the loss of an output, perhaps with its parts; None if there is none."""
        return loss_in(y_pred)

    def __repr__(self) -> str:
        return "the net's own loss"


def loss_in(output: Any) -> Any:
    """Return the loss in a net's output, perhaps with its parts; None if there is none."""
    if isinstance(output, Tensor):
        return None
    loss = getattr(output, "loss", None)
    if loss is not None:
        return loss
    if isinstance(output, Mapping) and output:
        contains = is_scalar(output.get("loss")) or all(map(is_scalar, output.values()))
        return output if contains else None
    if isinstance(output, (tuple, list)) and output and is_scalar(output[0]):
        return output if len(output) == 2 and isinstance(output[1], Mapping) else output[0]
    return None


def logits_of(output: Any) -> Any:
    """Return the logits of an output that has them by name, any other output unchanged."""
    by_key = isinstance(output, Mapping)
    logits = output.get("logits") if by_key else getattr(output, "logits", None)
    return output if logits is None else logits


def logits_in(output: Any) -> Tensor | None:
    """Return the logits in a net's output, by their name or behind its loss; None if unknown."""
    if isinstance(output, Mapping):
        logits = output.get("logits")
    elif isinstance(output, (tuple, list)) and not hasattr(output, "logits"):
        logits = output[1] if len(output) > 1 else None
    else:
        logits = getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else None


class TargetCount:
    """The number of targets that a net's own loss is a mean over.

    Token classifiers average over the targets that are not -100; causal language models also leave
    out the first token of each sequence. Which one a net does is decided by the cross entropy of
    its logits, computed in both ways. If neither agrees with the net's loss, the targets that are
    not -100 are counted, and a warning says so.
    """

    def __init__(self) -> None:
        self._shifted: bool | None = None  # None until a batch decides it

    @property
    def shifted(self) -> bool:
        """Whether the first target of each sequence is left out, as the last batch showed it."""
        return bool(self._shifted)

    @staticmethod
    def applies(y_true: Any) -> bool:
        """Return whether targets are class numbers, some of which may be left out."""
        return isinstance(y_true, Tensor) and not y_true.is_floating_point() and y_true.dim() > 0

    def __call__(self, output: Any, y_true: Tensor) -> Tensor:
        """Return the number of targets of a batch.

        Args:
            output: The net's output; read on a device only until a batch has decided the count.
            y_true: Class numbers of shape (N, ...).
        """
        shifted = self._decide(output, y_true) if self._shifted is None else self._shifted
        counted = y_true[:, 1:] if shifted else y_true
        return (counted != IGNORED_TARGET).count_nonzero()

    @torch.no_grad()
    def _decide(self, output: Any, y_true: Tensor) -> bool:
        """Return whether the first target of each sequence is left out, deciding it if possible."""
        loss, logits = loss_in(output), logits_in(output)
        if not is_scalar(loss):
            loss = split_parts("the net", loss)[0]
        if y_true.dim() < 2 or y_true.shape[1] < 2:
            return False
        if logits is None or logits.shape[:-1] != y_true.shape:
            self._shifted = False
            self._warn()
            return False
        wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        expected = [
            self._mean(wide, y_true),
            self._mean(wide[:, :-1], y_true[:, 1:]),
        ]
        errors = [abs(value - float(loss)) for value in expected]
        best, other = sorted(errors)
        if not best <= _TOLERANCE * abs(float(loss)):  # also if it is NaN
            self._shifted = False
            self._warn()
        elif _MARGIN * best < other:
            self._shifted = errors[1] < errors[0]
        return errors[1] < errors[0]  # for this batch; if both fit, the next one may decide

    def _mean(self, logits: Tensor, y_true: Tensor) -> float:
        classes, targets = logits.flatten(0, -2), y_true.flatten()
        return cross_entropy(classes, targets.long(), ignore_index=IGNORED_TARGET).item()

    @staticmethod
    def _warn() -> None:
        warnings.warn(
            "the net's own loss is not the cross entropy of its logits, so what it is a mean over "
            "is not known; it is weighted by the number of labels that are not -100. If that is "
            "wrong, pass loss_fn",
            stacklevel=2,
        )
