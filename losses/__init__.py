"""What training descends: any loss of torch.nn, a function `(y_pred, y_true)`, or a name."""

from .check import MisfitError, check, check_targets
from .objective import Objective
from .registry import get

__all__ = ["MisfitError", "Objective", "check", "check_targets", "get"]
