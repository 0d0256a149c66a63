"""Callbacks: early stopping, best weights, learning rates, logging and progress.

Any object with Keras' hooks is a callback; `Callback` documents the hooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from fitorch.callbacks.backup_and_restore import BackupAndRestore
from fitorch.callbacks.base import Callback
from fitorch.callbacks.best_weights import BestWeights
from fitorch.callbacks.callback_list import CallbackList
from fitorch.callbacks.display.progress import Progress
from fitorch.callbacks.early_stopping import EarlyStopping
from fitorch.callbacks.ema import EMA
from fitorch.callbacks.freezing import Freeze, GradualUnfreeze
from fitorch.callbacks.gradient_norm import GradientNorm
from fitorch.callbacks.lambda_callback import LambdaCallback
from fitorch.callbacks.learning_rate import LearningRateScheduler, ReduceLROnPlateau
from fitorch.callbacks.max_time import MaxTime
from fitorch.callbacks.model_checkpoint import EpochCheckpoint, ModelCheckpoint
from fitorch.callbacks.monitor import MonitorCallback, NonFiniteMetricWarning
from fitorch.callbacks.records import CSVLogger, JSONLinesLogger
from fitorch.callbacks.stop_at import StopAt
from fitorch.callbacks.swa import SWA
from fitorch.callbacks.terminate_on_nan import TerminateOnNaN
from fitorch.callbacks.torchkeras_trackers import TensorBoardCallback, WandbCallback
from fitorch.callbacks.tracker import Tracker
from fitorch.callbacks.vis_display import VisDisplay

__all__ = [  # noqa: RUF022 - plainly sorted: EMA is not a constant
    "BackupAndRestore",
    "BestWeights",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EMA",
    "EarlyStopping",
    "EpochCheckpoint",
    "Freeze",
    "GradientNorm",
    "GradualUnfreeze",
    "JSONLinesLogger",
    "LambdaCallback",
    "LearningRateScheduler",
    "MaxTime",
    "ModelCheckpoint",
    "MonitorCallback",
    "NonFiniteMetricWarning",
    "Progress",
    "ReduceLROnPlateau",
    "SWA",
    "StopAt",
    "TensorBoardCallback",
    "TerminateOnNaN",
    "Tracker",
    "VisDisplay",
    "WandbCallback",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        if name in ("VisProgress", "VisMetric"):
            message = f"fitorch.callbacks does not have {name}; fit shows progress and plots itself"
            raise ImportError(message)
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
