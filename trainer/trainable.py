"""What a model offers around `fit`: a test of learning rates, and processes of its own."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import launches, range_test
from .resumable import Resumable

if TYPE_CHECKING:
    import pandas as pd


class Trainable(Resumable):
    """A model that can be trained by others: `fit` comes with `KerasModel`."""

    stop_training: bool

    @abstractmethod
    def fit(self, *args: Any, **options: Any) -> pd.DataFrame:
        """Train the net; see `KerasModel.fit`."""

    def fit_ddp(
        self, num_processes: int, train_data: Any, val_data: Any = None, **options: Any
    ) -> pd.DataFrame:
        """Train in several new processes, one for each device; then the net here is trained.

        It starts them from a notebook or a plain script, which needs no `if __name__ ==
        "__main__"`. Model, data and callbacks are copied to them; what callbacks learn stays there.

        Args:
            num_processes: How many: the number of GPUs, or any number on CPUs. `batch_size` is for
                each of them.
            train_data: As for `fit`.
            val_data: As for `fit`.
            options: What else `fit` takes.

        Returns:
            What `fit` returns; net, optimizer and history are as after a fit here.

        Raises:
            TypeError: Something can't be copied to another process.
            ValueError: There are fewer devices than processes.
            RankError: A process vanished. What else a process raised is raised here.
        """
        data = {"train_data": train_data, "val_data": val_data}
        return launches.fit_ddp(self, num_processes, {**data, **options})

    def evaluate_ddp(self, num_processes: int, val_data: Any, **options: Any) -> dict[str, float]:
        """Measure in several new processes, each a part of the data; see `fit_ddp`.

        Args:
            num_processes: How many.
            val_data: As for `evaluate`.
            options: What else `evaluate` takes.

        Returns:
            What `evaluate` returns: the same figures as in one process.
        """
        return launches.evaluate_ddp(self, num_processes, {"val_data": val_data, **options})

    def find_lr(
        self,
        train_data: Any,
        *,
        start: float = 1e-7,
        end: float = 10.0,
        steps: int = 100,
        batch_size: int = 32,
        seed: int | None = None,
        plot: str | Path | None = None,
    ) -> pd.DataFrame:
        """Find a learning rate: train a copy with a rate that grows from batch to batch.

        Model, optimizer, random generators and the data's own generators stay as they are. The test
        ends early where the loss explodes.

        Args:
            train_data: As for `fit`, but for generators, which can be read only once.
            start: The first rate.
            end: The last rate.
            steps: Batches to train on, each with a rate of its own on a logarithmic scale.
            batch_size: Samples in a batch, where batches are ours to make.
            seed: What everything random in the test follows from.
            plot: Where to draw loss over rate, or None.

        Returns:
            The columns lr, loss (of the batch) and smoothed (its exponential mean); a tenth of the
            rate at which the latter is least is `frame.attrs["suggestion"]`.

        Raises:
            ValueError: An argument is out of range.
            TypeError: `train_data` is a generator.
            RuntimeError: The net is spread over processes (`fsdp`) by an earlier fit.

        Source: Smith, 2017, Cyclical learning rates for training neural networks, section 3.3.
        """
        return range_test.find_lr(self, train_data, start, end, steps, batch_size, seed, plot)
