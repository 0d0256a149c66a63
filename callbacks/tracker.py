"""Tracker: a callback that logs to TensorBoard, Weights & Biases, MLflow and other trackers."""

from __future__ import annotations

import difflib
import importlib
import itertools
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from torch.nn.parameter import is_lazy

from fitorch.optim.rates import learning_rates
from fitorch.optim.several import name_of

from .base import Callback, Logs

_ALIASES = {"comet": "comet_ml"}

_CONFIG_TYPES = (bool, int, float, str)


class Tracker(Callback):
    """Log the values of each epoch to an experiment tracker, through accelerate's tracker classes.

    At the end of an epoch, all numeric columns are logged with the number of the epoch (from 1) as
    step: `train_*`, `val_*`, `lr`, and those that earlier callbacks added. The run ends with the
    fit. After an error, its status is FAILED in MLflow, and its exit code is 1 in wandb; after
    Ctrl-C, they are KILLED and 255.

    With TensorBoard, wandb and MLflow, a second fit of the same model continues the run. With other
    trackers, with another model, and if epochs restart from 0, it opens a new run. A wandb run that
    was open before is used and left open. Inside `mlflow.start_run()`, pass `nested_run=True`.

    Args:
        name: "tensorboard", "wandb", "mlflow", "comet", "aim", "clearml", "dvclive", "swanlab",
            "trackio", or a tracker registered with accelerate.
        project: The project or experiment; None uses the configuration of the library.
        config: The configuration stored with the run; values other than numbers, strings and
            booleans are stored as their repr. None stores the properties of the fit: net, number of
            parameters, optimizer, learning rate, epochs, steps and batch size.
        logging_dir: The folder for TensorBoard, which writes to `<project>/<time>` in it, and for
            aim. The folders of other trackers depend on their own options or variables.
        every_n_steps: The number of batches, counted over all epochs, after which the running
            training values are logged too, as `batch_train_*`; this synchronizes with the device.
            With wandb, the columns then have the axes `epoch` and `batch`, because its steps must
            not decrease.
        **options: Further arguments of accelerate's tracker: those of `SummaryWriter`,
            `wandb.init`, `aim.Run` and so on.

    Attributes:
        tracker: Accelerate's tracker during a fit, else None. `tracker.tracker` is the library's
            own object, for images and the like.

    Raises:
        ValueError: The name is unknown, or `every_n_steps` is below 1.
        ImportError: The library is not installed.
    """

    main_process_only: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        project: str | None = "fitorch",
        *,
        config: Mapping[str, Any] | None = None,
        logging_dir: str | Path = "runs",
        every_n_steps: int | None = None,
        **options: Any,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            message = f"every_n_steps is {every_n_steps!r}; expected a number >= 1"
            raise ValueError(message)
        self.name = _tracker_name(name)
        self.project = project
        self.config = config
        self.logging_dir = Path(logging_dir)
        self.every_n_steps = every_n_steps
        self.options = options
        self.tracker: Any = None
        self._run = ""  # the run's id in the library
        self._batches = 0  # the number of batches in the run
        self._epochs = 0
        self._restored = False
        self._run_model: Any = None  # the model of the last fit
        self._user_run = False  # whether the user opened the run
        self._prior_error: BaseException | None = None  # handled when the fit started
        self._axes: set[str] = set()  # columns of wandb whose axis is defined

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Open a run, or continue the last one."""
        # A fit may start in an `except` block; that error is not its end.
        self._prior_error = sys.exc_info()[1]
        if not self._continues_run():
            self._run, self._batches = "", 0
        # A wandb run that is open already belongs to the user and stays open.
        new, before = not self._run, _active_wandb_run()
        self.tracker = self._open()
        self._user_run = before is not None and self.tracker.tracker is before
        self._run = self._run_id()
        self._run_model, self._restored = getattr(self, "model", None), False
        self._axes.clear()
        # A continued run has its configuration.
        if new:
            config = self._default_config() if self.config is None else self.config
            self.tracker.store_init_configuration(
                {str(name): _config_value(value) for name, value in config.items()}
            )

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Log the running values if they are due."""
        if self.every_n_steps is None:
            return
        self._batches += 1
        if not self._batches % self.every_n_steps:
            values = _numeric_values(logs or {})  # synchronizes with the device
            prefixed = {f"batch_{name}": value for name, value in values.items()}
            self._log(prefixed, "batch", self._batches)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Log the values of the epoch."""
        self._epochs = epoch + 1
        self._log(_numeric_values(logs or {}), "epoch", self._epochs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Close the run, as a failed one if an error ended the fit."""
        tracker, self.tracker = self.tracker, None
        if tracker is None or self._user_run:
            return
        # During cleanup, the error that ended the fit is the one that is being handled.
        error = sys.exc_info()[1]
        if error is None or error is self._prior_error:
            tracker.finish()
        else:
            self._finish_failed(tracker, killed=not isinstance(error, Exception))

    def state_dict(self) -> dict[str, Any]:
        """Return the id of the run, and its numbers of batches and epochs."""
        return {"run": self._run, "batches": self._batches, "epochs": self._epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state, so that the next fit continues the run."""
        self._run, self._batches = state["run"], state["batches"]
        self._epochs = state["epochs"]
        self._restored = True

    def _continues_run(self) -> bool:
        """Return whether the fit continues the last run: the same model, at a later epoch."""
        if self._restored:
            return True
        progress = getattr(getattr(self, "model", None), "progress", None)
        return (
            progress is not None
            and self.model is self._run_model
            and progress.epochs >= self._epochs > 0
        )

    def _finish_failed(self, tracker: Any, *, killed: bool) -> None:
        """Close the run with a failure status, which accelerate's trackers do not support."""
        if self.name == "mlflow":
            importlib.import_module("mlflow").end_run("KILLED" if killed else "FAILED")
        elif self.name == "wandb":
            tracker.tracker.finish(exit_code=255 if killed else 1)
        else:
            tracker.finish()

    def _open(self) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # takes seconds

        tracker_type = LOGGER_TYPE_TO_CLASS[self.name]
        arguments: list[Any] = [self.project]
        if self.name == "tensorboard":
            # Each run has its own name: TensorBoard would draw two runs in one folder as one.
            self._run = self._run or _new_run_name(self.logging_dir, self.project)
            arguments = [self._run]
        if tracker_type.requires_logging_directory:
            arguments.append(str(self.logging_dir))
        tracker = tracker_type(*arguments, **{**self._run_options(), **self.options})
        start = getattr(tracker, "start", None)  # older versions start in the constructor
        if start is not None:
            start()
        return tracker

    def _run_options(self) -> dict[str, Any]:
        """Return options that select the run to continue, and that silence wandb if verbose=0."""
        if self.name == "mlflow":
            return {"run_id": self._run} if self._run else {}
        if self.name != "wandb":
            return {}
        # wandb prints on its own, also with verbose=0.
        quiet = getattr(self, "params", {}).get("verbose") == 0
        settings: dict[str, Any] = {"settings": {"silent": True}} if quiet else {}
        return {**settings, "id": self._run, "resume": "allow"} if self._run else settings

    def _run_id(self) -> str:
        if self.name == "wandb":
            return str(self.tracker.tracker.id)
        return str(self.tracker.tracker.info.run_id) if self.name == "mlflow" else self._run

    def _default_config(self) -> dict[str, Any]:
        """Return the properties of the fit."""
        model, params = getattr(self, "model", None), getattr(self, "params", {})
        known = ("epochs", "steps", "batch_size")
        config = {key: params[key] for key in known if params.get(key) is not None}
        net, optimizer = getattr(model, "net", None), getattr(model, "optimizer", None)
        if net is not None:
            config["net"] = type(net).__name__
            parameters = list(net.parameters())
            if not any(map(is_lazy, parameters)):
                config["parameters"] = sum(parameter.numel() for parameter in parameters)
        if optimizer is not None:
            config["optimizer"] = name_of(optimizer)
            config |= learning_rates(optimizer)
        return config

    def _log(self, values: dict[str, float], axis: str, position: int) -> None:
        if self.name != "wandb" or self.every_n_steps is None:
            self.tracker.log(values, step=position)
            return
        # An axis is defined once per column, because wandb keeps the definitions.
        for name in sorted(values.keys() - self._axes):
            self.tracker.tracker.define_metric(name, step_metric=axis)
        self._axes |= values.keys()
        self.tracker.log({**values, axis: position})


def _tracker_name(name: str) -> str:
    """Return accelerate's name of a tracker.

    Raises:
        ValueError: The name is unknown.
        ImportError: The library is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    tracker = _ALIASES.get(name, name)
    if tracker not in LOGGER_TYPE_TO_CLASS:
        known = sorted(LOGGER_TYPE_TO_CLASS)
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        message = f"unknown tracker {name!r}{hint}; expected one of {', '.join(known)}"
        raise ValueError(message)
    installed = {str(available) for available in get_available_trackers()}
    if tracker in LoggerType.list() and tracker not in installed:
        message = f"{tracker} is not installed; `pip install {tracker}`, and restart Python"
        raise ImportError(message)
    return tracker


def _new_run_name(folder: Path, project: str | None) -> str:
    """Return an unused path relative to `folder` for a new run: the project, and the time."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    # Two fits may start in the same second.
    names = (f"{now}-{count}" if count else now for count in itertools.count())
    paths = (Path(project or "", name) for name in names)
    return str(next(path for path in paths if not (folder / path).exists()))


def _active_wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def _numeric_values(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the columns whose values are numbers."""
    values = {name: _scalar(value) for name, value in logs.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}


def _config_value(value: Any) -> Any:
    """Return a value that every tracker accepts in a configuration."""
    value = _scalar(value)
    return value if type(value) in _CONFIG_TYPES else repr(value)


def _scalar(value: Any) -> Any:
    """Return the number in a 0-dimensional array or tensor, and other values as they are."""
    # For a tensor on a device this waits.
    return value.item() if getattr(value, "ndim", None) == 0 else value
