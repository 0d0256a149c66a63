"""The plain mean of the weights that late epochs end with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from fitorch.checks import check_count

from .averaged_weights import AveragedWeights
from .base import Callback, Logs
from .batch_norm import norms_of, renew_statistics
from .learning_rate import groups_of, refuse_second, set_rate

if TYPE_CHECKING:
    from fitorch.internals.torch import BatchNorm

    from .trained_model import TrainedModel


class SWA(Callback):
    """Stochastic weight averaging: the plain mean of the weights that late epochs end with.

    At the end the net gets the mean, and batch norm statistics that are computed anew in a pass
    over `data`. The mean goes before the best weights, which `patience` and `ckpt_path` would
    restore; the file in `ckpt_path` is the best epoch's. Training ended by an error or Ctrl-C
    leaves the weights as they are; `applied()` puts the mean in. Validation measures the weights of
    training, not the mean.

    Args:
        start: The first epoch to average: a whole number counts from 0, over all fits; a fraction
            in [0, 1) is of all epochs.
        lr: The learning rate from `start` on, reached along a cosine; None leaves it alone.
        anneal_epochs: Epochs after `start` until `lr` is reached; 0 sets it at once.
        data: The training data again, for a net with batch norm: anything `fit` takes.
        batch_size: Samples in a batch of `data`, where batches are ours to make.

    Raises:
        TypeError: An argument is no number.
        ValueError: An argument is out of range; a net with batch norm lacks `data`; the model has a
            schedule of torch's beside `lr`.

    Source: Izmailov et al., 2018, Averaging weights leads to wider optima and better
    generalization, algorithm 1, arXiv 1803.05407; `torch.optim.swa_utils`.
    """

    def __init__(
        self,
        start: float = 0.75,
        lr: float | None = None,
        anneal_epochs: int = 10,
        data: Any = None,
        batch_size: int = 32,
    ) -> None:
        least_too_large = math.inf if isinstance(start, int) else 1
        if isinstance(start, bool) or not 0 <= start < least_too_large:
            message = f"start is {start!r}; expected a fraction in [0, 1) or an epoch number >= 0"
            raise ValueError(message)
        if lr is not None and not 0 < lr < math.inf:
            message = f"lr is {lr!r}; expected a rate > 0, or None to leave the rates alone"
            raise ValueError(message)
        self.start = start
        self.lr = lr
        check_count("anneal_epochs", anneal_epochs, least=0)
        check_count("batch_size", batch_size)
        self.anneal_epochs = anneal_epochs
        self.data = data
        self.batch_size = batch_size
        self._average = AveragedWeights(buffers=False)
        self._rates: list[float] = []  # at the beginning of the first epoch that is averaged
        self._norms: list[BatchNorm] | None = None
        self._restored = False
        self._complete = False  # whether training stands between two epochs
        self._first = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier fit; refuse what would fail at the end."""
        if not self._restored:
            self._average.forget()
            self._rates = []
        self._restored = self._complete = False
        self._norms = None
        self._check()
        self._average.bind(self.model)
        self._complete = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the rates."""
        self._complete = False
        if self.lr is None or epoch < self._first:
            return
        groups = groups_of(self.model)
        self._rates = self._rates or [float(group["lr"]) for group in groups]
        way = min(1.0, (epoch - self._first) / self.anneal_epochs) if self.anneal_epochs else 1.0
        share = (1 - math.cos(math.pi * way)) / 2
        for group, rate in zip(groups, self._rates, strict=True):
            set_rate(group, rate + share * (self.lr - rate))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Count the weights in."""
        self._complete = True
        self._norms = norms_of(self.model.net)  # another callback may have frozen some until now
        if epoch >= self._first:
            self._average.add(1 / (self._average.count + 1))

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Give the net the mean, and batch norm its statistics."""
        complete, self._complete = self._complete, False
        if not complete or not self._average.count:
            return
        with self._average.applied_to(self.model):
            norms = norms_of(self.model.net) if self._norms is None else self._norms
            if norms:  # first, so that an error leaves all as it was
                renew_statistics(self.model, norms, self.data, self.batch_size)
            self._average.settle()

    def applied(self, model: TrainedModel | None = None) -> AbstractContextManager[None]:
        """Return a context in which the net holds the mean; then the weights come back.

        Args:
            model: The model, by default the one that was trained.
        """
        return self._average.applied_to(self.model if model is None else model)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean, and the rates that annealing began with."""
        return {**self._average.state_dict(), "rates": list(self._rates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back, for the fit that begins next."""
        self._average.load_state_dict(state)
        self._rates = list(state["rates"])
        self._restored = True

    def _check(self) -> None:
        if self.lr is not None:
            refuse_second(self)
        if self.data is None and norms_of(self.model.net):
            message = (
                "the net has batch norm, whose statistics are not those of averaged weights; pass "
                "the training data, SWA(..., data=train_data), to compute them anew"
            )
            raise ValueError(message)
        epochs = self.params.get("epochs") if hasattr(self, "params") else None
        if isinstance(self.start, int):
            self._first = self.start
        elif epochs is not None:
            self._first = int(self.start * epochs)
        if epochs is not None and self._first >= epochs:
            message = (
                f"SWA starts with epoch {self._first}, counted from 0, but this fit has only "
                f"{epochs}; pass a fraction, as start=0.75"
            )
            raise ValueError(message)
