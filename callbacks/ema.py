"""An exponential mean of the weights, which often does better than the last of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from fitorch.checks import check_count

from .averaged_weights import AveragedWeights
from .base import Callback, Logs

if TYPE_CHECKING:
    from .trained_model import TrainedModel


class EMA(Callback):
    """An exponential mean of the weights over updates, measured and kept in their place.

    After each update `mean = d * mean + (1 - d) * weights`, for all parameters of net and loss and
    the statistics of batch norm; the first update's weights are the first mean. Training does not
    change. In `fit` the means are in the net from the beginning of a validation (without one, from
    the end of the epoch) until the next epoch begins: they are what is validated, and what
    `patience`, `ckpt_path` and callbacks that save weights keep as best. At the end, whatever ended
    training, the net holds the means: those of the best epoch, where best weights are restored, and
    else the last. `fit` runs this callback before all others; in a loop of your own put it first.

    Passed to `evaluate` or `predict` later, it puts the last means in for that time.

    Args:
        decay: How much of the mean an update leaves, in [0, 1).
        warmup: Whether `d` is `min(decay, (1 + t) / (10 + t))` after `t` weights in the mean, so
            that the first ones are soon forgotten; without it `d` is `decay`.
        every: Average only updates whose number, over all fits, is a multiple of this.

    Raises:
        TypeError: `every` is no whole number.
        ValueError: An argument is out of range.

    Source: Polyak & Juditsky, 1992, Acceleration of stochastic approximation by averaging; the
    warm-up is that of `tf.train.ExponentialMovingAverage` (argument num_updates).
    """

    comes_first: ClassVar[bool] = True  # for all others see what it puts in

    def __init__(self, decay: float = 0.999, warmup: bool = True, every: int = 1) -> None:
        if isinstance(decay, bool) or not 0 <= decay < 1:
            message = f"decay is {decay!r}; expected a number in [0, 1), as 0.999"
            raise ValueError(message)
        self.decay = float(decay)
        self.warmup = warmup
        check_count("every", every)
        self.every = every
        self._average = AveragedWeights(buffers=True)
        self._restored = False
        self._fitting = False
        self._guests = 0  # evaluations and predictions that somebody else began, or is about to
        self._leaves = False  # whether the weights come back when one ends
        self._seen = 0

    def set_model(self, model: TrainedModel) -> None:
        """Receive the model at work: a fit's, or that of an evaluation or prediction."""
        super().set_model(model)
        self._guests += 1

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier fit."""
        if not self._restored:
            self._average.forget()
        self._average.bind(self.model)
        self._restored, self._fitting = False, True
        self._seen = self.model.updates

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Go on with the weights of training."""
        self._guests = 0
        self._average.put_back()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count the weights in, where the batch made an update."""
        updates = self.model.updates
        if updates == self._seen:
            return
        self._seen = updates
        if not updates % self.every:
            self._average.add(1 - self._decay_after(self._average.count))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Show the means to those who keep weights, also in an epoch without validation."""
        self._average.put_in()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Leave the means in the net."""
        if self._fitting:
            self._average.settle()
        self._fitting = False

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Measure the means.

        Raises:
            RuntimeError: There are none.
        """
        if not self._fitting and not self._average.count:
            message = "EMA has averaged no weights yet; pass it to fit(callbacks=[...]) first"
            raise RuntimeError(message)
        self._average.bind(self.model)
        self._leaves = not self._average.applied and (not self._fitting or self._guests > 0)
        self._average.put_in()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Put the weights back, unless it was the fit's own validation."""
        self._guests = max(0, self._guests - 1)
        if self._leaves:
            self._average.put_back()
        self._leaves = False

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Predict with the means.

        Raises:
            RuntimeError: There are none.
        """
        self.on_test_begin(logs)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Put the weights back."""
        self.on_test_end(logs)

    def applied(self, model: TrainedModel | None = None) -> AbstractContextManager[None]:
        """Return a context in which the net holds the means; then the weights come back.

        Args:
            model: The model, by default the one that was trained.
        """
        return self._average.applied_to(self.model if model is None else model)

    def state_dict(self) -> dict[str, Any]:
        """Return the means, and the weights of training while the means are in their place."""
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back, for the fit that begins next."""
        self._average.load_state_dict(state)
        self._restored = True

    def _decay_after(self, count: int) -> float:
        return min(self.decay, (1 + count) / (10 + count)) if self.warmup else self.decay
