"""What happens beside the loop: stop early, keep the best weights, show progress.

Any object with Keras' hooks is a callback; `Callback` documents them.
"""

from .base import Callback
from .best_weights import BestWeights
from .early_stopping import EarlyStopping
from .max_time import MaxTime
from .monitor import MonitorCallback, NonFiniteMetricWarning
from .progress import Progress

__all__ = [
    "BestWeights",
    "Callback",
    "EarlyStopping",
    "MaxTime",
    "MonitorCallback",
    "NonFiniteMetricWarning",
    "Progress",
]
