"""Keras-style training for any torch.nn.Module.

`KerasModel(net, loss_fn, metrics_dict, optimizer).fit(train, val)`.
"""

from typing import TYPE_CHECKING, NoReturn

from .errors import (
    CheckpointCorruptedError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    CheckpointWriteError,
    DataError,
    ExportError,
    FitorchError,
    NonFiniteError,
    NotBitExactWarning,
    Preempted,
    RankError,
    ShapeError,
    UnsafeCheckpointError,
)
from .flops import flop_summary
from .history import History
from .legacy import Model
from .listing import list_checkpoints
from .model import KerasModel
from .moved import look_up
from .pictures import plot_metric
from .randomness import seed_everything
from .schedules import WarmupCosine
from .summary import summary
from .version import __version__
from .vlog import VLog

__all__ = [
    "CheckpointCorruptedError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointVersionError",
    "CheckpointWriteError",
    "DataError",
    "ExportError",
    "FitorchError",
    "History",
    "KerasModel",
    "Model",
    "NonFiniteError",
    "NotBitExactWarning",
    "Preempted",
    "RankError",
    "ShapeError",
    "UnsafeCheckpointError",
    "VLog",
    "WarmupCosine",
    "__version__",
    "flop_summary",
    "list_checkpoints",
    "plot_metric",
    "seed_everything",
    "summary",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        look_up(name)
