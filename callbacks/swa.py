"""SWA: a callback for stochastic weight averaging."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from fitorch.checks import check_count, plain

from .averaged_weights import AveragedWeights
from .base import Callback, Logs
from .batch_norm import batch_norms_of, recompute_statistics, source_of
from .learning_rate import check_no_scheduler, groups_of, set_rate

if TYPE_CHECKING:
    from fitorch.internals.torch import BatchNorm

    from .trained_model import TrainedModel


class SWA(Callback):
    """Stochastic weight averaging: the mean of the weights at the ends of late epochs.

    At the end of training, the net gets the mean, and batch norm statistics that are computed in a
    pass over `data`. The mean takes precedence over the best weights, which `patience` and
    `ckpt_path` would restore; the file in `ckpt_path` has the weights of the best epoch. If an
    error or Ctrl-C ends training, the net keeps its weights, and `applied()` gives access to the
    mean. Validation measures the weights, not the mean.

    Args:
        start: The first epoch to average: an integer is counted from 0, over all fits; a fraction
            in [0, 1) is relative to all epochs.
        lr: The learning rate from `start` on, approached along a cosine; None does not change the
            rate.
        anneal_epochs: The number of epochs after `start` until `lr` is reached; 0 sets it at once.
        data: The training data again, for a net with batch norm: anything that `fit` takes.
        batch_size: The number of samples in a batch; None if `data` consists of batches.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of range; `data` is missing for a net with batch norm, or
            does not consist of batches although `batch_size` is None; the model has an
            `lr_scheduler` in addition to `lr`.

    Source: Izmailov et al., 2018, Averaging weights leads to wider optima and better
    generalization, algorithm 1, arXiv 1803.05407; `torch.optim.swa_utils`.
    """

    def __init__(
        self,
        start: float = 0.75,
        lr: float | None = None,
        anneal_epochs: int = 10,
        data: Any = None,
        batch_size: int | None = 32,
    ) -> None:
        start, lr = plain(start), plain(lr)
        upper_bound = math.inf if isinstance(start, int) else 1
        if isinstance(start, bool) or not 0 <= start < upper_bound:
            message = f"start is {start!r}; expected a fraction in [0, 1) or an epoch number >= 0"
            raise ValueError(message)
        if lr is not None and not 0 < lr < math.inf:
            message = f"lr is {lr!r}; expected a rate > 0, or None to keep the rates"
            raise ValueError(message)
        self.start = start
        self.lr = lr
        self.anneal_epochs = check_count("anneal_epochs", anneal_epochs, least=0)
        self.data = data
        self.batch_size = check_count("batch_size", batch_size, optional=True)
        self._average = AveragedWeights(buffers=False)
        self._rates: list[float] = []  # of the groups, at the beginning of the first averaged epoch
        self._norms: list[BatchNorm] | None = None
        self._restored = False
        self._between_epochs = False  # whether no epoch is incomplete
        self._first_epoch = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Discard the state of an earlier fit, and check what would fail at the end."""
        if not self._restored:
            self._average.reset()
            self._rates = []
        # No epoch has begun yet: if a check below fails, on_train_end must not touch the net.
        self._restored = self._between_epochs = False
        self._norms = None
        self._check_fit()
        self._average.bind(self.model)
        self._between_epochs = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the learning rates."""
        self._between_epochs = False
        if self.lr is None or epoch < self._first_epoch:
            return
        groups = groups_of(self.model)
        # The rates are recorded at the first averaged epoch; a resumed fit has them in its state.
        self._rates = self._rates or [float(group["lr"]) for group in groups]
        progress = (
            min(1.0, (epoch - self._first_epoch) / self.anneal_epochs)
            if self.anneal_epochs
            else 1.0
        )
        fraction = (1 - math.cos(math.pi * progress)) / 2
        for group, rate in zip(groups, self._rates, strict=True):
            set_rate(group, rate + fraction * (self.lr - rate))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Update the mean."""
        # An error or Ctrl-C within an epoch leaves this False, and the net keeps its weights.
        self._between_epochs = True
        self._norms = batch_norms_of(
            self.model.net
        )  # another callback may have frozen some until now
        if epoch >= self._first_epoch:
            # The fraction 1 / (n + 1) gives all weights so far the same share.
            self._average.add(1 / (self._average.count + 1))

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Replace the weights by the mean, and compute the batch norm statistics."""
        # The flag is reset, so that a second call does nothing.
        complete, self._between_epochs = self._between_epochs, False
        if not complete or not self._average.count:
            return
        # The statistics must be those of the mean, so it is in the net while they are computed.
        with self._average.applied_to(self.model):
            norms = batch_norms_of(self.model.net) if self._norms is None else self._norms
            if norms:  # before the mean is permanent, so that an error restores the weights
                recompute_statistics(self.model, norms, self.data, self.batch_size)
            self._average.make_permanent()

    def applied(self, model: TrainedModel | None = None) -> AbstractContextManager[None]:
        """Return a context manager that applies the mean and restores the weights at its end.

        Args:
            model: The model; None is the one that was trained.
        """
        return self._average.applied_to(self.model if model is None else model)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean, and the learning rates at the beginning of the annealing."""
        return {**self._average.state_dict(), "rates": list(self._rates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state for the next fit."""
        self._average.load_state_dict(state)
        self._rates = list(state["rates"])
        self._restored = True

    def _check_fit(self) -> None:
        if self.lr is not None:
            check_no_scheduler(self)
        needs_data = bool(batch_norms_of(self.model.net))
        if self.data is not None and needs_data:
            source_of(self.model, self.data, self.batch_size)  # raises what would end the fit
        if self.data is None and needs_data:
            message = (
                "the net has batch norm, whose statistics do not fit averaged weights; pass the "
                "training data to recompute them: SWA(..., data=train_data)"
            )
            raise ValueError(message)
        epochs = self.params.get("epochs") if hasattr(self, "params") else None
        if isinstance(self.start, int):
            self._first_epoch = self.start
        elif epochs is not None:
            self._first_epoch = int(self.start * epochs)
        if epochs is not None and self._first_epoch >= epochs:
            message = (
                f"SWA starts with epoch {self._first_epoch}, counted from 0, but this fit has only "
                f"{epochs} epochs; pass a fraction, such as start=0.75"
            )
            raise ValueError(message)
