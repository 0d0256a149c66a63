"""What training descends: losses and penalties, alone or added up to a formula.

`FocalLoss() + 1e-3 * L2()`; any loss of torch.nn or function `(y_pred, y_true)` goes with them.
"""

from .base import ReducedLoss
from .check import check, check_targets
from .compose import Composition, term
from .cosine import CosineLoss
from .dice import DiceLoss
from .fits import MisfitError
from .focal import FocalLoss
from .objective import Objective
from .penalties import L1, L1L2, L2, Penalty
from .registry import get
from .selection import no_decay_groups
from .symmetric import SCELoss

__all__ = [  # noqa: RUF022 - plainly sorted: L1 is no constant
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
