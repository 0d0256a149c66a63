"""EMA: a callback that keeps an exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from fitorch.checks import check_count, check_flag, plain

from .averaged_weights import AveragedWeights
from .base import Callback, Logs

if TYPE_CHECKING:
    from .trained_model import TrainedModel


class EMA(Callback):
    """Exponential moving average of the weights, which is validated and saved in their place.

    After each update, `mean = d * mean + (1 - d) * weights` for all parameters of net and loss and
    the statistics of batch norm; the first mean is the weights after the first update. Training
    itself does not change. In `fit`, the net holds the means from the beginning of a validation
    (without one, from the end of the epoch) until the next epoch begins. Thus, the means are
    validated, and `patience`, `ckpt_path` and callbacks that save weights save the means. At the
    end of training, also after an error, the net holds the means: those of the best epoch if best
    weights are restored, otherwise the last ones. `fit` runs this callback before all others; in a
    hand-written loop, put it first.

    If it is passed to `evaluate` or `predict` later, they use the last means.

    Args:
        decay: The weight of the old mean in an update, in [0, 1).
        warmup: Whether `d` is `min(decay, (1 + t) / (10 + t))` after `t` updates of the mean, which
            gives the first weights less influence; otherwise, `d` is `decay`.
        every: Only updates whose number, over all fits, is a multiple of this change the mean.

    Raises:
        TypeError: `every` is not an integer.
        ValueError: An argument is out of range.

    Source: Polyak & Juditsky, 1992, Acceleration of stochastic approximation by averaging; the
    warm-up is that of `tf.train.ExponentialMovingAverage` (argument num_updates).
    """

    comes_first: ClassVar[bool] = True  # so that all other callbacks see the means in the net

    def __init__(self, decay: float = 0.999, warmup: bool = True, every: int = 1) -> None:
        decay = plain(decay)
        if isinstance(decay, bool) or not 0 <= decay < 1:
            message = f"decay is {decay!r}; expected a number in [0, 1), as 0.999"
            raise ValueError(message)
        self.decay = float(decay)
        self.warmup = check_flag("warmup", warmup)
        self.every = check_count("every", every)
        self._average = AveragedWeights(buffers=True)
        self._restored = False
        self._in_fit = False
        # Evaluations and predictions in this fit that it did not start itself.
        self._external_runs = 0
        self._restore_at_end = False  # whether the end of a validation restores the weights
        self._last_update = 0

    def set_model(self, model: TrainedModel) -> None:
        """Set the model of a fit, an evaluation or a prediction."""
        super().set_model(model)
        # `evaluate` and `predict` call this too, also from another callback of this fit.
        self._external_runs += 1

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Discard the state of an earlier fit."""
        if not self._restored:
            self._average.reset()
        self._average.bind(self.model)
        self._restored, self._in_fit = False, True
        # Updates are counted over all fits.
        self._last_update = self.model.updates

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Restore the weights, with which training continues."""
        # This drops the count of `fit` itself, which has called set_model, and of runs that failed.
        self._external_runs = 0
        self._average.restore()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Update the means if the batch made an update."""
        # Within a window of accumulated batches, the weights have not changed.
        updates = self.model.updates
        if updates == self._last_update:
            return
        self._last_update = updates
        if not updates % self.every:
            self._average.add(1 - self._decay_after(self._average.count))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Apply the means for callbacks that save weights, also in an epoch without validation."""
        # This callback comes first (`comes_first`), so that the others save these weights.
        self._average.apply()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Keep the means in the net."""
        if self._in_fit:
            # The means stay only after a fit that began: an error before it must not touch the net.
            self._average.make_permanent()
        self._in_fit = False

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Apply the means.

        Raises:
            RuntimeError: There are no means yet.
        """
        if not self._in_fit and not self._average.count:
            message = "EMA has not averaged any weights yet; pass it to fit(callbacks=[...]) first"
            raise RuntimeError(message)
        self._average.bind(self.model)
        # The validation of an epoch leaves the means in the net, for what on_epoch_end saves.
        self._restore_at_end = not self._average.applied and (
            not self._in_fit or self._external_runs > 0
        )
        self._average.apply()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Restore the weights, except after the validation of an epoch of the fit."""
        self._external_runs = max(0, self._external_runs - 1)
        if self._restore_at_end:
            self._average.restore()
        self._restore_at_end = False

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Apply the means.

        Raises:
            RuntimeError: There are no means yet.
        """
        self.on_test_begin(logs)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Restore the weights."""
        self.on_test_end(logs)

    def applied(self, model: TrainedModel | None = None) -> AbstractContextManager[None]:
        """Return a context manager that applies the means and restores the weights at its end.

        Args:
            model: The model; None is the one that was trained.
        """
        return self._average.applied_to(self.model if model is None else model)

    def state_dict(self) -> dict[str, Any]:
        """Return the means, and the saved weights while the means are applied."""
        # If the means are in the net, the state holds the weights with which training continues.
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state for the next fit."""
        self._average.load_state_dict(state)
        self._restored = True

    def _decay_after(self, count: int) -> float:
        return min(self.decay, (1 + count) / (10 + count)) if self.warmup else self.decay
