"""The metrics of every epoch, as a rectangular table."""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fitorch.callbacks.base import Callback, Logs
from fitorch.callbacks.logs import KerasNames
from fitorch.devices.accelerators import HOST
from fitorch.distributed.processes import Processes

from .record import FitRecord

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


_MAX_RECORDS = 50  # of fits


class History(Callback):
    """One row per epoch: `epoch` (from 1), `train_*`, `lr`, `val_*`, `seconds`.

    It grows over all fits of a model. Numbers that callbacks add to the logs of `on_epoch_end` are
    columns too. Values are stored in arrays of 8 bytes each; pandas is imported at the first use of
    `frame`.

    Attributes:
        monitor: The column that decides which epoch is best.
        mode: "min" or "max".
        seed: The seed of the last fit; also in `frame.attrs`.
        params: The settings of the last fit, as for other callbacks; Keras' name.
        fits: The records of the last fits of this process.
    """

    def __init__(self) -> None:
        self.params = {}
        self.monitor = "train_loss"
        self.mode = "min"
        self.seed: int | None = None
        self._sets: Sequence[str] = ()
        self._columns: dict[str, array[float]] = {}
        self._rows = 0
        self._last: Logs | None = None  # of the last epoch: callbacks may still add to them
        self._seconds = 0.0
        self._started = 0.0
        self._in_epoch = False
        self._before = 0.0  # seconds of a resumed epoch before its checkpoint
        self.fits: deque[FitRecord] = deque(maxlen=_MAX_RECORDS)

    def __len__(self) -> int:
        return self._rows + (self._last is not None)

    def __getitem__(self, name: str) -> list[float]:
        """Return a column, a float for each epoch.

        Raises:
            KeyError: There is no such column.
        """
        return list(self._complete()[name])

    @property
    def frame(self) -> pd.DataFrame:
        """The table as a DataFrame, with NaN if a metric was not measured."""
        import pandas as pd

        columns = self._complete()
        frame = pd.DataFrame({name: np.array(values) for name, values in columns.items()})
        frame.attrs["seed"] = self.seed
        return frame.astype({"epoch": "int64"}) if "epoch" in frame else frame

    @property
    def history(self) -> KerasNames[list[float]]:
        """Each metric as a list with one float per epoch, as in Keras; a copy.

        `history["loss"]` is `history["train_loss"]`. If an epoch does not measure a metric, Keras'
        list is shorter; here it has NaN.
        """
        columns = self._complete()
        return KerasNames({name: [*columns[name]] for name in columns if name != "epoch"})

    @property
    def epoch(self) -> list[int]:
        """The epochs of those lists, counted from 0 as in Keras."""
        return [int(number) - 1 for number in self._complete().get("epoch", ())]

    @property
    def best(self) -> dict[str, float]:
        """The row of the best epoch by `monitor`; an empty dict before the first epoch.

        NaN is never best; of equal values the earliest is.
        """
        columns = self._complete()
        values = columns.get(self.monitor, array("d"))
        # Ties go to the earliest row, because tuples compare by row next.
        sign = 1 if self.mode == "min" else -1
        rows = ((sign * value, row) for row, value in enumerate(values) if not math.isnan(value))
        _, best = min(rows, default=(0.0, None))
        if best is None:
            return {}
        return {name: values[best] for name, values in columns.items()}

    @property
    def columns(self) -> dict[str, array[float]]:
        """The table by columns."""
        return self._complete()

    @property
    def last(self) -> dict[str, float]:
        """The row of the last epoch; an empty dict before the first."""
        return {name: values[-1] for name, values in self._complete().items() if values}

    @property
    def sets(self) -> Sequence[str]:
        """The prefix of the metrics of each validation set."""
        return self._sets

    def plot(
        self,
        path: str | Path | None = None,
        metrics: list[str] | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> Figure:
        """Draw loss and metrics over the epochs, training and validation together.

        The axis is logarithmic if that shows more; see `plot_history`.

        Args:
            path: The image file; its suffix decides the format.
            metrics: The metrics to draw, as ["loss", "acc"]; all by default.
            figsize: Width and height in inches; None for a size that fits the plots.

        Returns:
            The matplotlib figure.

        Raises:
            ValueError: The history is empty, or a metric is unknown.
        """
        from fitorch.plotting.history import plot_history

        figure = plot_history(self.frame, self.monitor, self.best.get("epoch"), metrics, self._sets)
        if figsize is not None:
            figure.set_size_inches(figsize)
        # All processes have the same history; one writes it.
        if path is not None and Processes().is_main:
            figure.savefig(path, dpi=150)
        return figure

    def to_html(self, path: str | Path) -> Path:
        """Write a report of the run: one HTML file that needs no other files and no network.

        It shows the best epoch, how training ended, settings, environment, plots, and the table. If
        the history comes from a checkpoint, the settings of earlier fits are not known.

        Args:
            path: The file, which is replaced; its folder is created if necessary.

        Returns:
            The path.

        Raises:
            ValueError: The history is empty.
            OSError: The file is not writable.
        """
        from .report import write_report

        if not Processes().is_main:
            return Path(path)
        return write_report(self, path)

    def begin(self, monitor: str, mode: str, seed: int, *, sets: Sequence[str]) -> None:
        """Prepare for a fit, so that its first row has all columns.

        Args:
            monitor: The column that decides which epoch is best.
            mode: "min" or "max".
            seed: The seed of the fit.
            sets: The prefix of the metrics of each validation set: `["val_"]`.
        """
        self.monitor, self.mode, self.seed, self._sets = monitor, mode, seed, sets

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Start the clock, at the seconds before the checkpoint if the epoch is resumed."""
        self._complete()
        # A resumed epoch counts the seconds that it took before.
        self._in_epoch, self._started = True, time.perf_counter() - self._before
        self._before = 0.0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add a row."""
        # The logs of the epoch before are final by now.
        self._complete()
        self._in_epoch, self._seconds = False, time.perf_counter() - self._started
        self._last = logs if logs is not None else {}
        self._epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the table with its columns as float64 tensors, and the clock."""
        table = self._complete()
        # Python floats have 64 bits, so that a restored table is the same.
        columns = {
            name: torch.tensor(table[name], dtype=torch.float64, device=HOST) for name in table
        }
        settings = {"monitor": self.monitor, "mode": self.mode, "seed": self.seed}
        seconds = time.perf_counter() - self._started if self._in_epoch else 0.0
        return {"columns": columns, "seconds": seconds, **settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a table; the records of its fits are not in the state."""
        # The restored table does not have the epoch of these logs.
        self._last = None
        self.fits.clear()
        self._columns = {
            name: array("d", values.tolist()) for name, values in state["columns"].items()
        }
        self._rows = len(next(iter(self._columns.values()), ()))
        self._before = state["seconds"]
        self.monitor, self.mode, self.seed = state["monitor"], state["mode"], state["seed"]

    def _complete(self) -> dict[str, array[float]]:
        """Add the logs of the last epoch to the table, and return it."""
        # Not at the end of the epoch: callbacks that run later add columns to its logs, and reading
        # a value may wait for the GPU.
        if self._last is not None:
            row = self._row(self._last)
            self._last = None
            for name in [name for name in row if name not in self._columns]:
                # A new column is NaN in earlier rows.
                self._columns[name] = array("d", [math.nan]) * self._rows
            for name, values in self._columns.items():
                values.append(row.get(name, math.nan))
            self._rows += 1
        return self._columns

    def _row(self, logs: Logs) -> dict[str, float]:
        """Return a row with all columns, NaN for a validation that was not due."""
        # This reads from a device, if a callback has added a tensor.
        numbers = {name: number for name in logs if (number := _number(logs[name])) is not None}
        row = {"epoch": self._epoch + 1, **numbers}
        trained = [name.removeprefix("train_") for name in logs if name.startswith("train_")]
        # A validation that ran has measured all it measures, perhaps with a loss of its own.
        skipped = [prefix for prefix in self._sets if f"{prefix}loss" not in logs]
        row |= {f"{prefix}{name}": math.nan for prefix in skipped for name in trained}
        return {**row, "seconds": self._seconds}


def _number(value: Any) -> float | None:
    """Return a log as a float, None if it is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
