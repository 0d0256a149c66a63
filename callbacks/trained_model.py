"""Protocol of the model for callbacks, which `KerasModel` implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class TrainedHistory(Protocol):
    """The history of a model, as callbacks see it.

    Attributes:
        monitor: The column that decides which epoch is best.
        mode: "min" or "max".
        fits: The records of the fits of this process.
    """

    monitor: str
    mode: str
    fits: Any

    def __len__(self) -> int: ...

    @property
    def frame(self) -> pd.DataFrame:
        """A row per epoch."""
        ...

    @property
    def best(self) -> dict[str, float]:
        """The row of the best epoch; empty before the first."""
        ...

    @property
    def sets(self) -> Sequence[str]:
        """The column prefix of each validation set, such as "val_"."""
        ...

    def plot(
        self,
        path: str | Path | None = None,
        metrics: list[str] | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> Figure:
        """Draw columns over the epochs."""
        ...


class TrainedModel(Protocol):
    """The model of a fit, an evaluation or a prediction: `self.model` in a callback.

    Attributes:
        net: The net, on its device.
        optimizer: The optimizer; its `param_groups` hold the learning rates.
        lr_scheduler: The learning rate scheduler, or None.
        objective: The loss with its penalties; a loss with parameters has them in
            `objective.module`.
        metrics_dict: The metrics by name, as passed.
        metric_tasks: The tasks of metrics passed by name.
        ckpt_path: The folder of the fit, or None.
        run_id: The id of this model in its checkpoints.
        run: The current fit, or None.
        compilation: What `jit_compile=True` has compiled, or None.
        channels_last: Whether images are kept in channels-last memory.
        stop_training: Set it to True to stop after the current batch.
        stop_evaluating: The same for an evaluation.
        stop_predicting: The same for a prediction.
    """

    net: nn.Module
    optimizer: Optimizer | None
    lr_scheduler: Any
    objective: Any
    metrics_dict: dict[Any, Any]
    metric_tasks: dict[str, str]
    ckpt_path: str | Path | None
    run_id: str
    run: Any
    compilation: Any
    channels_last: bool
    stop_training: bool
    stop_evaluating: bool
    stop_predicting: bool

    @property
    def history(self) -> TrainedHistory:
        """The history of all fits of the model."""
        ...

    @property
    def progress(self) -> Any:
        """The numbers of completed epochs, batches and updates."""
        ...

    @property
    def placement(self) -> Any:
        """Device, precision and processes."""
        ...

    @property
    def updates(self) -> int:
        """The number of updates of the optimizer, over all fits."""
        ...

    @property
    def within_update(self) -> bool:
        """Whether the fit is between two batches of one update."""
        ...

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes and prints."""
        ...

    def evaluate(self, val_data: Any, **options: Any) -> dict[str, float]:
        """Return loss and metrics over data."""
        ...

    def predict(self, data: Any, **options: Any) -> Any:
        """Return the net's outputs for data."""
        ...

    def save_ckpt(
        self, ckpt_path: str | Path | None = None, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write the weights to a file."""
        ...

    def save_states(
        self, states: Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write weights from state dicts of "net" and "loss"."""
        ...

    def load_ckpt(self, ckpt_path: str | Path | None = None) -> Path:
        """Load weights from a file."""
        ...

    def save_state(self, path: str | Path) -> Path:
        """Save the training state to a folder."""
        ...

    def restore(self, path: str | Path) -> Path:
        """Restore the model from a checkpoint."""
        ...

    def measurement_spec(self) -> Any:
        """Return the net, the loss and the metrics for training steps."""
        ...
