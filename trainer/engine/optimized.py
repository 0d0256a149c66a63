"""The optimizer and the schedule of a model, checked when they are set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from fitorch.losses.objective import Objective
from fitorch.optim.checks import check_optimizer
from fitorch.optim.modes import measuring_within_training, to_measuring
from fitorch.optim.new_parameters import NewParameters
from fitorch.optim.optimizers import OptimizerLike, make_optimizer
from fitorch.optim.schedulers import make_scheduler
from fitorch.optim.several import Optimizers

if TYPE_CHECKING:
    from .run import Run


class Optimized:
    """What has a net, an objective, an optimizer for both, and perhaps a schedule."""

    net: nn.Module
    objective: Objective
    run: Run | None = None
    _optimizer: Optimizer | None = None
    _scheduler: Any = None
    _schedule_like: Any = None  # what the user passed: an instance, or a function

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer; several are one `Optimizers`. None if there is nothing to train.

        It can be set between two fits, to all that `KerasModel(optimizer=)` takes; a schedule that
        was passed as a function is then built anew.
        """
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: OptimizerLike) -> None:
        self._refuse_within_fit("optimizer")
        loss = dict(self.objective.named_parameters(self.net))
        made = make_optimizer(optimizer, self.net, loss.values())
        if made is not None:
            check_optimizer(made, self.net, loss)
        self._optimizer = made
        # A list is built by the user, who decides what each optimizer trains.
        built = not isinstance(optimizer, Optimizer) and not isinstance(made, Optimizers)
        self._new_parameters = NewParameters(made, self.net, built=built)
        if callable(self._schedule_like):
            self.lr_scheduler = self._schedule_like

    @property
    def lr_scheduler(self) -> Any:
        """The schedule of the learning rates, or None; it can be set between two fits."""
        return self._scheduler

    @lr_scheduler.setter
    def lr_scheduler(self, scheduler: Any) -> None:
        self._refuse_within_fit("lr_scheduler")
        self._schedule_like = scheduler
        made = None if self._optimizer is None else make_scheduler(scheduler, self._optimizer)
        self._scheduler = made

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Hold the weights that are measured and saved, of an optimizer that has two kinds."""
        if self.run is not None and self.run.state.update.training:
            with measuring_within_training(self._optimizer):
                yield
        else:
            to_measuring(self._optimizer)
            yield

    def train_new_parameters(self) -> None:
        """Let the optimizer train layers that were added to the net since it was built."""
        loss = dict(self.objective.named_parameters(self.net))
        self._new_parameters.add(self._optimizer, self.net, loss.values())

    def report_new_parameters(self) -> None:
        """Warn about layers that were added or replaced within a fit, which it does not train."""
        self._new_parameters.report(self._optimizer, self.net)

    def _refuse_within_fit(self, name: str) -> None:
        """Raise an error if a fit runs, which has the earlier object.

        Raises:
            RuntimeError: A fit runs.
        """
        if self.run is not None:
            message = (
                f"model.{name} was set within a fit, which would not use it; set it between two "
                "fits, or change the groups of the optimizer in place"
            )
            raise RuntimeError(message)
