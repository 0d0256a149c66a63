"""Keras' callback protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trained_model import TrainedModel


Hook = Callable[..., None]

Logs = Mapping[str, float]


class Callback:
    """Something that is told what happens during `fit`, `evaluate` and `predict`.

    Override the hooks you need; those nobody overrides cost nothing. This is the whole loop::

        on_train_begin(logs)
        for epoch in range(...):                          # counts from 0, as in Keras
            on_epoch_begin(epoch, logs)
            for batch in range(...):
                on_train_batch_begin(batch, logs)
                ...                                       # forward, loss, backward, update
                on_train_batch_end(batch, logs)
            on_test_begin(logs)                           # only in epochs that validate
            for batch in range(...):
                on_test_batch_begin(batch, logs)
                on_test_batch_end(batch, logs)
            on_test_end(logs)
            on_epoch_end(epoch, logs)
        on_train_end(logs)                                # also after an error or Ctrl-C

    A fit that goes on within an epoch calls `on_epoch_begin` for it again. What a callback must not
    do twice it keeps in its state: where there are `state_dict()` and `load_state_dict(state)`,
    of plain values and tensors, they are in each checkpoint, and put back before `on_train_begin`.
    A method `on_checkpoint_saved(path)` is called once a checkpoint is on the disk. A figure that a
    callback adds to the logs of `on_epoch_end` can be monitored where it declares it:
    `adds = ("my_figure",)`.

    Of several processes, each calls its own callbacks, with the same logs at the end of an epoch;
    one that writes or prints says that it is for the main process alone:
    `main_process_only = True`.

    `evaluate` calls the `on_test_*` hooks, `predict` the `on_predict_*` hooks, of the callbacks
    that are passed to them. Set `self.model.stop_training = True` to stop after the current batch.

    The logs of batch hooks are read-only and lazy: `logs["train_loss"]` is the mean over the epoch
    so far, computed (and read from the device) when you look at it. Those of `on_epoch_end` are a
    dict of floats: `train_loss`, `train_<metric>`, `lr`, `val_loss`, `val_<metric>`. Keras' names
    for training (`loss`, `<metric>`) find the same values.

    Attributes:
        model: The `KerasModel` at work; `TrainedModel` lists what callbacks may use of it.
        params: `{"epochs": int, "steps": int | None, "validation_steps": int | None,
            "verbose": int | str}`; `epochs` is the number of the last epoch, the steps are the
            batches per epoch and per validation where that is known.
    """

    model: TrainedModel
    params: dict[str, Any]

    def set_params(self, params: dict[str, Any]) -> None:
        """Receive what the run is about to do."""
        self.params = params

    def set_model(self, model: TrainedModel) -> None:
        """Receive the model at work."""
        self.model = model

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Run before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Run after the last epoch, whatever ended the training."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Run before an epoch's first batch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Run after an epoch's training and validation."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a training batch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a training batch."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Run before a validation or an evaluation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Run after a validation or an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a batch that is evaluated."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a batch that is evaluated."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Run before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Run after a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a batch that is predicted."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a batch that is predicted."""
