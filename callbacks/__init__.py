"""What happens beside the loop: stop early, keep the best weights, show progress.

Any object with Keras' hooks is a callback; `Callback` documents them.
"""

from .base import Callback
from .best_weights import BestWeights
from .callback_list import CallbackList
from .early_stopping import EarlyStopping
from .lambda_callback import LambdaCallback
from .learning_rate import LearningRateScheduler, ReduceLROnPlateau
from .max_time import MaxTime
from .model_checkpoint import EpochCheckpoint, ModelCheckpoint
from .monitor import MonitorCallback, NonFiniteMetricWarning
from .progress import Progress
from .records import CSVLogger, JSONLinesLogger
from .stop_at import StopAt
from .terminate_on_nan import TerminateOnNaN

__all__ = [
    "BestWeights",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "EpochCheckpoint",
    "JSONLinesLogger",
    "LambdaCallback",
    "LearningRateScheduler",
    "MaxTime",
    "ModelCheckpoint",
    "MonitorCallback",
    "NonFiniteMetricWarning",
    "Progress",
    "ReduceLROnPlateau",
    "StopAt",
    "TerminateOnNaN",
]
