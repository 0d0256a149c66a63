"""Record the settings, the environment and the outcome of a fit, for reports."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

from fitorch.callbacks.base import Callback, Logs
from fitorch.callbacks.best_weights import BestWeights
from fitorch.callbacks.callback_list import flatten_callbacks
from fitorch.checkpoint.weights import BEST
from fitorch.engine.run import Run
from fitorch.history.record import COMPLETE, STOPPED, FitRecord
from fitorch.history.revision import revision
from fitorch.history.wording import LONGEST, optimizer_of, sized, written
from fitorch.metrics.base import flat
from fitorch.optim.schedulers import scheduler_name
from fitorch.resume.fingerprint import machine

_VERSIONS = ("python", "fitorch", "torch", "accelerate", "numpy")

# Arguments of `fit` that are recorded if they differ from these defaults.
_DEFAULTS = {
    "patience": None,
    "max_time": None,
    "validation_split": 0.0,
    "validation_freq": 1,
    "validation_steps": None,
    "steps_per_epoch": None,
    "gradient_accumulation_steps": 1,
    "clip_grad_norm": None,
    "clip_grad_value": None,
    "class_weight": None,
    "train_metrics": True,
    "save_every_n_steps": None,
    "save_every_minutes": None,
}


def recorded_settings(run: Run) -> dict[str, str]:
    """Return the settings of a fit."""
    model, arguments, update = run.model, run.arguments, run.state.update
    history, trained = model.history, _trained(run)
    better = "lower" if history.mode == "min" else "higher"
    scheduler = update.scheduler
    settings = {
        "net": f"{type(run.net).__name__}, {trained}",
        "loss": written(model.objective.module),
        "metrics": ", ".join(_metric_names(run))[:LONGEST] or "none",
        "optimizer": optimizer_of(update.optimizer),
        "training data": _data_form(run),
        "epochs": f"up to epoch {run.last_epoch}",
        "monitor": f"{run.monitor}, the {better} the better",
        "seed": str(arguments.seed),
    }
    if scheduler is not None:
        every = update.scheduling.when
        settings["schedule"] = f"{scheduler_name(scheduler)}, with every {every}"
    for name, default in _DEFAULTS.items():
        value = getattr(arguments, name)
        if value != default:
            settings[name] = written(value)
    for name, enabled in (
        ("jit_compile", model.compilation is not None),
        ("channels_last", model.channels_last),
    ):
        settings |= {name: "yes"} if enabled else {}
    names = [type(callback).__name__ for callback in arguments.callbacks]
    settings |= {"callbacks": ", ".join(names)[:LONGEST]} if names else {}
    return settings


def metrics_of(run: Run) -> dict[str, str]:
    """Return the metrics; those that were passed by name with their tasks."""
    tasks = run.model.metric_tasks
    metrics = [f"{name} ({tasks[name]})" if name in tasks else name for name in _metric_names(run)]
    return {"metrics": ", ".join(metrics)[:LONGEST] or "none"}


def environment_of(run: Run) -> dict[str, str]:
    """Return the environment of a fit: versions, device, and settings that results depend on."""
    facts, placement = machine(run), run.model.placement
    environment = {name: str(facts[name]) for name in _VERSIONS}
    environment |= {
        "platform": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "device": str(placement),
        "processes": str(placement.accelerator.num_processes),
        "threads": str(facts["threads"]),
        "deterministic": "yes" if facts["deterministic"] else "no",
    }
    if facts["matmul precision"] != "highest":
        environment["matmul precision"] = str(facts["matmul precision"])
    return environment


def _metric_names(run: Run) -> list[str]:
    return [name for name, _, _ in flat(run.model.metrics_dict)]


def _trained(run: Run) -> str:
    parameters = sized(run.net)
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    text = f"{total:,} parameters"
    return text if trained == total else f"{text}, {trained:,} of them trained"


def _data_form(run: Run) -> str:
    """Return the size of the training data as text, as far as it is known."""
    source, size = run.iterator.source, run.model.history.params.get("batch_size")
    samples = "" if source.samples is None else f"{source.samples:,} samples"
    batches = "" if run.iterator.steps is None else f"{run.iterator.steps:,} batches"
    return " in ".join(filter(None, (samples, batches))) + (f" of {size}" if size else "")


class Recorder(Callback):
    """Adds a record of the fit to the history."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Record the settings and the environment."""
        run = self.model.run
        if run is not None:
            self.model.history.fits.append(record_of(run))

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Record why training ended, and the epoch whose weights were restored."""
        run, fits = self.model.run, self.model.history.fits
        if run is None or not fits:
            return
        # on_train_end runs after an error too; the record then says that the fit failed.
        fits[-1].end(len(self.model.history), metrics_of(run), _ending(run, fits[-1]))
        best = _best_weights(run)
        if best is not None and best.watched.best_epoch is not None:
            fits[-1].restored = best.watched.best_epoch + 1

    def on_checkpoint_saved(self, path: Path) -> None:
        """Record the newest checkpoint."""
        if self.model.history.fits:
            self.model.history.fits[-1].saved(path)


def record_of(run: Run) -> FitRecord:
    """Return the record of a fit at its beginning."""
    saving = run.saver
    best = _best_weights(run)
    folder = None if best is None else best.folder
    return FitRecord(
        net=type(run.net).__name__,
        parameters=sum(p.numel() for p in sized(run.net)),
        settings=recorded_settings(run),
        environment=environment_of(run),
        revision=revision(),
        first=len(run.model.history),
        began=time.time(),
        run_id=run.model.run_id,
        checkpoint=None if saving is None else _absolute(saving.resumed_from),
        best_file=None if folder is None else _absolute(folder / BEST),
        last_epoch=run.last_epoch,
        _done_before=run.done,
        # A fit may start in an `except` block: that error is not the end of this fit.
        _handled=sys.exc_info()[1],
    )


def _ending(run: Run, record: FitRecord) -> tuple[str, str]:
    sources = [*flatten_callbacks(run.state.callbacks), run.shutdown.signals]
    reason = next(filter(None, (getattr(s, "stopping_reason", "") for s in sources)), "")
    if record._done_before:
        return COMPLETE, "there was nothing left to train"
    if reason:
        return STOPPED, str(reason)
    if run.progress.epochs >= run.last_epoch:
        return COMPLETE, "all requested epochs are trained"
    return STOPPED, "stop_training was set"


def _best_weights(run: Run) -> BestWeights | None:
    return next(
        (c for c in flatten_callbacks(run.state.callbacks) if isinstance(c, BestWeights)), None
    )


def _absolute(path: Path | None) -> Path | None:
    """Return a path that does not depend on the working directory."""
    return None if path is None else path.absolute()
