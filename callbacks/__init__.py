"""What happens beside the loop: stop early, keep the best weights, show progress.

Any object with Keras' hooks is a callback; `Callback` documents them.
"""

from typing import TYPE_CHECKING, NoReturn

from .backup_and_restore import BackupAndRestore
from .base import Callback
from .best_weights import BestWeights
from .callback_list import CallbackList
from .early_stopping import EarlyStopping
from .ema import EMA
from .freezing import Freeze, GradualUnfreeze
from .gradient_norm import GradientNorm
from .lambda_callback import LambdaCallback
from .learning_rate import LearningRateScheduler, ReduceLROnPlateau
from .max_time import MaxTime
from .model_checkpoint import EpochCheckpoint, ModelCheckpoint
from .monitor import MonitorCallback, NonFiniteMetricWarning
from .progress import Progress
from .records import CSVLogger, JSONLinesLogger
from .stop_at import StopAt
from .swa import SWA
from .terminate_on_nan import TerminateOnNaN
from .tracker import Tracker
from .tracker_faces import TensorBoardCallback, WandbCallback
from .vis_display import VisDisplay

__all__ = [  # noqa: RUF022 - plainly sorted: EMA is no constant
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
            message = f"fitorch.callbacks has no {name}: fit shows progress and plots by itself"
            raise ImportError(message)
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
