"""Keras-style training for any torch.nn.Module.

`KerasModel(net, loss_fn, metrics_dict, optimizer).fit(train, val)`.
"""

from .errors import DataError, FitorchError, NonFiniteError, ShapeError
from .history import History
from .model import KerasModel
from .randomness import seed_everything
from .schedules import WarmupCosine

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "FitorchError",
    "History",
    "KerasModel",
    "NonFiniteError",
    "ShapeError",
    "WarmupCosine",
    "__version__",
    "seed_everything",
]
