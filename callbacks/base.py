"""Callback base class: the hooks of Keras' callback protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trained_model import TrainedModel


Hook = Callable[..., None]

Logs = Mapping[str, float]


class Callback:
    """Base class of callbacks, whose hooks run during `fit`, `evaluate` and `predict`.

    Override the hooks you need; others cost nothing. This is the whole loop::

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

    A fit that is resumed in the middle of an epoch calls `on_epoch_begin` for that epoch again. If
    a callback has `state_dict()` and `load_state_dict(state)`, each checkpoint contains its state
    (plain values and tensors), which is restored before `on_train_begin`. A method
    `on_checkpoint_saved(path)` is called when a checkpoint is on the disk. If a callback adds a
    column to the logs of `on_epoch_end`, others can monitor it if `adds` declares it:
    `adds = ("my_column",)`.

    With several processes, every process runs its own callbacks, with the same logs at the end of
    an epoch. A callback that writes files or prints sets `main_process_only = True`, so that it
    runs on the main process alone.

    `evaluate` runs the `on_test_*` hooks and `predict` the `on_predict_*` hooks of the callbacks
    that are passed to them. Set `self.model.stop_training = True` to stop after the current batch.

    The logs of batch hooks are read-only and lazy: `logs["train_loss"]` is the mean over the epoch
    so far, which is computed (and synchronizes with the device) when it is read. Those of
    `on_epoch_end` are a dict of floats: `train_loss`, `train_<metric>`, `lr`, `val_loss`,
    `val_<metric>`. Keras' names for training (`loss`, `<metric>`) return the same values, and in
    the `on_test_*` hooks those of the validation. The logs of `on_predict_batch_end` have the
    outputs of the batch as "outputs".

    Attributes:
        model: The `KerasModel` that runs the callback; `TrainedModel` lists its attributes for
            callbacks.
        params: `{"epochs": int, "steps": int | None, "validation_steps": int | None,
            "verbose": int | str}`. `epochs` is the number of the last epoch; the steps are the
            numbers of batches per epoch and per validation, None if they are unknown.
    """

    model: TrainedModel
    params: dict[str, Any]

    def set_params(self, params: dict[str, Any]) -> None:
        """Set the parameters of the run."""
        self.params = params

    def set_model(self, model: TrainedModel) -> None:
        """Set the model that runs the callback."""
        self.model = model

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Run before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Run at the end of training, also after an error."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Run before the first batch of an epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Run after the training and the validation of an epoch."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a training batch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a training batch."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Run before a validation or an evaluation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Run after a validation or an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a batch of a validation or an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a batch of a validation or an evaluation."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Run before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Run after a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Run before a batch of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Run after a batch of a prediction."""
