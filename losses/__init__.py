"""Losses and penalties, alone or added up to a formula: `FocalLoss() + 1e-3 * L2()`.

Losses of torch.nn and functions `(y_pred, y_true)` can be terms of a formula too.
"""

from __future__ import annotations

from fitorch.losses.base import ReducedLoss
from fitorch.losses.check import check, check_targets
from fitorch.losses.compose import Composition, term
from fitorch.losses.cosine import CosineLoss
from fitorch.losses.dice import DiceLoss
from fitorch.losses.focal import FocalLoss
from fitorch.losses.objective import Objective
from fitorch.losses.penalties import L1, L1L2, L2, Penalty
from fitorch.losses.registry import LOSSES, get
from fitorch.losses.selection import no_decay_groups
from fitorch.losses.shape_checks import MisfitError
from fitorch.losses.symmetric import SCELoss

LOSSES.update(cosine=CosineLoss, dice=DiceLoss, focal=FocalLoss, sce=SCELoss)

__all__ = [  # noqa: RUF022 - plainly sorted: L1 is not a constant
    "Composition",
    "CosineLoss",
    "DiceLoss",
    "FocalLoss",
    "L1",
    "L1L2",
    "L2",
    "MisfitError",
    "Objective",
    "Penalty",
    "ReducedLoss",
    "SCELoss",
    "check",
    "check_targets",
    "get",
    "no_decay_groups",
    "term",
]
