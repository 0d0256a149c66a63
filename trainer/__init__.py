"""Keras-style training for any torch.nn.Module.

`KerasModel(net, loss_fn, metrics_dict, optimizer).fit(train, val)`.
"""

from typing import TYPE_CHECKING, NoReturn

from fitorch.checkpoint.listing import list_checkpoints
from fitorch.compat.torchkeras import Model
from fitorch.compat.torchkeras_names import look_up
from fitorch.history.history import History
from fitorch.inspection.flops import flop_summary
from fitorch.optim.schedules import WarmupCosine
from fitorch.plotting.history import plot_metric

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
from .model import KerasModel
from .randomness import seed_everything
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
