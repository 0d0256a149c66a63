"""Figures for TensorBoard, Weights & Biases, MLflow and others, through accelerate's trackers."""

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

from .base import Callback, Logs

_ALIASES = {"comet": "comet_ml"}

_CONFIG_TYPES = (bool, int, float, str)


class Tracker(Callback):
    """Send the figures of each epoch to an experiment tracker, through accelerate's class for it.

    All figures that are numbers are sent when an epoch is over, with its number, from 1, as step:
    `train_*`, `val_*`, `lr`, and what callbacks before this one added. The run ends with the fit,
    whatever ended that: after an error MLflow's is FAILED and wandb's has the exit code 1, after
    Ctrl-C it is KILLED and 255.

    A second fit of the same model goes on in the same run with TensorBoard, wandb and MLflow;
    elsewhere, for another model, and where epochs are counted anew, it opens a run of its own. A
    run of wandb that was open before is used, and left open. Inside `mlflow.start_run()` pass
    `nested_run=True`.

    Args:
        name: "tensorboard", "wandb", "mlflow", "comet", "aim", "clearml", "dvclive", "swanlab",
            "trackio", or what was registered with accelerate.
        project: The project, or experiment; None as the library is configured.
        config: What to keep with the run; values other than numbers, strings and booleans as their
            repr. None keeps what the fit knows: net, number of parameters, optimizer, learning
            rate, epochs, steps and batch size.
        logging_dir: Where TensorBoard writes, `<project>/<time>` in it, and aim. The others write
            where they are told to by options or variables of their own.
        every_n_steps: Send the running training figures too, as `batch_train_*`, every so many
            batches, counted over all epochs; only then are they read from the device. With wandb
            the figures then have the axes `epoch` and `batch`, since its steps must not fall.
        **options: What accelerate's tracker takes besides: arguments of `SummaryWriter`,
            `wandb.init`, `aim.Run` and so on.

    Attributes:
        tracker: Accelerate's tracker during a fit, else None; `tracker.tracker` is the library's
            own object, to log images or whatever else.

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
        self._run = ""  # the library's name for the run
        self._batches = 0  # in the run
        self._epochs = 0
        self._restored = False
        self._run_model: Any = None  # the model whose run it is
        self._user_run = False  # a run that the user opened
        self._prior_error: BaseException | None = None  # while which this fit began
        self._axes: set[str] = set()  # figures of wandb that were given one

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Open a run, or go on in the last one."""
        self._prior_error = sys.exc_info()[1]
        if not self._continues_run():
            self._run, self._batches = "", 0
        new, before = not self._run, _active_wandb_run()
        self.tracker = self._open()
        self._user_run = before is not None and self.tracker.tracker is before
        self._run = self._run_id()
        self._run_model, self._restored = getattr(self, "model", None), False
        self._axes.clear()
        if new:
            config = self._default_config() if self.config is None else self.config
            self.tracker.store_init_configuration(
                {str(name): _config_value(value) for name, value in config.items()}
            )

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Send the running figures where it is time."""
        if self.every_n_steps is None:
            return
        self._batches += 1
        if not self._batches % self.every_n_steps:
            figures = _numeric_values(logs or {})
            prefixed = {f"batch_{name}": value for name, value in figures.items()}
            self._log(prefixed, "batch", self._batches)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Send the epoch's figures."""
        self._epochs = epoch + 1
        self._log(_numeric_values(logs or {}), "epoch", self._epochs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Close the run; where an error is under way, which ended the fit, as one that failed."""
        tracker, self.tracker = self.tracker, None
        if tracker is None or self._user_run:
            return
        error = sys.exc_info()[1]
        if error is None or error is self._prior_error:
            tracker.finish()
        else:
            self._finish_failed(tracker, killed=not isinstance(error, Exception))

    def state_dict(self) -> dict[str, Any]:
        """Return which run it is, and how many batches and epochs are in it."""
        return {"run": self._run, "batches": self._batches, "epochs": self._epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back, to go on in that run."""
        self._run, self._batches = state["run"], state["batches"]
        self._epochs = state["epochs"]
        self._restored = True

    def _continues_run(self) -> bool:
        """Say whether the fit continues the run before: the same model, at a later epoch."""
        if self._restored:
            return True
        progress = getattr(getattr(self, "model", None), "progress", None)
        return (
            progress is not None
            and self.model is self._run_model
            and progress.epochs >= self._epochs > 0
        )

    def _finish_failed(self, tracker: Any, *, killed: bool) -> None:
        """Close the run in the library's own terms, in which accelerate's trackers can't."""
        if self.name == "mlflow":
            importlib.import_module("mlflow").end_run("KILLED" if killed else "FAILED")
        elif self.name == "wandb":
            tracker.tracker.finish(exit_code=255 if killed else 1)
        else:
            tracker.finish()

    def _open(self) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # takes seconds

        kind = LOGGER_TYPE_TO_CLASS[self.name]
        arguments: list[Any] = [self.project]
        if self.name == "tensorboard":
            self._run = self._run or _new_run_name(self.logging_dir, self.project)
            arguments = [self._run]
        if kind.requires_logging_directory:
            arguments.append(str(self.logging_dir))
        tracker = kind(*arguments, **{**self._run_options(), **self.options})
        start = getattr(tracker, "start", None)  # an older accelerate's has started by now
        if start is not None:
            start()
        return tracker

    def _run_options(self) -> dict[str, Any]:
        """Return options that say which run to go on in, and to be quiet where the fit is."""
        if self.name == "mlflow":
            return {"run_id": self._run} if self._run else {}
        if self.name != "wandb":
            return {}
        quiet = getattr(self, "params", {}).get("verbose") == 0
        settings: dict[str, Any] = {"settings": {"silent": True}} if quiet else {}
        return {**settings, "id": self._run, "resume": "allow"} if self._run else settings

    def _run_id(self) -> str:
        if self.name == "wandb":
            return str(self.tracker.tracker.id)
        return str(self.tracker.tracker.info.run_id) if self.name == "mlflow" else self._run

    def _default_config(self) -> dict[str, Any]:
        """Return what is known of the fit."""
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
            config["optimizer"] = type(optimizer).__name__
            config["lr"] = optimizer.param_groups[0]["lr"]
        return config

    def _log(self, figures: dict[str, float], axis: str, position: int) -> None:
        if self.name != "wandb" or self.every_n_steps is None:
            self.tracker.log(figures, step=position)
            return
        for name in sorted(figures.keys() - self._axes):
            self.tracker.tracker.define_metric(name, step_metric=axis)
        self._axes |= figures.keys()
        self.tracker.log({**figures, axis: position})


def _tracker_name(name: str) -> str:
    """Return accelerate's name for a tracker that is there."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    found = _ALIASES.get(name, name)
    if found not in LOGGER_TYPE_TO_CLASS:
        known = sorted(LOGGER_TYPE_TO_CLASS)
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        message = f"there is no tracker {name!r}{hint}; there are {', '.join(known)}"
        raise ValueError(message)
    installed = {str(each) for each in get_available_trackers()}
    if found in LoggerType.list() and found not in installed:
        message = f"{found} is not installed; `pip install {found}`, and start Python anew"
        raise ImportError(message)
    return found


def _new_run_name(folder: Path, project: str | None) -> str:
    """Return a name within `folder` that no run has yet: the project, and the time."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = (f"{now}-{count}" if count else now for count in itertools.count())
    paths = (Path(project or "", name) for name in names)
    return str(next(path for path in paths if not (folder / path).exists()))


def _active_wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def _numeric_values(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that are numbers."""
    values = {name: _scalar(value) for name, value in logs.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}


def _config_value(value: Any) -> Any:
    """Return a value that every tracker takes for configuration."""
    value = _scalar(value)
    return value if type(value) in _CONFIG_TYPES else repr(value)


def _scalar(value: Any) -> Any:
    """Return the number in an array or tensor without dimensions."""
    return value.item() if getattr(value, "ndim", None) == 0 else value
